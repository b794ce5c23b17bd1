//! How often the router asks the allocator for memory, for one request: `cargo bench --bench allocations`.
//!
//! A whole router in this process, over real sockets. Its client and the model server behind it ask for nothing once they
//! run, so that all that is counted is the router's: of reading, key, classes, gates, metrics and the access log too.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

mod allocations {
    pub mod wire;
}

use std::alloc::System;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use smallfirst::operator::plan::table::compile;
use smallfirst::router::control::{Inputs, no_services};
use smallfirst::router::run::{Config, start};
use smallfirst::routing::source::manifests::{Source, parse};
use smallfirst::routing::source::secrets::Secrets;
use smallfirst::routing::table::Backend;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::watch;

use allocations::wire::{Replies, ask, serve};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEY: &str = "bench-key";
const TOKENS: usize = 64;
/// Requests before the count: connections are made, and what grows has grown.
const WARM: usize = 500;
const COUNTED: usize = 2000;

fn table(upstream: SocketAddr) -> String {
    let text = include_str!("gateway/manifests.yaml").to_owned();
    let mut table = compile(&parse(&[Source { name: "manifests".into(), text }]).unwrap(), "bench").unwrap().value;
    for tier in table.tiers.values_mut() {
        tier.backend = Backend::Url { base_url: format!("http://{upstream}/v1"), credential: None };
    }
    table.to_json()
}

fn logprobs(token: &str) -> Value {
    let others: Vec<Value> = (0..5).map(|n| json!({"token": format!("{token}{n}"), "logprob": -3.5})).collect();
    json!({"token": token, "logprob": -0.0123456, "top_logprobs": others})
}

fn completion(with_logprobs: bool) -> String {
    let words: Vec<String> = (0..TOKENS).map(|n| format!(" word{n:02}")).collect();
    let mut choice = json!({
        "index": 0, "message": {"role": "assistant", "content": words.concat()}, "finish_reason": "stop"
    });
    if with_logprobs {
        choice["logprobs"] = json!({"content": words.iter().map(|word| logprobs(word)).collect::<Vec<_>>()});
    }
    let usage = json!({"prompt_tokens": 180, "completion_tokens": TOKENS, "total_tokens": 180 + TOKENS});
    let whole = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]});
    let Value::Object(mut whole) = whole else { return String::new() };
    whole.insert("usage".into(), usage);
    Value::Object(whole).to_string()
}

/// Events as an engine sends them, a token each.
fn stream() -> Vec<String> {
    let event = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, "usage": usage
        });
        format!("data: {chunk}\n\n")
    };
    let choice = |delta: Value, end: Value| json!([{"index": 0, "delta": delta, "finish_reason": end}]);
    let mut events: Vec<String> = (0..TOKENS)
        .map(|n| event(choice(json!({"content": format!(" word{n:02}")}), Value::Null), Value::Null))
        .collect();
    events.push(event(choice(json!({}), json!("stop")), Value::Null));
    let usage = json!({"prompt_tokens": 180, "completion_tokens": TOKENS, "total_tokens": 180 + TOKENS});
    events.push(event(json!([]), usage) + "data: [DONE]\n\n");
    events
}

/// A chat request of 1 KiB, with its head.
fn request(model: &str, stream: bool) -> Vec<u8> {
    let text = "Which of these is it: a refund, a change of address, a complaint, or another thing? ".repeat(11);
    let messages = json!([{"role": "user", "content": text}]);
    let body = json!({"model": model, "max_tokens": TOKENS, "stream": stream, "messages": messages}).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Asks until the table is in force.
fn ready(address: SocketAddr, request: &[u8]) -> TcpStream {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        match ask(&mut stream, request) {
            Ok(()) => return stream,
            Err(error) => assert!(Instant::now() < limit, "no good answer after 10 s: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn main() {
    let replies = Replies::new(&completion(false), &completion(true), &stream());
    let upstream = serve(replies).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_tables, table) = watch::channel(Some(Arc::<str>::from(table(upstream))));
    let key = (("keys".to_owned(), "bench".to_owned()), Bytes::from(KEY));
    let (_keys, secrets) = watch::channel(Secrets::from_iter([key]));
    let config =
        Config { access_log: Box::new(std::io::sink()), threads: 1, ..Config::new(([127, 0, 0, 1], 0).into()) };
    let running = runtime.block_on(start(config, Inputs { table, secrets, addresses: no_services() })).unwrap();
    println!("allocations of the router for one request, mean of {COUNTED}");
    for (name, model, streamed) in [
        ("forwarded, 64 tokens", "plain", false),
        ("judged by log probabilities, 64 tokens with 5 alternatives", "gated", false),
        ("forwarded stream, 64 events", "plain", true),
    ] {
        let request = request(model, streamed);
        let mut stream = ready(running.address, &request);
        (0..WARM).for_each(|_| ask(&mut stream, &request).unwrap());
        let region = Region::new(ALLOCATOR);
        (0..COUNTED).for_each(|_| ask(&mut stream, &request).unwrap());
        let made = region.change();
        let a_request = |count: usize| count as f64 / COUNTED as f64;
        println!(
            "{name}: {:.1} allocations, {:.1} reallocations, {:.1} KiB",
            a_request(made.allocations),
            a_request(made.reallocations),
            a_request(made.bytes_allocated) / 1024.0
        );
    }
}
