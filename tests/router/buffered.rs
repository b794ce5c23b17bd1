//! The bytes of all requests that a router holds are bounded.

use std::time::{Duration, Instant};

use super::SURE;
use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, table};

#[tokio::test]
async fn a_request_that_finds_no_room_is_told_so_and_later_finds_some() {
    let small = FakeUpstream::start(Behaviour::Slow(Duration::from_millis(300), "long")).await;
    let router = Harness::with(table(small.port, 1), |config| config.limits.max_buffered_bytes = Some(30_000)).await;
    let long = body("intent").replace("PROMPT-TEXT", &"x".repeat(20_000));
    let (first, second) = tokio::join!(router.ask(&long), async {
        let begin = Instant::now();
        while small.count() == 0 {
            assert!(begin.elapsed() < Duration::from_secs(5), "the first one is not asked for");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let refused = router.ask(&long).await;
        small.now(SURE);
        (refused, router.ask(&body("intent")).await)
    });
    let (refused, short) = second;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{}", refused.body);
    assert!(refused.body.contains("buffers_full"), "{}", refused.body);
    assert_eq!((first.status, short.status), (200, 200), "{} {}", first.body, short.body);
    assert_eq!(router.ask(&long).await.status, 200, "the first one gave its room back");
}
