#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers above 0")]

use proptest::prelude::*;

use super::fit::Seen;
use super::simulated::{Load, Replica};
use super::*;

/// A deterministic sequence of numbers in 0..1 (SplitMix64).
pub(super) struct Draws(pub(super) u64);

impl Draws {
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        float((z ^ (z >> 31)) >> 11) / float(1 << 53)
    }

    /// An exponential one, 1 on average.
    pub(super) fn exponential(&mut self) -> f64 {
        -(1.0 - self.next()).ln()
    }
}

pub(super) fn report(calls: &mut Calls, pod: &str, incarnation: u64, counts: &TierCounts, at: i64) {
    calls.report(Heard { pod, incarnation, sequence: at as u64, age: at, at }, counts);
}

pub(super) fn time(service: Service, input: f64, output: f64, requests: f64) -> f64 {
    match service {
        Service::Batching { alpha, beta, gamma } => gamma * input + output * (alpha + beta * requests),
        Service::Constant { seconds } => seconds,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Within a seventh of what it takes, wherever it has room and where it is full, however many routers share it.
    #[test]
    fn the_replica_is_found_again(
        alpha in 0.005..0.05_f64, beta in 0.0002..0.004_f64, gamma in 0.0001..0.002_f64,
        slots in 4_usize..16, routers in 1_usize..4, used in 0.6..0.9_f64, seed in any::<u64>(),
    ) {
        let replica = Replica { alpha, beta, gamma, slots };
        let load = Load { rate: 0.0, count: 8000, routers, input: (50.0, 450.0), output: 40.0 };
        let load = Load { rate: used * replica.most(&load), ..load };
        let service = replica.shares(&load, &mut Draws(seed)).service(u32::try_from(slots).ok()).expect("a service time");
        for (input, output) in [(100.0, 30.0), (400.0, 80.0)] {
            for requests in [slots as f64 * 0.7, slots as f64] {
                let (found, true_) = (time(service, input, output, requests), replica.seconds(input, output, requests));
                prop_assert!((found / true_ - 1.0).abs() < 0.15, "{found} for {true_}: {service:?} of {replica:?}, {load:?}");
            }
        }
    }
}

/// Requests have company for a part of their time only, and wait within a full replica. What others read slows them too.
#[test]
fn a_full_replica_is_found_again_whatever_happens_to_each_request() {
    let load = Load { rate: 0.0, count: 6000, routers: 1, input: (2.0, 2.0), output: 8.0 };
    for slots in [1, 2, 4] {
        let full = slots as f64;
        // The last gets less done with company than alone.
        for (alpha, beta, gamma) in [(0.004, 0.008, 0.004), (0.03, 0.002, 0.002), (-0.004, 0.014, 0.004)] {
            let replica = Replica { alpha, beta, gamma, slots };
            let true_ = |reads: f64| replica.seconds(2.0 * reads, 8.5, full);
            for (reads, used) in [(1.0, 0.6), (1.0, 0.8), (full, 0.6), (full, 0.8)] {
                let load = Load { rate: used * full / true_(reads), ..load };
                let serve = if reads > 1.0 { Replica::steps } else { Replica::shares };
                let service = serve(&replica, &load, &mut Draws(11)).service(u32::try_from(slots).ok());
                let ratio = time(service.expect("a service time"), 2.0, 8.5, full) / true_(reads);
                assert!((0.94..1.06).contains(&ratio), "{ratio} at {used} of {replica:?}, {reads}: {service:?}");
            }
        }
    }
}

#[test]
fn without_a_declared_concurrency_waiting_is_left_out_where_more_at_a_time_are_not_more_done() {
    let replica = Replica { alpha: 0.02, beta: 0.0005, gamma: 0.0005, slots: 4 };
    let load = Load { rate: 0.0, count: 8000, routers: 1, input: (100.0, 300.0), output: 50.0 };
    let load = Load { rate: 0.95 * replica.most(&load), ..load };
    let calls = replica.shares(&load, &mut Draws(7));
    let service = calls.service(None).expect("a service time");
    let (found, true_) = (time(service, 200.0, 50.0, 4.0), replica.seconds(200.0, 50.0, 4.0));
    assert!((found / true_ - 1.0).abs() < 0.1, "{found} for {true_}: {service:?}");
    let all = calls.seconds().expect("a mean");
    assert!(all > 2.0 * found, "with the waiting it is {all}, not {found}");
}

#[test]
fn what_routers_do_not_see_of_each_other_is_told_from_what_they_have_in_flight() {
    let mut calls = Calls::default();
    for second in 1..120 {
        let number = second as u64 * 2;
        // Calls of 10 tokens, by a router that has so many of them at each of two endpoints.
        let counts = |own: u64| {
            let mut bands = vec![Band::default(); 3];
            bands[own as usize - 1] = Band {
                calls: number,
                micros: number,
                output: number * 10,
                occupied: number,
                requests: number * own,
                ..Band::default()
            };
            TierCounts { in_flight: 2 * own, endpoints: 2, bands, ..TierCounts::default() }
        };
        report(&mut calls, "a", 1, &counts(3), second);
        report(&mut calls, "b", 1, &counts(1), second);
    }
    // Both see a part of the same four at a time.
    let four = calls.bins[4].sums();
    assert!(four[0] > 400.0 && total(&calls.bins)[0] < four[0] + 10.0, "{four:?}");
    let seen = Seen::of(&calls.bins[4], 2.0).unwrap();
    assert!((four[11] / four[9] - 4.0).abs() < 0.1 && seen.own.is_none(), "{four:?}");
    // Of two at a time half are worked on.
    assert!((seen.worked / four[10] - 0.5).abs() < 0.01 && seen.company == 2.0, "{four:?}");
}

#[test]
fn a_restart_of_a_router_or_of_the_operator_counts_nothing_twice() {
    let counts = |calls: u64| TierCounts {
        bands: vec![Band { calls, micros: calls * 500_000, output: calls * 10, ..Band::default() }],
        ..TierCounts::default()
    };
    let mut calls = Calls::default();
    // A router that has been there for long is a beginning, of no more weight than what fades.
    report(&mut calls, "a", 5, &counts(1_000_000), 100);
    assert!((calls.bins[1].sums()[0] - PACE.least).abs() < 1e-6);
    report(&mut calls, "a", 5, &counts(1_000_010), 101);
    report(&mut calls, "a", 4, &counts(7), 102);
    report(&mut calls, "a", 6, &counts(3), 103);
    report(&mut calls, "a", 6, &counts(3), 104);
    let sums = calls.bins[1].sums();
    assert!((sums[0] - PACE.least - 13.0).abs() < 1.0, "{sums:?}");
    assert!(calls.seconds().is_some_and(|seconds| (seconds - 0.5).abs() < 1e-9));
    assert_eq!(Calls::default().service(None), None, "nothing was seen");
    // An older router's report says no times; a wrong one that nobody was there meanwhile.
    for occupied in [0, 1] {
        let bands = vec![Band { occupied, ..counts(100).bands[0] }];
        let mut calls = Calls::default();
        report(&mut calls, "a", 1, &TierCounts { bands, ..TierCounts::default() }, 1);
        assert_eq!((calls.service(Some(4)), calls.service(None)), (None, None));
    }
}

#[test]
fn variation_is_of_the_tokens_call_by_call() {
    let of = |band: Band| {
        let mut calls = Calls::default();
        report(&mut calls, "a", 1, &TierCounts { bands: vec![band], ..TierCounts::default() }, 1);
        let Variation { output, input, together } = calls.variation().expect("enough");
        [output, input, together].map(|number| (number * 1e6).round() / 1e6)
    };
    // Half of 10 tokens, half of 30: a mean of 20 and a deviation of 10.
    let band = Band { calls: 100, micros: 1, output: 2000, output_squared: 50 * 100 + 50 * 900, ..Band::default() };
    assert_eq!(of(band), [0.25, 0.0, 0.0]);
    // Those of 10 after 100 tokens of input, those of 30 after 300; and the other way round.
    let input = Band { input: 20_000, input_squared: 50 * 10_000 + 50 * 90_000, ..band };
    assert_eq!(of(Band { input_output: 50 * 1000 + 50 * 9000, ..input }), [0.25, 0.25, 0.25]);
    assert_eq!(of(Band { input_output: 100 * 3000, ..input }), [0.25, 0.25, 0.0]);
}
