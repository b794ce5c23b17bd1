//! Quotas of providers' accounts, kept before the provider keeps them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, post, table};
use super::{LARGE, SURE, UNSURE};

/// The harness's table with a quota of the account of `large`.
fn with_quota(small: u16, large: u16, quota: Value) -> Value {
    let mut table = table(small, large);
    table["tiers"]["large"]["account"] = json!({"name": "main", "quota": quota});
    table["paths"]["up"]["deadlineMs"] = 5000.into();
    table["paths"]["up"]["steps"][1]["timeoutMs"] = 5000.into();
    table
}

async fn pair(small: Behaviour, large: Behaviour, quota: Value) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(small).await, FakeUpstream::start(large).await);
    let router = Harness::start(with_quota(small.port, large.port, quota)).await;
    (small, large, router)
}

#[tokio::test]
async fn an_account_without_room_is_as_rate_limited() {
    let (_small, large, router) = pair(UNSURE, LARGE, json!({"requestsPerMinute": 1})).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-tier"), "large");
    let low = router.ask(&body("intent")).await;
    assert_eq!((low.status, low.header("x-smallfirst-outcome")), (200, "best-answer"));
    assert_eq!(low.header("x-smallfirst-steps"), "small:escalated(confidence) large:skipped(RateLimited)");
    // High risk may not have the small answer, and would wait in vain.
    let begin = Instant::now();
    let high = router.ask(&body("review")).await;
    assert_eq!((high.status, large.count()), (429, 1), "{}", high.body);
    assert!(begin.elapsed() < Duration::from_secs(1) && high.header("retry-after").parse::<u64>().unwrap() > 50);
    // It falls down its path as after a 429 of the provider.
    assert_eq!(
        router.ask(&body("draft")).await.header("x-smallfirst-steps"),
        "large:skipped(RateLimited) small:accepted"
    );
    let metrics = get(router.admin, "/metrics").await.body;
    let line = "smallfirst_router_admissions_total{scope=\"account\",name=\"main\",result=\"requestsPerMinute\"} 3\n";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("smallfirst_router_quota_waiting{account=\"main\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn low_leaves_what_a_workload_of_high_risk_has_reserved() {
    let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
    let mut table = with_quota(small.port, large.port, json!({"requestsPerMinute": 4}));
    table["clients"][0]["workloads"] = json!(["intent", "review"]);
    table["clients"][1]["workloads"] = Value::Null;
    let review = table["workloads"].as_array_mut().unwrap().iter_mut().find(|w| w["name"] == "review").unwrap();
    review["reserve"] = 500_000_000.into();
    let router = Harness::start(table).await;
    let tiers = async |model: &str| {
        let mut tiers = Vec::new();
        for _ in 0..3 {
            tiers.push(router.ask(&body(model)).await.header("x-smallfirst-tier").to_owned());
        }
        tiers
    };
    assert_eq!(tiers("intent").await, ["large", "large", "small"]);
    // What it left is there. Beyond its reserve there is nothing for anybody.
    assert_eq!(tiers("review").await, ["large", "large", ""]);
    let metrics = get(router.admin, "/metrics").await.body;
    let line = "smallfirst_router_admissions_total{scope=\"account\",name=\"main\",result=\"reserve\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    // Who lists no workloads may not spend a reserve.
    let guest = post(router.address, "k-guest", body("review").as_bytes()).await;
    assert_eq!(guest.status, 403, "{}", guest.body);
    assert_eq!(post(router.address, "k-guest", body("intent").as_bytes()).await.status, 200);
}

#[tokio::test]
async fn a_request_of_high_risk_waits_for_a_place_and_low_does_not() {
    let slow = Behaviour::Slow(Duration::from_millis(300), "large says");
    let (_small, large, router) = pair(UNSURE, slow, json!({"maxConcurrent": 1})).await;
    let address = router.address;
    let ask =
        |model: &'static str| tokio::spawn(async move { post(address, "k-finance", body(model).as_bytes()).await });
    let first = ask("review");
    while large.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = ask("review");
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-outcome"), "best-answer");
    for high in [first, second] {
        let reply = high.await.unwrap();
        assert_eq!((reply.status, reply.header("x-smallfirst-tier")), (200, "large"), "{}", reply.body);
    }
    let metrics = get(router.admin, "/metrics").await.body;
    assert!(metrics.contains("smallfirst_router_quota_wait_seconds_count{account=\"main\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn tokens_of_an_account_are_settled_by_usage_and_errors_use_none() {
    let (_small, large, router) = pair(SURE, Behaviour::Status(500), json!({"tokensPerMinute": 1000})).await;
    let asking = body("draft").replacen('{', r#"{"max_tokens": 900, "#, 1);
    assert_eq!(router.ask(&asking).await.header("x-smallfirst-steps"), "large:failed(ServerError) small:accepted");
    large.now(LARGE);
    assert_eq!(router.ask(&asking).await.header("x-smallfirst-steps"), "large:accepted");
    // 110 tokens are used up.
    assert_eq!(router.ask(&asking).await.header("x-smallfirst-steps"), "large:skipped(RateLimited) small:accepted");
    let less = asking.replace("900", "700");
    assert_eq!(router.ask(&less).await.header("x-smallfirst-steps"), "large:accepted");
}

#[tokio::test]
async fn tiers_of_one_account_share_its_quota() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let mut table = with_quota(small.port, large.port, json!({"requestsPerMinute": 1}));
    table["tiers"]["small"]["account"] = table["tiers"]["large"]["account"].clone();
    let router = Harness::start(table).await;
    assert_eq!(router.ask(&body("intent")).await.status, 200);
    let over = router.ask(&body("draft")).await;
    assert_eq!((over.status, large.count()), (429, 0), "{}", over.body);
    assert!(over.body.contains("large:skipped(RateLimited) small:skipped(RateLimited)"), "{}", over.body);
}
