//! Gates: any expression, schema, pattern or pointer over any answer. What does not compile says why; what does gives one
//! verdict, in bounded time (`-timeout`).
//!
//! The first line is the gate: a letter for its kind (see [`KINDS`]) and its text. What follows is the answer.
#![no_main]

mod contained;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use smallfirst::api::escalation_path::{ConfidenceMeasure, ConfidenceScope, OnMissing};
use smallfirst::router::answer::Answer;
use smallfirst::router::body::peek;
use smallfirst::router::gates::{RequestContext, compile_all, judge, validate_request_schema};
use smallfirst::routing::table::{Check, Gate};

/// Letters of kinds, and what an error of theirs begins with.
const KINDS: [(char, &str); 7] = [
    ('e', "expression: "),
    ('s', "jsonSchema: "),
    // The schema of the request.
    ('r', "must "),
    ('m', "match: "),
    ('n', "notMatch: "),
    ('g', ""),
    ('c', "confidence: "),
];

fn check(kind: char, text: &str) -> Option<Check> {
    Some(match kind {
        'e' => Check::Expression(text.into()),
        's' => Check::JsonSchema { inline: Some(text.into()) },
        'r' => Check::JsonSchema { inline: None },
        'm' => Check::Match(text.into()),
        'n' => Check::NotMatch(text.into()),
        'g' => Check::Grounded { pointers: text.split(' ').map(str::to_owned).collect(), normalize: true },
        'c' => {
            let (measure, rest) = text.split_once(' ').unwrap_or((text, ""));
            let measure = match measure {
                "mean" => ConfidenceMeasure::MeanLogprob,
                "min" => ConfidenceMeasure::MinLogprob,
                "margin" => ConfidenceMeasure::FirstTokenMargin,
                _ => ConfidenceMeasure::LogprobQuantile,
            };
            let scope = Some(ConfidenceScope::Values).filter(|_| text.ends_with('v'));
            Check::Confidence { measure, quantile: rest.trim_end_matches('v').parse().ok(), scope, at_least: -0.5 }
        }
        _ => return None,
    })
}

fn run(data: &str) -> Option<()> {
    let (gate, content) = data.split_once('\n')?;
    let mut letters = gate.chars();
    let kind = letters.next()?;
    let text = letters.as_str().trim_start_matches(' ');
    let (_, begins) = KINDS.iter().find(|(letter, _)| *letter == kind)?;
    let check = check(kind, text)?;
    let compile = |on_missing| compile_all(&[Gate { check: check.clone(), on_missing, required: false }]);
    let gates = compile(OnMissing::Escalate);
    let valid = if kind == 'r' { validate_request_schema(text) } else { Ok(()) };
    let gates = match (gates, valid) {
        (Ok(gates), Ok(())) => gates,
        (Err(why), _) | (_, Err(why)) => {
            assert!(why.starts_with(begins) && why.len() > begins.len(), "{why}");
            return None;
        }
    };
    let mut request =
        json!({"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Ann, 4711, EUR 12.50"}]})
            .to_string();
    if kind == 'r' {
        let format = format!(r#","response_format":{{"type":"json_schema","json_schema":{{"schema":{text}}}}}}}"#);
        request.truncate(request.len() - 1);
        request.push_str(&format);
    }
    let request = Bytes::from(request);
    let peek = peek(&request).expect("a request");
    // A token a word, the surer the shorter.
    let tokens = content.split_inclusive(' ').map(|word| {
        let (sure, other) =
            (f64::from(u8::try_from(word.len()).unwrap_or(u8::MAX)) / -8.0, json!({"token": "", "logprob": -9}));
        json!({"token": word, "logprob": sure, "top_logprobs": [other]})
    });
    let logprobs = json!({"content": tokens.collect::<Vec<_>>()});
    let message = json!({"role": "assistant", "content": content});
    let body = json!({
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 7}
    });
    let answer = Answer::from_completion(&Bytes::from(body.to_string()), true).expect("an answer");
    let context = RequestContext::new(&peek);
    let first = judge(&gates, &context, &answer);
    assert_eq!(first.accepted, first.verdicts.iter().all(|verdict| verdict.passed && verdict.detail.is_empty()));
    assert!(first.verdicts.iter().all(|verdict| verdict.score.is_none_or(f64::is_finite)), "{first:?}");
    assert_eq!(judge(&gates, &context, &answer), first, "the same answer, judged otherwise");
    // Who accepts what can't be judged accepts no less.
    let lenient = compile(OnMissing::Accept).expect("it compiled before");
    assert!(!first.accepted || judge(&lenient, &context, &answer).accepted);
    Some(())
}

fuzz_target!(init: contained::init(), |data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        contained::run(|| _ = run(text));
    }
});
