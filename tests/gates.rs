//! The gates' scores on answers that a real model gave, against a plain computation of the same (tests/data/auroc.py).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::process::Command;

use bytes::Bytes;
use serde_json::{Value, json};
use smallfirst::api::escalation_path::{ConfidenceMeasure, ConfidenceScope, OnMissing};
use smallfirst::router::answer::Answer;
use smallfirst::router::body::peek;
use smallfirst::router::gates::{RequestContext, compile_all, judge};
use smallfirst::routing::table::{Check, Gate};

const RECORDS: &str = "tests/data/intents-logprobs-135m.jsonl";

/// The completion that an engine sent for a record.
fn completion(record: &Value) -> Bytes {
    let list = |name: &str| record[name].as_array().unwrap().clone();
    let tokens = list("toks").into_iter().zip(list("lps")).zip(list("top")).map(|((token, logprob), top)| {
        let top = top.as_array().unwrap().iter().map(|other| json!({"token": other[0], "logprob": other[1]}));
        json!({"token": token, "logprob": logprob, "top_logprobs": top.collect::<Vec<_>>()})
    });
    let content: String = list("toks").iter().map(|token| token.as_str().unwrap()).collect();
    let choice = json!({
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content},
        "logprobs": {"content": tokens.collect::<Vec<_>>()}
    });
    Bytes::from(json!({"choices": [choice]}).to_string())
}

/// Share of pairs of a right and a wrong answer in which the right one scores higher; ties count half.
fn auroc(scored: &[(f64, bool)]) -> f64 {
    let of = |right: bool| scored.iter().filter(move |(_, correct)| *correct == right).map(|(score, _)| *score);
    let pairs: Vec<f64> = of(true)
        .flat_map(|right| {
            of(false).map(move |wrong| f64::from(u8::from(right > wrong)) + f64::from(u8::from(right == wrong)) / 2.0)
        })
        .collect();
    pairs.iter().sum::<f64>() / f64::from(u32::try_from(pairs.len()).unwrap())
}

#[test]
fn confidence_tells_right_answers_from_wrong_ones_by_the_tokens_of_the_values() {
    let script = Command::new("python3").args(["tests/data/auroc.py", RECORDS]).output().unwrap();
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    let plain: BTreeMap<String, f64> = serde_json::from_slice(&script.stdout).unwrap();
    let records: Vec<Value> =
        std::fs::read_to_string(RECORDS).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let body = Bytes::from(json!({"model": "intent", "messages": [{"role": "user", "content": "hi"}]}).to_string());
    let peek = peek(&body).unwrap();
    let context = RequestContext::new(&peek);
    let ours = |measure, scope| {
        let check = Check::Confidence { measure, quantile: None, scope: Some(scope), at_least: -1e9 };
        let gates = compile_all(&[Gate { check, on_missing: OnMissing::Escalate, required: false }]).unwrap();
        let score = |record: &Value| {
            let answer = Answer::from_completion(&completion(record), true).unwrap();
            judge(&gates, &context, &answer).verdicts[0].score.map(|score| (score, record["correct"] == 1))
        };
        let scored: Vec<(f64, bool)> = records.iter().filter_map(score).collect();
        assert_eq!(scored.len(), records.len(), "every answer has a score");
        auroc(&scored)
    };
    for (measure, scope, name, at_least, at_most) in [
        (ConfidenceMeasure::MeanLogprob, ConfidenceScope::Values, "MeanLogprob Values", 0.8, 1.0),
        (ConfidenceMeasure::FirstTokenMargin, ConfidenceScope::Values, "FirstTokenMargin Values", 0.89, 1.0),
        // Braces, keys and fences say nothing: about chance.
        (ConfidenceMeasure::MeanLogprob, ConfidenceScope::All, "MeanLogprob All", 0.35, 0.65),
    ] {
        let found = ours(measure, scope);
        println!("AUROC of {name}: {found:.3}; by the script: {:.3}", plain[name]);
        assert!((found - plain[name]).abs() <= 0.01, "{name}: {found:.4}, by the script {:.4}", plain[name]);
        assert!((at_least..=at_most).contains(&found), "{name}: {found:.4}");
    }
}
