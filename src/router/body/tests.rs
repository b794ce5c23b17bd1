use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn error(body: &str) -> String {
    peek(body.as_bytes()).expect_err(body).to_string()
}

#[test]
fn reads_what_rules_need_and_nothing_else() {
    let body = json!({
        "unknown": {"model": "not this one", "messages": 3},
        "model": "tri\u{e9}\"age",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "name": "x", "content": [
                {"type": "text", "text": "What is \"this\"?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
            {"role": "assistant", "tool_calls": []},
        ],
        "stream": true, "stream_options": {"include_usage": true}, "n": 2,
        "max_tokens": 5, "max_completion_tokens": 7, "tools": [{}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "logprobs": true, "top_logprobs": 3,
    })
    .to_string();
    let peek = peek(body.as_bytes()).expect("valid");
    assert_eq!(peek.model, "tri\u{e9}\"age");
    assert!(peek.stream && peek.include_usage && peek.tools && peek.vision && peek.logprobs);
    assert_eq!((peek.n, peek.max_tokens, peek.top_logprobs), (2, Some(7), Some(3)));
    assert_eq!(peek.response_format, ResponseFormat::JsonSchema);
    assert_eq!(peek.schema.map(RawValue::get), Some(r#"{"type":"object"}"#));
    assert_eq!(peek.user_text(), "Be brief.\nWhat is \"this\"?\n");
    // Four messages and one image, besides the text.
    assert!((1_016..1_100).contains(&peek.input_tokens_estimate()), "{}", peek.input_tokens_estimate());
}

#[test]
fn defaults_and_nulls_are_the_same() {
    let minimal = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let nulls = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":null,"stream_options":null,"n":null,
        "max_tokens":null,"tools":null,"response_format":null,"logprobs":null,"top_logprobs":null}"#;
    for body in [minimal, nulls] {
        let peek = peek(body.as_bytes()).expect(body);
        assert!(!peek.stream && !peek.include_usage && !peek.tools && !peek.vision && !peek.logprobs);
        assert_eq!((peek.n, peek.max_tokens, peek.top_logprobs, peek.schema.is_none()), (1, None, None, true));
        assert_eq!(peek.input_tokens_estimate(), 1 + 4);
    }
    // Escaped keys are the same keys.
    assert!(peek(br#"{"m\u006fdel":"m","messages":[{"role":"user"}]}"#).is_ok());
}

#[test]
fn bad_requests_are_told_which_field_and_what_must_be() {
    let with = |rest: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{rest}}}"#);
    for (body, wanted) in [
        ("".into(), "body: must be one JSON object (wrong at line 1, column 0)"),
        ("[]".into(), "body: must be one JSON object (wrong at line 1, column 0)"),
        (r#"{"model":"m""#.into(), "body: must be one JSON object (wrong at line 1, column 12)"),
        (with("") + "x", "body: must be one JSON object (wrong at line 1, column 58)"),
        (r#"{"model":"m"}"#.into(), "messages: must be set"),
        (r#"{"model":"m","messages":[]}"#.into(), "messages: must hold at least one message"),
        (r#"{"model":"m","messages":{"role":1}}"#.into(), "messages: must be a list of messages"),
        (r#"{"model":"m","messages":"hi"}"#.into(), "messages: must be a list of messages"),
        (r#"{"model":"m","messages":[{"role":"user"},7]}"#.into(), "messages: must be a list of messages"),
        (r#"{"model":"m","messages":[{"role":"user"},{}]}"#.into(), "messages[1].role: must be a string"),
        (r#"{"model":"m","messages":[{"role":1}]}"#.into(), "messages[0].role: must be a string"),
        (
            r#"{"model":"m","messages":[{"role":"user","content":{}}]}"#.into(),
            "messages[0].content: must be a string, a list of parts that each have a type, or null",
        ),
        (r#"{"messages":[{"role":"user","content":"hi"}]}"#.into(), "model: must be set"),
        (
            r#"{"model":"","messages":[{"role":"user","content":"hi"}]}"#.into(),
            "model: must be a string that is not empty",
        ),
        (
            r#"{"model":"\ud800","messages":[{"role":"user","content":"hi"}]}"#.into(),
            "model: must be a string that is not empty",
        ),
        (with(r#","model":"x""#), "model: must appear only once"),
        (with(r#","messages":[]"#), "messages: must appear only once"),
        (with(r#","n":1,"n":1"#), "n: must appear only once"),
        (with(r#","stream":"yes""#), "stream: must be true or false"),
        (with(r#","stream_options":[]"#), "stream_options: must be an object with include_usage at most once"),
        (
            with(r#","stream_options":{"include_usage":true,"include_usage":false}"#),
            "stream_options: must be an object with include_usage at most once",
        ),
        (with(r#","n":0"#), "n: must be an integer from 1 to 128"),
        (with(r#","n":1.5"#), "n: must be an integer from 1 to 128"),
        (with(r#","max_tokens":-1"#), "max_tokens: must be an integer of at least 1"),
        (with(r#","tools":{}"#), "tools: must be a list"),
        (with(r#","top_logprobs":21"#), "top_logprobs: must be an integer from 0 to 20"),
        (
            with(r#","response_format":{"type":"json_schema"}"#),
            "response_format: must be an object with a type, and with json_schema for the type json_schema",
        ),
    ] {
        assert_eq!(error(&body), wanted, "{body}");
    }
    let error = peek(b"{\"model\":\"\xff\"}").expect_err("not UTF-8");
    assert_eq!(error.to_string(), "body: must be UTF-8 (wrong byte at 10)");
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    for (body, valid) in [
        (format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"x":{deep}}}"#), true),
        (format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi","x":{deep}}}],"tools":{deep}}}"#), true),
        (format!(r#"{{"model":"m","messages":[{{"role":"user","content":{deep}}}]}}"#), false),
        (format!(r#"{{"model":"m","messages":{deep}}}"#), false),
        (deep, false),
    ] {
        assert_eq!(peek(body.as_bytes()).is_ok(), valid);
    }
}

#[test]
fn an_unchanged_body_is_shared_not_copied() {
    let body = Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#);
    let peek = peek(&body).expect("valid");
    assert_eq!(peek.rewrite(&body, "m", Inject::default()).as_ptr(), body.as_ptr());
    assert_eq!(peek.rewrite(&body, "m", Inject { stream: Some(true), ..Inject::default() }).as_ptr(), body.as_ptr());
}

#[test]
fn spelling_survives_a_rewrite() {
    let body = Bytes::from_static(
        b" { \"temperature\" : 1.00e0,\"model\" : \"a\", \"x\":1,\"x\":2, \"messages\":[{\"role\":\"user\"}] }\n",
    );
    let peek = peek(&body).expect("valid");
    let inject = Inject { logprobs: Some(0), ..Inject::default() };
    assert_eq!(
        peek.rewrite(&body, "b\"", inject),
        " {\"logprobs\":true,\"top_logprobs\":1, \"temperature\" : 1.00e0,\"model\" : \"b\\\"\", \"x\":1,\"x\":2, \
         \"messages\":[{\"role\":\"user\"}] }\n"
    );
}

/// A value of a field as clients write it, or its absence.
fn field(values: &[Value]) -> impl Strategy<Value = Option<Value>> + use<> {
    proptest::option::of(proptest::sample::select(values.to_vec()))
}

prop_compose! {
    fn request()(
        model in "\\PC{1,8}",
        content in "\\PC{0,40}",
        stream in field(&[json!(null), json!(false), json!(true)]),
        stream_options in field(&[
            json!(null), json!({}), json!({"include_usage": true}), json!({"include_usage": false, "other": [1]}),
            json!({"include_usage": null}), json!({"other": {}}),
        ]),
        logprobs in field(&[json!(null), json!(false), json!(true)]),
        top_logprobs in field(&[json!(null), json!(0), json!(3), json!(20)]),
        pretty: bool,
    ) -> String {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": content}], "seed": 7});
        let fields = [
            ("stream", stream), ("stream_options", stream_options), ("logprobs", logprobs),
            ("top_logprobs", top_logprobs),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.expect("JSON")
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = peek(&bytes);
    }

    /// Bytes that are nearly a request get further into the parser than noise does.
    #[test]
    fn damaged_requests_are_refused_or_read(
        request in request(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = request.into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
        let bytes = Bytes::from(bytes);
        if let Ok(peek) = peek(&bytes) {
            let _ = (peek.user_text(), peek.input_tokens_estimate());
            let inject = Inject { logprobs: Some(2), stream: Some(true), include_usage: true };
            let rewritten = peek.rewrite(&bytes, "m", inject);
            prop_assert!(super::peek(&rewritten).is_ok(), "{rewritten:?}");
        }
    }

    #[test]
    fn a_rewrite_changes_only_what_it_must(
        request in request(),
        model in "\\PC{1,8}",
        logprobs in proptest::option::of(0..=5_u8),
        stream in proptest::option::of(any::<bool>()),
        include_usage: bool,
    ) {
        let body = Bytes::from(request);
        let peek = peek(&body).expect("valid");
        let rewritten = peek.rewrite(&body, &model, Inject { logprobs, stream, include_usage });
        let mut wanted: Value = serde_json::from_slice(&body).expect("JSON");
        wanted["model"] = json!(model);
        if let Some(top) = logprobs {
            wanted["logprobs"] = json!(true);
            wanted["top_logprobs"] = json!(top.max(1).max(peek.top_logprobs.unwrap_or(0)));
        }
        let streams = stream.unwrap_or(peek.stream);
        if streams != peek.stream {
            wanted["stream"] = json!(streams);
        }
        if streams && include_usage {
            if !wanted["stream_options"].is_object() {
                wanted["stream_options"] = json!({});
            }
            wanted["stream_options"]["include_usage"] = json!(true);
        } else if !streams && peek.stream && wanted.get("stream_options").is_some() {
            wanted["stream_options"] = json!(null);
        }
        let got: Value = serde_json::from_slice(&rewritten).expect("JSON");
        prop_assert_eq!(got, wanted);
        let again = super::peek(&rewritten).expect("valid");
        prop_assert_eq!(again.messages.text(), peek.user_text());
    }
}
