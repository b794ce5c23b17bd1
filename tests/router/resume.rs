//! Committed streams that break off, and are taken up where they ended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::LARGE;
use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, Reply, body, table};

const TOKENS: usize = 60;

const fn counts(cut: Option<usize>, continues: bool) -> Behaviour {
    Behaviour::Counts { tokens: TOKENS, pause: Duration::from_millis(2), cut, continues }
}

/// A pool of these endpoints behind a path that commits after 8 tokens.
async fn pool(behaviours: &[Behaviour], how: Option<&str>, resume: bool) -> (Vec<FakeUpstream>, Harness) {
    let large = FakeUpstream::start(LARGE).await;
    let mut table = table(1, large.port);
    table["tiers"]["small"]["backend"] = serde_json::json!({"service": {
        "name": "small", "port": 80, "portName": null, "health": "/health", "continuation": how, "revision": "1"
    }});
    table["paths"]["up"]["commitAfterTokens"] = 8.into();
    table["paths"]["up"]["resume"] = resume.into();
    let router = Harness::start(table).await;
    let mut fakes = Vec::new();
    for behaviour in behaviours {
        fakes.push(FakeUpstream::start(behaviour.clone()).await);
    }
    let ready = fakes.iter().map(|fake| ([127, 0, 0, 1], fake.port).into()).collect();
    let key = ("ai".to_owned(), "small".to_owned(), String::new());
    router.addresses.send(BTreeMap::from([(key, ready)])).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    (fakes, router)
}

fn streamed(more: &str) -> String {
    body("intent").replacen('{', &format!("{{\"stream\":true,{more}"), 1)
}

fn events(reply: &Reply) -> Vec<serde_json::Value> {
    let events = reply.body.lines().filter_map(|line| line.strip_prefix("data: "));
    events.filter(|event| *event != "[DONE]").map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn content(reply: &Reply) -> String {
    let events = events(reply);
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

fn counted(to: usize) -> String {
    (0..to).map(|n| format!("t{n}")).collect::<Vec<_>>().join(" ")
}

async fn logged(router: &Harness, what: &str) {
    for _ in 0..200 {
        if router.log_text().contains(what) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} is not in {}", router.log_text());
}

#[tokio::test]
async fn a_broken_stream_goes_on_without_a_gap_or_doubled_text() {
    for how in ["Prefill", "ContinueFinalMessage"] {
        for cut in [9, 30, 59] {
            // One endpoint: it breaks, and comes back.
            let (fakes, router) = pool(&[counts(Some(cut), true)], Some(how), true).await;
            let reply = router.ask(&streamed(r#""stream_options":{"include_usage":true},"max_tokens":500,"#)).await;
            assert_eq!(content(&reply), counted(TOKENS), "{how} {cut}");
            assert!(reply.body.contains("data: [DONE]") && !reply.body.contains("error"), "{}", reply.body);
            let events = events(&reply);
            let of_first =
                |event: &serde_json::Value| event["id"] == events[0]["id"] && event["created"] == events[0]["created"];
            assert!(events.iter().all(of_first), "{}", reply.body);
            assert_eq!(events.iter().filter(|event| !event["choices"][0]["finish_reason"].is_null()).count(), 1);
            assert_eq!(events.iter().filter(|event| event["choices"][0]["delta"]["role"].is_string()).count(), 1);
            let usage = &events.last().unwrap()["usage"];
            assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&(10 + cut).into(), &110.into()));
            let asked = fakes[0].last_body.lock().unwrap().clone();
            assert!(asked.contains(&format!("\"max_tokens\":{}", 500 - cut)), "{asked}");
            assert_eq!(asked.contains("\"continue_final_message\":true"), how == "ContinueFinalMessage", "{asked}");
            logged(&router, "StreamBroken").await;
            logged(&router, "\"outcome\":\"accepted\"").await;
        }
    }
}

#[tokio::test]
async fn another_endpoint_takes_it_up_and_the_probe_is_made_once() {
    let (fakes, router) = pool(&[counts(Some(20), true), counts(Some(20), true)], Some("Prefill"), true).await;
    for _ in 0..3 {
        assert_eq!(content(&router.ask(&streamed("")).await), counted(TOKENS));
    }
    // Each stream is two requests, and the probe was two more.
    assert_eq!(fakes.iter().map(FakeUpstream::count).sum::<usize>(), 3 * 2 + 2);
}

#[tokio::test]
async fn a_tier_that_can_not_continue_ends_with_an_error() {
    let cases = [
        // The engine begins anew: the probe sees it.
        (counts(Some(20), false), Some("Prefill"), true, ""),
        (counts(Some(20), true), None, true, ""),
        (counts(Some(20), true), Some("Prefill"), false, ""),
        (counts(Some(20), true), Some("Prefill"), true, r#""frequency_penalty":0.5,"#),
        (counts(Some(20), true), Some("Prefill"), true, r#""logprobs":true,"#),
    ];
    for (behaviour, how, resume, more) in cases {
        let (_fakes, router) = pool(&[behaviour], how, resume).await;
        let reply = router.ask(&streamed(more)).await;
        assert_eq!(content(&reply), counted(20), "{more}");
        assert!(reply.body.contains("\"code\":\"stream_broken\"") && !reply.body.contains("[DONE]"), "{}", reply.body);
        assert!(!reply.body.contains("\"finish_reason\":\"stop\""), "{}", reply.body);
        logged(&router, "\"outcome\":\"stream_broken\"").await;
    }
}

#[tokio::test]
async fn an_answer_that_broke_at_its_token_limit_is_whole() {
    let (fakes, router) = pool(&[counts(Some(20), true)], Some("Prefill"), true).await;
    let reply = router.ask(&streamed(r#""max_tokens":20,"#)).await;
    assert_eq!(content(&reply), counted(20));
    assert!(reply.body.contains("\"finish_reason\":\"length\"") && reply.body.contains("[DONE]"), "{}", reply.body);
    assert_eq!(fakes[0].count(), 1);
}
