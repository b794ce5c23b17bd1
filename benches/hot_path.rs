//! What the router does for each request in memory: read its body, decide where it goes, read an answer, judge it, cut a
//! stream into events. `cargo bench --bench hot_path`. The cheap gates together are to take less than 50 us for an answer
//! of 1 KiB with log probabilities.
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
use smallfirst::routing::decide::{Needs, Route, Signals, classify, enters, skip};
use smallfirst::routing::source::manifests::{Source, parse};
use smallfirst::routing::table::{Check, Gate, RoutingTable};

/// Bytes of a token.
const TOKEN: usize = 4;

fn request() -> Vec<u8> {
    let text = "Which of these is it: a refund, a change of address, a complaint, or another thing? ".repeat(10);
    let messages = json!([{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": text}]);
    json!({"model": "up", "max_tokens": 512, "messages": messages}).to_string().into_bytes()
}

/// The tokens of a JSON object of 1 KiB: about 250.
fn pieces() -> Vec<String> {
    let fields: Vec<String> = (0..56).map(|n| format!("\"field{n:02}\":\"refund\"")).collect();
    let text = format!("{{{}}}", fields.join(","));
    text.as_bytes().chunks(TOKEN).map(|token| String::from_utf8(token.to_vec()).unwrap()).collect()
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
    let count = pieces().len();
    let usage = json!({"prompt_tokens": 200, "completion_tokens": count, "total_tokens": 200 + count});
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

/// Of [`gates`]: those that neither search the request nor run a program.
const CHEAP: usize = 7;

/// Of each kind that judges by what is there, cheapest first.
fn gates() -> Vec<Gate> {
    let schema = json!({"type": "object", "additionalProperties": {"type": "string", "maxLength": 10}});
    let confidence =
        |measure| Check::Confidence { measure, quantile: None, scope: Some(ConfidenceScope::Values), at_least: -5.0 };
    let checks = [
        Check::FinishReason(vec![FinishReason::Stop]),
        confidence(ConfidenceMeasure::MeanLogprob),
        confidence(ConfidenceMeasure::FirstTokenMargin),
        Check::Match("field\\d+".into()),
        Check::NotMatch("(?i)i (cannot|can't) help".into()),
        Check::JsonSchema { inline: Some(schema.to_string()) },
        Check::ToolCalls {},
        Check::Grounded { pointers: vec!["/field00".into(), "/field55".into()], normalize: true },
        Check::Expression("finishReason == 'stop' && json.field00 == 'refund'".into()),
    ];
    checks.into_iter().map(|check| Gate { check, on_missing: OnMissing::Escalate, required: false }).collect()
}

/// Tiers that would be asked, were each answer escalated.
fn decide(table: &RoutingTable, signals: &Signals<'_>, needs: Needs) -> usize {
    let Ok(Route::Workload(index)) = classify(table, signals) else { return 0 };
    let workload = &table.workloads[index];
    let path = &table.paths[&workload.path];
    let steps = path.steps.iter().filter(|step| enters(path, step, false));
    let tiers = steps.flat_map(|step| &step.tiers).map(|name| &table.tiers[name]);
    tiers.filter(|tier| skip(tier, workload.data_class, needs).is_none()).count()
}

fn benches(criterion: &mut Criterion) {
    let request = request();
    criterion.bench_function("peek, 1 KiB request", |b| b.iter(|| peek(black_box(&request)).unwrap().model.len()));

    let text = include_str!("faults/manifests.yaml").to_owned();
    let table = compile(&parse(&[Source { name: "manifests".into(), text }]).unwrap(), "bench").unwrap().value;
    let signals = Signals { client: Some(0), model: "up", header: &|_| None };
    let needs = Needs { tokens: 500, ..Needs::default() };
    assert_eq!(decide(&table, &signals, needs), 2, "both tiers can take the request");
    criterion.bench_function("decide, two steps", |b| b.iter(|| decide(black_box(&table), &signals, needs)));

    let (body, peeked) = (completion(), peek(&request).unwrap());
    let answer = Answer::from_completion(&body, true).unwrap();
    criterion.bench_function("read, 1 KiB answer with log probabilities", |b| {
        b.iter(|| Answer::from_completion(black_box(&body), true).unwrap().choices.len());
    });
    let judged = |criterion: &mut Criterion, name: &str, gates: &[Gate]| {
        let compiled = compile_all(gates).unwrap();
        assert!(
            judge(&compiled, &RequestContext::new(&peeked), &answer).accepted,
            "{name}: every gate is to be judged"
        );
        criterion.bench_function(name, |b| {
            b.iter(|| judge(&compiled, &RequestContext::new(&peeked), black_box(&answer)).accepted);
        });
    };
    let gates = gates();
    judged(criterion, "judge, 1 KiB answer, the cheap gates together", &gates[..CHEAP]);
    judged(criterion, "judge, 1 KiB answer, all gates together", &gates);
    for gate in &gates {
        let compiled = compile_all(std::slice::from_ref(gate)).unwrap();
        judged(criterion, &format!("judge, 1 KiB answer, {} alone", compiled[0].name()), std::slice::from_ref(gate));
    }

    let stream = stream();
    let mut group = criterion.benchmark_group("server-sent events");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function(format!("{} events", pieces().len()), |b| {
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
