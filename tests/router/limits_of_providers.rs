//! What providers say of their limits is obeyed: the tier is left alone for so long, and asked again after.

use std::time::{Duration, Instant};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body};
use super::{LARGE, SURE, pair};

const SET_ASIDE: &str = "small:skipped(Degraded) large:accepted";

/// Asks until the small tier answers again, and says how long that took.
async fn back(small: &FakeUpstream, router: &Harness) -> Duration {
    small.now(SURE);
    let begin = Instant::now();
    while router.ask(&body("intent")).await.header("x-smallfirst-steps") != "small:accepted" {
        assert!(begin.elapsed() < Duration::from_secs(10), "it is not asked again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begin.elapsed()
}

#[tokio::test]
async fn a_tier_with_nothing_left_is_left_alone_until_its_reset() {
    for lines in [
        "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1s\r\n",
        "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 1000ms\r\n",
    ] {
        let (small, _large, router) = pair(Behaviour::Spent(lines, "small says"), LARGE).await;
        // The answer that says so is an answer.
        assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted", "{lines}");
        let asked = small.count();
        assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), SET_ASIDE, "{lines}");
        assert_eq!(small.count(), asked, "it would be refused");
        back(&small, &router).await;
    }
}

#[tokio::test]
async fn a_pause_is_obeyed_to_the_millisecond() {
    let (small, _large, router) = pair(Behaviour::Limited("retry-after-ms: 700\r\nretry-after: 30\r\n"), LARGE).await;
    let begin = Instant::now();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(RateLimited) large:accepted");
    back(&small, &router).await;
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_limit_without_a_word_is_backed_off_from() {
    let (small, _large, router) = pair(Behaviour::Status(429), LARGE).await;
    let begin = Instant::now();
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:failed(RateLimited) large:accepted");
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), SET_ASIDE);
    assert_eq!(small.count(), 1);
    back(&small, &router).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_path_whose_tiers_are_all_at_their_limits_says_when_one_ends() {
    let (small, large, router) = pair(Behaviour::Busy(30), Behaviour::Busy(9)).await;
    // The first finds it out, the next is told what is known, High risk or not: by the tier that is free first.
    for workload in ["intent", "intent", "review"] {
        let reply = router.ask(&body(workload)).await;
        assert_eq!(reply.status, 429, "{}: {}", reply.head, reply.body);
        assert!(reply.body.contains("\"code\":\"capacity\""), "{}", reply.body);
        let seconds: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((5..=9).contains(&seconds), "{}", reply.head);
    }
    assert_eq!((small.count(), large.count()), (1, 1), "nobody is asked twice");
}

#[tokio::test]
async fn a_tier_that_broke_is_not_at_its_limit() {
    let (_small, _large, router) = pair(Behaviour::Status(500), Behaviour::Status(500)).await;
    let last = async || {
        for _ in 0..20 {
            router.ask(&body("intent")).await;
        }
        router.ask(&body("intent")).await
    };
    let reply = last().await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, ""), "{}", reply.body);
    assert!(reply.body.contains("no_eligible_tier"), "{}", reply.body);
}
