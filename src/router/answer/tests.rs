use serde_json::{Value, json};

use super::*;
use crate::router::body::{Inject, peek};

fn bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn read(value: &Value) -> Result<Answer, AnswerError> {
    Answer::from_completion(&bytes(value), true)
}

/// What is left of a completion.
fn stripped_of(body: &Bytes, strip: Strip) -> Bytes {
    let answer = Answer::from_completion(body, false).expect("an answer");
    strip_completion(body, strip, &answer.logprobs)
}

/// A token with its alternatives, as engines write it.
fn token(text: &str, logprob: f64, others: &[(&str, f64)]) -> Value {
    let top: Vec<Value> =
        others.iter().map(|(text, logprob)| json!({"token": text, "logprob": logprob, "bytes": []})).collect();
    json!({"token": text, "bytes": text.as_bytes(), "logprob": logprob, "top_logprobs": top})
}

fn completion() -> Value {
    json!({
        "id": "x", "object": "chat.completion", "created": 5, "model": "m", "system_fingerprint": "f",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Hé!", "refusal": null, "reasoning_content": "hm"},
            "logprobs": {"content": [
                token("H", -0.5, &[("H", -0.5), ("J", -1.5)]),
                json!({"token": "\u{fffd}", "bytes": [0xc3], "logprob": -0.25, "top_logprobs": [
                    {"token": "a", "logprob": -0.125}, {"token": "b", "logprob": -9}, {"token": "\u{fffd}", "logprob": -0.25},
                ]}),
                json!({"token": "\u{fffd}", "bytes": [0xa9], "logprob": null}),
                json!({"token": "!", "bytes": null, "logprob": -1, "top_logprobs": []}),
                json!({"token": "", "bytes": [], "logprob": -2}),
            ]},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4}},
    })
}

#[test]
fn reads_a_completion() {
    let body_text = completion().to_string();
    let answer = read(&completion()).expect("an answer");
    let token = |logprob, best_other, start, end| Token { logprob, best_other, start, end };
    let tokens = vec![
        token(-0.5, Some(-1.5), 0, 1),
        token(-0.25, Some(-0.125), 1, 2),
        token(f64::NEG_INFINITY, None, 2, 3),
        token(-1.0, None, 3, 4),
        token(-2.0, None, 4, 4),
    ];
    let choice = Choice {
        content: "Hé!".into(),
        finish_reason: Some(FinishReason::Stop),
        tokens: Some(Tokens { list: tokens, aligned: true }),
        ..Choice::default()
    };
    let usage = Some(Usage { prompt: 9, cached: 4, completion: 5 });
    let list = body_text.find("{\"content\":[").expect("the list");
    assert!(body_text[answer.logprobs[0].clone()].starts_with("{\"content\":[") && answer.logprobs[0].start == list);
    assert_eq!((answer.choices, answer.usage), (vec![choice], usage));
}

#[test]
fn tokens_outside_of_the_content_are_left_out() {
    let mut body = completion();
    let list = json!([
        token("<think>A", -9.0, &[]),
        token("</think>\n", -9.0, &[]),
        token(" A", -1.0, &[]),
        token("B\n", -2.0, &[]),
        token("<|im_end|>", -9.0, &[]),
    ]);
    body["choices"][0]["logprobs"]["content"] = list;
    body["choices"][0]["message"]["content"] = "AB".into();
    let tokens = read(&body).expect("an answer").choices[0].tokens.clone().expect("tokens");
    let ranges: Vec<_> = tokens.list.iter().map(|t| (t.logprob, t.start, t.end)).collect();
    assert_eq!((ranges, tokens.aligned), (vec![(-1.0, 0, 1), (-2.0, 1, 2)], true));

    body["choices"][0]["message"]["content"] = "C".into();
    let tokens = read(&body).expect("an answer").choices[0].tokens.clone().expect("tokens");
    assert_eq!((tokens.list.len(), tokens.aligned), (5, false));
}

#[test]
fn lenient_where_nothing_is_lost() {
    let minimal =
        read(&json!({"choices": [{"message": {"content": "a"}}], "usage": "?", "error": null})).expect("an answer");
    assert_eq!((minimal.choices[0].text(), minimal.usage), ("a", None));
    assert_eq!(minimal.choices[0].finish_reason, None);
    let refusal = read(&json!({"choices": [{"message": {"content": null, "refusal": "No."}}]})).expect("an answer");
    assert_eq!(refusal.choices[0].text(), "No.");
    for calls in [json!({"tool_calls": [{"id": 1}]}), json!({"content": null, "function_call": {"name": "f"}})] {
        let answer = read(&json!({"choices": [{"message": calls, "finish_reason": "tool_calls"}]})).expect("an answer");
        assert_eq!(answer.choices[0].tool_calls.len(), 1);
    }
    let empty =
        read(&json!({"choices": [{"message": {"content": "a", "tool_calls": []}, "logprobs": {"content": []}}]}));
    let empty = empty.expect("an answer");
    assert_eq!((!empty.choices[0].tool_calls.is_empty(), &empty.choices[0].tokens), (false, &None));
}

#[test]
fn what_is_no_answer_is_an_error_that_quotes_nothing() {
    assert_eq!(read(&json!({"error": {"message": "secret"}})), Err(AnswerError::UpstreamError));
    assert_eq!(read(&json!({"error": "secret", "choices": []})), Err(AnswerError::UpstreamError));
    for (body, why) in [
        (json!([]), "JSON of another shape"),
        (json!("secret"), "JSON of another shape"),
        (json!({}), "no choices"),
        (json!({"choices": []}), "no choices"),
        (json!({"choices": "secret"}), "JSON of another shape"),
        (json!({"choices": [["secret"]]}), "JSON of another shape"),
        (json!({"choices": [{"text": "secret"}]}), "a choice without a message"),
        (json!({"choices": [{"message": {"content": ["secret"]}}]}), "JSON of another shape"),
        (json!({"choices": [{"index": 1, "message": {"content": ""}}]}), "a choice is missing"),
        (json!({"choices": [{"index": 4096, "message": {"content": ""}}]}), "too many choices"),
    ] {
        assert_eq!(read(&body), Err(AnswerError::Malformed(why)), "{body}");
    }
    assert_eq!(Answer::from_completion(&Bytes::from_static(b"{\xff"), true), Err(AnswerError::Malformed("not UTF-8")));
    assert_eq!(Answer::from_completion(&Bytes::from_static(b"{"), true), Err(AnswerError::Malformed("not JSON")));
    assert_eq!(Answer::from_completion(&Bytes::from_static(b"<html>"), true), Err(AnswerError::Malformed("not JSON")));
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(Answer::from_completion(&Bytes::from(deep), true), Err(AnswerError::Malformed("no choices")));
}

fn chunk(index: usize, delta: Value, logprobs: Value, finish_reason: Value) -> Bytes {
    bytes(&json!({"choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}]}))
}

#[test]
fn a_stream_says_what_its_completion_says() {
    let one = |text, logprob| json!({"content": [token(text, logprob, &[])]});
    let stream = [
        chunk(1, json!({"role": "assistant", "content": ""}), Value::Null, Value::Null),
        chunk(0, json!({"role": "assistant", "content": "He"}), one("He", -1.0), Value::Null),
        chunk(1, json!({"tool_calls": [{"index": 0}]}), Value::Null, Value::Null),
        chunk(0, json!({"content": "y"}), one("y", -2.0), "length".into()),
        chunk(1, json!({}), Value::Null, "tool_calls".into()),
        bytes(&json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})),
        Bytes::from_static(b"[DONE]"),
        Bytes::from_static(b"never read"),
    ];
    let answer = Answer::from_stream(&stream).expect("an answer");
    assert_eq!(answer.choices[0].content, "Hey");
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Length));
    let tokens = answer.choices[0].tokens.as_ref().expect("tokens");
    assert_eq!(tokens.list.iter().map(|t| (t.start, t.end)).collect::<Vec<_>>(), [(0, 2), (2, 3)]);
    assert_eq!(answer.choices[1].tool_calls.len(), 1);
    assert_eq!(answer.usage, Some(Usage { prompt: 1, cached: 0, completion: 2 }));
    // [DONE] may be missing; finish_reason may not.
    assert_eq!(Answer::from_stream(&stream[..6]).as_ref(), Ok(&answer));
    let cut = Err(AnswerError::Malformed("the stream ended without a finish_reason"));
    assert_eq!(Answer::from_stream(&stream[..4]), cut);
    assert_eq!(Answer::from_stream(&[]), Err(AnswerError::Malformed("no choices")));
    let error = [stream[1].clone(), Bytes::from_static(br#"{"error":{"message":"out of memory"}}"#)];
    assert_eq!(Answer::from_stream(&error), Err(AnswerError::UpstreamError));
}

#[test]
fn what_was_injected_is_taken_out_and_nothing_else() {
    let body = Bytes::from(serde_json::to_string_pretty(&completion()).expect("JSON"));
    assert_eq!(stripped_of(&body, Strip::default()).as_ptr(), body.as_ptr());
    let usage_only = Strip { usage_chunk: true, ..Strip::default() };
    assert_eq!(stripped_of(&body, usage_only).as_ptr(), body.as_ptr());

    let stripped = stripped_of(&body, Strip { logprobs: true, ..Strip::default() });
    let mut wanted = completion();
    wanted["choices"][0]["logprobs"] = Value::Null;
    assert_eq!(serde_json::from_slice::<Value>(&stripped).expect("JSON"), wanted);

    for most in [0, 1, 2] {
        let stripped = stripped_of(&body, Strip { top_logprobs: Some(most), ..Strip::default() });
        let mut wanted = completion();
        for token in wanted["choices"][0]["logprobs"]["content"].as_array_mut().expect("tokens") {
            if let Some(top) = token.get_mut("top_logprobs").and_then(Value::as_array_mut) {
                top.truncate(most.into());
            }
        }
        assert_eq!(serde_json::from_slice::<Value>(&stripped).expect("JSON"), wanted);
    }
}

#[test]
fn log_probabilities_that_are_not_a_choices_stay() {
    let elsewhere = r#"{"logprobs": {"content": [1, "]"]}, "choices": [
        {"message": {"content": "says \"logprobs\": {", "logprobs": {"a": {}}}, "logprobs" : {"content": [
            {"token": "\u00e9\"", "logprob": -1.5, "bytes": [195, 169, 34], "top_logprobs": null}]}},
        {"index": 1, "message": {"content": "é"}, "logprobs": null}]}"#;
    let body = Bytes::from_static(elsewhere.as_bytes());
    let answer = Answer::from_completion(&body, true).expect("an answer");
    assert_eq!(answer.choices[0].tokens.as_ref().map(|t| t.list[0].logprob), Some(-1.5));
    assert_eq!(answer.choices[1].tokens, None);
    let stripped = stripped_of(&body, Strip { logprobs: true, ..Strip::default() });
    let mut wanted: Value = serde_json::from_str(elsewhere).expect("JSON");
    wanted["choices"][0]["logprobs"] = Value::Null;
    assert_eq!(serde_json::from_slice::<Value>(&stripped).expect("JSON"), wanted);
}

#[test]
fn broken_log_probabilities_are_an_error_or_none() {
    for broken in ["{", "{\"content\":[{]}", "{\"content\":[{\"token\":1}]}", "[]", "\"x\""] {
        let body = format!(r#"{{"choices":[{{"message":{{"content":"a"}},"logprobs":{broken}}}]}}"#);
        let read = Answer::from_completion(&Bytes::from(body), true);
        assert!(matches!(read, Err(AnswerError::Malformed(_))), "{broken}: {read:?}");
    }
    for none in ["{}", "{\"content\":null}", "{\"content\":[]}", "{\"tokens\":[\"a\"],\"token_logprobs\":[-1]}"] {
        let body = format!(r#"{{"choices":[{{"message":{{"content":"a"}},"logprobs":{none}}}]}}"#);
        let read = Answer::from_completion(&Bytes::from(body), true).expect("an answer");
        assert_eq!(read.choices[0].tokens, None, "{none}");
    }
}

#[test]
fn a_number_of_the_upstream_s_is_not_taken_for_that_of_a_list() {
    let mut body = completion();
    let mut second = body["choices"][0].clone();
    second["index"] = 1.into();
    second["logprobs"] = 0.into();
    body["choices"].as_array_mut().expect("a list").push(second);
    assert!(matches!(read(&body), Err(AnswerError::Malformed(_))));
    // One that no list has is none.
    body["choices"][1]["logprobs"] = 1.into();
    assert_eq!(read(&body).expect("an answer").choices[1].tokens, None);
}

#[test]
fn stripping_follows_from_what_was_injected() {
    let strip = |rest: &str, inject: Inject| {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{rest}}}"#);
        Strip::of(&peek(body.as_bytes()).expect("valid"), inject)
    };
    let logprobs = Inject { logprobs: Some(2), ..Inject::default() };
    let usage = Inject { include_usage: true, ..Inject::default() };
    assert_eq!(strip("", Inject::default()), Strip::default());
    assert_eq!(strip("", logprobs), Strip { logprobs: true, ..Strip::default() });
    assert_eq!(strip(r#","logprobs":true"#, logprobs), Strip { top_logprobs: Some(0), ..Strip::default() });
    assert_eq!(
        strip(r#","logprobs":true,"top_logprobs":1"#, logprobs),
        Strip { top_logprobs: Some(1), ..Strip::default() }
    );
    assert_eq!(strip(r#","logprobs":true,"top_logprobs":2"#, logprobs), Strip::default());
    assert_eq!(strip("", usage), Strip { usage_chunk: true, ..Strip::default() });
    assert_eq!(strip(r#","stream":true,"stream_options":{"include_usage":true}"#, usage), Strip::default());
}

#[test]
fn a_stream_is_stripped_frame_by_frame() {
    let stream = [
        chunk(0, json!({"content": "a"}), json!({"content": [token("a", -1.0, &[("a", -1.0)])]}), Value::Null),
        bytes(&json!({"choices": [], "prompt_filter_results": []})),
        bytes(&json!({"choices": [], "usage": {"prompt_tokens": 1}})),
        Bytes::from_static(b"[DONE]"),
    ];
    assert_eq!(strip_frames(&stream, Strip::default()), stream);
    let stripped = strip_frames(&stream, Strip { logprobs: true, usage_chunk: true, top_logprobs: None });
    let bare = chunk(0, json!({"content": "a"}), Value::Null, Value::Null);
    assert_eq!(stripped, [bare, stream[1].clone(), stream[3].clone()]);
}

#[test]
fn chunks_do_not_say_that_they_have_no_usage_unless_the_client_asked() {
    let with = |mut chunk: Value, usage: Value| {
        chunk["usage"] = usage;
        bytes(&chunk)
    };
    let said = json!({"choices": [{"index": 0, "delta": {"content": "\"usage\":null"}, "finish_reason": null}]});
    let counted = json!({"prompt_tokens": 1, "completion_tokens": 2});
    let stream = [with(said.clone(), Value::Null), with(said.clone(), counted.clone())];
    // What an engine says in a chunk with a choice it says to everybody.
    let wanted = [bytes(&said), stream[1].clone()];
    let usage = Strip { usage_chunk: true, ..Strip::default() };
    assert_eq!(strip_frames(&stream, usage), wanted);
    assert_eq!(strip_frames(&stream, Strip { logprobs: true, ..usage }), wanted);
    assert_eq!(strip_frames(&stream, Strip { logprobs: true, ..Strip::default() }), stream);
    let mut with_logprobs = said.clone();
    with_logprobs["choices"][0]["logprobs"] = json!({"content": [token("a", -1.0, &[])]});
    let stream = [with(with_logprobs, Value::Null)];
    let mut bare = said;
    bare["choices"][0]["logprobs"] = Value::Null;
    assert_eq!(strip_frames(&stream, Strip { logprobs: true, ..usage }), [bytes(&bare)]);
}

#[test]
fn frames_of_a_completion_say_the_same() {
    let mut body = completion();
    body["choices"][0]["message"]["tool_calls"] =
        json!([{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}, {"id": "b", "index": 1}]);
    let body = bytes(&body);
    let frames = frames_from_completion(&body, true).expect("frames");
    let whole = Answer::from_completion(&body, true).expect("an answer");
    let streamed = Answer::from_stream(&frames).expect("an answer");
    assert_eq!((streamed.choices, streamed.usage), (whole.choices, whole.usage));
    let parsed: Vec<Value> = frames[..3].iter().map(|f| serde_json::from_slice(f).expect("JSON")).collect();
    let delta = &parsed[0]["choices"][0]["delta"];
    assert_eq!((&delta["role"], &delta["reasoning_content"]), (&json!("assistant"), &json!("hm")));
    assert_eq!(delta["tool_calls"][0]["index"], 0);
    assert_eq!(delta["tool_calls"][1]["index"], 1);
    for frame in &parsed {
        assert_eq!(frame["object"], "chat.completion.chunk");
        assert_eq!((&frame["id"], &frame["created"], &frame["model"]), (&json!("x"), &json!(5), &json!("m")));
    }
    assert_eq!(parsed[1]["choices"][0]["finish_reason"], "stop");
    assert_eq!((&parsed[2]["choices"], &parsed[2]["usage"]["total_tokens"]), (&json!([]), &json!(14)));
    assert_eq!(frames[3], "[DONE]");
    assert_eq!(frames_from_completion(&body, false).expect("frames").len(), 3);
    assert!(frames_from_completion(&Bytes::from_static(b"{}"), false).is_err());
}
