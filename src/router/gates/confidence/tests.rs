//! On recorded answers of a real 135M model (60 messages of banking77, CC-BY-4.0): does the score tell right from
//! wrong?

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::router::answer::Answer;

#[derive(Deserialize)]
struct Recorded {
    ans: String,
    correct: u8,
    toks: Vec<String>,
    lps: Vec<f64>,
    top: Vec<Vec<(String, f64)>>,
}

impl Recorded {
    /// The answer as the engine sent it.
    fn answer(&self) -> Answer {
        let content = self.toks.concat();
        let tokens = self.toks.iter().zip(&self.lps).zip(&self.top).map(|((token, logprob), top)| {
            let top: Vec<Value> =
                top.iter().map(|(token, logprob)| json!({"token": token, "logprob": logprob})).collect();
            json!({"token": token, "bytes": token.as_bytes(), "logprob": logprob, "top_logprobs": top})
        });
        let tokens: Vec<Value> = tokens.collect();
        let body = json!({"choices": [{"message": {"content": content}, "logprobs": {"content": tokens}}]});
        Answer::from_completion(&Bytes::from(body.to_string()), true).expect("an answer")
    }

    /// Logarithms of the tokens that overlap the answer's text: a plain computation to compare with.
    fn plain(&self) -> Vec<f64> {
        let start = self.toks.concat().rfind(&self.ans).expect("the answer's text");
        let mut at = 0;
        let overlapping = self.toks.iter().zip(&self.lps).filter(|(token, _)| {
            at += token.len();
            at > start && at - token.len() < start + self.ans.len()
        });
        overlapping.map(|(_, logprob)| *logprob).collect()
    }
}

fn recorded() -> Vec<Recorded> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/intents-logprobs-135m.jsonl");
    let text = std::fs::read_to_string(path).expect("the recorded answers");
    text.lines().map(|line| serde_json::from_str(line).expect("a recorded answer")).collect()
}

/// Probability that a right answer scores above a wrong one: 0.5 is chance.
fn auroc(recorded: &[Recorded], score: impl Fn(&Recorded) -> f64) -> f64 {
    let scored: Vec<(f64, bool)> = recorded.iter().map(|r| (score(r), r.correct == 1)).collect();
    let (mut won, mut pairs) = (0.0, 0.0);
    for (right, _) in scored.iter().filter(|(_, correct)| *correct) {
        for (wrong, _) in scored.iter().filter(|(_, correct)| !correct) {
            pairs += 1.0;
            won += if right > wrong {
                1.0
            } else if right == wrong {
                0.5
            } else {
                0.0
            };
        }
    }
    won / pairs
}

fn gate(measure: ConfidenceMeasure, scope: Option<ConfidenceScope>) -> Confidence {
    Confidence::compile(measure, None, scope, 0.0).expect("a gate")
}

#[test]
fn value_tokens_tell_right_from_wrong_and_all_tokens_do_not() {
    let recorded = recorded();
    assert_eq!(recorded.len(), 60);
    let of =
        |measure, scope| auroc(&recorded, |r| gate(measure, scope).score(&r.answer().choices[0]).expect("a score"));
    let mean = |list: Vec<f64>| list.iter().sum::<f64>() / f64::from(u32::try_from(list.len()).expect("few"));

    // Without a scope the fence is seen through, and Values is taken.
    let values = of(ConfidenceMeasure::MeanLogprob, None);
    assert_eq!(values, of(ConfidenceMeasure::MeanLogprob, Some(ConfidenceScope::Values)));
    let plain = auroc(&recorded, |r| mean(r.plain()));
    assert!(values > plain - 0.01 && values > 0.8, "{values} {plain}");

    let first = auroc(&recorded, |r| {
        let answer = r.answer();
        let tokens = answer.choices[0].tokens.as_ref().expect("tokens");
        gate(ConfidenceMeasure::MeanLogprob, None).scoped(&answer.choices[0], tokens).expect("tokens")[0].logprob
    });
    let plain = auroc(&recorded, |r| r.plain()[0]);
    assert!(first > plain - 0.01 && first >= 0.9, "{first} {plain}");

    let margin = of(ConfidenceMeasure::FirstTokenMargin, None);
    assert!(margin > 0.88, "{margin}");

    let all = of(ConfidenceMeasure::MeanLogprob, Some(ConfidenceScope::All));
    assert!((0.4..0.6).contains(&all), "{all}");
    println!("AUROC: mean of values {values:.3}, first value {first:.3}, margin {margin:.3}, mean of all {all:.3}");
}
