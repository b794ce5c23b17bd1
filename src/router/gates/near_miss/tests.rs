use serde_json::{Value, json};

use super::super::{compile_all, judge};
use super::*;
use crate::api::escalation_path::{ConfidenceMeasure, OnMissing};
use crate::router::answer::{Choice, Token, Tokens};
use crate::router::body::peek;
use crate::routing::table::{Check, Gate};

/// A choice of one token that is so likely.
fn choice(content: &str, logprob: f64) -> Choice {
    let token = Token { logprob, best_other: None, start: 0, end: content.len() };
    let tokens = Some(Tokens { list: vec![token], aligned: true });
    Choice { content: content.into(), tokens, ..Choice::default() }
}

fn gate(check: Check) -> Gate {
    Gate { check, on_missing: OnMissing::Escalate, required: false }
}

fn confidence(at_least: f64) -> Gate {
    let (measure, quantile, scope) = (ConfidenceMeasure::MeanLogprob, None, None);
    gate(Check::Confidence { measure, quantile, scope, at_least })
}

fn missed(gates: &[Gate], choices: Vec<Choice>) -> Option<f64> {
    let body = bytes::Bytes::from(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string());
    let peek = peek(&body).expect("a request");
    let (gates, context) = (compile_all(gates).expect("gates"), RequestContext::new(&peek));
    let answer = Answer { choices, ..Answer::default() };
    let judgement = judge(&gates, &context, &answer);
    near_miss(&gates, false, &context, &answer, &judgement).map(|missed| (missed * 1e6).round() / 1e6)
}

#[test]
fn only_what_missed_nothing_but_its_threshold_is_a_near_miss() {
    let gates = [confidence(-0.4), gate(Check::NotMatch("sorry".into())), gate(Check::Match("yes|sorry".into()))];
    assert_eq!(missed(&gates, vec![choice("yes", -0.3)]), None, "it passes");
    assert_eq!(missed(&gates, vec![choice("yes", -0.5)]), Some(0.1));
    // Those gates are not judged once confidence has failed.
    assert_eq!(missed(&gates, vec![choice("no", -0.5)]), None);
    assert_eq!(missed(&gates, vec![choice("sorry", -0.5)]), None);
    assert_eq!(missed(&gates, vec![Choice { tokens: None, ..choice("yes", 0.0) }]), None, "no evidence");
    assert_eq!(missed(&gates, vec![choice("yes", f64::NAN)]), None, "no number");
}

#[test]
fn the_least_sure_choice_and_the_strictest_threshold_count() {
    let gates = [confidence(-0.4), confidence(-0.2)];
    assert_eq!(missed(&gates, vec![choice("a", -0.5), choice("b", -0.9)]), Some(0.7));
    assert_eq!(missed(&gates, vec![choice("a", -0.3)]), Some(0.1), "the first is passed");
    let lenient = Gate { on_missing: OnMissing::Accept, ..confidence(-0.4) };
    let without = || Choice { tokens: None, ..choice("a", 0.0) };
    assert_eq!(missed(&[lenient], vec![without(), choice("b", -0.5)]), Some(0.1));
}

#[test]
fn what_must_never_be_returned_is_none() {
    let schema =
        |schema: Value| Gate { required: true, ..gate(Check::JsonSchema { inline: Some(schema.to_string()) }) };
    let wants = |kind: &str| [confidence(-0.4), schema(json!({"type": kind}))];
    assert_eq!(missed(&wants("number"), vec![choice("42", -0.5)]), Some(0.1));
    assert_eq!(missed(&wants("string"), vec![choice("42", -0.5)]), None);
    assert_eq!(missed(&[Gate { required: true, ..confidence(-0.4) }], vec![choice("42", -0.5)]), None);
}
