//! Limits of clients and workloads, as their callers see them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SURE;
use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, post, table};

/// The harness's table with limits of the client `finance` and of the workload `intent`.
fn limited(small: u16, client: &Value, workload: &Value) -> Value {
    let mut table = table(small, 1);
    table["clients"][0]["limits"] = client.clone();
    table["workloads"][0]["limits"] = workload.clone();
    table
}

async fn with_limits(small: Behaviour, client: Value, workload: Value) -> (FakeUpstream, Harness) {
    let small = FakeUpstream::start(small).await;
    let router = Harness::start(limited(small.port, &client, &workload)).await;
    (small, router)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(5), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_client_over_its_requests_a_minute_is_told_when_to_come_back() {
    let (small, router) = with_limits(SURE, json!({"requestsPerMinute": 2}), Value::Null).await;
    let first = router.ask(&body("intent")).await;
    assert_eq!((first.status, first.header("x-ratelimit-limit-requests")), (200, "2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), "1");
    assert_eq!(first.header("x-ratelimit-reset-requests"), "30s");
    assert_eq!(first.header("x-ratelimit-limit-tokens"), "");
    assert_eq!(router.ask(&body("review")).await.status, 200, "the limit is over all workloads");
    let over = router.ask(&body("intent")).await;
    assert_eq!((over.status, over.header("x-ratelimit-remaining-requests")), (429, "0"));
    let seconds: u64 = over.header("retry-after").parse().unwrap();
    assert!((25..=30).contains(&seconds), "{seconds}");
    let error: Value = serde_json::from_str(&over.body).unwrap();
    assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!("requests"), &json!("rate_limit_exceeded")));
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("client finance is at its limit requestsPerMinute of 2"), "{message}");
    assert_eq!(router.ask_as("k-guest", &body("intent")).await.status, 200, "another client");
    assert_eq!(small.count(), 3);
    let metrics = get(router.admin, "/metrics").await.body;
    let counted = |result: &str, count: u32| {
        let line = format!(
            "smallfirst_router_admissions_total{{scope=\"client\",name=\"finance\",result=\"{result}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line}{metrics}");
    };
    counted("admitted", 2);
    counted("requestsPerMinute", 1);
    counted("maxConcurrent", 0);
}

#[tokio::test]
async fn tokens_are_reserved_as_asked_and_settled_as_used() {
    let (_small, router) = with_limits(SURE, Value::Null, json!({"tokensPerMinute": 1000})).await;
    let asking = |most: u32| body("intent").replacen('{', &format!("{{\"max_tokens\": {most}, "), 1);
    let large = router.ask(&asking(900)).await;
    // The prompt and the frame of its message are 8 tokens.
    assert_eq!((large.status, large.header("x-ratelimit-remaining-tokens")), (200, "92"));
    // The answer used 110 tokens: most of what was reserved is there again.
    let second = router.ask(&asking(800)).await;
    assert_eq!(second.status, 200, "{}", second.body);
    let left: u32 = second.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!((82..=90).contains(&left), "{left}");
    let over = router.ask(&asking(900)).await;
    assert_eq!(over.status, 429);
    assert!(over.body.contains("workload intent is at its limit tokensPerMinute of 1000"), "{}", over.body);
    assert!(over.body.contains("908 asked for"), "{}", over.body);
    assert_eq!(router.ask(&body("intent")).await.status, 429, "without max_tokens 1,024 are reckoned with");
    assert_eq!(router.ask(&asking(100)).await.status, 200, "a smaller request fits");
}

#[tokio::test]
async fn a_request_that_no_waiting_makes_fit_is_told_so() {
    let (small, router) = with_limits(SURE, json!({"tokensPerMinute": 100}), Value::Null).await;
    let asking = body("intent").replacen('{', r#"{"max_tokens": 18446744073709551615, "n": 128, "#, 1);
    let never = router.ask(&asking).await;
    assert_eq!((never.status, never.header("x-should-retry"), never.header("retry-after")), (429, "false", ""));
    assert!(never.body.contains("lower max_tokens"), "{}", never.body);
    assert_eq!(small.count(), 0);
    assert_eq!(router.ask(&body("intent")).await.status, 200, "what is only assumed makes no request too large");
}

#[tokio::test]
async fn a_place_is_free_again_when_the_answer_is_there_or_the_client_left() {
    let (small, router) = with_limits(Behaviour::Hang, Value::Null, json!({"maxConcurrent": 1})).await;
    let address = router.address;
    let asking = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    until("the first is asked", || small.count() == 1).await;
    let second = router.ask(&body("intent")).await;
    assert_eq!((second.status, second.header("retry-after")), (429, "1"));
    assert!(second.body.contains("workload intent is at its limit maxConcurrent of 1"), "{}", second.body);
    asking.abort();
    let gone = || small.gone.load(std::sync::atomic::Ordering::SeqCst) == 1;
    until("the first is cancelled", gone).await;
    small.now(SURE);
    for _ in 0..3 {
        assert_eq!(router.ask(&body("intent")).await.status, 200);
    }
}

#[tokio::test]
async fn a_stream_that_was_committed_holds_its_place_to_its_end() {
    let flow = Behaviour::Flow { tokens: 20, logprob: -0.01, pause: Duration::from_millis(20), cut: None };
    let small = FakeUpstream::start(flow).await;
    let mut table = limited(small.port, &Value::Null, &json!({"maxConcurrent": 1, "tokensPerMinute": 7000}));
    table["paths"]["up"]["commitAfterTokens"] = 2.into();
    let router = Harness::start(table).await;
    let stream = body("intent").replacen('{', r#"{"stream": true, "max_tokens": 5000, "#, 1);
    let address = router.address;
    let asking = tokio::spawn(async move { post(address, "k-finance", stream.as_bytes()).await });
    until("it is asked", || small.count() == 1).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(router.ask(&body("intent")).await.status, 429, "after commitment too");
    let whole = asking.await.unwrap();
    assert!(whole.body.contains("[DONE]"), "{}", whole.body);
    small.now(SURE);
    let next = router.ask(&body("intent").replacen('{', r#"{"max_tokens": 6000, "#, 1)).await;
    assert_eq!(next.status, 200, "the stream's usage is settled: {}", next.body);
}

#[tokio::test]
async fn limits_outlive_a_new_table_and_are_parts_where_routers_are_several() {
    let (small, router) = with_limits(SURE, json!({"requestsPerMinute": 1}), Value::Null).await;
    assert_eq!(router.ask(&body("intent")).await.status, 200);
    let mut other = limited(small.port, &json!({"requestsPerMinute": 1}), &Value::Null);
    other["currency"] = "EUR".into();
    // The client's place in the list is not what it is known by.
    let guest = other["clients"][1].take();
    let finance = std::mem::replace(&mut other["clients"][0], guest);
    other["clients"][1] = finance;
    router.reload(other.clone()).await;
    assert_eq!(router.ask(&body("intent")).await.status, 429);
    other["clients"][1]["limits"] = json!({"requestsPerMinute": 9});
    other["routers"] = 4.into();
    router.reload(other).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, reply.header("x-ratelimit-limit-requests")), (200, "2"));
}

#[tokio::test]
async fn a_request_that_no_tier_answered_costs_no_tokens() {
    let (small, router) = with_limits(Behaviour::Status(500), json!({"tokensPerMinute": 1000}), Value::Null).await;
    let asking = body("intent").replacen('{', r#"{"max_tokens": 900, "#, 1);
    for _ in 0..3 {
        assert_eq!(router.ask(&asking).await.status, 502);
    }
    assert_eq!(small.count(), 3);
}
