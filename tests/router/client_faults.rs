//! What a client may do to a router, beside hostile.rs: rubbish that is JSON, and leaving at every stage.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_upstream::{Behaviour, FakeUpstream, completion, http};
use super::harness::{Harness, body, exchange, get, post, table};
use super::wire::{Do, Wire, head, send};
use super::{LARGE, SURE, pair};

/// A request with members put before the others.
fn with(members: &str) -> String {
    body("intent").replacen('{', &format!("{{{members},"), 1)
}

#[tokio::test]
async fn a_field_that_is_read_appears_once() {
    let (small, _large, router) = pair(SURE, LARGE).await;
    for (members, field) in [
        (r#""model":"draft""#, "model"),
        (r#""messages":[{"role":"user","content":"x"}]"#, "messages"),
        (r#""stream":true,"stream":false"#, "stream"),
        (r#""n":1,"n":2"#, "n"),
        (r#""max_tokens":1,"max_tokens":2"#, "max_tokens"),
        (r#""logprobs":true,"\u006cogprobs":false"#, "logprobs"),
        (r#""stream_options":{"include_usage":true,"include_usage":false}"#, "stream_options"),
    ] {
        let reply = router.ask(&with(members)).await;
        let error: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((reply.status, error["error"]["param"].as_str()), (400, Some(field)), "{members}: {}", reply.body);
        assert!(reply.body.contains("once"), "{members}: {}", reply.body);
    }
    assert_eq!(small.count(), 0);
    // What nobody reads is the upstream's to judge.
    assert_eq!(router.ask(&with(r#""seed":1,"seed":2"#)).await.status, 200);
}

#[tokio::test]
async fn deep_nesting_costs_no_stack() {
    let (_small, _large, router) = pair(SURE, LARGE).await;
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(150_000), close.repeat(150_000));
    let lists = deep("[", "]");
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    for value in [&lists, &objects] {
        let content = format!(r#"{{"model":"intent","messages":[{{"role":"user","content":{value}}}]}}"#);
        let message = format!(r#"{{"model":"intent","messages":[{value}]}}"#);
        let fields =
            ["other", "tools", "model", "stream_options", "tool_choice"].map(|f| with(&format!("\"{f}\":{value}")));
        let schema = format!(r#""response_format":{{"type":"json_schema","json_schema":{{"schema":{value}}}}}"#);
        for body in [vec![content, message, with(&schema), value.clone()], fields.to_vec()].concat() {
            let reply = router.ask(&body).await;
            assert!([200, 400].contains(&reply.status), "{}: {}, {}", reply.status, &body[..60], reply.body);
        }
    }
    assert_eq!(router.ask(&body("intent")).await.status, 200);
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_said_to_be() {
    let (small, _large, router) = pair(SURE, LARGE).await;
    for wrong in [b"\xff".as_slice(), b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"] {
        let asked = body("intent");
        let (before, after) = asked.split_once("PROMPT").unwrap();
        let reply = post(router.address, "k-finance", &[before.as_bytes(), wrong, after.as_bytes()].concat()).await;
        assert_eq!(reply.status, 400, "{wrong:?}: {}", reply.body);
        assert!(reply.body.contains("must be UTF-8"), "{wrong:?}: {}", reply.body);
    }
    assert_eq!(small.count(), 0);
}

/// A whole request, on a connection that stays.
fn request(asked: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k-finance\r\ncontent-length: {}\r\n\r\n{asked}",
        asked.len()
    )
}

/// HTTP/2 as it begins, and so many streams that are opened and reset at once (CVE-2023-44487).
fn rapid_reset(streams: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (0..streams).map(|n| (2 * n + 1).to_be_bytes()) {
        // HEADERS: POST, http, / and no more, of HPACK's static table; RST_STREAM: CANCEL.
        bytes.extend([&[0, 0, 3, 1, 5], &stream[..], &[0x83, 0x86, 0x84]].concat());
        bytes.extend([&[0, 0, 4, 3, 0], &stream[..], &[0, 0, 0, 8]].concat());
    }
    bytes
}

#[tokio::test]
async fn http_2_is_refused_at_its_first_line() {
    let (small, large, router) = pair(SURE, LARGE).await;
    for streams in [0, 20_000] {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(router.address).await.unwrap();
        // The router may close before all is sent.
        let _ = stream.write_all(&rapid_reset(streams)).await;
        let mut reply = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut reply)).await.expect("an end");
        let reply = String::from_utf8_lossy(&reply);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4") || reply.starts_with("HTTP/1.1 505"), "{reply}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    // A wish to change to it is not granted, and the request is served as it stands.
    let asked = body("intent");
    let upgrade = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k-finance\r\ncontent-length: {}\r\n\
         connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n{asked}",
        asked.len()
    );
    assert_eq!(exchange(router.address, upgrade.as_bytes()).await.status, 200);
    assert_eq!((small.count(), large.count()), (1, 0));
}

/// Number of requests that the router works on, as it counts them.
async fn in_flight(router: &Harness) -> String {
    let metrics = get(router.admin, "/metrics").await.body;
    let line = metrics.lines().find(|line| line.starts_with("smallfirst_router_in_flight ")).expect("a gauge");
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !seen().await {
        assert!(begin.elapsed() < Duration::from_secs(3), "not seen: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Where a request is when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Head,
    Body,
    FirstStep,
    SecondStep,
    Held,
    Committed,
    /// With the router's buffers full, since the client reads nothing.
    Stalled,
}

/// How long it took to cancel the leg that ran; nothing where there was none.
async fn leave(stage: Stage, streams: bool, resets: bool) -> Option<Duration> {
    let tokens: String = (0..8).map(|n| delta(&format!("t{n} "))).collect();
    let flow = vec![head("text/event-stream", None), send(&tokens)];
    let script = match stage {
        Stage::Held => vec![head("text/event-stream", None), send(delta("t")), Do::Silence],
        Stage::Committed => [flow, vec![Do::Forever(delta("more ").into_bytes(), Duration::from_millis(5))]].concat(),
        Stage::Stalled => [flow, vec![Do::Forever(delta(&"more ".repeat(2000)).into_bytes(), Duration::ZERO)]].concat(),
        _ => vec![Do::Silence],
    };
    let legs = Wire::start(script).await;
    let unsure = completion("small says", -3.0, "\"logprobs\":true");
    let first = Wire::start(vec![send(http("200 OK", "application/json", "", &unsure))]).await;
    let small = if stage == Stage::SecondStep { first.port } else { legs.port };
    let mut given = table(small, legs.port);
    given["paths"]["up"]["deadlineMs"] = 60_000.into();
    for step in given["paths"]["up"]["steps"].as_array_mut().unwrap() {
        step["timeoutMs"] = 50_000.into();
    }
    if streams {
        given["paths"]["up"]["commitAfterTokens"] = 8.into();
    }
    let router = Harness::start(given).await;
    let request = request(&with(&format!("\"stream\":{streams}")));
    let sent = match stage {
        Stage::Head => &request[..60],
        Stage::Body => &request[..request.len() - 5],
        _ => &request,
    };
    let mut client = TcpStream::connect(router.address).await.unwrap();
    client.write_all(sent.as_bytes()).await.unwrap();
    let called = usize::from(!matches!(stage, Stage::Head | Stage::Body));
    until("the call", async || legs.count() == called).await;
    match stage {
        Stage::Committed => {
            let mut buffer = [0; 65536];
            assert!(client.read(&mut buffer).await.unwrap() > 0);
        }
        // Until nothing moves any more.
        Stage::Held | Stage::Stalled => tokio::time::sleep(Duration::from_millis(200)).await,
        _ => {}
    }
    if resets {
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(client);
    let begin = Instant::now();
    if called == 1 {
        until("the leg was cancelled", async || !legs.left().is_empty()).await;
    }
    until("nothing is left", async || in_flight(&router).await == "0").await;
    if called == 1 {
        until("the log", async || router.log_text().contains("\"outcome\":\"client_gone\"")).await;
    }
    legs.left().first().map(|left| left.saturating_duration_since(begin))
}

fn delta(content: &str) -> String {
    let choice = serde_json::json!({
        "index": 0, "delta": {"content": content}, "finish_reason": null,
        "logprobs": {"content": [{"token": content, "logprob": -0.01, "top_logprobs": []}]}
    });
    format!("data: {}\n\n", serde_json::json!({"id": "c", "choices": [choice]}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_at_any_stage_cancels_what_ran_for_it_within_100_ms() {
    use Stage::{Body, Committed, FirstStep, Head, Held, SecondStep, Stalled};
    let all = [
        (Head, false),
        (Body, false),
        (Body, true),
        (FirstStep, false),
        (FirstStep, true),
        (SecondStep, false),
        (SecondStep, true),
        (Held, true),
        (Committed, true),
        (Stalled, true),
    ];
    for (stage, streams) in all {
        for resets in [false, true] {
            // A busy machine may be late itself.
            let mut took = None;
            for _ in 0..4 {
                took = leave(stage, streams, resets).await;
                if took.is_none_or(|took| took < Duration::from_millis(100)) {
                    break;
                }
            }
            assert!(took.is_none_or(|took| took < Duration::from_millis(100)), "{stage:?}, reset {resets}: {took:?}");
            assert_eq!(took.is_some(), !matches!(stage, Head | Body), "{stage:?}");
        }
    }
}

/// A router that is given up by its peers after half a second of silence.
async fn impatient(script: Vec<Do>) -> (Wire, Harness) {
    let small = Wire::start(script).await;
    let large = FakeUpstream::start(Behaviour::Stream("large says", -0.01)).await;
    let mut given = table(small.port, large.port);
    given["paths"]["up"]["commitAfterTokens"] = 1.into();
    let router = Harness::with(given, |config| config.limits.idle_timeout = Duration::from_millis(500)).await;
    (small, router)
}

#[tokio::test]
async fn a_committed_stream_that_falls_silent_ends_with_an_error() {
    let begun = vec![head("text/event-stream", None), send(delta("t0 ")), Do::Silence];
    let (small, router) = impatient(begun).await;
    let begin = Instant::now();
    let reply = router.ask(&with("\"stream\":true")).await;
    assert!((500..2000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert!(reply.body.contains("t0 ") && reply.body.contains("\"code\":\"stream_broken\""), "{}", reply.body);
    assert!(!reply.body.contains("[DONE]") && !reply.body.contains("\"finish_reason\":\"stop\""), "{}", reply.body);
    until("the engine was stopped", async || small.left().len() == 1).await;
    // Slow is not silent: pauses shorter than the bound are none of it, however long all takes.
    let slow = (0..6).flat_map(|n| [send(delta(&format!("t{n} "))), Do::Pause(Duration::from_millis(250))]);
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    small.now([head("text/event-stream", None)].into_iter().chain(slow).chain([send(end), Do::Close]).collect());
    let reply = router.ask(&with("\"stream\":true")).await;
    assert!(reply.body.contains("t5 ") && reply.body.contains("data: [DONE]"), "{}", reply.body);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_stream_is_left() {
    let flood = Do::Forever(delta(&"more ".repeat(2000)).into_bytes(), Duration::ZERO);
    let (small, router) = impatient(vec![head("text/event-stream", None), flood]).await;
    let mut client = TcpStream::connect(router.address).await.unwrap();
    client.write_all(request(&with("\"stream\":true")).as_bytes()).await.unwrap();
    until("the engine was stopped", async || small.left().len() == 1).await;
    until("the log", async || router.log_text().contains("\"outcome\":\"client_gone\"")).await;
    drop(client);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_whole_reply_is_left_and_a_slow_one_is_not() {
    // More than the buffers of two sockets hold.
    let answer = http("200 OK", "application/json", "", &completion(&"more ".repeat(2 << 20), -0.01, ""));
    let small = Wire::start(vec![send(answer)]).await;
    let mut given = table(small.port, small.port);
    given["paths"]["down"]["deadlineMs"] = 60_000.into();
    given["paths"]["down"]["steps"][0]["timeoutMs"] = 50_000.into();
    let router = Harness::with(given, |config| config.limits.idle_timeout = Duration::from_millis(500)).await;
    let ask = async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut client = socket.connect(router.address).await.unwrap();
        client.write_all(request(&body("draft")).as_bytes()).await.unwrap();
        client.readable().await.unwrap();
        client
    };
    let stalled = ask().await;
    let begin = Instant::now();
    until("a reset", async || socket2::SockRef::from(&stalled).take_error().unwrap().is_some()).await;
    assert!(begin.elapsed() >= Duration::from_millis(450), "{:?}", begin.elapsed());
    let mut slow = ask().await;
    let (mut buffer, begin, mut read) = (vec![0; 1 << 20], Instant::now(), 0);
    while read < 10 << 20 {
        let mut part = 0;
        while part < 1 << 20 && read < 10 << 20 {
            let some = slow.read(&mut buffer).await.expect("the connection stays");
            assert!(some > 0, "it ends after {read} bytes");
            (part, read) = (part + some, read + some);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begin.elapsed() > Duration::from_millis(900));
}
