//! Tiers that are scaled to zero: stepped over or waited for, and reported either way, so that they are woken.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smallfirst::routing::counts::{Counts, TierCounts};

use super::counts::{Reporting, reporting};
use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Reply, body, get, post};
use super::{LARGE, SURE, explain};

/// `small` is a pool that may be scaled to zero, and is: it has no endpoint.
async fn cold(mode: &str, change: impl FnOnce(&mut Value)) -> (FakeUpstream, FakeUpstream, Reporting) {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let all = reporting(&small, &large, |table| {
        table["tiers"]["small"]["scalesToZero"] = true.into();
        table["tiers"]["small"]["backend"] =
            json!({"service": {"name": "small", "port": 80, "portName": null, "health": null}});
        for path in ["up", "down"] {
            table["paths"][path]["coldTier"] = mode.into();
            table["paths"][path]["deadlineMs"] = 10_000.into();
        }
        table["paths"]["up"]["steps"][0]["timeoutMs"] = 5_000.into();
        change(table);
    });
    let all = all.await;
    (small, large, all)
}

/// Gives `small` this endpoint, and waits until the router has it.
async fn wake(all: &mut Reporting, fake: &FakeUpstream) {
    let key = ("ai".to_owned(), "small".to_owned(), String::new());
    let at: SocketAddr = ([127, 0, 0, 1], fake.port).into();
    all.router.addresses.send(BTreeMap::from([(key, vec![at])])).unwrap();
    all.desk.counts(|counts| small_of(counts).endpoints == 1).await;
}

fn small_of(counts: &Counts) -> TierCounts {
    counts.tiers.get("small").cloned().unwrap_or_default()
}

fn stepped_over(counts: &Counts) -> u64 {
    small_of(counts).rejected.get("Cold").copied().unwrap_or_default()
}

fn steps(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.header("x-smallfirst-steps"))
}

#[tokio::test]
async fn a_cold_tier_is_stepped_over_at_once_and_counted_until_it_is_awake() {
    let (small, _large, mut all) = cold("Skip", |_| ()).await;
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(steps(&all.router.ask(&body("intent")).await), (200, "small:skipped(Cold) large:accepted"));
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let counts = all.desk.counts(|counts| stepped_over(counts) == 10).await;
    assert_eq!(small_of(&counts).queued, 0);
    wake(&mut all, &small).await;
    // Nothing was held against it while it was away.
    assert_eq!(steps(&all.router.ask(&body("intent")).await), (200, "small:accepted"));
}

#[tokio::test]
async fn requests_wait_for_a_cold_tier_and_are_answered_when_it_is_awake() {
    let (small, large, mut all) = cold("Wait", |_| ()).await;
    let address = all.router.address;
    let ask = move || tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    let asked = [ask(), ask(), ask()];
    all.desk.counts(|counts| small_of(counts).queued == 3).await;
    let (_, explained) = explain::ask(&all.router, r#"{"client": "finance", "model": "intent"}"#).await;
    assert!(explained.to_string().contains("the request waits for it"), "{explained}");
    wake(&mut all, &small).await;
    for asked in asked {
        assert_eq!(steps(&asked.await.unwrap()), (200, "small:accepted"));
    }
    let counts = all.desk.counts(|counts| small_of(counts).queued == 0).await;
    assert_eq!((stepped_over(&counts), small.count(), large.count()), (0, 3, 0));
}

#[tokio::test]
async fn a_request_that_meets_a_cold_tier_is_reported_at_once() {
    for (mode, is_told) in [
        ("Wait", (|tier| tier.queued > 0) as fn(TierCounts) -> bool),
        ("Skip", |tier| tier.rejected.contains_key("Cold")),
    ] {
        let (_small, _large, mut all) = cold(mode, |_| ()).await;
        all.desk.next_ms.store(10_000, Ordering::Relaxed);
        // From now on it reports every ten seconds.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (address, begin) = (all.router.address, Instant::now());
        let asked = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
        all.desk.counts(|counts| is_told(small_of(counts))).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{mode}: {:?}", begin.elapsed());
        asked.abort();
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_step_may_take() {
    let (_small, _large, mut all) =
        cold("Wait", |table| table["paths"]["up"]["steps"][0]["timeoutMs"] = 300.into()).await;
    let begin = Instant::now();
    assert_eq!(steps(&all.router.ask(&body("intent")).await), (200, "small:skipped(Cold) large:accepted"));
    assert!((250..2_000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    all.desk.counts(|counts| stepped_over(counts) == 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_waits_no_more() {
    let (_small, _large, mut all) = cold("Wait", |_| ()).await;
    let address = all.router.address;
    let asked = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    all.desk.counts(|counts| small_of(counts).queued == 1).await;
    asked.abort();
    all.desk.counts(|counts| small_of(counts).queued == 0).await;
}

#[tokio::test]
async fn a_cold_tier_is_unavailable_as_the_path_says() {
    let (_small, large, all) = cold("Skip", |table| {
        table["paths"]["up"]["steps"][1]["entry"] = "FailoverOnly".into();
        table["paths"]["up"]["direction"] = "UpThenDown".into();
    })
    .await;
    assert_eq!(steps(&all.router.ask(&body("intent")).await), (200, "small:skipped(Cold) large:accepted"));
    // Nobody is left to ask: that is said, with what each step did.
    large.now(Behaviour::Status(500));
    let reply = all.router.ask(&body("intent")).await;
    assert_eq!(reply.status, 502, "{}", reply.body);
    assert!(reply.body.contains("small:skipped(Cold) large:failed(ServerError)"), "{}", reply.body);
    assert!(get(all.router.admin, "/metrics").await.body.contains("reason=\"Cold\""));
}
