//! What a client may send to harm others: smuggled requests, slow ones, rubbish. It is told what is wrong, or the
//! connection closes; nobody else notices.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_upstream::FakeUpstream;
use super::harness::{Harness, Reply, body, exchange, post, table};
use super::{LARGE, SURE, pair};

/// A request that is whole and right but for these lines of its head.
fn framed(lines: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k-finance\r\n\
         content-type: application/json\r\n{lines}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// All replies on one connection until the router closes it, or until it waits for more.
async fn replies(address: SocketAddr, sent: &[u8]) -> (Vec<u16>, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(sent).await;
    let (mut bytes, mut buffer, mut closed) = (Vec::new(), [0; 65536], false);
    while let Ok(read) = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut buffer)).await {
        match read {
            Ok(0) | Err(_) => {
                closed = true;
                break;
            }
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&bytes).to_string();
    let statuses = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    (statuses.collect(), closed)
}

#[tokio::test]
async fn a_request_with_two_lengths_is_never_two_requests() {
    let (small, _large, router) = pair(SURE, LARGE).await;
    let (first, hidden) = (body("intent"), String::from_utf8(framed("content-length: 2", "{}")).unwrap());
    let chunked = format!("{:x}\r\n{first}\r\n0\r\n\r\n{hidden}", first.len());
    let length = format!("content-length: {}", first.len());
    // Framed by chunks, as the RFC has it: one request is served, and what follows is not looked at.
    for lines in [format!("{length}\r\ntransfer-encoding: chunked"), format!("transfer-encoding: chunked\r\n{length}")]
    {
        let got = replies(router.address, &framed(&lines, &chunked)).await;
        assert!(matches!(got, (ref statuses, true) if *statuses == [200] || *statuses == [400]), "{lines}: {got:?}");
    }
    let asked = small.count();
    let longer = format!("{first}{hidden}");
    for lines in [
        format!("{length}\r\ncontent-length: {}", longer.len()),
        format!("content-length: {}, {}", first.len(), longer.len()),
        format!("{length}\r\ncontent-length : {}", longer.len()),
        format!("content-length: +{}", first.len()),
        format!("content-length: 0x{:x}", first.len()),
        "content-length: 18446744073709551616".to_owned(),
        "content-length: -1".to_owned(),
        "transfer-encoding: gzip".to_owned(),
        "transfer-encoding: chunked, identity".to_owned(),
        "transfer-encoding : chunked".to_owned(),
        "transfer-encoding: xchunked".to_owned(),
        // A folded line: obsolete, and read in two ways.
        format!("content-length:\r\n {}", first.len()),
        format!("x-a: b\r\n content-length: 1\r\n{length}"),
        format!("x-a: b\rcontent-length: 1\r\n{length}"),
    ] {
        let got = replies(router.address, &framed(&lines, &longer)).await;
        assert_eq!(got, (vec![400], true), "{lines:?}");
    }
    for chunks in [
        "xyz\r\n{}\r\n0\r\n\r\n",
        "-1\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}",
        "2\r\n{}extra\r\n0\r\n\r\n",
        "2 \n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
    ] {
        let (statuses, closed) =
            replies(router.address, &framed("transfer-encoding: chunked", &format!("{chunks}{hidden}"))).await;
        assert!(
            closed && statuses.iter().all(|s| *s == 400) && statuses.len() <= 1,
            "{chunks:?}: {statuses:?} {closed}"
        );
    }
    assert_eq!(small.count(), asked, "nothing of that may reach a model");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_small, _large, router) = pair(SURE, LARGE).await;
    let (right, wrong) = (body("intent"), body("nobody"));
    let of = |body: &str| framed(&format!("content-length: {}", body.len()), body);
    let sent = [of(&right), of(&wrong), of(&right)].concat();
    assert_eq!(replies(router.address, &sent).await, (vec![200, 404, 200], false));
}

#[tokio::test]
async fn slow_uploads_are_ended_and_keep_no_thread() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let router = Harness::with(table(small.port, large.port), |config| {
        config.limits.body_timeout = Duration::from_secs(2);
        config.limits.head_timeout = Duration::from_secs(2);
    })
    .await;
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(router.address).await.unwrap();
        // Half of them are slow with the body, half with the head.
        let start = framed("content-length: 1000", "{");
        stream.write_all(if n % 2 == 0 { &start } else { &start[..40] }).await.unwrap();
        slow.push(stream);
    }
    let begin = Instant::now();
    for _ in 0..20 {
        assert_eq!(router.ask(&body("intent")).await.status, 200);
    }
    assert!(begin.elapsed() < Duration::from_millis(1500), "others waited {:?}", begin.elapsed());
    for (n, mut stream) in slow.into_iter().enumerate() {
        let trickle = async {
            let (mut reader, mut writer) = stream.split();
            let mut reply = Vec::new();
            let reading = reader.read_to_end(&mut reply);
            let writing = async {
                while writer.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::select! { _ = reading => (), () = writing => () }
            reply
        };
        let reply = tokio::time::timeout(Duration::from_secs(6), trickle).await.expect("the connection must end");
        let text = String::from_utf8_lossy(&reply);
        if n % 2 == 0 {
            assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("request_timeout"), "{text}");
        }
    }
    assert_eq!(small.count(), 20);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_however_it_is_sent() {
    let (small, _large, router) = pair(SURE, LARGE).await;
    let most = 1 << 20;
    // By its length alone: nothing of it needs to arrive.
    let said =
        exchange(router.address, &framed(&format!("connection: close\r\ncontent-length: {}", most + 1), "")).await;
    let large = " ".repeat(most + 1);
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let sent = exchange(router.address, &framed("connection: close\r\ntransfer-encoding: chunked", &chunked)).await;
    for reply in [said, sent] {
        assert_eq!((reply.status, code(&reply).as_str()), (413, "body_too_large"), "{}", reply.body);
    }
    assert_eq!(small.count(), 0);
}

#[tokio::test]
async fn what_no_tier_can_take_is_for_the_client_to_mend() {
    let (small, large, router) = pair(SURE, LARGE).await;
    let tools = body("intent").replacen('{', r#"{"tools":[{"type":"function","function":{"name":"f"}}],"#, 1);
    let reply = router.ask(&tools).await;
    assert_eq!((reply.status, code(&reply).as_str()), (400, "not_supported"), "{}", reply.body);
    assert!(reply.body.contains("tools"), "{}", reply.body);
    let long = body("intent").replace("PROMPT-TEXT", &"word ".repeat(10_000));
    let reply = router.ask(&long).await;
    assert_eq!((reply.status, code(&reply).as_str()), (400, "context_length_exceeded"), "{}", reply.body);
    assert_eq!(small.count() + large.count(), 0);
}

/// The error's code; the error must have the shape of OpenAI's.
fn code(reply: &Reply) -> String {
    let value: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {}", reply.body));
    let error = value["error"].as_object().unwrap();
    assert!(error["message"].is_string() && error["type"].is_string() && error.contains_key("param"), "{}", reply.body);
    error["code"].as_str().unwrap().to_owned()
}

/// A body that was right once.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null"),
        Just("-1"),
        Just("1e999"),
        Just("\"\\ud800\""),
        Just("[]"),
        Just("{}"),
        Just("[[[[[[[["),
        Just("true"),
        Just("\"x\""),
        Just("18446744073709551616"),
        Just("[{\"role\":\"user\",\"content\":[{}]}]"),
        Just("{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"$ref\":\"http://x/\"}}}"),
        Just("{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"pattern\":\"(\"}}}"),
    ];
    let field = prop_oneof![
        Just("model"),
        Just("messages"),
        Just("stream"),
        Just("stream_options"),
        Just("n"),
        Just("max_tokens"),
        Just("tools"),
        Just("response_format"),
        Just("logprobs"),
        Just("top_logprobs"),
        Just("other"),
    ];
    let members = prop::collection::vec((field, value), 0..3);
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4);
    (members, edits).prop_map(|(members, edits)| {
        let added: String = members.iter().map(|(field, value)| format!(r#""{field}":{value},"#)).collect();
        let mut bytes = body("intent").replacen('{', &format!("{{{added}"), 1).into_bytes();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match kind {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 => bytes.truncate(at),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

/// A line of a head.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just("x-request-id"),
        Just("authorization"),
        Just("content-type"),
        Just("accept-encoding"),
        Just("expect"),
        Just("x-smallfirst-tier"),
        Just("upgrade"),
        Just("host"),
        Just("cookie"),
        Just("te"),
        Just("trailer"),
    ];
    let value = prop_oneof![
        prop::collection::vec(0x20..=0xff_u8, 0..40),
        Just(b"Bearer k-finance".to_vec()),
        Just(b"100-continue".to_vec()),
        Just(vec![b'a'; 5000]),
    ];
    (name, value).prop_map(|(name, value)| [name.as_bytes(), b": ", &value, b"\r\n"].concat())
}

#[test]
fn nothing_that_a_client_sends_is_a_500() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_small, _large, router) = runtime.block_on(pair(SURE, LARGE));
    let target = prop_oneof![
        8 => Just("POST /v1/chat/completions"), 1 => Just("GET /v1/models"), 1 => Just("PUT /v1/chat/completions"),
        1 => Just("POST /v1/../x?y"), 1 => Just("OPTIONS *"),
    ];
    let input = (target, prop::collection::vec(line(), 0..3), mutated());
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((target, lines, body) in input)| {
        let head = format!(
            "{target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k-finance\r\ncontent-length: {}\r\n",
            body.len()
        );
        let request = [head.as_bytes(), &lines.concat(), b"\r\n", &body].concat();
        let reply = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), exchange(router.address, &request)).await
        });
        let reply = reply.expect("an end of the connection");
        prop_assert!((200..500).contains(&reply.status), "{}: {}", reply.status, reply.body);
        // What hyper refuses by itself, the head, has no body.
        if reply.status != 200 && !reply.body.is_empty() {
            code(&reply);
        }
    });
    let after = runtime.block_on(post(router.address, "k-finance", body("intent").as_bytes()));
    assert_eq!(after.status, 200);
}
