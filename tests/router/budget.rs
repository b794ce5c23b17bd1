//! Budgets of clients and workloads: what is spent is refused, or answered by small tiers alone.

use serde_json::{Value, json};

use super::fake_upstream::FakeUpstream;
use super::harness::{Harness, body, table};
use super::{LARGE, SURE, UNSURE};

/// A request that may cost: 5 tokens of input at 1, and 10 of output at 2 a million, in 1e-9 of the currency.
fn bounded(model: &str) -> String {
    body(model).replace('{', r#"{"max_tokens":10,"#).replacen(r#"{"max_tokens":10,"role""#, r#"{"role""#, 1)
}

/// Workload `intent` may spend so much a month, in 1e-9 of the currency.
async fn router(
    amount: i64,
    on_exhausted: &str,
    change: impl FnOnce(&mut Value),
) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
    let mut table = table(small.port, large.port);
    table["workloads"][0]["budget"] = json!({"amount": amount, "per": "Month", "onExhausted": on_exhausted});
    change(&mut table);
    (small, large, Harness::start(table).await)
}

#[tokio::test]
async fn a_budget_that_is_spent_refuses_until_its_period_ends() {
    let (_small, large, router) = router(400_000, "Reject", |_| ()).await;
    let mut answered = 0;
    let refused = loop {
        let reply = router.ask(&bounded("intent")).await;
        if reply.status != 200 {
            break reply;
        }
        answered += 1;
        assert!(answered < 10_000, "nothing is ever spent");
    };
    assert!(answered > 0);
    assert_eq!(refused.status, 429);
    assert!(refused.body.contains("\"budget_exhausted\""), "{}", refused.body);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=31 * 86_400).contains(&wait), "{wait}");
    let before = large.count();
    for _ in 0..5 {
        router.ask(&bounded("intent")).await;
    }
    assert!(large.count() <= before + 1, "who is refused costs nothing");
    // Others have budgets of their own, or none.
    assert_eq!(router.ask(&bounded("review")).await.status, 200);
}

#[tokio::test]
async fn small_only_answers_with_small_tiers_when_a_budget_is_spent() {
    // Enough for one request at the large tier and none more.
    let (_small, large, router) = router(60_000, "SmallOnly", |table| {
        table["tiers"]["small"]["inputPrice"] = 0.into();
        table["tiers"]["small"]["outputPrice"] = 0.into();
    })
    .await;
    let mut last = String::new();
    for _ in 0..20 {
        let reply = router.ask(&bounded("intent")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        last = reply.header("x-smallfirst-steps").to_owned();
    }
    assert_eq!(last, "small:escalated(confidence) large:skipped(Budget)");
    assert!(large.count() < 20);
}

#[tokio::test]
async fn the_budget_of_a_client_counts_over_all_workloads() {
    let (_small, _large, router) = router(1_000_000_000, "Reject", |table| {
        table["clients"][0]["budget"] = json!({"amount": 300_000, "per": "Day", "onExhausted": "Reject"});
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(router.ask(&bounded("review")).await.status);
        statuses.push(router.ask(&bounded("intent")).await.status);
    }
    assert_eq!((statuses[0], statuses.last()), (200, Some(&429)), "{statuses:?}");
}

#[tokio::test]
async fn a_tier_that_costs_nothing_needs_no_budget_and_one_that_is_too_dear_is_skipped() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let mut table = table(small.port, large.port);
    for price in ["inputPrice", "cachedInputPrice", "outputPrice"] {
        table["tiers"]["small"][price] = 0.into();
    }
    table["workloads"][2]["budget"] = json!({"amount": 1, "per": "Hour", "onExhausted": "Reject"});
    let router = Harness::start(table).await;
    let reply = router.ask(&bounded("draft")).await;
    // Down, though the path's step for failures is entered for no failure.
    assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "large:skipped(Budget) small:accepted"));
}
