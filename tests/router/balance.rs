//! Several endpoints of one tier: how requests spread, and what is said of those that fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, post, table};
use super::{LARGE, SURE};

/// The table of the harness with `small` behind a Service.
fn behind_service(large: u16) -> serde_json::Value {
    let mut table = table(1, large);
    table["tiers"]["small"]["backend"] =
        serde_json::json!({"service": {"name": "small", "port": 80, "portName": null, "health": "/health"}});
    table
}

/// Three endpoints of `small`, and the router in front of them.
async fn three(behaviours: [Behaviour; 3]) -> (Vec<FakeUpstream>, FakeUpstream, Harness) {
    let mut fakes = Vec::new();
    for behaviour in behaviours {
        fakes.push(FakeUpstream::start(behaviour).await);
    }
    let large = FakeUpstream::start(LARGE).await;
    let router = Harness::start(behind_service(large.port)).await;
    ready(&router, &fakes).await;
    (fakes, large, router)
}

/// Says that these are the endpoints of `small`.
async fn ready(router: &Harness, fakes: &[FakeUpstream]) {
    let ready = fakes.iter().map(|fake| ([127, 0, 0, 1], fake.port).into()).collect();
    let key = ("ai".to_owned(), "small".to_owned(), String::new());
    router.addresses.send(BTreeMap::from([(key, ready)])).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Sends requests from several clients, each its own one after the other. All must be answered.
async fn load(router: &Harness, clients: usize, each: usize) {
    let address = router.address;
    let client = move || async move {
        for _ in 0..each {
            assert_eq!(post(address, "k-finance", body("intent").as_bytes()).await.status, 200);
        }
    };
    let clients: Vec<_> = (0..clients).map(|_| tokio::spawn(client())).collect();
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn requests_spread_over_endpoints_and_keep_off_a_slow_one() {
    let slow = || Behaviour::Slow(Duration::from_millis(200), "small says");
    let (fakes, large, router) = three([slow(), slow(), slow()]).await;
    load(&router, 30, 4).await;
    let counts: Vec<usize> = fakes.iter().map(FakeUpstream::count).collect();
    assert_eq!(counts.iter().sum::<usize>(), 120, "{counts:?}");
    // Two choices: closer to 40 each than chance alone would be.
    assert!(counts.iter().all(|count| (30..=50).contains(count)), "{counts:?}");
    fakes[1].now(SURE);
    fakes[2].now(SURE);
    load(&router, 8, 30).await;
    let to_slow = fakes[0].count() - counts[0];
    assert!(to_slow < 40, "{to_slow} of 240 went to the slow endpoint");
    assert_eq!(large.count(), 0);
}

#[tokio::test]
async fn an_endpoint_at_its_limit_leaves_its_requests_to_another() {
    let (fakes, large, router) = three([Behaviour::Busy(30), SURE, SURE]).await;
    for _ in 0..40 {
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted");
    }
    assert_eq!((fakes[0].count(), large.count()), (1, 0), "it is left alone for as long as it says");
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request() {
    let (fakes, large, router) = three([Behaviour::Reset, SURE, SURE]).await;
    for _ in 0..80 {
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted");
    }
    // Its circuit opens at the fifth failure.
    assert_eq!((fakes[0].count(), large.count()), (5, 0));
}

#[tokio::test]
async fn retries_are_a_small_share_of_the_requests() {
    let flaky = || Behaviour::Flaky(4, "small says");
    let (fakes, large, router) = three([flaky(), flaky(), flaky()]).await;
    // A quarter fails and would be tried again: more than 200. The budget is a tenth, and ten a second for ten seconds.
    load(&router, 4, 200).await;
    let metric = |text: &str, result: &str| {
        let name = format!("smallfirst_router_retries_total{{tier=\"small\",result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<usize>().ok()).unwrap_or_default()
    };
    let metrics = get(router.admin, "/metrics").await.body;
    let (made, refused) = (metric(&metrics, "made"), metric(&metrics, "over_budget"));
    let asked: usize = fakes.iter().map(FakeUpstream::count).sum();
    // A window begins anew every ten seconds, and a busy machine may take more than one.
    assert!((100..=282).contains(&made) && refused > 0, "{made} of 800, {refused} refused");
    assert!(asked <= 800 + made, "{asked} asked, {made} again");
    assert!(large.count() >= refused, "the next step takes over: {} for {refused}", large.count());
}

#[tokio::test]
async fn a_tier_whose_endpoints_are_all_set_aside_is_degraded() {
    let (fakes, large, router) = three([SURE, SURE, SURE]).await;
    // A request that is too long speaks for the tier, which answered, but not for an endpoint: only those open.
    for round in 0..50 {
        let behaviour = if round % 4 == 0 { Behaviour::Status(500) } else { Behaviour::TooLong };
        fakes.iter().for_each(|fake| fake.now(behaviour.clone()));
        let reply = router.ask(&body("intent")).await;
        assert!(!reply.header("x-smallfirst-steps").contains("Unreachable"), "{round}: {}", reply.head);
    }
    let asked: usize = fakes.iter().map(FakeUpstream::count).sum();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:skipped(Degraded) large:accepted");
    assert_eq!(fakes.iter().map(FakeUpstream::count).sum::<usize>(), asked);
    assert_eq!(large.count(), 51);
}

#[tokio::test]
async fn a_tier_without_endpoints_is_asked_as_soon_as_it_has_one() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let router = Harness::start(behind_service(large.port)).await;
    for _ in 0..20 {
        let reply = router.ask(&body("intent")).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(Unreachable) large:accepted");
    }
    ready(&router, &[small]).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
}

#[tokio::test]
async fn what_is_left_of_a_deadline_is_no_proof_against_a_tier() {
    let small = FakeUpstream::start(Behaviour::Hang).await;
    let large = FakeUpstream::start(Behaviour::Slow(Duration::from_millis(150), "large says")).await;
    let mut given = table(small.port, large.port);
    given["paths"]["up"]["deadlineMs"] = 450.into();
    let router = Harness::start(given).await;
    // The first tier takes 400 of 450 ms, and the second needs 150.
    for _ in 0..5 {
        assert_eq!(router.ask(&body("intent")).await.status, 504);
    }
    let reply = router.ask(&body("draft")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "large:accepted");
}

/// A table whose steps have the time that a frozen endpoint takes to be known as such.
fn patient(large: u16) -> serde_json::Value {
    let mut given = behind_service(large);
    given["paths"]["up"]["deadlineMs"] = 20_000.into();
    for step in given["paths"]["up"]["steps"].as_array_mut().unwrap() {
        step["timeoutMs"] = 10_000.into();
    }
    given
}

#[tokio::test]
async fn a_frozen_endpoint_loses_nobody_and_is_set_aside() {
    let (fakes, large, router) = three([SURE, SURE, SURE]).await;
    router.reload(patient(large.port)).await;
    load(&router, 6, 5).await;
    fakes[0].now(Behaviour::Frozen);
    let begin = Instant::now();
    load(&router, 30, 1).await;
    // Half a second of silence, 0.3 s to say that it lives, and the answer of another.
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    let asked = fakes[0].count();
    load(&router, 10, 10).await;
    assert_eq!((fakes[0].count(), large.count()), (asked, 0), "it is not asked again at once");
}

#[tokio::test]
async fn a_tier_that_is_frozen_as_a_whole_is_stepped_over() {
    let frozen = || Behaviour::Frozen;
    let (_fakes, large, router) = three([frozen(), frozen(), frozen()]).await;
    router.reload(patient(large.port)).await;
    let begin = Instant::now();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(ServerError) large:accepted");
    assert!(begin.elapsed() < Duration::from_millis(2500), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_slow_answer_is_not_asked_for_twice() {
    let slow = || Behaviour::Slow(Duration::from_millis(1800), "small says");
    let (fakes, large, router) = three([slow(), slow(), slow()]).await;
    router.reload(patient(large.port)).await;
    load(&router, 6, 1).await;
    let asked: usize = fakes.iter().map(FakeUpstream::count).sum();
    assert_eq!((asked, large.count()), (6, 0));
}
