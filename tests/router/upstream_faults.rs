//! What an upstream may do to a router: every row of the table in README.md that speaks of upstreams.
//!
//! A fault of the first tier sends the request on; of both tiers it is an error in OpenAI's form. Never a 500, never
//! past the deadline, never a word of the upstream's own, and no event lost or doubled.

use std::time::{Duration, Instant};

use futures::StreamExt;

use super::fake_upstream::{Behaviour, FakeUpstream, completion, http, stream_of};
use super::harness::{Harness, Reply, body, table};
use super::wire::{Do, Wire, head, send};
use super::{LARGE, SURE};

const SECRET: &str = "sk-secret";
const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";
const TICK: Duration = Duration::from_millis(20);
/// Deadline of the harness's paths, and what a busy machine may add.
const DEADLINE: Duration = Duration::from_millis(1000 + 1000);

/// What an upstream does, and what becomes of the step and of a request that has no other tier.
type Row = (&'static str, Vec<Do>, &'static str, u16);

const BROKEN: (&str, u16) = ("failed(ServerError)", 502);
const LATE: (&str, u16) = ("failed(Timeout)", 504);

fn row(name: &'static str, (steps, status): (&'static str, u16), script: impl IntoIterator<Item = Do>) -> Row {
    (name, script.into_iter().collect(), steps, status)
}

/// A whole reply of a 200.
fn said(kind: &str, body: &str) -> Do {
    send(http("200 OK", kind, "", body))
}

fn answer() -> String {
    completion("small says", -0.01, "\"logprobs\":true")
}

fn stream() -> String {
    stream_of("small says", -0.01, "\"stream\":true \"include_usage\":true \"logprobs\":true")
}

/// The answer but for its last bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.len() - bytes]
}

/// An event with this content, and no end of the choice.
fn event(content: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"logprobs\":{{\"content\":\
         [{{\"token\":\"{content}\",\"logprob\":-0.01}}]}},\"finish_reason\":null}}]}}\n\n"
    )
}

fn asked(stream: bool) -> String {
    if stream { body("intent").replacen('{', r#"{"stream":true,"#, 1) } else { body("intent") }
}

/// Contents of a reply, whole or streamed, and what its last event says.
fn content(reply: &Reply) -> (String, String) {
    let events: Vec<&str> = reply.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    if events.is_empty() {
        let whole: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
        return (whole["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned(), String::new());
    }
    let text = |event: &&str| {
        let event: serde_json::Value = serde_json::from_str(event).ok()?;
        event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
    };
    (events.iter().filter_map(text).collect(), events.last().copied().unwrap_or_default().to_owned())
}

/// A router whose path judges streams by their beginning if `commits`. Its last step has gates too: without, a stream
/// flows from its first token.
async fn router(small: u16, large: u16, commits: bool) -> Harness {
    let mut table = table(small, large);
    table["paths"]["up"]["steps"][1]["accept"] = table["paths"]["up"]["steps"][0]["accept"].clone();
    if commits {
        table["paths"]["up"]["commitAfterTokens"] = 4.into();
    }
    Harness::start(table).await
}

/// Asks a router whose first tier, and then one whose tiers all, do as the row says.
async fn survives((name, script, steps, status): Row, streams: bool, commits: bool) {
    let what = format!("{name}, stream {streams}, commit {commits}");
    let wire = Wire::start(script).await;
    let large = FakeUpstream::start(Behaviour::Stream("large says", -0.01)).await;
    let one = router(wire.port, large.port, commits).await;
    let begin = Instant::now();
    let reply = one.ask(&asked(streams)).await;
    assert!(begin.elapsed() < DEADLINE, "{what}: {:?}", begin.elapsed());
    assert_eq!(reply.status, 200, "{what}: {}", reply.body);
    assert_eq!(reply.header("x-smallfirst-steps"), format!("small:{steps} large:accepted"), "{what}");
    let (text, last) = content(&reply);
    assert_eq!((text.as_str(), last.as_str()), ("large says", if streams { "[DONE]" } else { "" }), "{what}");
    let all = router(wire.port, wire.port, commits).await;
    let begin = Instant::now();
    let reply = all.ask(&asked(streams)).await;
    assert!(begin.elapsed() < DEADLINE, "{what}: {:?}", begin.elapsed());
    assert_eq!(reply.status, status, "{what}: {}", reply.body);
    let error: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{what}: {error}");
    assert!(!reply.body.contains(SECRET) && !reply.head.contains(SECRET), "{what}: {}", reply.body);
    for log in [one.log_text(), all.log_text()] {
        assert!(!log.contains(SECRET), "{what}: {log}");
    }
}

/// A few at a time: each takes up to its deadline, and starting its routers keeps a core busy.
async fn all_survive(rows: Vec<Row>, streams: bool, commits: bool) {
    futures::stream::iter(rows).for_each_concurrent(4, |row| survives(row, streams, commits)).await;
}

/// Replies that are none, whether a stream was asked for or not.
fn no_replies() -> Vec<Row> {
    let slow = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-length: 9999\r\n\r\n");
    vec![
        row("closed before a reply", BROKEN, [Do::Close]),
        row("reset before a reply", BROKEN, [Do::Reset]),
        row("closed in the head", BROKEN, [send("HTTP/1.1 200 OK\r\ncontent-ty"), Do::Close]),
        row("reset in the head", BROKEN, [send("HTTP/1.1 200 OK\r\ncontent-ty"), Do::Pause(TICK), Do::Reset]),
        row("another protocol", BROKEN, [send("SSH-2.0-OpenSSH_9.2p1\r\n"), Do::Silence]),
        row("noise", BROKEN, [Do::Send(vec![0x16, 3, 1, 0, 0xff]), Do::Close]),
        row(
            "a head without end",
            BROKEN,
            [
                send("HTTP/1.1 200 OK\r\n"),
                Do::Forever(b"x-a: aaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(100), Duration::ZERO),
            ],
        ),
        row("provisional heads without end", LATE, [Do::Forever(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), TICK)]),
        row(
            "two lengths",
            BROKEN,
            [send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\n{}     "), Do::Close],
        ),
        row("silence", LATE, [Do::Silence]),
        row("a head byte by byte", LATE, [Do::Drip(slow.clone().into_bytes(), TICK)]),
        row("a body byte by byte", LATE, [send(&slow), Do::Drip(vec![b' '; 9999], TICK)]),
        row("nothing at all", BROKEN, [said(JSON, "")]),
        row("204", BROKEN, [send("HTTP/1.1 204 No Content\r\n\r\n")]),
        row(
            "a redirect",
            BROKEN,
            [send("HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/sk-secret\r\ncontent-length: 0\r\n\r\n")],
        ),
        row("500", BROKEN, [send(http("500 X", JSON, "", r#"{"error":"sk-secret"}"#))]),
        row("503 with a page", BROKEN, [send(http("503 X", "text/html", "", "<html>sk-secret</html>"))]),
        row(
            "429 without Retry-After",
            ("failed(RateLimited)", 429),
            [send(http("429 X", JSON, "", r#"{"error":"sk-secret"}"#))],
        ),
        row(
            "429 with Retry-After",
            ("failed(RateLimited)", 429),
            [send(http("429 X", JSON, "retry-after: 3\r\n", r#"{"error":"sk-secret"}"#))],
        ),
        row(
            "429 with a Retry-After that is none",
            ("failed(RateLimited)", 429),
            [send(http("429 X", JSON, "retry-after: -1e9\r\n", r#"{"error":"sk-secret"}"#))],
        ),
        row(
            "an error without end",
            BROKEN,
            [send("HTTP/1.1 500 X\r\n\r\n"), Do::Forever(b"sk-secret ".repeat(1000), TICK)],
        ),
    ]
}

/// Bodies that are no completion.
fn no_completions() -> Vec<Row> {
    let text = answer();
    let whole = head(JSON, Some(text.len()));
    let chunk =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n40\r\n{}", &text[..20]);
    let shapes = [
        ("[1]", "a list"),
        ("null", "null"),
        ("\"sk-secret\"", "a string"),
        ("{\"choices\":{}}", "choices that are no list"),
        ("{\"choices\":[]}", "no choices"),
        ("{\"choices\":[{\"message\":[]}]}", "a message that is a list"),
        ("{\"choices\":[{\"index\":99999999,\"message\":{\"content\":\"x\"}}]}", "an index out of bounds"),
        ("{\"choices\":[{\"message\":{\"content\":7}}]}", "content that is a number"),
        ("{\"error\":{\"message\":\"sk-secret\"}}", "200 with an error object"),
        (
            "{\"error\":\"sk-secret\",\"choices\":[{\"message\":{\"content\":\"x\"}}]}",
            "200 with an error beside an answer",
        ),
        ("{\"object\":\"error\",\"message\":\"sk-secret\"}", "200 with an error of another shape"),
        ("{\"choices\":[{\"message\":{\"content\":\"\\ud800\"}}]}", "half a surrogate"),
    ];
    let mut rows = vec![
        row("closed in the body", BROKEN, [whole.clone(), send(cut(&text, 9)), Do::Close]),
        row("reset in the body", BROKEN, [whole, send(cut(&text, 9)), Do::Pause(TICK), Do::Reset]),
        row("closed in a chunk", BROKEN, [send(&chunk), Do::Close]),
        row("a chunk of no size", BROKEN, [send(chunk.replace("\r\n40\r\n", "\r\nxyz\r\n")), Do::Silence]),
        row("cut JSON", BROKEN, [said(JSON, cut(&text, 2))]),
        row("a page instead of JSON", BROKEN, [said("text/html", "<html>sk-secret</html>")]),
        row("a stream called JSON", BROKEN, [said(JSON, &stream())]),
        row("JSON called a stream", BROKEN, [said(SSE, &text)]),
        row("wrong UTF-8", BROKEN, [head(JSON, Some(3)), Do::Send(b"{\xff}".to_vec())]),
        row("a body without end", LATE, [head(JSON, None), Do::Forever(b" ".repeat(1000), TICK)]),
    ];
    rows.extend(shapes.map(|(body, name)| row(name, BROKEN, [said(JSON, body)])));
    rows
}

/// Streams that are none, or come to no end. Before anything was sent to the client, all are the same to it.
fn no_streams() -> Vec<Row> {
    let text = stream();
    let (first, open) = (event("a"), head(SSE, None));
    let usage_only = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n";
    vec![
        row("closed before an event", BROKEN, [open.clone(), Do::Close]),
        row("half an event", BROKEN, [open.clone(), send(&first), send(cut(&first, 30)), Do::Close]),
        row("an event without its blank line", BROKEN, [open.clone(), send(cut(&first, 1)), Do::Close]),
        row("no end of the choice", BROKEN, [open.clone(), send(&first), Do::Close]),
        row(
            "[DONE] without an end of the choice",
            BROKEN,
            [open.clone(), send(&first), send("data: [DONE]\n\n"), Do::Close],
        ),
        row("[DONE] at once", BROKEN, [said(SSE, "data: [DONE]\n\n")]),
        row("usage and nothing else", BROKEN, [said(SSE, usage_only)]),
        row("reset in an event", BROKEN, [open.clone(), send(&text[..40]), Do::Pause(TICK), Do::Reset]),
        row(
            "an error at once",
            BROKEN,
            [said(SSE, "data: {\"error\":{\"message\":\"sk-secret\"}}\n\ndata: [DONE]\n\n")],
        ),
        row(
            "an error after some events",
            BROKEN,
            [open.clone(), send(&first), send("data: {\"error\":\"sk-secret\"}\n\n"), Do::Close],
        ),
        row("no JSON in an event", BROKEN, [open.clone(), send(&first), send("data: sk-secret\n\n"), Do::Close]),
        row("an event of another shape", BROKEN, [open.clone(), send("data: {\"choices\":7}\n\n"), Do::Close]),
        row("wrong UTF-8 in an event", BROKEN, [open.clone(), Do::Send(b"data: {\xff}\n\n".to_vec()), Do::Close]),
        row("events byte by byte", LATE, [open.clone(), Do::Drip(text.into_bytes(), TICK)]),
        row("comments without end", LATE, [open.clone(), Do::Forever(b": ping\n\n".to_vec(), TICK)]),
        row("empty chunks without end", LATE, [open.clone(), Do::Forever(event("").into_bytes(), TICK)]),
        row("silence after an event", LATE, [open, send(&first), Do::Silence]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reply() {
    for streams in [false, true] {
        all_survive(no_replies(), streams, streams).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_completion() {
    for streams in [false, true] {
        all_survive(no_completions(), streams, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream() {
    for commits in [false, true] {
        all_survive(no_streams(), true, commits).await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_asked_for_is_no_answer() {
    survives(row("a stream", BROKEN, [said(SSE, &stream())]), false, false).await;
}

/// What a client gets of a stream that a tier sends by a script.
async fn streamed(script: Vec<Do>, commits: bool) -> Reply {
    let (wire, large) = (Wire::start(script).await, FakeUpstream::start(LARGE).await);
    router(wire.port, large.port, commits).await.ask(&asked(true)).await
}

#[tokio::test]
async fn an_answer_is_not_lost_by_how_it_is_called_or_ends() {
    let large = FakeUpstream::start(LARGE).await;
    let text = answer();
    let close = "HTTP/1.0 200 OK\r\n\r\n";
    for (name, script) in [
        ("another type", vec![said("text/plain", &text)]),
        ("no type, and a body until the end", vec![send(close), send(&text), Do::Close]),
        ("white space around it", vec![said(JSON, &format!("\n {text}\r\n"))]),
    ] {
        let wire = Wire::start(script).await;
        let reply = router(wire.port, large.port, false).await.ask(&asked(false)).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted", "{name}: {}", reply.body);
        assert_eq!(content(&reply).0, "small says", "{name}");
    }
    for commits in [false, true] {
        let text = stream();
        let body = text.replace("data: [DONE]\n\n", "");
        for (name, script) in [
            ("no [DONE]", vec![head(SSE, None), send(&body), Do::Close]),
            (
                "half an event after the end of the choice",
                vec![head(SSE, None), send(&body), send("data: [DO"), Do::Close],
            ),
            ("parameters of the type", vec![said("Text/Event-Stream; charset=utf-8", &text)]),
            ("events after [DONE]", vec![said(SSE, &format!("{text}{}", event("more")))]),
            ("[DONE] twice", vec![said(SSE, &format!("{text}data: [DONE]\n\n"))]),
            ("no end after [DONE]", vec![head(SSE, None), send(&text), Do::Silence]),
            ("anything after [DONE]", vec![head(SSE, None), send(&text), Do::Forever(b"x".repeat(1000), TICK)]),
            ("comments and other fields", vec![said(SSE, &format!(": hi\n\nevent: x\nid: 1\nretry: 5\n\n{text}"))]),
            ("lines that end otherwise", vec![said(SSE, &text.replace('\n', "\r\n"))]),
        ] {
            let begin = Instant::now();
            let reply = streamed(script, commits).await;
            let what = format!("{name}, commit {commits}: {}", reply.body);
            assert!(begin.elapsed() < Duration::from_millis(900), "{:?}, {what}", begin.elapsed());
            assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted", "{what}");
            let (said, last) = content(&reply);
            assert_eq!((said.as_str(), last.as_str()), ("small says", "[DONE]"), "{what}");
            assert_eq!(reply.body.matches("[DONE]").count(), 1, "{what}");
            assert_eq!(reply.body.matches("\"finish_reason\":\"stop\"").count(), 1, "{what}");
        }
    }
}

#[tokio::test]
async fn a_stream_split_at_every_byte_is_the_same_stream() {
    let text = format!("{}{}", event("\u{e9}\u{1f600}"), stream());
    for commits in [false, true] {
        let (wire, large) = (Wire::start(vec![]).await, FakeUpstream::start(LARGE).await);
        let router = router(wire.port, large.port, commits).await;
        let ask = async |body: Vec<Do>| {
            wire.now([vec![head(SSE, Some(text.len()))], body].concat());
            let reply = router.ask(&asked(true)).await;
            assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted", "{}", reply.body);
            reply.body.lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect::<Vec<_>>()
        };
        let whole = ask(vec![send(&text)]).await;
        assert!(whole.len() == 4 && whole.last().is_some_and(|last| last == "[DONE]"), "{whole:?}");
        assert_eq!(ask(vec![Do::Drip(text.clone().into_bytes(), Duration::ZERO)]).await, whole);
        let bytes = text.as_bytes();
        for at in 1..bytes.len() {
            let halves = vec![
                Do::Send(bytes[..at].to_vec()),
                Do::Pause(Duration::from_micros(500)),
                Do::Send(bytes[at..].to_vec()),
            ];
            assert_eq!(ask(halves).await, whole, "split at {at}");
        }
    }
}

#[tokio::test]
async fn what_follows_a_reply_is_not_taken_for_the_next_one() {
    let large = FakeUpstream::start(LARGE).await;
    let stray = http("200 OK", JSON, "", &answer().replace("small says", "nobody asked"));
    let wire = Wire::start(vec![said(JSON, &answer()), send(&stray)]).await;
    let router = router(wire.port, large.port, false).await;
    for _ in 0..10 {
        let reply = router.ask(&asked(false)).await;
        assert_eq!((reply.status, content(&reply).0.as_str()), (200, "small says"), "{}", reply.body);
    }
}

/// Steps that have the time that many bytes take.
fn patient(small: u16, large: u16) -> serde_json::Value {
    let mut table = table(small, large);
    table["paths"]["up"]["deadlineMs"] = 30_000.into();
    for step in table["paths"]["up"]["steps"].as_array_mut().unwrap() {
        step["timeoutMs"] = 20_000.into();
    }
    table["paths"]["up"]["commitAfterTokens"] = 1000.into();
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_huge_is_given_up_at_a_bound() {
    let large = FakeUpstream::start(Behaviour::Stream("large says", -0.01)).await;
    let filler = b"x".repeat(1 << 20);
    for (name, streams, opening) in [
        ("a completion", false, vec![head(JSON, None), send("{\"choices\":[{\"message\":{\"content\":\"")]),
        ("one that says how long it is", false, vec![head(JSON, Some(1 << 40))]),
        ("an event", true, vec![head(SSE, None), send("data: ")]),
        ("a line", true, vec![head(SSE, None), send(": ")]),
    ] {
        let wire = Wire::start([opening, vec![Do::Forever(filler.clone(), Duration::ZERO)]].concat()).await;
        let router = Harness::start(patient(wire.port, large.port)).await;
        let begin = Instant::now();
        let reply = router.ask(&asked(streams)).await;
        assert_eq!((reply.status, content(&reply).0.as_str()), (200, "large says"), "{name}: {}", reply.body);
        assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(ServerError) large:accepted", "{name}");
        assert!(begin.elapsed() < Duration::from_secs(15), "{name}: {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_limit_without_a_time_is_one_second_and_a_time_is_obeyed() {
    for (headers, wanted) in [("", "1"), ("retry-after: 7\r\n", "7")] {
        let busy = || vec![send(http("429 X", JSON, headers, "{}"))];
        let (small, large) = (Wire::start(busy()).await, Wire::start(busy()).await);
        let router = router(small.port, large.port, false).await;
        let reply = router.ask(&asked(false)).await;
        assert_eq!((reply.status, reply.header("retry-after")), (429, wanted), "{}", reply.body);
        router.ask(&asked(false)).await;
        // A limit without a time is backed off from, for a second at first.
        assert_eq!(large.count(), 1, "a tier that is at its limit is left alone");
    }
}

#[tokio::test]
async fn a_tier_that_can_not_be_reached_is_stepped_over() {
    let plain = FakeUpstream::start(SURE).await;
    let large = FakeUpstream::start(LARGE).await;
    let (mute, unused) = (Wire::start(vec![Do::Silence]).await, super::process::free());
    let stranger = super::tls::start().await;
    for (name, url) in [
        ("refused", format!("http://{unused}/v1")),
        ("TLS to one that speaks none", format!("https://127.0.0.1:{}/v1", plain.port)),
        ("TLS to one that says nothing", format!("https://127.0.0.1:{}/v1", mute.port)),
        ("a certificate of nobody", format!("https://localhost:{stranger}/v1")),
        ("an unknown name", "http://no-such-host.invalid:80/v1".to_owned()),
    ] {
        let mut given = table(1, large.port);
        given["tiers"]["small"]["backend"]["url"]["baseUrl"] = url.into();
        let router = Harness::start(given).await;
        let begin = Instant::now();
        let reply = router.ask(&asked(false)).await;
        assert_eq!((reply.status, content(&reply).0.as_str()), (200, "large says"), "{name}: {}", reply.body);
        let steps = reply.header("x-smallfirst-steps");
        let unreachable = steps == "small:failed(Unreachable) large:accepted";
        // One that waits for another protocol, or a resolver, may take all the time of a step.
        let slow = ["TLS to one that speaks none", "TLS to one that says nothing", "an unknown name"].contains(&name);
        let late = slow && steps == "small:failed(Timeout) large:accepted";
        assert!(unreachable || late, "{name}: {steps}");
        assert!(begin.elapsed() < DEADLINE, "{name}: {:?}", begin.elapsed());
    }
    assert_eq!(plain.count(), 0);
}
