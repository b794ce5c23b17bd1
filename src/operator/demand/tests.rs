//! Generated histories: routers that restart, gaps, operators that come and go. What is known in the end must be what
//! happened.

use proptest::prelude::*;

use super::*;
use crate::routing::counts::{Taken, Verdicts, WorkloadCounts};

/// A time far from any epoch, in the middle of an hour.
const BEGIN: i64 = 490_000 * 3600 + 1800;

/// A router's process.
#[derive(Clone, Debug)]
struct Router {
    incarnation: u64,
    began: i64,
    counts: Counts,
}

impl Router {
    fn new(incarnation: u64, began: i64) -> Self {
        Self { incarnation, began, counts: Counts::default() }
    }

    /// So many requests, of which every fourth fails its gate. A request takes 100 tokens and makes 20; it costs 5.
    fn serve(&mut self, requests: u64) {
        let workload = self.counts.workloads.entry("chat".to_owned()).or_default();
        workload.offered += requests;
        workload.answered += requests;
        let verdicts: &mut Verdicts = workload.steps.entry("first".to_owned()).or_default();
        let failed_before = verdicts.judged / 4;
        verdicts.judged += requests;
        verdicts.failed += verdicts.judged / 4 - failed_before;
        let taken: &mut Taken = workload.tiers.entry("small".to_owned()).or_default();
        taken.calls += requests;
        taken.input += 100 * requests;
        taken.output += 20 * requests;
        taken.cost += 5 * requests;
    }

    fn report(&self, demand: &mut Demand, pod: &str, at: i64) -> bool {
        let sequence = u64::try_from(at).unwrap();
        let heard = Heard { pod, incarnation: self.incarnation, sequence, age: at - self.began, at };
        demand.report(heard, &self.counts)
    }
}

/// Near misses come from the same reports as verdicts, and fade with them.
#[test]
fn near_misses_are_a_part_of_the_answers_that_were_judged() {
    let (mut demand, mut router) = (Demand::default(), Router::new(1, 0));
    let press = |router: &mut Router, bin: usize, count: u64| {
        let workload = router.counts.workloads.get_mut("chat").unwrap();
        workload.steps.get_mut("first").unwrap().misses.0[bin] += count;
        workload.under_pressure += count;
    };
    router.serve(400);
    press(&mut router, 0, 40);
    router.report(&mut demand, "a", 10);
    let misses = |demand: &Demand| {
        let known = demand.escalation("chat", "first").unwrap();
        [0, 2, 11].map(|bin| (known.misses[bin].share * 1e4).round() / 1e4)
    };
    assert_eq!(misses(&demand), [0.1, 0.1, 0.1]);
    router.serve(400);
    press(&mut router, 2, 80);
    router.report(&mut demand, "a", 11);
    // What came a second before weighs a little less.
    let [near, wider, all] = misses(&demand);
    assert!((0.049..0.05).contains(&near) && (0.15..0.151).contains(&wider) && wider == all, "{near} {wider} {all}");
    assert_eq!(figures(&demand).under_pressure, 120);
    let text = demand.to_store(20).text().unwrap();
    let restored = Demand::restore(serde_json::from_str(&text).unwrap());
    assert_eq!(figures(&restored), figures(&demand));
}

/// An operator that knew of no pressure wrote five numbers.
#[test]
fn figures_that_an_older_operator_wrote_are_read() {
    let sums: Sums = serde_json::from_str("[5,4,3,2,1]").unwrap();
    assert_eq!(sums, Sums { offered: 5, answered: 4, cost: 3, judged: 2, failed: 1, under_pressure: 0 });
    assert_eq!(serde_json::to_string(&sums).unwrap(), "[5,4,3,2,1]");
}

fn figures(demand: &Demand) -> Sums {
    demand.figures().get("chat").map(|figures| figures.0).unwrap_or_default()
}

/// What happens in a second.
#[derive(Clone, Copy, Debug)]
enum Event {
    Serve {
        router: usize,
        requests: u64,
    },
    Report {
        router: usize,
    },
    /// The router's process ends, after its last report, and another begins.
    RestartRouter {
        router: usize,
    },
    /// The operator writes down what it knows and is replaced.
    RestartOperator,
    /// Nothing is heard for so long, but requests are served.
    Gap {
        seconds: i64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3_usize, 0..200_u64).prop_map(|(router, requests)| Event::Serve { router, requests }),
        8 => (0..3_usize).prop_map(|router| Event::Report { router }),
        1 => (0..3_usize).prop_map(|router| Event::RestartRouter { router }),
        1 => Just(Event::RestartOperator),
        1 => (1..900_i64).prop_map(|seconds| Event::Gap { seconds }),
    ]
}

proptest! {
    /// Whatever restarts and is lost, in the end every request is counted once, and so is all that it came to.
    #[test]
    fn nothing_is_lost_and_nothing_counted_twice(events in prop::collection::vec(event(), 1..200)) {
        let mut demand = Demand::default();
        let mut routers: Vec<Router> = (0..3).map(|n| Router::new(n + 1, BEGIN)).collect();
        let (mut now, mut served, mut next) = (BEGIN, 0, 10);
        let pod = |router: usize| format!("pod-{router}");
        for event in events {
            now += 1;
            match event {
                Event::Serve { router, requests } => {
                    routers[router].serve(requests);
                    served += requests;
                }
                Event::Report { router } => drop(routers[router].report(&mut demand, &pod(router), now)),
                Event::RestartRouter { router } => {
                    let old = routers[router].clone();
                    old.report(&mut demand, &pod(router), now);
                    next += 1;
                    routers[router] = Router::new(next, now);
                    // One that was overtaken on its way.
                    now += 1;
                    routers[router].report(&mut demand, &pod(router), now);
                    prop_assert!(!old.report(&mut demand, &pod(router), now));
                }
                Event::RestartOperator => {
                    let text = demand.to_store(now).text().unwrap();
                    demand = Demand::restore(serde_json::from_str(&text).unwrap());
                }
                Event::Gap { seconds } => now += seconds,
            }
        }
        now += 1;
        for (router, each) in routers.iter().enumerate() {
            each.report(&mut demand, &pod(router), now);
            prop_assert!(!each.report(&mut demand, &pod(router), now + 1), "the same again is no news");
        }
        let figures = figures(&demand);
        prop_assert_eq!((figures.offered, figures.answered, figures.cost), (served, served, 5 * served));
        prop_assert_eq!(figures.judged, served);
        prop_assert!(figures.failed <= served / 4 && figures.failed + 100 >= served / 4, "{figures:?}");
        if served > 0 {
            // Unless every process that served is gone, and the operator too that heard it.
            let ratio = demand.escalation("chat", "first").map_or(0.25, |known| known.ratio);
            prop_assert!((0.0..=1.0).contains(&ratio));
            let known = demand.takes("chat", "small");
            let takes = known.unwrap_or(Takes { input_tokens: 100.0, output_tokens: 20.0, ..Takes::default() });
            prop_assert!((takes.input_tokens - 100.0).abs() < 1e-6 && (takes.output_tokens - 20.0).abs() < 1e-6);
        }
    }

    /// A steady load is measured as what it is through gaps and restarts, once the window has passed.
    #[test]
    fn a_steady_rate_is_found_whatever_is_lost(
        rate in 1_u64..50, gap in 2_i64..600, at in 100_i64..900, operator: bool, router: bool,
    ) {
        let mut demand = Demand::default();
        let mut one = Router::new(1, BEGIN);
        for second in 1..1800_i64 {
            let now = BEGIN + second;
            one.serve(rate);
            if second == at {
                if router {
                    one.report(&mut demand, "a", now);
                    one = Router::new(2, now);
                }
                if operator {
                    demand = Demand::restore(demand.to_store(now));
                }
            }
            if (at..at + gap).contains(&second) {
                continue;
            }
            one.report(&mut demand, "a", now);
            if second > 60 {
                let offered = demand.offered("chat", 60.0, now);
                let ratio = offered.rate / rate as f64;
                prop_assert!((0.85..1.15).contains(&ratio), "{offered:?} for {rate} at {second}, gap {gap} at {at}");
            }
        }
    }
}

#[test]
fn a_rise_counts_at_once_and_noise_does_not() {
    let mut demand = Demand::default();
    let mut router = Router::new(1, BEGIN);
    for second in 1..=1200_i64 {
        // Noise: from 0 to 4, 2 on average.
        let noise = u64::try_from((second * 7) % 5).unwrap();
        router.serve(if second <= 1170 { noise } else { 5 * noise });
        router.report(&mut demand, "a", BEGIN + second);
        let rate = demand.offered("chat", 30.0, BEGIN + second).rate;
        if (300..=1170).contains(&second) {
            assert!((1.8..2.3).contains(&rate), "{rate} at {second}");
        }
    }
    // Half a minute after it rose to 10 a second; in five minutes 840 came, which is 2.8 a second.
    let offered = demand.offered("chat", 30.0, BEGIN + 1200);
    assert!((7.0..10.5).contains(&offered.rate), "{offered:?}");
    assert!((290.0..=310.0).contains(&offered.window), "{offered:?}");
}

#[test]
fn dispersion_is_one_by_chance_and_the_size_of_bursts_otherwise() {
    // The same Poisson arrivals, one by one and in tens: counts of 10 s from a fixed sequence with mean and variance 20.
    let mut state = 1_u64;
    let mut draw = || {
        // The sum of 80 coins of probability 1/4 has mean 20 and variance 15; of 2,000 of 1/100 nearly 20.
        (0..2000)
            .filter(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33).is_multiple_of(100)
            })
            .count() as u64
    };
    let counts: Vec<u64> = (0..360).map(|_| draw()).collect();
    for (burst, low, high) in [(1, 0.9, 1.4), (10, 8.0, 14.0)] {
        let mut demand = Demand::default();
        let mut router = Router::new(1, BEGIN);
        for (slot, count) in counts.iter().enumerate() {
            router.serve(count * burst);
            // At the end of a slot.
            router.report(&mut demand, "a", BEGIN + slot as i64 * SLOT + SLOT - 1);
        }
        let now = BEGIN + 3600;
        for start in [10.0, 60.0] {
            let found = demand.offered("chat", start, now).dispersion;
            assert!((low..high).contains(&found), "{found} for bursts of {burst} over {start} s");
        }
    }
    // A rate that changes is no burst.
    let mut demand = Demand::default();
    let mut router = Router::new(1, BEGIN);
    for slot in 0..360_u64 {
        router.serve(100 + slot);
        router.report(&mut demand, "a", BEGIN + slot as i64 * SLOT + SLOT - 1);
    }
    let found = demand.offered("chat", 10.0, BEGIN + 3600).dispersion;
    assert!((1.0..1.2).contains(&found), "{found}");
}

#[test]
fn the_peak_of_a_day_is_kept_over_restarts_and_forgotten_after_it() {
    let mut demand = Demand::default();
    let mut router = Router::new(1, BEGIN);
    for second in 1..=600 {
        router.serve(if second <= 300 { 8 } else { 2 });
        router.report(&mut demand, "a", BEGIN + second);
    }
    let later = |hours: i64| BEGIN + 600 + hours * 3600;
    let demand = Demand::restore(demand.to_store(later(0)));
    for hours in [0, 1, 22] {
        let peak = demand.peak("chat", later(hours));
        assert!((7.9..8.1).contains(&peak), "{peak} after {hours} h");
    }
    assert_eq!(demand.peak("chat", later(25)), 0.0);
}

#[test]
fn silence_of_all_routers_is_no_fall_of_demand_but_silence_of_clients_is() {
    let mut demand = Demand::default();
    let mut router = Router::new(1, BEGIN);
    for second in 1..=600 {
        router.serve(3);
        router.report(&mut demand, "a", BEGIN + second);
    }
    let rate = demand.offered("chat", 60.0, BEGIN + 900).rate;
    assert!((2.7..3.1).contains(&rate), "{rate}, though nobody was heard for five minutes");
    for second in 601..=1000 {
        assert!(!router.report(&mut demand, "a", BEGIN + second), "nothing to write down");
    }
    assert_eq!(demand.offered("chat", 60.0, BEGIN + 1000).rate, 0.0);
    assert_eq!(figures(&demand).offered, 1800, "a day's figures stand");
}

#[test]
fn a_report_that_was_overtaken_is_not_believed() {
    let mut demand = Demand::default();
    let mut router = Router::new(1, BEGIN);
    router.serve(5);
    let old = router.clone();
    router.serve(5);
    let heard = |sequence| Heard { pod: "a", incarnation: 1, sequence, age: 2, at: BEGIN + 2 };
    assert!(demand.report(heard(2), &router.counts));
    assert!(!demand.report(heard(1), &old.counts));
    assert!(!demand.report(heard(3), &router.counts), "nothing came since");
    assert_eq!(figures(&demand).offered, 10);
}

#[test]
fn an_idle_policy_stays_as_it_is_written_down() {
    let mut demand = Demand::default();
    let mut router = Router::new(1, BEGIN);
    router.serve(5);
    assert!(router.report(&mut demand, "a", BEGIN + 1));
    let figures = demand.figures();
    let stored = demand.to_store(BEGIN + 1);
    for second in 2..10 {
        assert!(!router.report(&mut demand, "a", BEGIN + second));
    }
    assert_eq!((demand.figures(), demand.to_store(BEGIN + 9)), (figures, stored));
}

#[test]
fn the_largest_policy_fits_its_config_map() {
    let mut demand = Demand::default();
    let mut counts = Counts::default();
    for workload in 0..64 {
        let each = WorkloadCounts { offered: u64::MAX / 1000, ..WorkloadCounts::default() };
        counts.workloads.insert(format!("{workload:063}"), each);
    }
    for pod in 0..100 {
        let heard =
            Heard { pod: &format!("{pod:063}"), incarnation: u64::MAX, sequence: 1, age: 40 * 3600, at: BEGIN + pod };
        demand.report(heard, &counts);
    }
    let text = demand.to_store(BEGIN + 100).text().unwrap();
    assert!(text.len() <= 512 << 10, "{}", text.len());
    let back: Stored = serde_json::from_str(&text).unwrap();
    assert_eq!(back.workloads.len(), 64);
    assert!(!back.pods.is_empty(), "as many as there is room for");
    assert!(back.pods.keys().next_back().is_some_and(|last| last.ends_with("99")), "those that were heard last");
}
