use super::*;
use crate::routing::counts::{Band, Counts, Taken, WorkloadCounts};

fn id(name: &str) -> Id {
    ("ml".to_owned(), name.to_owned())
}

/// A policy and its ready routers.
fn ready(policy: &str, pods: &[&str]) -> (String, BTreeSet<String>) {
    (policy.to_owned(), pods.iter().map(|pod| (*pod).to_owned()).collect())
}

/// Routers that report, and a clock.
struct World {
    concurrency: Concurrency,
    now: Instant,
    sequence: u64,
}

impl World {
    fn new() -> Self {
        let world = Self { concurrency: Concurrency::default(), now: Instant::now(), sequence: 0 };
        world.concurrency.listen(world.now);
        world
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn says(&mut self, policy: &str, pod: &str, tier: &str, counts: TierCounts) -> Vec<String> {
        let counts = Counts { tiers: [(tier.to_owned(), counts)].into(), ..Counts::default() };
        self.reports(policy, pod, counts)
    }

    fn reports(&mut self, policy: &str, pod: &str, counts: Counts) -> Vec<String> {
        self.sequence += 1;
        let (incarnation, sequence, stamp_ms) = (1, self.sequence, 3_600_000);
        let report = Report { pod: pod.to_owned(), incarnation, sequence, stamp_ms, counts, ..Report::default() };
        self.concurrency.report(&id(policy), &report, self.now)
    }

    fn of(&self, ready: &[(String, BTreeSet<String>)]) -> Result<f64, NotYet> {
        self.concurrency.of(&id("small"), ready, self.now)
    }

    fn idle(&self) -> u64 {
        let wanted = self.concurrency.idle_since(&id("small")).expect("it listens");
        self.now.duration_since(wanted).as_secs()
    }
}

fn busy(in_flight: u64, queued: u64) -> TierCounts {
    TierCounts { in_flight, queued, endpoints: 1, ..TierCounts::default() }
}

#[test]
fn routers_of_all_policies_that_use_a_tier_are_summed_once_each_has_spoken() {
    let mut world = World::new();
    let all = [ready("front", &["a", "b"]), ready("back", &["c"]), ready("other", &["d", "e"])];
    assert_eq!(Concurrency::default().of(&id("small"), &all, world.now), Err(NotYet::Deaf));
    assert!(matches!(world.of(&all), Err(NotYet::Silent { silent: None, .. })));
    world.says("front", "a", "small", busy(2, 1));
    world.says("back", "c", "small", busy(4, 0));
    let problem = world.of(&all).expect_err("b has not spoken").to_string();
    assert!(problem.starts_with("router pod b of RoutingPolicy ml/front is ready and has not reported"), "{problem}");
    world.says("front", "b", "small", busy(0, 0));
    // One of the other policy's routers is enough to know that its table does not have the tier.
    assert!(world.of(&all).is_err());
    world.says("other", "d", "large", busy(9, 0));
    assert_eq!(world.of(&all), Ok(7.0));
    // One that is not ready any more and ends its requests still counts.
    assert_eq!(world.of(&[ready("front", &["b"]), ready("back", &["c"])]), Ok(7.0));
    assert_eq!(world.of(&[]), Ok(0.0), "no policy, no requests");
}

#[test]
fn a_report_that_is_stale_is_an_error_and_not_a_zero() {
    let mut world = World::new();
    let all = [ready("front", &["a"])];
    world.says("front", "a", "small", busy(3, 0));
    world.wait(5);
    assert_eq!(world.of(&all), Ok(3.0));
    world.wait(1);
    let problem = world.of(&all).expect_err("it is silent").to_string();
    assert!(problem.ends_with("has not reported for 6 s"), "{problem}");
    // Its pod is gone: so are its requests.
    assert_eq!(world.of(&[ready("front", &[])]), Ok(0.0));
}

#[test]
fn a_moment_does_not_stand_for_ten_seconds_and_a_change_is_followed() {
    let mut world = World::new();
    let all = [ready("front", &["a"])];
    world.says("front", "a", "small", busy(0, 0));
    world.wait(1);
    world.says("front", "a", "small", busy(10, 0));
    let moment = world.of(&all).expect("a number");
    assert!((0.9..1.0).contains(&moment), "{moment}");
    for _ in 0..30 {
        world.wait(1);
        world.says("front", "a", "small", busy(10, 0));
    }
    let later = world.of(&all).expect("a number");
    assert!((9.5..=10.0).contains(&later), "{later}");
}

#[test]
fn calls_that_are_turned_away_count_as_what_would_be_in_flight() {
    let mut world = World::new();
    let all = [ready("front", &["a"])];
    let band = Band { calls: 100, micros: 400_000_000, ..Band::default() };
    // Five a second, of four seconds each.
    for second in 0..60 {
        let rejected = [("RateLimited".to_owned(), 1000 + 5 * second)].into();
        world.says("front", "a", "small", TierCounts { rejected, bands: vec![band], ..busy(1, 0) });
        world.wait(1);
    }
    let found = world.of(&all).expect("a number");
    assert!((20.0..23.0).contains(&found), "{found}");
    // The first report's thousand were counted before anybody listened.
    assert_eq!(world.idle(), 1);
}

#[test]
fn calls_that_found_nobody_count_and_those_that_failed_before_do_not() {
    let mut world = World::new();
    let all = [ready("front", &["a"])];
    let mut requests = |failed, endpoints| {
        world.says("front", "a", "small", TierCounts { failed, endpoints, ..TierCounts::default() });
        world.wait(1);
        world.of(&all)
    };
    assert_eq!([requests(1000, 1), requests(1010, 1), requests(1010, 0)], [Ok(0.0), Ok(0.0), Ok(0.0)]);
    // Of one second, in a mean of ten.
    assert_eq!(requests(1020, 0), Ok(1.0));
}

#[test]
fn another_process_of_a_pod_begins_anew_and_what_was_overtaken_is_not_believed() {
    let mut world = World::new();
    let all = [ready("front", &["a"])];
    let report = |incarnation, sequence, in_flight| {
        let counts = Counts { tiers: [("small".to_owned(), busy(in_flight, 0))].into(), ..Counts::default() };
        Report { pod: "a".to_owned(), incarnation, sequence, counts, ..Report::default() }
    };
    for (incarnation, sequence, in_flight, wanted) in [(1, 7, 4, 4.0), (1, 6, 9, 4.0), (2, 0, 2, 2.0), (1, 8, 9, 2.0)] {
        world.concurrency.report(&id("front"), &report(incarnation, sequence, in_flight), world.now);
        assert_eq!(world.of(&all), Ok(wanted));
    }
    world.wait(1);
    assert!(world.of(&all).is_ok());
}

#[test]
fn a_tier_is_wanted_while_requests_are_at_it_or_came_between_two_reports() {
    let mut world = World::new();
    assert_eq!(Concurrency::default().idle_since(&id("small")), None, "nobody listens");
    world.wait(7);
    assert_eq!(world.idle(), 7, "since it listens");
    world.says("front", "a", "small", busy(0, 0));
    assert_eq!(world.idle(), 7);
    world.says("front", "a", "small", busy(1, 0));
    assert_eq!(world.idle(), 0);
    world.wait(3);
    world.says("front", "a", "small", busy(0, 0));
    assert_eq!(world.idle(), 3);
    // An answer that came and went.
    let taken = |calls| {
        let workload = WorkloadCounts {
            tiers: [("small".to_owned(), Taken { calls, ..Taken::default() })].into(),
            ..WorkloadCounts::default()
        };
        Counts { workloads: [("chat".to_owned(), workload)].into(), tiers: [("small".to_owned(), busy(0, 0))].into() }
    };
    world.reports("front", "a", taken(1));
    assert_eq!(world.idle(), 0);
    world.wait(3);
    world.reports("front", "a", taken(1));
    assert_eq!(world.idle(), 3, "nothing new");
    // Nobody was there.
    world.says("front", "a", "small", TierCounts { failed: 2, endpoints: 0, ..TierCounts::default() });
    assert_eq!(world.idle(), 0);
    world.wait(3);
    // What a budget refused did not want it.
    let rejected = [("Budget".to_owned(), 5)].into();
    world.says("front", "a", "small", TierCounts { failed: 2, rejected, ..TierCounts::default() });
    assert_eq!(world.idle(), 3);
}

#[test]
fn a_tier_is_woken_once_after_a_silence() {
    let mut world = World::new();
    let cold = |count| TierCounts { rejected: [("Cold".to_owned(), count)].into(), ..busy(0, 0) };
    let nobody: [&str; 0] = [];
    assert_eq!(world.says("front", "a", "small", busy(0, 0)), nobody);
    world.wait(1);
    assert_eq!(world.says("front", "a", "small", busy(0, 1)), ["small"], "one waits");
    world.wait(1);
    assert_eq!(world.says("front", "b", "small", busy(1, 0)), nobody, "it is known");
    world.wait(4);
    assert_eq!(world.says("front", "a", "small", busy(1, 0)), nobody, "and was just now");
    world.says("front", "a", "small", cold(0));
    world.wait(20);
    assert_eq!(world.says("front", "a", "small", cold(0)), nobody);
    assert_eq!(world.says("front", "a", "small", cold(1)), ["small"], "one was stepped over");
    world.wait(20);
    assert_eq!(world.says("front", "a", "small", cold(1)), nobody, "nothing new");
}

#[test]
fn an_operator_that_begins_wakes_nobody_and_lets_nobody_sleep_too_soon() {
    let mut world = World::new();
    let counted = |failed| TierCounts { failed, ..busy(0, 0) };
    let wakes = |world: &World| world.concurrency.last_wanted(&id("small"));
    world.wait(9);
    world.says("front", "a", "small", counted(1000));
    assert_eq!((wakes(&world), world.idle()), (None, 0), "it may have been wanted just now");
    world.wait(2);
    world.says("front", "a", "small", counted(1000));
    assert_eq!((wakes(&world), world.idle()), (None, 2));
    // A process that has just begun has counted nothing before.
    let counts = Counts { tiers: [("small".to_owned(), counted(1))].into(), ..Counts::default() };
    let young = Report { pod: "b".to_owned(), incarnation: 9, stamp_ms: 900, counts, ..Report::default() };
    world.concurrency.report(&id("front"), &young, world.now);
    assert_eq!(wakes(&world), Some(world.now));
}

#[test]
fn one_policy_cannot_fill_the_memory() {
    let mut world = World::new();
    for pod in 0..2 * MOST.0 {
        let tiers = (0..2 * MOST.1).map(|tier| (tier.to_string(), busy(1, 0))).collect();
        world.reports("front", &pod.to_string(), Counts { tiers, ..Counts::default() });
    }
    let state = world.concurrency.state();
    let pods = &state.policies[&id("front")];
    assert!(pods.len() == MOST.0 && pods.values().all(|pod| pod.tiers.len() == MOST.1));
    let mut wanted = HashMap::new();
    for tier in 0..=MOST.2 as u64 {
        wanted_of(&mut wanted, &id("front"), &tier.to_string()).surely = Some(world.now + Duration::from_secs(tier));
    }
    assert!(wanted.len() == MOST.2 && !wanted.contains_key(&id("0")));
}
