//! When tiers and endpoints are left alone: by the settings that the table has for each tier.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, table};
use super::{LARGE, SURE};

const DEGRADED: &str = "small:skipped(Degraded) large:accepted";
const SMALL: &str = "small:accepted";

/// What is not said of health is as it stands by default.
fn health(given: &Value) -> Value {
    let mut health = json!({
        "consecutiveFailures": 5, "errorRatio": 0.5, "windowMs": 30_000, "latencyLimitMs": null,
        "recoveryAfterMs": 5_000, "recoveryMaxAfterMs": 120_000, "recoveryProbes": 1
    });
    for (field, value) in given.as_object().unwrap() {
        health[field] = value.clone();
    }
    health
}

/// Endpoints of `small`, whose health is judged so; one is a provider, several are behind a Service.
async fn router(behaviours: &[Behaviour], given: Value) -> (Vec<FakeUpstream>, FakeUpstream, Harness) {
    let large = FakeUpstream::start(LARGE).await;
    let mut fakes = Vec::new();
    for behaviour in behaviours {
        fakes.push(FakeUpstream::start(behaviour.clone()).await);
    }
    let mut table = table(fakes[0].port, large.port);
    table["tiers"]["small"]["health"] = health(&given);
    table["paths"]["up"]["deadlineMs"] = 10_000.into();
    table["paths"]["up"]["steps"][0]["timeoutMs"] = 5_000.into();
    table["paths"]["up"]["steps"][0]["attempts"] = 3.into();
    if fakes.len() > 1 {
        table["tiers"]["small"]["backend"] =
            json!({"service": {"name": "small", "port": 80, "portName": null, "health": "/health"}});
    }
    let router = Harness::start(table).await;
    let ready = fakes.iter().map(|fake| ([127, 0, 0, 1], fake.port).into()).collect();
    let key = ("ai".to_owned(), "small".to_owned(), String::new());
    router.addresses.send(BTreeMap::from([(key, ready)])).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    (fakes, large, router)
}

async fn steps(router: &Harness) -> String {
    router.ask(&body("intent")).await.header("x-smallfirst-steps").to_owned()
}

#[tokio::test]
async fn as_many_failures_in_a_row_as_the_tier_says_and_its_pause() {
    let given = json!({"consecutiveFailures": 2, "recoveryAfterMs": 300});
    let (fakes, _large, router) = router(&[Behaviour::Status(500)], given).await;
    for _ in 0..2 {
        assert_eq!(steps(&router).await, "small:failed(ServerError) large:accepted");
    }
    fakes[0].now(SURE);
    let begin = Instant::now();
    assert_eq!(steps(&router).await, DEGRADED);
    while steps(&router).await != SMALL {
        assert!(begin.elapsed() < Duration::from_secs(5), "it is not asked again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begin.elapsed() >= Duration::from_millis(250), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_tier_whose_answers_begin_late_is_degraded() {
    let slow = Behaviour::Slow(Duration::from_millis(100), "small says");
    let (fakes, _large, router) = router(&[slow], json!({"latencyLimitMs": 50})).await;
    for _ in 0..5 {
        // A late answer is an answer.
        assert_eq!(steps(&router).await, SMALL);
    }
    assert_eq!(steps(&router).await, DEGRADED);
    assert_eq!(fakes[0].count(), 5);
}

#[tokio::test]
async fn a_stream_that_begins_in_time_is_not_late_however_long_it_is() {
    let flow = Behaviour::Flow { tokens: 60, logprob: -0.01, pause: Duration::from_millis(10), cut: None };
    let (fakes, _large, router) = router(&[flow], json!({"latencyLimitMs": 500, "consecutiveFailures": 1})).await;
    let asked = body("intent").replacen('{', r#"{"stream":true,"#, 1);
    for _ in 0..3 {
        assert_eq!(router.ask(&asked).await.header("x-smallfirst-steps"), SMALL);
    }
    assert_eq!(fakes[0].count(), 3);
}

#[tokio::test]
async fn a_late_endpoint_is_set_aside_but_never_more_than_half_of_them() {
    let slow = || Behaviour::Slow(Duration::from_millis(300), "small says");
    let given = json!({"latencyLimitMs": 200, "consecutiveFailures": 3});
    let (fakes, large, router) = router(&[slow(), SURE, SURE], given).await;
    for _ in 0..40 {
        assert_eq!(steps(&router).await, SMALL);
    }
    assert_eq!((fakes[0].count(), large.count()), (3, 0));
    // All are late now: the first is set aside already, and who else is left stays.
    fakes.iter().for_each(|fake| fake.now(slow()));
    for _ in 0..10 {
        assert_eq!(steps(&router).await, SMALL);
    }
    let counts: Vec<usize> = fakes.iter().map(FakeUpstream::count).collect();
    assert_eq!((counts[0], large.count()), (3, 0), "{counts:?}");
}

#[tokio::test]
async fn of_endpoints_that_fail_half_of_the_time_one_stays() {
    let flaky = || Behaviour::Flaky(2, "small says");
    let (fakes, large, router) = router(&[flaky(), flaky(), SURE], json!({})).await;
    for _ in 0..80 {
        assert_eq!(steps(&router).await, SMALL);
    }
    let counts = [fakes[0].count(), fakes[1].count()];
    // Six of eleven is the first time that half of ten have failed.
    assert!(counts.iter().min() == Some(&11) && counts.iter().max() > Some(&20), "{counts:?}");
    assert_eq!(large.count(), 0);
}
