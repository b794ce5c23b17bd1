use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::api::escalation_path::{ConfidenceMeasure, ConfidenceScope, FinishReason};
use crate::router::answer::{Answer, Token, Tokens, Usage};
use crate::router::body::peek;

fn request(text: &str, rest: Value) -> Bytes {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    for (name, value) in rest.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    Bytes::from(body.to_string())
}

fn answer(content: &str) -> Answer {
    let choice =
        Choice { content: content.into(), finish_reason: Some(FinishReason::Stop), tokens: None, ..Choice::default() };
    Answer { choices: vec![choice], usage: None }
}

/// One token per piece, with the logarithm given.
fn with_tokens(pieces: &[(&str, f64)]) -> Answer {
    let mut answer = answer(&pieces.iter().map(|(text, _)| *text).collect::<String>());
    let mut at = 0;
    let list = pieces.iter().map(|(text, logprob)| {
        let start = at;
        at += text.len();
        Token { logprob: *logprob, best_other: Some(-3.0), start, end: at }
    });
    answer.choices[0].tokens = Some(Tokens { list: list.collect(), aligned: true });
    answer
}

fn judge_with(gates: &[Gate], body: &Bytes, answer: &Answer) -> Judgement {
    let peek = peek(body).expect("a request");
    judge(&compile_all(gates).expect("gates"), &RequestContext::new(&peek), answer)
}

/// The verdict of one gate on a plain request: its detail if it failed.
fn failure(gate: Gate, body: &Bytes, answer: &Answer) -> Option<String> {
    let judgement = judge_with(&[gate], body, answer);
    let verdict = judgement.verdicts.first().expect("a verdict");
    assert_eq!(verdict.passed, judgement.accepted);
    (!verdict.passed).then(|| verdict.detail.clone().into_owned())
}

fn plain() -> Bytes {
    request("hi", Value::Null)
}

fn inline(schema: &Value) -> Gate {
    Gate::JsonSchema { inline: Some(schema.to_string()) }
}

fn confidence(measure: ConfidenceMeasure, scope: Option<ConfidenceScope>, at_least: f64) -> Gate {
    Gate::Confidence { measure, quantile: None, scope, at_least }
}

#[test]
fn finish_reason_spares_the_clients_own_limit() {
    let stop = || Gate::FinishReason(vec![FinishReason::Stop, FinishReason::ToolCalls]);
    let mut long = answer("a");
    assert_eq!(failure(stop(), &plain(), &long), None);
    long.choices[0].finish_reason = Some(FinishReason::Length);
    assert_eq!(failure(stop(), &plain(), &long).as_deref(), Some("ended by length"));
    let limited = request("hi", json!({"max_tokens": 5}));
    assert_eq!(failure(stop(), &limited, &long), None);
    long.usage = Some(Usage { prompt: 1, cached: 0, completion: 5 });
    assert_eq!(failure(stop(), &limited, &long), None);
    // Cut before the client's limit: the context was full.
    long.usage = Some(Usage { prompt: 1, cached: 0, completion: 4 });
    assert_eq!(failure(stop(), &limited, &long).as_deref(), Some("ended by length"));
    long.choices[0].finish_reason = None;
    assert_eq!(failure(stop(), &limited, &long).as_deref(), Some("no known finish reason"));
}

#[test]
fn match_and_not_match_read_what_the_client_reads() {
    let refusal = || Gate::NotMatch("(?i)^i('m| am) sorry".into());
    assert_eq!(failure(refusal(), &plain(), &answer("Yes.")), None);
    assert_eq!(failure(refusal(), &plain(), &answer("I'm sorry.")).as_deref(), Some("the text matches"));
    let mut refused = answer("");
    refused.choices[0].refusal = Some("I am sorry.".into());
    assert_eq!(failure(refusal(), &plain(), &refused).as_deref(), Some("the text matches"));
    let number = || Gate::Match(r"^\d+$".into());
    assert_eq!(failure(number(), &plain(), &answer("42")), None);
    assert_eq!(failure(number(), &plain(), &answer("")).as_deref(), Some("the text does not match"));
    for wrong in ["(", r"(?=a)", r"\p{L}{500}{500}"] {
        assert!(CompiledGate::compile(&Gate::Match(wrong.into())).expect_err(wrong).starts_with("match: "));
        assert!(CompiledGate::compile(&Gate::NotMatch(wrong.into())).expect_err(wrong).starts_with("notMatch: "));
    }
}

#[test]
fn json_schema_judges_the_content_as_it_stands() {
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]});
    for (content, wanted) in [
        (r#"{"a":1}"#, None),
        (" {\"a\": 2.0}\n", None),
        (r#"{"a":3}"#, Some("not valid under the schema")),
        ("{}", Some("not valid under the schema")),
        ("", Some("the answer is not JSON")),
        (r#"{"a":1"#, Some("the answer is not JSON")),
        ("```json\n{\"a\":1}\n```", Some("the answer is not JSON")),
    ] {
        assert_eq!(failure(inline(&schema), &plain(), &answer(content)).as_deref(), wanted, "{content}");
        let format = json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
        let from_request = Gate::JsonSchema { inline: None };
        assert_eq!(failure(from_request, &request("hi", format), &answer(content)).as_deref(), wanted, "{content}");
    }
    // A request without a schema passes; so do tool calls under the request's schema, but not under the gate's.
    assert_eq!(failure(Gate::JsonSchema { inline: None }, &plain(), &answer("hi")), None);
    let mut calls = answer("");
    calls.choices[0].has_tool_calls = true;
    let format = request("hi", json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}));
    assert_eq!(failure(Gate::JsonSchema { inline: None }, &format, &calls), None);
    assert!(failure(inline(&schema), &plain(), &calls).is_some());
}

#[test]
fn wrong_schemas_are_named_and_nothing_is_fetched() {
    for (schema, why) in [
        ("{", "must be JSON"),
        ("false", "must be an object"),
        ("[]", "must be an object"),
        (r#"{"type":"objekt"}"#, "must be a JSON schema"),
        (r#"{"pattern":"("}"#, "must be a JSON schema"),
        (r##"{"$ref":"#/$defs/none"}"##, "must be a JSON schema"),
        (r#"{"$ref":"http://127.0.0.1:1/schema"}"#, "must be a JSON schema"),
        (r#"{"$ref":"file:///etc/passwd"}"#, "must be a JSON schema"),
        (r#"{"$schema":"http://127.0.0.1:1/meta"}"#, "must be a JSON schema"),
    ] {
        let error = validate_request_schema(schema).expect_err(schema);
        assert!(error.starts_with(why), "{schema}: {error}");
        let error = CompiledGate::compile(&Gate::JsonSchema { inline: Some(schema.into()) }).expect_err(schema);
        assert!(error.starts_with(&format!("jsonSchema: {why}")), "{schema}: {error}");
    }
    let large = format!(r#"{{"description":"{}"}}"#, "x".repeat(MAX_REQUEST_SCHEMA_BYTES));
    assert_eq!(validate_request_schema(&large), Err("must have at most 262144 bytes".into()));
    let deep = r#"{"not":"#.repeat(100_000) + "{}" + &"}".repeat(100_000);
    assert!(validate_request_schema(&deep).is_err());
    // Many more than are kept: each is right whenever it is asked for.
    for round in 0..2 {
        for number in 0..100 {
            assert_eq!(validate_request_schema(&format!(r#"{{"const":{number}}}"#)), Ok(()), "{round}");
            assert!(validate_request_schema(&format!(r#"{{"type":"{number}"}}"#)).is_err());
        }
    }
}

/// Schemas of clients must not be able to take the process down.
#[test]
fn hostile_schemas_cost_neither_stack_nor_time() {
    let deep = "[".repeat(120) + &"]".repeat(120);
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"not": {"$ref": "#"}}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"$dynamicAnchor": "a", "$dynamicRef": "#a"}),
        json!({"items": {"$ref": "#"}}),
        json!({"$recursiveRef": "#", "$schema": "https://json-schema.org/draft/2019-09/schema"}),
    ] {
        let format = json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
        for content in ["{}", "[[1]]", &deep] {
            let _ = failure(Gate::JsonSchema { inline: None }, &request("hi", format.clone()), &answer(content));
        }
    }
    let evil = json!({"pattern": "^(?=a)(a+)+$"});
    let content = format!("\"{}!\"", "a".repeat(5_000));
    assert!(failure(inline(&evil), &plain(), &answer(&content)).is_some());
}
