//! The router over real sockets. The upstreams are fakes: they do what a real model server can't be asked to do.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail it")]
#[path = "router/balance.rs"]
mod balance;
#[path = "router/budget.rs"]
mod budget;
#[path = "router/buffered.rs"]
mod buffered;
#[path = "router/client_faults.rs"]
mod client_faults;
#[path = "router/cold.rs"]
mod cold;
#[path = "router/commit_bar.rs"]
mod commit_bar;
#[path = "router/control_faults.rs"]
mod control_faults;
#[path = "router/counts.rs"]
mod counts;
#[path = "router/degraded.rs"]
mod degraded;
#[path = "router/escalation_limit.rs"]
mod escalation_limit;
#[path = "router/explain.rs"]
mod explain;
#[path = "router/fake_upstream.rs"]
mod fake_upstream;
#[path = "router/gates.rs"]
mod gates;
#[path = "router/harness.rs"]
mod harness;
#[path = "router/health.rs"]
mod health;
#[path = "router/hedge.rs"]
mod hedge;
#[path = "router/hostile.rs"]
mod hostile;
#[path = "router/leaving.rs"]
mod leaving;
#[path = "router/limits.rs"]
mod limits;
#[path = "router/limits_of_providers.rs"]
mod limits_of_providers;
#[path = "router/local.rs"]
mod local;
#[path = "router/pressure.rs"]
mod pressure;
#[path = "router/process.rs"]
mod process;
#[path = "router/quota.rs"]
mod quota;
#[path = "router/restart.rs"]
mod restart;
#[path = "router/resume.rs"]
mod resume;
#[path = "router/side_by_side.rs"]
mod side_by_side;
#[path = "router/sticky.rs"]
mod sticky;
#[path = "router/store.rs"]
mod store;
#[path = "router/streaming.rs"]
mod streaming;
#[path = "router/tls.rs"]
mod tls;
#[path = "router/traffic_tls.rs"]
mod traffic_tls;
#[path = "router/upstream_faults.rs"]
mod upstream_faults;
#[path = "router/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake_upstream::{Behaviour, FakeUpstream};
use harness::{Harness, body, exchange, get, key, post, table};
use smallfirst::routing::source::secrets::Secrets;

const SURE: Behaviour = Behaviour::Answer("small says", -0.01);
const UNSURE: Behaviour = Behaviour::Answer("small says", -3.0);
const LARGE: Behaviour = Behaviour::Answer("large says", -0.01);

async fn pair(small: Behaviour, large: Behaviour) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(small).await, FakeUpstream::start(large).await);
    let harness = Harness::start(table(small.port, large.port)).await;
    (small, large, harness)
}

#[tokio::test]
async fn a_sure_answer_is_accepted_and_shows_no_trace_of_the_gate() {
    let (small, large, router) = pair(SURE, LARGE).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "small:accepted"));
    assert_eq!(reply.header("x-smallfirst-tier"), "small");
    assert_eq!(reply.header("x-smallfirst-outcome"), "accepted");
    // 100 tokens at 1.00 and 10 at 2.00 a million.
    assert_eq!(reply.header("x-smallfirst-cost"), "0.00012 USD");
    assert!(reply.body.contains("small says") && !reply.body.contains("\"logprobs\":{"), "{}", reply.body);
    assert!(small.last_body.lock().unwrap().contains("\"logprobs\":true"));
    assert!(small.last_body.lock().unwrap().contains("model-Small"));
    assert_eq!(large.count(), 0);
}

#[tokio::test]
async fn an_unsure_answer_escalates_and_both_legs_are_paid() {
    let (_small, _large, router) = pair(UNSURE, LARGE).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(confidence) large:accepted");
    assert_eq!(reply.header("x-smallfirst-cost"), "0.00024 USD");
    assert!(reply.body.contains("large says"));
}

#[tokio::test]
async fn a_path_spends_no_more_than_its_max_cost() {
    let (small, large, router) = pair(UNSURE, LARGE).await;
    let with = |nanos: u64| {
        let mut table = table(small.port, large.port);
        table["paths"]["up"]["maxCost"] = nanos.into();
        table
    };
    // The small answer costs 120,000 billionths; asking the large tier too would be more.
    router.reload(with(121_000)).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-outcome")), (200, "best-answer"));
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(confidence) large:skipped(MaxCost)");
    assert_eq!(reply.header("x-smallfirst-cost"), "0.00012 USD");
    assert_eq!(large.count(), 0);
    router.reload(with(300_000)).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-tier"), "large");
    // More output is allowed than the first tier may cost.
    let long = body("intent").replacen('{', r#"{"max_tokens": 1000, "#, 1);
    let reply = router.ask(&long).await;
    assert_eq!(reply.status, 400, "{}", reply.body);
    assert!(
        reply.body.contains("max_tokens: the request may cost more") && reply.body.contains("max_cost"),
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn every_fault_of_a_tier_sends_the_request_on() {
    let faults = [
        (Behaviour::Reset, "small:failed(ServerError)"),
        (Behaviour::Status(500), "small:failed(ServerError)"),
        (Behaviour::Status(503), "small:failed(ServerError)"),
        (Behaviour::Status(401), "small:failed(ServerError)"),
        (Behaviour::Busy(1), "small:failed(RateLimited)"),
        (Behaviour::Hang, "small:failed(Timeout)"),
        (Behaviour::Raw("not json"), "small:failed(ServerError)"),
        (Behaviour::Raw("[1]"), "small:failed(ServerError)"),
        (Behaviour::Raw(r#"{"error":{"message":"sk-secret"}}"#), "small:failed(ServerError)"),
    ];
    for (fault, steps) in faults {
        let (_small, _large, router) = pair(fault.clone(), LARGE).await;
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.status, 200, "{fault:?}: {}", reply.body);
        assert_eq!(reply.header("x-smallfirst-steps"), format!("{steps} large:accepted"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_falls_down_to_a_failover_only_step() {
    let (_small, large, router) = pair(SURE, LARGE).await;
    assert_eq!(router.ask(&body("draft")).await.header("x-smallfirst-steps"), "large:accepted");
    large.now(Behaviour::Reset);
    let reply = router.ask(&body("draft")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "large:failed(ServerError) small:accepted");
}

#[tokio::test]
async fn the_best_answer_is_returned_unless_the_workload_is_of_high_risk() {
    let (_small, _large, router) = pair(UNSURE, Behaviour::Status(500)).await;
    let low = router.ask(&body("intent")).await;
    assert_eq!((low.status, low.header("x-smallfirst-outcome")), (200, "best-answer"));
    assert!(low.body.contains("small says"));
    let high = router.ask(&body("review")).await;
    assert_eq!(high.status, 502);
    assert!(high.body.contains("small:escalated(confidence) large:failed(ServerError)"), "{}", high.body);
    assert!(!high.body.contains("small says") && !high.body.contains("sk-secret"));
}

#[tokio::test]
async fn a_limit_of_the_last_tier_is_429_with_retry_after() {
    let (_small, _large, router) = pair(Behaviour::Status(500), Behaviour::Busy(7)).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "7"));
}

#[tokio::test]
async fn the_deadline_bounds_the_whole_cascade() {
    let (_small, _large, router) = pair(Behaviour::Hang, Behaviour::Hang).await;
    let begin = Instant::now();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.status, 504, "{}", reply.body);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_tier_that_fails_again_and_again_is_not_asked() {
    let (small, _large, router) = pair(Behaviour::Status(500), LARGE).await;
    for _ in 0..20 {
        assert_eq!(router.ask(&body("intent")).await.status, 200);
    }
    let asked = small.count();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:skipped(Degraded) large:accepted");
    assert_eq!(small.count(), asked);
}

#[tokio::test]
async fn a_tier_that_is_not_cleared_is_never_asked() {
    let (small, large, router) = pair(SURE, LARGE).await;
    let reply = router.ask(&body("secret")).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("DataClass"), "{}", reply.body);
    assert_eq!(small.count() + large.count(), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let (small, _large, router) = pair(SURE, LARGE).await;
    let cases: [(&[u8], u16, &str); 7] = [
        (b"{bad", 400, "body: must be one JSON object"),
        (b"\xff\xfe", 400, "must be UTF-8"),
        (br#"{"model":"intent"}"#, 400, "messages: must be set"),
        (br#"{"messages":[{"role":"user","content":"x"}]}"#, 400, "model: must be set"),
        (br#"{"model":"intent","stream":"yes","messages":[{"role":"user","content":"x"}]}"#, 400, "stream"),
        (br#"{"model":"nobody","messages":[{"role":"user","content":"x"}]}"#, 404, "intent, review, draft, secret"),
        (b"", 400, "body"),
    ];
    for (sent, status, says) in cases {
        let reply = post(router.address, "k-finance", sent).await;
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.body.contains(says), "{} should say {says}", reply.body);
        assert!(serde_json::from_str::<serde_json::Value>(&reply.body).unwrap()["error"]["message"].is_string());
    }
    let large = vec![b' '; 16 << 20];
    assert_eq!(post(router.address, "k-finance", &large).await.status, 413);
    assert_eq!(post(router.address, "wrong", &large).await.status, 401);
    let chunked =
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\
                    connection: close\r\n\r\n0\r\n\r\n";
    let smuggled = exchange(router.address, chunked).await.status;
    assert!(smuggled == 400 || smuggled == 401, "{smuggled}");
    assert_eq!(small.count(), 0);
}

#[tokio::test]
async fn keys_are_checked_and_change_without_a_restart() {
    let (_small, _large, router) = pair(SURE, LARGE).await;
    assert_eq!(router.ask_as("wrong", &body("intent")).await.status, 401);
    assert_eq!(router.ask_as("k-guest", &body("intent")).await.status, 200);
    assert_eq!(router.ask_as("k-guest", &body("review")).await.status, 403);
    router.secrets.send(Secrets::from_iter([key("client-keys", "finance", "k-new")])).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(router.ask_as("k-finance", &body("intent")).await.status, 401);
    assert_eq!(router.ask_as("k-new", &body("intent")).await.status, 200);
    let problems = router.running.as_ref().unwrap().standing.borrow().problems.clone();
    assert!(
        problems[0].message.contains("spec.clients[guest].apiKey.secretKeyRef: Secret client-keys has no key guest"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn models_lists_what_the_client_may_use() {
    let (_small, _large, router) = pair(SURE, LARGE).await;
    let request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k-guest\r\n\r\n";
    let reply = exchange(router.address, request).await;
    assert!(reply.body.contains("\"intent\"") && !reply.body.contains("review"), "{}", reply.body);
}

#[tokio::test]
async fn a_public_tier_is_asked_by_its_name_along_the_path_in_the_table() {
    let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
    let mut given = table(small.port, large.port);
    given["tiers"]["small"]["public"] = true.into();
    given["paths"]["tier/small"] = given["paths"]["down"].clone();
    given["paths"]["tier/small"]["steps"].as_array_mut().unwrap().remove(0);
    given["paths"]["tier/small"]["steps"][0]["entry"] = "Always".into();
    let router = Harness::start(given.clone()).await;
    let reply = router.ask(&body("small")).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "small:accepted"), "{}", reply.body);
    assert_eq!(reply.header("x-smallfirst-workload"), "tier/small");
    let before = get(router.admin, "/table").await.header("x-smallfirst-table-hash").to_owned();
    given["paths"].as_object_mut().unwrap().remove("tier/small");
    router.table.send(Some(Arc::from(given.to_string()))).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(get(router.admin, "/table").await.header("x-smallfirst-table-hash"), before);
}

#[tokio::test]
async fn a_stream_is_held_judged_and_stripped() {
    let (small, large, router) =
        pair(Behaviour::Stream("small says", -0.01), Behaviour::Stream("large says", 0.0)).await;
    let asked = body("intent").replacen('{', r#"{"stream":true,"#, 1);
    let reply = router.ask(&asked).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "text/event-stream"));
    assert!(reply.body.contains("small says") && reply.body.trim_end().ends_with("data: [DONE]"), "{}", reply.body);
    assert!(!reply.body.contains("\"logprobs\":{") && !reply.body.contains("usage"), "{}", reply.body);
    assert_eq!(reply.header("x-smallfirst-cost"), "0.00012 USD");
    small.now(Behaviour::Stream("small says", -3.0));
    let escalated = router.ask(&asked).await;
    assert!(escalated.body.contains("large says") && !escalated.body.contains("small says"));
    // A tier that answers in one piece still gives the client its stream.
    large.now(LARGE);
    let plain = router.ask(&asked).await;
    assert_eq!(plain.header("content-type"), "text/event-stream");
    assert!(plain.body.contains("large says") && plain.body.contains("[DONE]"));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_call() {
    let (small, _large, router) = pair(Behaviour::Hang, LARGE).await;
    let address = router.address;
    let asking = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    while small.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    asking.abort();
    let begin = Instant::now();
    while small.gone.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < Duration::from_millis(300), "the upstream call was not cancelled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let log = router.log_text();
    assert!(log.contains("\"outcome\":\"client_gone\"") && log.contains("\"status\":499"), "{log}");
}

#[tokio::test]
async fn an_answer_in_hand_is_not_lost_when_the_next_tier_refuses_the_request() {
    let (_small, large, router) = pair(UNSURE, Behaviour::Status(400)).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-outcome")), (200, "best-answer"));
    assert!(reply.body.contains("small says"));
    // Where no answer may be returned, the refusal is what the caller must know of.
    assert_eq!(router.ask(&body("review")).await.status, 400);
    assert_eq!(large.count(), 2);
}

#[tokio::test]
async fn a_request_that_turns_out_too_long_goes_to_the_next_tier_and_opens_no_circuit() {
    let (small, _large, router) = pair(Behaviour::TooLong, LARGE).await;
    for _ in 0..8 {
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(ContextOverflow) large:accepted");
    }
    assert_eq!(small.count(), 8);
}

#[tokio::test]
async fn a_table_is_swapped_under_load_without_a_failure_and_a_wrong_one_is_refused() {
    let (small, large, router) = pair(SURE, LARGE).await;
    let address = router.address;
    let load = tokio::spawn(async move {
        let mut failed = 0;
        for _ in 0..300 {
            failed += usize::from(post(address, "k-finance", body("intent").as_bytes()).await.status != 200);
        }
        failed
    });
    for round in 0..50 {
        let mut new = table(small.port, large.port);
        new["paths"]["up"]["steps"][0]["accept"][0]["check"]["confidence"]["atLeast"] =
            serde_json::json!(-0.4 - f64::from(round));
        router.table.send(Some(Arc::from(new.to_string()))).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(load.await.unwrap(), 0);
    let before = get(router.admin, "/table").await.header("x-smallfirst-table-hash").to_owned();
    let mut wrong = table(small.port, large.port);
    wrong["paths"]["up"]["steps"][0]["accept"] =
        serde_json::json!([{"onMissing": "Escalate", "required": false, "check": {"match": "("}}]);
    for refused in
        [wrong.to_string(), "{".to_owned(), wrong.to_string().replace("\"formatVersion\":1", "\"formatVersion\":2")]
    {
        router.table.send(Some(Arc::from(refused))).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(get(router.admin, "/table").await.header("x-smallfirst-table-hash"), before);
    }
    assert_eq!(get(router.admin, "/readyz").await.status, 200);
    assert_eq!(router.ask(&body("intent")).await.status, 200);
    let metrics = get(router.admin, "/metrics").await.body;
    assert!(metrics.contains("smallfirst_router_table_reloads_total{result=\"refused\"} 3"), "{metrics}");
}

#[tokio::test]
async fn a_stop_loses_no_request_in_flight() {
    let (small, _large, mut router) = pair(Behaviour::Hang, LARGE).await;
    let address = router.address;
    let asking = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    while small.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    router.running.take().unwrap().stop().await;
    assert_eq!(asking.await.unwrap().status, 200);
}

#[tokio::test]
async fn the_access_log_has_the_steps_and_no_prompt() {
    let (_small, _large, router) = pair(UNSURE, LARGE).await;
    let id = router.ask(&body("intent")).await.header("x-request-id").to_owned();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let log = router.log_text();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["request_id"], &line["client"], &line["workload"]),
        (&id.into(), &"finance".into(), &"intent".into())
    );
    assert_eq!(line["steps"][0]["score"], -3.0);
    assert_eq!(
        line["steps"][0]["gates"],
        serde_json::json!([{"gate": "confidence", "passed": false, "score": -3.0, "detail": "below the threshold"}])
    );
    assert_eq!(line["steps"][1]["gates"], serde_json::json!([]));
    assert!(!log.contains("PROMPT-TEXT") && !log.contains("small says"));
}
