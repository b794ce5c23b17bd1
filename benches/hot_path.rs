//! What the router does for each request in memory: read its body, classify it, read an answer, judge it, cut a stream
//! into events. `cargo bench --bench hot_path`. The gates of an answer of 1 KiB together are to take less than 50 us.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use smallfirst::api::escalation_path::{ConfidenceMeasure, ConfidenceScope, FinishReason, OnMissing};
use smallfirst::operator::plan::table::compile;
use smallfirst::router::answer::Answer;
use smallfirst::router::body::peek;
use smallfirst::router::gates::{RequestContext, compile_all, judge};
use smallfirst::router::sse::Parser;
use smallfirst::routing::decide::{Signals, classify};
use smallfirst::routing::source::manifests::{Source, parse};
use smallfirst::routing::table::{Check, Gate};

const TOKENS: usize = 64;

fn request() -> Vec<u8> {
    let text = "Which of these is it: a refund, a change of address, a complaint, or another thing? ".repeat(10);
    let messages = json!([{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": text}]);
    json!({"model": "up", "max_tokens": TOKENS, "messages": messages}).to_string().into_bytes()
}

/// Pieces of a JSON object of 1 KiB.
fn pieces() -> Vec<String> {
    let mut pieces: Vec<String> = (0..TOKENS - 2).map(|n| format!("\"field{n:02}\":\"ab\",")).collect();
    pieces.insert(0, "{".into());
    pieces.push("\"last\":\"a\"}".into());
    pieces
}

fn logprobs(piece: &str) -> serde_json::Value {
    let others: Vec<_> = (0..5)
        .map(|n| json!({"token": format!("{piece}{n}"), "logprob": -3.5 - f64::from(n), "bytes": null}))
        .collect();
    json!({"content": [{"token": piece, "logprob": -0.0123456, "bytes": null, "top_logprobs": others}]})
}

fn completion() -> Bytes {
    let all: Vec<_> = pieces().iter().map(|piece| logprobs(piece)["content"][0].clone()).collect();
    let choice = json!({
        "index": 0, "message": {"role": "assistant", "content": pieces().concat()}, "finish_reason": "stop",
        "logprobs": {"content": all}
    });
    let usage = json!({"prompt_tokens": 200, "completion_tokens": TOKENS, "total_tokens": 264});
    Bytes::from(json!({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).to_string())
}

fn stream() -> Vec<u8> {
    let event = |piece: &String| {
        let choice =
            json!({"index": 0, "delta": {"content": piece}, "finish_reason": null, "logprobs": logprobs(piece)});
        format!("data: {}\n\n", json!({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}))
    };
    pieces().iter().map(event).collect::<String>().into_bytes()
}

fn gates() -> Vec<Gate> {
    let schema = json!({"type": "object", "additionalProperties": {"type": "string", "maxLength": 10}});
    let confidence =
        |measure| Check::Confidence { measure, quantile: None, scope: Some(ConfidenceScope::Values), at_least: -5.0 };
    let checks = [
        Check::FinishReason(vec![FinishReason::Stop]),
        confidence(ConfidenceMeasure::MeanLogprob),
        confidence(ConfidenceMeasure::FirstTokenMargin),
        Check::NotMatch("(?i)i (cannot|can't) help".into()),
        Check::JsonSchema { inline: Some(schema.to_string()) },
    ];
    checks.into_iter().map(|check| Gate { check, on_missing: OnMissing::Escalate, required: false }).collect()
}

fn benches(criterion: &mut Criterion) {
    let request = request();
    criterion.bench_function("peek, 1 KiB request", |b| b.iter(|| peek(black_box(&request)).unwrap().model.len()));

    let text = include_str!("faults/manifests.yaml").to_owned();
    let table = compile(&parse(&[Source { name: "manifests".into(), text }]).unwrap(), "bench").unwrap().value;
    let signals = Signals { client: Some(0), model: "live", header: &|_| None };
    criterion.bench_function("classify", |b| b.iter(|| classify(black_box(&table), &signals).is_ok()));

    let (body, peeked) = (completion(), peek(&request).unwrap());
    let answer = Answer::from_completion(&body, true).unwrap();
    criterion.bench_function("read, 1 KiB answer with log probabilities", |b| {
        b.iter(|| Answer::from_completion(black_box(&body), true).unwrap().choices.len());
    });
    let compiled = compile_all(&gates()).unwrap();
    assert!(judge(&compiled, &RequestContext::new(&peeked), &answer).accepted, "every gate is to be judged");
    criterion.bench_function("judge by five gates, 1 KiB answer with log probabilities", |b| {
        b.iter(|| judge(&compiled, &RequestContext::new(&peeked), black_box(&answer)).accepted);
    });

    let stream = stream();
    let mut group = criterion.benchmark_group("server-sent events");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("64 events", |b| {
        b.iter(|| {
            let mut events = Vec::new();
            Parser::new(1 << 20).push(black_box(&stream), &mut events).unwrap();
            events.len()
        });
    });
    group.finish();
}

criterion_group!(hot_path, benches);
criterion_main!(hot_path);
