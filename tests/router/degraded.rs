//! What is left of a tier serves High first: Low gives way, then Medium.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::explain;
use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, Reply, body, post, table};
use super::{LARGE, SURE, UNSURE, pair};

fn steps(reply: &Reply) -> &str {
    reply.header("x-smallfirst-steps")
}

#[tokio::test]
async fn low_gives_way_where_a_provider_has_little_left_and_medium_where_it_has_less() {
    let left = |text: &'static str| Behaviour::Spent(text, "large says");
    let little =
        "x-ratelimit-limit-tokens: 1000\r\nx-ratelimit-remaining-tokens: 80\r\nx-ratelimit-reset-tokens: 10m\r\n";
    let less =
        "x-ratelimit-limit-tokens: 1000\r\nx-ratelimit-remaining-tokens: 40\r\nx-ratelimit-reset-tokens: 10m\r\n";
    let enough =
        "x-ratelimit-limit-tokens: 1000\r\nx-ratelimit-remaining-tokens: 100\r\nx-ratelimit-reset-tokens: 9m\r\n";
    let (_small, large, router) = pair(UNSURE, left(little)).await;
    // Nobody knew before the first reply.
    let served = "small:escalated(confidence) large:accepted";
    assert_eq!(steps(&router.ask(&body("intent")).await), served);
    let low = router.ask(&body("intent")).await;
    assert_eq!(steps(&low), "small:escalated(confidence) large:skipped(Degraded)");
    assert_eq!((low.status, low.header("x-smallfirst-outcome")), (200, "best-answer"));
    assert_eq!(steps(&router.ask(&body("draft")).await), "large:accepted");
    large.now(left(less));
    assert_eq!(steps(&router.ask(&body("review")).await), served);
    assert_eq!(steps(&router.ask(&body("draft")).await), "large:skipped(Degraded) small:accepted");
    assert_eq!(steps(&router.ask(&body("review")).await), served);
    let (_, explained) = explain::ask(&router, r#"{"client":"finance","model":"draft"}"#).await;
    let why = &explained["steps"][0]["tiers"][0]["skip"]["detail"];
    assert_eq!(why, "little is left of it, which is for workloads of risk High", "{explained}");
    large.now(left(enough));
    router.ask(&body("review")).await;
    assert_eq!(steps(&router.ask(&body("intent")).await), served);
}

#[tokio::test]
async fn who_gives_way_to_a_limit_and_has_no_other_tier_is_told_when_to_come_again() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    large.now(Behaviour::Spent(
        "x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 30s\r\n",
        "large says",
    ));
    let mut table = table(small.port, large.port);
    table["workloads"][1]["path"] = "down".into();
    table["paths"]["down"]["steps"].as_array_mut().unwrap().truncate(1);
    let router = Harness::start(table).await;
    assert_eq!(steps(&router.ask(&body("review")).await), "large:accepted");
    let reply = router.ask(&body("draft")).await;
    assert_eq!((reply.status, steps(&reply)), (429, "large:skipped(Degraded)"), "{}", reply.body);
    // It fills evenly: from 1 to 5 of 100 in 1.2 of 30 seconds.
    assert_eq!(reply.header("retry-after"), "2");
    assert!(reply.body.contains("\"capacity\""), "{}", reply.body);
}

#[tokio::test]
async fn without_a_workload_of_high_risk_nobody_gives_way() {
    let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
    large.now(Behaviour::Spent(
        "x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 60s\r\n",
        "large says",
    ));
    let mut table = table(small.port, large.port);
    table["workloads"][1]["risk"] = "Medium".into();
    let router = Harness::start(table).await;
    for _ in 0..3 {
        assert_eq!(steps(&router.ask(&body("intent")).await), "small:escalated(confidence) large:accepted");
    }
}

#[tokio::test]
async fn low_gives_way_where_half_of_the_endpoints_are_set_aside_and_medium_at_three_quarters() {
    let large = FakeUpstream::start(LARGE).await;
    let mut fakes = Vec::new();
    for behaviour in [Behaviour::Reset, Behaviour::Reset, SURE, SURE] {
        fakes.push(FakeUpstream::start(behaviour).await);
    }
    let mut table = table(1, large.port);
    table["tiers"]["small"]["backend"] =
        json!({"service": {"name": "small", "port": 80, "portName": null, "health": "/health"}});
    table["paths"]["up"]["steps"][0]["attempts"] = 4.into();
    table["workloads"][2]["path"] = "up".into();
    let router = Harness::start(table).await;
    let ready = fakes.iter().map(|fake| ([127, 0, 0, 1], fake.port).into()).collect();
    let key = ("ai".to_owned(), "small".to_owned(), String::new());
    router.addresses.send(BTreeMap::from([(key, ready)])).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let degraded = "small:skipped(Degraded) large:accepted";
    // Medium, until each of the two has failed five times in a row.
    while fakes[0].count() < 5 || fakes[1].count() < 5 {
        assert_eq!(steps(&router.ask(&body("draft")).await), "small:accepted");
    }
    assert_eq!(steps(&router.ask(&body("intent")).await), degraded);
    assert_eq!(steps(&router.ask(&body("draft")).await), "small:accepted");
    fakes[2].now(Behaviour::Reset);
    // It gets about every second one until it is set aside.
    for _ in 0..60 {
        assert_eq!(steps(&router.ask(&body("review")).await), "small:accepted");
    }
    assert_eq!(steps(&router.ask(&body("draft")).await), degraded);
    assert_eq!(steps(&router.ask(&body("review")).await), "small:accepted");
}

/// The small tier, left alone for a second after one failure, answers again.
async fn left_alone() -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(Behaviour::Status(500)).await, FakeUpstream::start(LARGE).await);
    let mut table = table(small.port, large.port);
    table["tiers"]["small"]["health"] = json!({
        "consecutiveFailures": 1, "errorRatio": 0.5, "windowMs": 30_000, "latencyLimitMs": null,
        "recoveryAfterMs": 1_000, "recoveryMaxAfterMs": 1_000, "recoveryProbes": 1
    });
    let router = Harness::start(table).await;
    router.ask(&body("intent")).await;
    small.now(SURE);
    (small, large, router)
}

#[tokio::test]
async fn a_tier_that_was_left_alone_is_tried_by_high_risk_first() {
    let (_small, _large, router) = left_alone().await;
    let begin = Instant::now();
    let high_first =
        async |model: &str| steps(&post(router.address, "k-finance", body(model).as_bytes()).await).to_owned();
    loop {
        assert!(begin.elapsed() < Duration::from_secs(5), "it is not tried again");
        if high_first("review").await == "small:accepted" {
            break;
        }
        let low = high_first("intent").await;
        assert_eq!(low, "small:skipped(Degraded) large:accepted", "Low came before High");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(high_first("intent").await, "small:accepted");
}

#[tokio::test]
async fn where_nobody_of_high_risk_comes_low_tries_a_little_later() {
    let (_small, _large, router) = left_alone().await;
    let begin = Instant::now();
    while steps(&router.ask(&body("intent")).await) != "small:accepted" {
        assert!(begin.elapsed() < Duration::from_secs(5), "it is not tried again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begin.elapsed() >= Duration::from_millis(1_150), "{:?}", begin.elapsed());
}
