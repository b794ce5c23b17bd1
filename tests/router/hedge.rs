//! The next step beside a slow one: the first accepted answer is taken, seldom enough, and by the same rules as ever.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::explain;
use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, post, table};
use super::{LARGE, SURE};

const fn slow(millis: u64, says: &'static str) -> Behaviour {
    Behaviour::Slow(Duration::from_millis(millis), says)
}

/// A router whose small tier is answered for by the large one, with enough in the budget for a hedge or two. Its path has
/// time, so that a busy machine is not taken for a slow tier.
async fn hedging(hedge: Value, change: impl FnOnce(&mut Value)) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let mut table = table(small.port, large.port);
    table["paths"]["up"]["deadlineMs"] = 20_000.into();
    for step in table["paths"]["up"]["steps"].as_array_mut().unwrap() {
        step["timeoutMs"] = 5_000.into();
    }
    change(&mut table);
    let late = json!({"after": {"afterMs": 60_000}});
    table["paths"]["up"]["hedge"] = if hedge["after"].is_null() { hedge.clone() } else { late };
    let router = Harness::start(table.clone()).await;
    for _ in 0..50 {
        assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    }
    assert_eq!(large.count(), 0, "nobody was slow");
    // What was saved up is kept.
    if !hedge["after"].is_null() {
        table["paths"]["up"]["hedge"] = hedge;
        router.reload(table).await;
    }
    (small, large, router)
}

fn after(millis: u64) -> Value {
    json!({"after": {"afterMs": millis}})
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(2), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_next_step_answers_for_a_slow_one_which_is_given_up() {
    let (small, large, router) = hedging(after(60), |_| ()).await;
    small.now(Behaviour::Hang);
    let begin = Instant::now();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:cancelled large:accepted");
    assert_eq!((reply.header("x-smallfirst-tier"), large.count()), ("large", 1));
    assert!(begin.elapsed() >= Duration::from_millis(60), "{:?}", begin.elapsed());
    until("the slow step's connection stays open", || small.gone.load(Ordering::SeqCst) == 1).await;
    // 120 millionths for the large tier, and the input of the small one at least.
    let cost: f64 = reply.header("x-smallfirst-cost").trim_end_matches(" USD").parse().unwrap();
    assert!(cost > 0.00012 && cost < 0.00017, "{cost}");
    until("no line in the log", || router.log_text().contains("cancelled")).await;
    let log = router.log_text();
    let line: Value = serde_json::from_str(log.lines().find(|line| line.contains("cancelled")).unwrap()).unwrap();
    assert_eq!((&line["steps"][0]["verdict"], &line["steps"][1]["hedge"]), (&json!("cancelled"), &json!(true)));
    assert!(line["steps"][0]["input_tokens"].as_u64() > Some(0) && line["steps"][0]["hedge"].is_null(), "{line}");
    let metrics = get(router.admin, "/metrics").await.body;
    assert!(metrics.contains("smallfirst_router_hedges_total{workload=\"intent\",result=\"won\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_slow_step_that_is_first_all_the_same_is_taken() {
    let (small, large, router) = hedging(after(40), |_| ()).await;
    small.now(slow(120, "small says"));
    large.now(Behaviour::Hang);
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "large:cancelled small:accepted");
    assert_eq!(reply.header("x-smallfirst-tier"), "small");
    until("the hedge's connection stays open", || large.gone.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_answer_that_fails_its_gates_waits_for_the_hedge_which_is_asked_once() {
    let (small, large, router) = hedging(after(40), |_| ()).await;
    small.now(Behaviour::Flow { tokens: 40, logprob: -3.0, pause: Duration::from_millis(10), cut: None });
    large.now(slow(600, "large says"));
    let asked = body("intent").replacen('{', r#"{"stream":true,"#, 1);
    let begin = Instant::now();
    let reply = router.ask(&asked).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(confidence) large:accepted");
    assert_eq!(large.count(), 1);
    assert!(begin.elapsed() < Duration::from_millis(400 + 600), "one after the other: {:?}", begin.elapsed());
    // And one whose hedge failed before it.
    let (small, large, router) = hedging(after(40), |_| ()).await;
    small.now(Behaviour::Flow { tokens: 10, logprob: -3.0, pause: Duration::from_millis(10), cut: None });
    large.now(Behaviour::Status(500));
    let reply = router.ask(&asked).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(confidence) large:failed(ServerError)");
    assert_eq!((reply.status, reply.header("x-smallfirst-outcome"), large.count()), (200, "best-answer", 1));
}

#[tokio::test]
async fn at_most_one_request_in_twenty_is_hedged() {
    let (small, large, router) = hedging(after(10), |_| ()).await;
    small.now(slow(30, "small says"));
    for _ in 0..150 {
        assert_eq!(router.ask(&body("intent")).await.status, 200);
    }
    // A request that a busy machine saw no sooner than its answer is not hedged.
    let hedged = large.count();
    assert!((8..=10).contains(&hedged), "{hedged} of 200");
    let metrics = get(router.admin, "/metrics").await.body;
    let refused = metrics.lines().find(|line| line.contains("intent\",result=\"over_budget\"")).unwrap();
    assert!(refused.rsplit(' ').next().unwrap().parse::<usize>().unwrap() > 100, "{refused}");
}

#[tokio::test]
async fn a_hedge_is_asked_only_where_the_step_itself_may_be() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("it is not cleared", |table| table["tiers"]["large"]["dataClass"] = "Public".into()),
        ("it lacks a capability", |table| table["tiers"]["large"]["capabilities"] = json!(["Streaming"])),
        // The small answer costs 120,000 billionths, the input about ten thousand.
        ("it is too dear", |table| {
            table["paths"]["up"]["maxCost"] = 125_000.into();
            table["tiers"]["large"]["inputPrice"] = 100_000_000_000_u64.into();
        }),
    ];
    for (what, change) in changes {
        let (small, large, router) = hedging(after(20), change).await;
        small.now(slow(80, "small says"));
        assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted", "{what}");
        assert_eq!(large.count(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_tier_that_is_degraded_or_has_no_room_is_no_hedge() {
    let (small, large, router) = hedging(after(20), |_| ()).await;
    large.now(Behaviour::Status(500));
    for _ in 0..5 {
        router.ask(&body("draft")).await;
    }
    small.now(slow(80, "small says"));
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    assert_eq!(large.count(), 5);
    let (small, large, router) = hedging(after(20), |table| {
        table["tiers"]["large"]["account"] = json!({"name": "main", "quota": {"requestsPerMinute": 10}});
    })
    .await;
    for _ in 0..9 {
        assert_eq!(router.ask(&body("draft")).await.header("x-smallfirst-steps"), "large:accepted");
    }
    small.now(slow(80, "small says"));
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    assert_eq!(large.count(), 9, "there is room for one, which is less than a fifth");
}

#[tokio::test]
async fn no_tier_is_asked_twice() {
    // The second tier of a step is slow too, when the hedge of the first has failed.
    let other = FakeUpstream::start(slow(150, "other says")).await;
    let (small, large, router) = hedging(after(40), |table| {
        table["tiers"]["other"] = table["tiers"]["small"].clone();
        table["tiers"]["other"]["backend"]["url"]["baseUrl"] = format!("http://127.0.0.1:{}/v1", other.port).into();
        table["paths"]["up"]["steps"][0]["tiers"] = json!(["small", "other"]);
        table["paths"]["up"]["steps"][0]["timeoutMs"] = 500.into();
    })
    .await;
    small.now(Behaviour::Hang);
    large.now(Behaviour::Status(500));
    let reply = router.ask(&body("intent")).await;
    let steps = "small:failed(Timeout) large:failed(ServerError) small:accepted";
    assert_eq!((reply.header("x-smallfirst-steps"), large.count()), (steps, 1));
    // A step that the conversation has outgrown is slow, and the one after it has failed.
    let (small, large, router) = hedging(after(40), |table| {
        table["paths"]["up"]["sticky"] = json!({"prefix": {"ttlMs": 60_000}});
    })
    .await;
    small.now(Behaviour::Answer("small says", -3.0));
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-tier"), "large");
    small.now(slow(150, "small says"));
    large.now(Behaviour::Status(500));
    let messages = r#"[{"role":"user","content":"PROMPT-TEXT"},{"role":"assistant","content":"large says"},{"role":"user","content":"And?"}]"#;
    let reply = router.ask(&format!(r#"{{"model":"intent","messages":{messages}}}"#)).await;
    let steps = "small:skipped(Sticky) large:failed(ServerError) small:accepted";
    assert_eq!((reply.header("x-smallfirst-steps"), large.count()), (steps, 2));
}

/// So many in 1,000 requests may escalate.
fn escalating(table: &mut Value, thousandths: u64) {
    table["paths"]["up"]["escalationLimit"] =
        json!({"ratio": thousandths * 1_000_000, "windowMs": 600_000, "onExceeded": "BestAnswer"});
}

#[tokio::test]
async fn a_hedge_needs_leave_to_escalate() {
    let (small, large, router) = hedging(after(40), |table| escalating(table, 1)).await;
    small.now(slow(1_000, "small says"));
    let first = router.ask(&body("intent")).await;
    assert_eq!((first.header("x-smallfirst-tier"), large.count()), ("large", 1));
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    assert_eq!(large.count(), 1);
}

#[tokio::test]
async fn a_hedge_that_was_in_vain_gives_back_its_own_leave_and_no_other() {
    let last = FakeUpstream::start(Behaviour::Hang).await;
    let (small, large, router) = hedging(after(40), |table| {
        escalating(table, 36);
        table["paths"]["up"]["sticky"] = json!({"prefix": {"ttlMs": 600_000}});
        table["tiers"]["last"] = table["tiers"]["large"].clone();
        table["tiers"]["last"]["backend"]["url"]["baseUrl"] = format!("http://127.0.0.1:{}/v1", last.port).into();
        let mut step = table["paths"]["up"]["steps"][1].clone();
        (step["name"], step["tiers"]) = ("last".into(), json!(["last"]));
        table["paths"]["up"]["steps"].as_array_mut().unwrap().push(step);
    })
    .await;
    // Fifty requests, and 36 in 1,000: the first two escalations are less than one and two of them.
    small.now(Behaviour::Answer("small says", -3.0));
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-tier"), "large");
    // The second is a turn that starts where the first ended, slowly, with a hedge in vain.
    large.now(slow(120, "large says"));
    let messages = r#"[{"role":"user","content":"PROMPT-TEXT"},{"role":"assistant","content":"large says"},{"role":"user","content":"And?"}]"#;
    let reply = router.ask(&format!(r#"{{"model":"intent","messages":{messages}}}"#)).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:skipped(Sticky) last:cancelled large:accepted");
    let reply = router.ask(&body("intent").replace("PROMPT", "OTHER")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(confidence) large:skipped(EscalationLimit)");
}

#[tokio::test]
async fn a_percentile_is_of_what_the_step_took_before() {
    let (small, large, router) = hedging(json!({"percentile": {"percentile": 90}}), |_| ()).await;
    let (_, explained) = explain::ask(&router, r#"{"client":"finance","model":"intent"}"#).await;
    let bounds = [&explained["steps"][0]["hedged_after_ms"], &explained["steps"][1]["hedged_after_ms"]];
    assert!(bounds[0].is_u64() && bounds[1].is_null(), "{explained}");
    small.now(Behaviour::Hang);
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:cancelled large:accepted");
    assert_eq!(large.count(), 1);
}

#[tokio::test]
async fn a_stream_that_flows_is_not_hedged() {
    let (small, large, router) = hedging(after(700), |table| {
        table["paths"]["up"]["commitAfterTokens"] = 5.into();
    })
    .await;
    small.now(Behaviour::Flow { tokens: 100, logprob: -0.01, pause: Duration::from_millis(10), cut: None });
    let reply = router.ask(&body("intent").replacen('{', r#"{"stream":true,"#, 1)).await;
    assert!(reply.body.contains("t99") && reply.body.contains("[DONE]"), "{}", reply.body);
    assert_eq!((reply.header("x-smallfirst-steps"), large.count()), ("small:accepted", 0));
}

#[tokio::test]
async fn a_client_that_leaves_gives_both_up() {
    let (small, large, router) = hedging(after(30), |_| ()).await;
    small.now(Behaviour::Hang);
    large.now(Behaviour::Hang);
    let address = router.address;
    let asking = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    until("there was no hedge", || large.count() == 1).await;
    asking.abort();
    let both = || small.gone.load(Ordering::SeqCst) == 1 && large.gone.load(Ordering::SeqCst) == 1;
    until("a call was not cancelled", both).await;
    until("no line in the log", || router.log_text().contains("client_gone")).await;
    let log = router.log_text();
    let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(line["steps"].as_array().unwrap().len(), 2, "{line}");
}
