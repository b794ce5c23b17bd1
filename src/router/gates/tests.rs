use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::api::escalation_path::{ConfidenceMeasure, ConfidenceScope, FinishReason};
use crate::router::answer::{Answer, Token, Tokens, ToolCall, Usage};
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
    Answer { choices: vec![choice], ..Answer::default() }
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

fn judge_with(gates: &[Check], body: &Bytes, answer: &Answer) -> Judgement {
    let peek = peek(body).expect("a request");
    let gates: Vec<Gate> = gates.iter().cloned().map(gate).collect();
    judge(&compile_all(&gates).expect("gates"), &RequestContext::new(&peek), answer)
}

fn compiled(check: Check) -> Result<CompiledGate, String> {
    CompiledGate::compile(&gate(check))
}

/// A gate with the API's defaults.
fn gate(check: Check) -> Gate {
    let required = matches!(check, Check::JsonSchema { .. } | Check::ToolCalls {});
    Gate { check, on_missing: OnMissing::Escalate, required }
}

/// The verdict of one gate on a plain request: its detail if it failed.
fn failure(gate: Check, body: &Bytes, answer: &Answer) -> Option<String> {
    let judgement = judge_with(&[gate], body, answer);
    let verdict = judgement.verdicts.first().expect("a verdict");
    assert_eq!(verdict.passed, judgement.accepted);
    (!verdict.passed).then(|| verdict.detail.to_owned())
}

fn plain() -> Bytes {
    request("hi", Value::Null)
}

fn inline(schema: &Value) -> Check {
    Check::JsonSchema { inline: Some(schema.to_string()) }
}

fn confidence(measure: ConfidenceMeasure, scope: Option<ConfidenceScope>, at_least: f64) -> Check {
    Check::Confidence { measure, quantile: None, scope, at_least }
}

#[test]
fn finish_reason_spares_the_clients_own_limit() {
    let stop = || Check::FinishReason(vec![FinishReason::Stop, FinishReason::ToolCalls]);
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
    let refusal = || Check::NotMatch("(?i)^i('m| am) sorry".into());
    assert_eq!(failure(refusal(), &plain(), &answer("Yes.")), None);
    assert_eq!(failure(refusal(), &plain(), &answer("I'm sorry.")).as_deref(), Some("the text matches"));
    let mut refused = answer("");
    refused.choices[0].refusal = Some("I am sorry.".into());
    assert_eq!(failure(refusal(), &plain(), &refused).as_deref(), Some("the text matches"));
    let number = || Check::Match(r"^\d+$".into());
    assert_eq!(failure(number(), &plain(), &answer("42")), None);
    assert_eq!(failure(number(), &plain(), &answer("")).as_deref(), Some("the text does not match"));
    for wrong in ["(", r"(?=a)", r"\p{L}{500}{500}"] {
        assert!(compiled(Check::Match(wrong.into())).expect_err(wrong).starts_with("match: "));
        assert!(compiled(Check::NotMatch(wrong.into())).expect_err(wrong).starts_with("notMatch: "));
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
        let from_request = Check::JsonSchema { inline: None };
        assert_eq!(failure(from_request, &request("hi", format), &answer(content)).as_deref(), wanted, "{content}");
    }
    // A request without a schema passes; so do tool calls under the request's schema, but not under the gate's.
    assert_eq!(failure(Check::JsonSchema { inline: None }, &plain(), &answer("hi")), None);
    let mut calls = answer("");
    calls.choices[0].tool_calls.push(ToolCall::default());
    let format = request("hi", json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}));
    assert_eq!(failure(Check::JsonSchema { inline: None }, &format, &calls), None);
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
        // References of a request's schema are refused before they are looked up.
        let error = validate_request_schema(schema).expect_err(schema);
        let why_not = if schema.contains("$ref") { "must refer by" } else { why };
        assert!(error.starts_with(why_not), "{schema}: {error}");
        let error = compiled(Check::JsonSchema { inline: Some(schema.into()) }).expect_err(schema);
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
            let _ = failure(Check::JsonSchema { inline: None }, &request("hi", format.clone()), &answer(content));
        }
    }
    let evil = json!({"pattern": "^(?=a)(a+)+$"});
    let content = format!("\"{}!\"", "a".repeat(5_000));
    assert!(failure(inline(&evil), &plain(), &answer(&content)).is_some());
}

/// Sub-schemas that refer to one another double the work at each link: 40 links would hold a traffic thread for hours.
#[test]
fn a_schema_that_explodes_is_refused() {
    let chain = |links: usize, refer: &dyn Fn(usize) -> Value| {
        let mut defs = serde_json::Map::new();
        for link in 0..links {
            defs.insert(format!("a/{link}"), json!({"anyOf": [refer(link + 1), refer(link + 1)]}));
        }
        defs.insert(format!("a/{links}"), json!({"type": "string"}));
        json!({"allOf": [refer(0)], "$defs": defs}).to_string()
    };
    let pointer = |link: usize| json!({"$ref": format!("#/$defs/a~1{link}")});
    assert_eq!(validate_request_schema(&chain(8, &pointer)), Ok(()));
    for links in [20, 60, 1_000] {
        let error = validate_request_schema(&chain(links, &pointer)).expect_err("too large");
        assert!(error.starts_with("must not stand for more than"), "{error}");
    }
    let anchor = |link: usize| json!({"$ref": format!("#a{link}"), "$anchor": format!("x{link}")});
    let by_id = |link: usize| json!({"$ref": format!("x:{link}")});
    let dynamic = |link: usize| json!({"$dynamicRef": format!("#/$defs/a~1{link}")});
    for refer in [&anchor as &dyn Fn(usize) -> Value, &by_id, &dynamic] {
        let error = validate_request_schema(&chain(30, refer)).expect_err("a reference that is not followed");
        assert!(error.starts_with("must refer by"), "{error}");
    }
    assert!(validate_request_schema(r#"{"items":{"$id":"x:y"}}"#).is_err());
    assert!(validate_request_schema(r#"{"$schema":"http://json-schema.org/draft-04/schema#"}"#).is_err());
    // An answer that was not asked about beforehand is failed, not judged.
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {
        "schema": serde_json::from_str::<Value>(&chain(40, &pointer)).expect("JSON")}}});
    let failure = failure(Check::JsonSchema { inline: None }, &request("hi", format), &answer("1"));
    assert_eq!(failure.as_deref(), Some("the request's schema is wrong"));
}

/// Each pattern is a program to compile and keep; a schema of thousands would hold a thread for seconds.
#[test]
fn a_schema_of_many_or_large_patterns_is_refused() {
    let with = |count: usize, pattern: &str| {
        let half = count / 2;
        let own: Vec<Value> = (0..half).map(|_| json!({"pattern": pattern})).collect();
        let named = (half..count).map(|n| (format!("{pattern}{n}"), json!(true)));
        json!({"allOf": own, "patternProperties": named.collect::<serde_json::Map<_, _>>()}).to_string()
    };
    assert_eq!(validate_request_schema(&with(64, "^[a-z]+")), Ok(()));
    assert_eq!(validate_request_schema(&with(65, "^[a-z]+")), Err("must have at most 64 patterns".into()));
    assert_eq!(validate_request_schema(&with(2, r"^\p{L}[\p{L}\p{N} '-]*")), Ok(()));
    assert!(validate_request_schema(&with(2, r"^\p{L}{100}")).is_err());
    // What is referred to counts once; a property that is named pattern is none.
    let referred = r##"{"$defs":{"a":PATTERNS},"items":{"$ref":"#/$defs/a"},"not":{"$ref":"#/$defs/a"}}"##;
    assert_eq!(validate_request_schema(&referred.replace("PATTERNS", &with(64, "^[a-z]+"))), Ok(()));
    assert_eq!(validate_request_schema(r#"{"properties":{"pattern":{"type":"string"}}}"#), Ok(()));
}

/// Recursive schemas are common (trees); the validator must remember what it has judged.
#[test]
fn recursion_with_branches_is_judged_in_time() {
    let twice = |schema: Value| {
        let mut other = schema.clone();
        other["title"] = json!("other");
        json!({"anyOf": [schema, other]})
    };
    let depth = 100;
    let lists = "[".repeat(depth) + "1" + &"]".repeat(depth);
    let objects = r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth);
    for (schema, content) in [
        (twice(json!({"type": "array", "items": {"$ref": "#"}})), &lists),
        (twice(json!({"type": "array", "prefixItems": [{"$ref": "#"}]})), &lists),
        (twice(json!({"type": "array", "contains": {"$ref": "#"}})), &lists),
        (twice(json!({"type": "object", "properties": {"a": {"$ref": "#"}}})), &objects),
        (twice(json!({"type": "object", "additionalProperties": {"$ref": "#"}})), &objects),
        (twice(json!({"type": "object", "patternProperties": {"a": {"$ref": "#"}}})), &objects),
        (twice(json!({"type": "object", "unevaluatedProperties": {"$ref": "#"}})), &objects),
        (twice(json!({"type": "array", "unevaluatedItems": {"$ref": "#"}})), &lists),
        (
            json!({"type": "object", "if": {"properties": {"a": {"$ref": "#"}}}, "then": {"properties": {"a": {"$ref": "#"}}},
            "else": false}),
            &objects,
        ),
    ] {
        let format = json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
        let _ = failure(Check::JsonSchema { inline: None }, &request("hi", format), &answer(content));
    }
}

#[test]
fn grounded_values_occur_in_the_request() {
    let body = request(
        "Order No. SKU-12 of 2025-11-24: 1,500.00 EUR, from Zürich. Reply as {\"city\": \"Bonn\"}.",
        Value::Null,
    );
    let grounded = |pointers: &[&str], normalize| Check::Grounded {
        pointers: pointers.iter().map(ToString::to_string).collect(),
        normalize,
    };
    let absent = Some("a value does not occur in the request");
    let nothing = Some("no value to look for");
    for (content, pointers, normalize, wanted) in [
        (r#"{"a":"sku 12"}"#, vec!["/a"], true, None),
        (r#"{"a":"sku 12"}"#, vec!["/a"], false, absent),
        (r#"{"a":"SKU-12"}"#, vec!["/a"], false, None),
        (r#"{"a":"ZÜRICH"}"#, vec!["/a"], true, None),
        (r#"{"a":"SKU-1"}"#, vec!["/a"], true, absent),
        (r#"{"a":"25"}"#, vec!["/a"], true, absent),
        (r#"{"a":"11-24"}"#, vec!["/a"], true, None),
        (r#"{"a":1500}"#, vec!["/a"], true, None),
        (r#"{"a":-1500.0}"#, vec!["/a"], true, None),
        (r#"{"a":12}"#, vec!["/a"], false, None),
        (r#"{"a":500}"#, vec!["/a"], true, absent),
        (r#"{"a":150}"#, vec!["/a"], true, absent),
        (r#"{"a":{"b":["Bonn",12],"c":null}}"#, vec!["/a"], true, None),
        (r#"{"a":{"b":["Bonn",13]}}"#, vec![""], true, absent),
        (r#"{"a":"Bonn","b":"Paris"}"#, vec!["/a"], true, None),
        (r#"{"a":"Bonn"}"#, vec!["/a", "/b"], true, Some("a pointer has no value")),
        (r#"{"a":null,"b":true,"c":"--"}"#, vec![""], true, nothing),
        (r#"{"a":null,"b":"Bonn"}"#, vec!["/a", "/b"], true, None),
        ("```json\n{\"a\":\"Bonn\"}\n```", vec!["/a"], true, None),
        ("Bonn", vec![""], true, Some("the answer is not JSON")),
    ] {
        assert_eq!(failure(grounded(&pointers, normalize), &body, &answer(content)).as_deref(), wanted, "{content}");
    }
}

#[test]
fn confidence_looks_at_the_tokens_in_scope() {
    use ConfidenceMeasure::{FirstTokenMargin, LogprobQuantile, MeanLogprob, MinLogprob};
    let answer = with_tokens(&[
        ("{\"", -9.0),
        ("a", -7.0),
        ("\":", -7.0),
        (" \"x", -0.5),
        ("y", -1.0),
        ("\",\"b\":", -8.0),
        ("7", -1.5),
        ("}", -9.0),
        ("", -6.0),
    ]);
    let score = |check: Check, answer: &Answer| judge_with(&[check], &plain(), answer).verdicts.remove(0);
    let values = Some(ConfidenceScope::Values);
    for (measure, scope, wanted) in [
        (MeanLogprob, values, -1.0),
        (MeanLogprob, None, -1.0),
        (MinLogprob, None, -1.5),
        (MinLogprob, Some(ConfidenceScope::All), -9.0),
        (FirstTokenMargin, None, 2.5),
    ] {
        let verdict = score(confidence(measure, scope, wanted), &answer);
        assert_eq!((verdict.score, verdict.passed), (Some(wanted), true), "{measure:?} {scope:?}");
        assert!(!score(confidence(measure, scope, wanted + 0.001), &answer).passed);
    }
    for (quantile, wanted) in [(0.0, -1.5), (0.25, -1.25), (0.5, -1.0), (1.0, -0.5)] {
        let check =
            Check::Confidence { measure: LogprobQuantile, quantile: Some(quantile), scope: None, at_least: -9.0 };
        assert_eq!(score(check, &answer).score, Some(wanted));
    }
    let missing = |check: Check, answer: &Answer| failure(check, &plain(), answer).expect("a failure");
    let lenient = |scope| confidence(MeanLogprob, scope, -1e9);
    assert_eq!(missing(lenient(None), &self::answer("hi")), "no log probabilities");
    assert_eq!(missing(lenient(values), &with_tokens(&[("hi", 0.0)])), "the answer is not JSON");
    assert_eq!(missing(lenient(None), &with_tokens(&[("{}", 0.0)])), "no value tokens");
    assert_eq!(missing(lenient(None), &with_tokens(&[("{\"a\":\"\"}", 0.0)])), "no value tokens");
    assert_eq!(failure(lenient(None), &plain(), &with_tokens(&[("hi", -1.0)])), None);
    let mut unaligned = answer;
    unaligned.choices[0].tokens.as_mut().expect("tokens").aligned = false;
    assert_eq!(missing(lenient(None), &unaligned), "tokens and content differ");
    unaligned.choices[0].tokens.as_mut().expect("tokens").list[0].best_other = None;
    let margin = confidence(FirstTokenMargin, Some(ConfidenceScope::All), -1e9);
    assert_eq!(missing(margin, &unaligned), "no alternatives to the first token");

    for (check, top) in
        [(lenient(None), Some(1)), (confidence(FirstTokenMargin, None, 0.0), Some(2)), (Check::Match("a".into()), None)]
    {
        assert_eq!(compiled(check).expect("a gate").needs_logprobs(), top);
    }
    for quantile in [None, Some(1.1), Some(f64::NAN)] {
        let check = Check::Confidence { measure: LogprobQuantile, quantile, scope: None, at_least: 0.0 };
        assert!(compiled(check).is_err());
    }
    assert!(compiled(lenient(None)).is_ok() && compiled(confidence(MinLogprob, None, f64::NAN)).is_err());
}

#[test]
fn gates_run_cheapest_first_and_stop_but_for_required_ones() {
    let gates = [
        Check::Grounded { pointers: vec![String::new()], normalize: true },
        inline(&json!({"type": "object"})),
        Check::Match("hi".into()),
        confidence(ConfidenceMeasure::MeanLogprob, None, 0.0),
        Check::FinishReason(vec![FinishReason::Stop]),
    ];
    let judged = |answer: &Answer| judge_with(&gates, &request("say hi", Value::Null), answer);
    let names = |judgement: &Judgement| judgement.verdicts.iter().map(|v| (v.gate, v.passed)).collect::<Vec<_>>();

    let good = judged(&with_tokens(&[("{\"a\":\"hi\"}", 0.0)]));
    let order = ["finishReason", "confidence", "match", "jsonSchema", "grounded"];
    assert_eq!(names(&good), order.map(|name| (name, true)));
    assert_eq!((good.accepted, good.returnable, good.passed_count), (true, true, 5));

    let unsure = judged(&with_tokens(&[("{\"a\":\"hi\"}", -1.0)]));
    assert_eq!(names(&unsure), [("finishReason", true), ("confidence", false), ("jsonSchema", true)]);
    assert_eq!((unsure.accepted, unsure.returnable, unsure.passed_count), (false, true, 2));

    let wrong = judged(&with_tokens(&[("hi", -1.0)]));
    assert_eq!(names(&wrong), [("finishReason", true), ("confidence", false), ("jsonSchema", false)]);
    assert_eq!((wrong.accepted, wrong.returnable, wrong.passed_count), (false, false, 1));

    let none = judge_with(&[], &plain(), &answer(""));
    assert_eq!((none.accepted, none.returnable, none.passed_count), (true, true, 0));
}

#[test]
fn every_choice_must_pass() {
    let mut two = with_tokens(&[("a", -1.0)]);
    two.choices.push(with_tokens(&[("b", -2.0)]).choices.remove(0));
    let verdict = |at_least| {
        judge_with(&[confidence(ConfidenceMeasure::MeanLogprob, None, at_least)], &plain(), &two).verdicts.remove(0)
    };
    assert_eq!((verdict(-2.0).passed, verdict(-2.0).score), (true, Some(-2.0)));
    assert_eq!((verdict(-1.5).passed, verdict(-1.5).score), (false, Some(-2.0)));
}

fn calling(calls: &[(&str, &str)]) -> Answer {
    let mut answer = answer("");
    answer.choices[0].tool_calls = calls
        .iter()
        .map(|(name, arguments)| ToolCall { name: (*name).into(), arguments: (*arguments).into() })
        .collect();
    answer
}

#[test]
fn tool_calls_are_judged_by_the_requests_tools() {
    let parameters = json!({"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}});
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
        {"type": "custom", "custom": {"name": "shell"}},
        {"type": "function", "function": {"name": "odd", "parameters": {"type": "strange"}}},
    ]);
    let check = || Check::ToolCalls {};
    let offered = |choice: Value| request("hi", json!({"tools": tools, "tool_choice": choice}));
    let auto = offered(Value::Null);
    let good = r#"{"city": "Rome"}"#;
    for (request, calls, wanted) in [
        (&plain(), &[][..], None),
        (&plain(), &[("weather", good)], Some("a tool is called that the request does not have")),
        (&auto, &[], None),
        (&auto, &[("weather", good), ("now", ""), ("now", "{}"), ("shell", "ls -l")], None),
        (&auto, &[("now", "{}"), ("wether", good)], Some("a tool is called that the request does not have")),
        (&auto, &[("weather", "{}")], Some("a call's arguments are not valid under the tool's parameters")),
        (&auto, &[("weather", r#"{"city": "#)], Some("a call's arguments are no JSON object")),
        (&auto, &[("now", "[]")], Some("a call's arguments are no JSON object")),
        (&auto, &[("odd", "{}")], Some("a tool's parameters are no JSON schema to judge by")),
        (&offered("required".into()), &[], Some("no tool is called, and one must be")),
        (&offered("required".into()), &[("now", "")], None),
        (&offered(json!({"type": "function", "function": {"name": "now"}})), &[("now", "")], None),
        (
            &offered(json!({"type": "function", "function": {"name": "now"}})),
            &[("weather", good)],
            Some("another tool is called than the request names"),
        ),
    ] {
        assert_eq!(failure(check(), request, &calling(calls)).as_deref(), wanted, "{calls:?}");
    }
    let functions =
        request("hi", json!({"functions": [{"name": "f", "parameters": parameters}], "function_call": "auto"}));
    assert_eq!(failure(check(), &functions, &calling(&[("f", good)])), None);
    assert!(failure(check(), &functions, &calling(&[("f", "{}")])).is_some());
}

#[test]
fn an_answer_without_evidence_passes_where_the_gate_says_so() {
    let body = request("the total is 5", Value::Null);
    let peek = peek(&body).expect("a request");
    let accepted = |check: Check, answer: &Answer| {
        [OnMissing::Escalate, OnMissing::Accept].map(|on_missing| {
            let gates = compile_all(&[Gate { on_missing, ..gate(check.clone()) }]).expect("gates");
            judge(&gates, &RequestContext::new(&peek), answer).accepted
        })
    };
    let sure = || confidence(ConfidenceMeasure::MeanLogprob, None, -0.1);
    let grounded = || Check::Grounded { pointers: vec!["/total".into()], normalize: true };
    let mut unended = answer("hi");
    unended.choices[0].finish_reason = None;
    for (check, answer, wanted) in [
        (sure(), answer("hi"), [false, true]),
        (sure(), with_tokens(&[("hi", -2.0)]), [false, false]),
        (grounded(), answer("hi"), [false, true]),
        (grounded(), answer("{}"), [false, true]),
        (grounded(), answer(r#"{"total": 6}"#), [false, false]),
        (Check::FinishReason(vec![FinishReason::Stop]), unended, [false, true]),
        (Check::Match("x".into()), calling(&[("f", "")]), [false, true]),
        (Check::NotMatch("x".into()), calling(&[("f", "")]), [true, true]),
        (inline(&json!({"type": "object"})), answer("hi"), [false, false]),
    ] {
        assert_eq!(accepted(check.clone(), &answer), wanted, "{check:?}");
    }
}

#[test]
fn required_is_what_the_table_says() {
    let body = plain();
    let peek = peek(&body).expect("a request");
    for required in [false, true] {
        let gates = [
            Gate { required, ..gate(Check::NotMatch("hi".into())) },
            Gate { required, ..gate(inline(&json!({"type": "object"}))) },
        ];
        let judgement = judge(&compile_all(&gates).expect("gates"), &RequestContext::new(&peek), &answer("hi"));
        assert_eq!((judgement.accepted, judgement.returnable), (false, !required));
        assert_eq!(judgement.verdicts.len(), if required { 2 } else { 1 }, "a required gate is always judged");
    }
}
