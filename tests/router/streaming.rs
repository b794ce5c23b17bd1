//! Streams that are judged by their beginning.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, table};

const TOKENS: usize = 60;
const PAUSE: Duration = Duration::from_millis(4);
const SMALL: Behaviour = Behaviour::Stream("small says", -0.01);
const LARGE: Behaviour = Behaviour::Stream("large says", -0.01);

const fn flow(logprob: f64, cut: Option<usize>) -> Behaviour {
    Behaviour::Flow { tokens: TOKENS, logprob, pause: PAUSE, cut }
}

async fn router(small: Behaviour) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(small).await, FakeUpstream::start(LARGE).await);
    let mut table = table(small.port, large.port);
    table["paths"]["up"]["commitAfterTokens"] = 32.into();
    for tier in ["small", "large"] {
        table["tiers"][tier]["capabilities"].as_array_mut().expect("a list").push("Tools".into());
    }
    let router = Harness::start(table).await;
    (small, large, router)
}

fn streamed(more: &str) -> String {
    body("intent").replacen('{', &format!("{{\"stream\":true,{more}"), 1)
}

/// The contents of a stream, one after the other.
fn content(stream: &str) -> String {
    let events = stream.lines().filter_map(|line| line.strip_prefix("data: {").map(|rest| format!("{{{rest}")));
    let events = events.map(|event| serde_json::from_str::<serde_json::Value>(&event).expect("an event"));
    events.filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

fn tokens(count: usize) -> String {
    (0..count).map(|token| format!("t{token} ")).collect()
}

async fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !seen() {
        assert!(begin.elapsed() < Duration::from_secs(2), "not seen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client that reads as it comes.
async fn open(router: &Harness) -> TcpStream {
    ask(router, &streamed("")).await
}

async fn ask(router: &Harness, asked: &str) -> TcpStream {
    let mut stream = TcpStream::connect(router.address).await.expect("a connection");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k-finance\r\ncontent-length: {}\r\n\r\n",
        asked.len()
    );
    stream.write_all([head.as_bytes(), asked.as_bytes()].concat().as_slice()).await.expect("sent");
    stream
}

#[tokio::test]
async fn without_gates_a_stream_flows_from_its_first_token() {
    let (_small, large, router) = router(SMALL).await;
    large.now(flow(-0.01, None));
    // Whatever is asked for: there is nothing to judge, and the path of drafts is one that holds streams.
    for more in ["", "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"] {
        let asked = streamed(more).replace("intent", "draft");
        let mut stream = ask(&router, &asked).await;
        let mut first = vec![0; 65536];
        let count = stream.read(&mut first).await.expect("a beginning");
        let first = String::from_utf8_lossy(&first[..count]).into_owned();
        assert!(first.contains("t0 ") && !first.contains("t59 "), "{first}");
        let reply = router.ask(&asked).await;
        assert_eq!((reply.header("x-smallfirst-steps"), content(&reply.body)), ("large:accepted", tokens(TOKENS)));
    }
}

#[tokio::test]
async fn a_sure_beginning_flows_before_the_answer_has_ended() {
    let (_small, large, router) = router(flow(-0.01, None)).await;
    let mut stream = open(&router).await;
    let mut first = vec![0; 65536];
    let count = stream.read(&mut first).await.expect("a beginning");
    let first = String::from_utf8_lossy(&first[..count]).into_owned();
    assert!(first.contains("t0 ") && !first.contains("t59 "), "{first}");
    assert!(first.contains("x-smallfirst-steps: small:accepted") && !first.contains("x-smallfirst-cost"), "{first}");
    drop(stream);
    let reply = router.ask(&streamed("")).await;
    assert_eq!(content(&reply.body), tokens(TOKENS));
    assert!(reply.body.contains("data: [DONE]") && reply.body.contains("\"finish_reason\":\"stop\""), "{}", reply.body);
    assert!(!reply.body.contains("\"logprobs\":{") && !reply.body.contains("prompt_tokens"), "{}", reply.body);
    assert_eq!(large.count(), 0);
    // 100 tokens at 1.00 and 10 at 2.00 a million: what the upstream said at the end.
    until("the whole cost", || router.log_text().contains("0.00012")).await;
}

#[tokio::test]
async fn a_doubtful_beginning_is_cancelled_and_never_seen() {
    let (small, _large, router) = router(flow(-3.0, None)).await;
    let reply = router.ask(&streamed("")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(confidence) large:accepted");
    assert_eq!(content(&reply.body), "large says");
    until("the engine was stopped", || small.gone.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_stream_that_breaks_fails_over_before_it_is_committed_and_is_honest_after() {
    let (small, _large, router) = router(flow(-0.01, Some(20))).await;
    let reply = router.ask(&streamed("")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(ServerError) large:accepted");
    assert_eq!(content(&reply.body), "large says");
    small.now(flow(-0.01, Some(45)));
    let reply = router.ask(&streamed("")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(content(&reply.body), tokens(45));
    assert!(reply.body.contains("\"code\":\"stream_broken\""), "{}", reply.body);
    assert!(!reply.body.contains("[DONE]") && !reply.body.contains("\"finish_reason\":\"stop\""), "{}", reply.body);
    until("the log", || router.log_text().contains("\"outcome\":\"stream_broken\"")).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_stops_the_engine() {
    let (small, _large, router) =
        router(Behaviour::Flow { tokens: 100_000, logprob: -0.01, pause: PAUSE, cut: None }).await;
    let mut stream = open(&router).await;
    let mut buffer = vec![0; 65536];
    assert!(stream.read(&mut buffer).await.expect("a beginning") > 0);
    drop(stream);
    until("the engine was stopped", || small.gone.load(Ordering::SeqCst) == 1).await;
    until("the log", || router.log_text().contains("\"outcome\":\"client_gone\"")).await;
    // Before anything was sent, too.
    small.now(Behaviour::Hang);
    let stream = open(&router).await;
    until("the call", || small.count() == 2).await;
    drop(stream);
    until("the engine was stopped again", || small.gone.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn what_must_be_whole_is_held() {
    // Without pauses: the step's time is short for a machine that is busy.
    let at_once = Behaviour::Flow { tokens: TOKENS, logprob: -0.01, pause: Duration::ZERO, cut: None };
    let (small, _large, router) = router(at_once).await;
    let format = r#""response_format":{"type":"json_object"},"#;
    for more in [r#""n":1,"tools":[{"type":"function","function":{"name":"f"}}],"#, r#""n":2,"#, format] {
        let reply = router.ask(&streamed(more)).await;
        // What it cost is known only of an answer that was read to its end.
        assert_eq!(reply.status, 200, "{more}: {}", reply.body);
        assert!(!reply.header("x-smallfirst-cost").is_empty(), "{more}: {}", reply.head);
    }
    // And without a stream there is nothing to commit.
    small.now(Behaviour::Answer("small says", -0.01));
    assert!(router.ask(&body("intent")).await.body.contains("small says"));
}
