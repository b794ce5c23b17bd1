//! The limit on escalations, as clients meet it.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use smallfirst::routing::source::secrets::Secrets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, Reply, body, exchange, get, table};
use super::{LARGE, SURE, UNSURE};

fn limit(percent: u64, on_exceeded: &str) -> Value {
    json!({"ratio": percent * 10_000_000, "windowMs": 600_000, "onExceeded": on_exceeded})
}

async fn limited(small: Behaviour, large: Behaviour, limit: Value) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(small).await, FakeUpstream::start(large).await);
    let mut table = table(small.port, large.port);
    table["paths"]["up"]["escalationLimit"] = limit;
    let router = Harness::start(table).await;
    (small, large, router)
}

const ESCALATED: &str = "small:escalated(confidence) large:accepted";
const STOPPED: &str = "small:escalated(confidence) large:skipped(EscalationLimit)";

#[tokio::test]
async fn beyond_the_limit_a_client_gets_the_answer_that_was_refused() {
    let (small, large, router) = limited(UNSURE, LARGE, limit(50, "BestAnswer")).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let reply = router.ask(&body("intent")).await;
        seen.push((reply.status, reply.header("x-smallfirst-steps").to_owned()));
    }
    let [escalated, stopped] = [ESCALATED, STOPPED].map(|steps| (200, steps.to_owned()));
    assert_eq!(seen, [escalated.clone(), stopped.clone(), escalated, stopped]);
    assert_eq!(large.count(), 2);
    // Of another workload nothing was counted, and a High one is answered as it must be or not at all.
    assert_eq!(router.ask(&body("review")).await.header("x-smallfirst-steps"), ESCALATED);
    let high = router.ask(&body("review")).await;
    assert_eq!((high.status, large.count()), (429, 3));
    assert!(high.body.contains("\"escalation_limit\"") && high.body.contains(STOPPED), "{}", high.body);
    assert!((1..=50).contains(&high.header("retry-after").parse::<u64>().unwrap()), "{}", high.head);
    // What passes its gates is counted as a request alone.
    small.now(SURE);
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-outcome"), "accepted");
    small.now(UNSURE);
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), ESCALATED);
    let metrics = get(router.admin, "/metrics").await.body;
    let skipped = "steps_total{workload=\"intent\",step=\"large\",tier=\"large\",verdict=\"skipped\",reason=\"EscalationLimit\"} 2\n";
    assert!(metrics.contains(skipped), "{metrics}");
    let refused = "requests_total{workload=\"review\",outcome=\"escalation_limit\"} 1\n";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn reject_is_an_error_for_any_risk() {
    let (_small, large, router) = limited(UNSURE, LARGE, limit(0, "Reject")).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, large.count()), (429, 0));
    let error: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(error["error"]["type"], "rate_limit_error");
    assert_eq!(error["error"]["code"], "escalation_limit");
    let question = format!("POST /explain HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", 39);
    let question = question + r#"{"client": "finance","model": "intent"}"#;
    let explained: Value = serde_json::from_str(&exchange(router.admin, question.as_bytes()).await.body).unwrap();
    let wanted = json!({"ratio": 0.0, "window_ms": 600_000, "on_exceeded": "Reject", "room": false});
    assert_eq!(explained["escalation_limit"], wanted, "{explained}");
}

#[tokio::test]
async fn failover_does_not_count_and_neither_does_a_tier_that_was_not_asked() {
    let (small, large, router) = limited(Behaviour::Status(500), LARGE, limit(20, "Reject")).await;
    for _ in 0..3 {
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(ServerError) large:accepted");
    }
    // The large tier's circuit opens by requests that fall to it.
    small.now(UNSURE);
    large.now(Behaviour::Status(500));
    for n in 0.. {
        assert!(n < 50, "its circuit never opens");
        if router.ask(&body("draft")).await.header("x-smallfirst-steps").starts_with("large:skipped(Degraded)") {
            break;
        }
    }
    let mut steps = String::new();
    for _ in 0..4 {
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.header("x-smallfirst-outcome"), "best-answer", "{}", reply.body);
        writeln!(steps, "{}", reply.header("x-smallfirst-steps")).unwrap();
    }
    assert_eq!(steps, "small:escalated(confidence) large:skipped(Degraded)\n".repeat(4));
}

#[tokio::test]
async fn a_conversation_stays_where_it_went_as_far_as_the_limit_lets_it() {
    let (_small, _large, router) = {
        let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
        let mut table = table(small.port, large.port);
        table["paths"]["up"]["escalationLimit"] = limit(34, "BestAnswer");
        table["paths"]["up"]["sticky"] = json!({"header": {"name": "x-conversation-id", "ttlMs": 60_000}});
        let router = Harness::start(table).await;
        (small, large, router)
    };
    let body = body("intent");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k-finance\r\n\
         x-conversation-id: 1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut seen = Vec::new();
    for _ in 0..4 {
        let reply = exchange(router.address, (head.clone() + &body).as_bytes()).await;
        seen.push(reply.header("x-smallfirst-steps").to_owned());
    }
    assert_eq!(seen, [ESCALATED, STOPPED, "small:skipped(Sticky) large:accepted", STOPPED]);
}

/// A client on a connection that is kept.
struct Kept {
    stream: TcpStream,
    head: String,
}

impl Kept {
    async fn new(address: std::net::SocketAddr, key: &str) -> Self {
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
        Self { stream: TcpStream::connect(address).await.unwrap(), head }
    }

    async fn ask(&mut self, body: &str) -> Reply {
        let request = format!("{}content-length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16384]);
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let status = head[9..12].parse().unwrap();
                let reply = Reply { status, head: head.to_owned(), body: body.to_owned() };
                if body.len() >= reply.header("content-length").parse().unwrap() {
                    return reply;
                }
            }
            let read = self.stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "closed after {text:?}");
            bytes.extend_from_slice(&buffer[..read]);
        }
    }
}

const HONEST: usize = 10;
const ROUNDS: usize = 60;

/// What the hostile client sends: every request is one that the small tier can't answer well.
fn hostile(number: usize) -> String {
    let mut request = json!({"model": "intent", "messages": [{"role": "user", "content": "HARD"}]});
    match number % 4 {
        0 => request["max_tokens"] = 1.into(),
        1 => request["messages"][0]["content"] = format!("HARD{}", " padding".repeat(200)).into(),
        // Two formats that nothing has at once, and an answer that is no JSON at all.
        2 => {
            let schema = json!({"type": "string", "pattern": "^a", "allOf": [{"pattern": "^b"}]});
            request["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
        }
        _ => {}
    }
    request.to_string()
}

/// Of the honest clients' requests that need the large tier, the part that got it; and how many requests that were.
async fn success(attacked: bool) -> (f64, usize) {
    let small = FakeUpstream::start(Behaviour::ByPrompt("small says")).await;
    let large = FakeUpstream::start(LARGE).await;
    let mut table = table(small.port, large.port);
    let names: Vec<String> = (0..=HONEST).map(|n| format!("client-{n}")).collect();
    let client = |name: &String| json!({"name": name, "apiKey": {"name": "keys", "key": name}, "workloads": null});
    table["clients"] = names.iter().map(client).collect();
    let path = &mut table["paths"]["up"];
    path["escalationLimit"] = limit(20, "BestAnswer");
    path["deadlineMs"] = 20_000.into();
    let schema = json!({"onMissing": "Escalate", "required": true, "check": {"jsonSchema": {"inline": null}}});
    path["steps"][0]["accept"].as_array_mut().unwrap().push(schema);
    path["steps"].as_array_mut().unwrap().iter_mut().for_each(|step| step["timeoutMs"] = 10_000.into());
    let router = Harness::start(table).await;
    let keys = names.iter().map(|name| (("keys".to_owned(), name.clone()), Bytes::from(name.clone())));
    router.secrets.send(Secrets::from_iter(keys)).unwrap();
    while get(router.admin, "/metrics").await.body.contains("missing_secrets 11\n") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut honest = Vec::new();
    let mut flood = Vec::new();
    for name in &names[..HONEST] {
        honest.push(Kept::new(router.address, name).await);
        flood.push(Kept::new(router.address, &names[HONEST]).await);
    }
    let (mut wished, mut got, mut state) = (0_u32, 0_u32, 7_u64);
    for round in 0..ROUNDS {
        // Ten times as much as all honest clients send.
        let attack = futures::future::join_all(flood.iter_mut().take(if attacked { HONEST } else { 0 }).map(
            async |connection| {
                for number in 0..HONEST {
                    connection.ask(&hostile(round + number)).await;
                }
            },
        ));
        let mut hard = [false; HONEST];
        for hard in &mut hard {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *hard = (state >> 33) % 100 < 15;
        }
        let asks = futures::future::join_all(honest.iter_mut().zip(hard).map(async |(connection, hard)| {
            let reply = connection.ask(&body("intent").replace("PROMPT", if hard { "HARD" } else { "EASY" })).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            (hard, reply.header("x-smallfirst-tier") == "large")
        }));
        let ((), asked) = futures::join!(async { drop(attack.await) }, asks);
        for (hard, large) in asked {
            wished += u32::from(hard);
            got += u32::from(hard && large);
        }
    }
    (f64::from(got) / f64::from(wished), large.count())
}

/// The bar: one client that sends max_tokens 1, padding and unsatisfiable schemas at ten times the rate of ten honest ones
/// changes their escalation success by less than two points.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_that_floods_takes_no_escalations_from_the_others() {
    let (alone, _) = success(false).await;
    let (attacked, large) = success(true).await;
    let requests = HONEST * ROUNDS * (1 + HONEST);
    println!("{alone:.4} alone, {attacked:.4} attacked; {large} of {requests} escalated");
    assert!(alone > 0.95, "{alone}");
    assert!((alone - attacked).abs() < 0.02, "{alone} alone, {attacked} attacked");
    assert!(large * 100 < requests * 22, "{large} of {requests} escalated");
}
