#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers above 0")]

use proptest::prelude::*;

use super::*;
use crate::routing::counts::{BANDS, band_of};

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
}

pub(super) fn report(calls: &mut Calls, pod: &str, incarnation: u64, counts: &TierCounts, at: i64) {
    calls.report(Heard { pod, incarnation, sequence: at as u64, age: at, at }, counts);
}

/// An engine with so many slots: with more requests than that, those that wait take turns.
#[derive(Clone, Copy, Debug)]
struct Engine {
    alpha: f64,
    beta: f64,
    gamma: f64,
    slots: f64,
}

impl Engine {
    fn seconds(&self, input: f64, output: f64, requests: f64) -> f64 {
        let batch = requests.min(self.slots);
        let served = self.gamma.mul_add(input, output * self.beta.mul_add(batch, self.alpha));
        served * (requests / batch)
    }
}

/// An hour of one replica behind so many routers, each with an equal part of its requests; reports come once a second.
fn hour(engine: Engine, routers: u64, most: f64, draws: &mut Draws) -> Calls {
    let mut calls = Calls::default();
    let mut counts = vec![
        TierCounts { endpoints: 1, bands: vec![Band::default(); BANDS], ..TierCounts::default() };
        routers as usize
    ];
    for second in 1..3600_i64 {
        // Load goes up and down within the hour.
        let requests = 1.0 + (most - 1.0) * (0.5 - 0.5 * (float(second as u64) / 300.0).cos());
        for (router, counts) in counts.iter_mut().enumerate() {
            let own = (requests / float(routers)).round().max(1.0);
            let (input, output) = (50.0 + 400.0 * draws.next(), 10.0 + 90.0 * draws.next());
            let seconds = engine.seconds(input, output, own * float(routers)) * (0.9 + 0.2 * draws.next());
            let concurrency = own as u64;
            let band = &mut counts.bands[band_of(float(concurrency))];
            let (input, output) = (input.round() as u64, output.round() as u64);
            *band = Band {
                calls: band.calls + 1,
                micros: band.micros + (seconds * 1e6).round() as u64,
                input: band.input + input,
                output: band.output + output,
                output_squared: band.output_squared + output * output,
                input_squared: band.input_squared + input * input,
                input_output: band.input_output + input * output,
                load: band.load + 1000 * output * concurrency,
                spread: 0,
            };
            counts.in_flight = concurrency;
            report(&mut calls, &format!("r-{router}"), 1, counts, second);
        }
    }
    calls
}

pub(super) fn time(service: Service, input: f64, output: f64, requests: f64) -> f64 {
    match service {
        Service::Batching { alpha, beta, gamma } => gamma * input + output * (alpha + beta * requests),
        Service::Constant { seconds } => seconds,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Within a tenth of what the engine takes, wherever it had room, however many routers share it, and although it was
    /// asked for more than it has slots for.
    #[test]
    fn the_engine_is_found_again(
        alpha in 0.005..0.05_f64, beta in 0.0002..0.004_f64, gamma in 0.0001..0.002_f64,
        slots in 4_u32..16, routers in 1_u64..4, seed in any::<u64>(),
    ) {
        let engine = Engine { alpha, beta, gamma, slots: f64::from(slots) };
        let calls = hour(engine, routers, 3.0 * f64::from(slots), &mut Draws(seed));
        let service = calls.service(Some(slots)).expect("a service time");
        for (input, output) in [(100.0, 30.0), (400.0, 80.0)] {
            for requests in [2.0, f64::from(slots) * 0.7] {
                let (found, true_) = (time(service, input, output, requests), engine.seconds(input, output, requests));
                prop_assert!((found / true_ - 1.0).abs() < 0.15, "{found} for {true_}: {service:?} of {engine:?}");
            }
        }
    }
}

#[test]
fn without_a_declared_concurrency_waiting_is_left_out_where_more_at_a_time_are_not_more_done() {
    let engine = Engine { alpha: 0.02, beta: 0.0005, gamma: 0.0005, slots: 4.0 };
    let calls = hour(engine, 1, 32.0, &mut Draws(7));
    let service = calls.service(None).expect("a service time");
    let (found, true_) = (time(service, 200.0, 50.0, 3.0), engine.seconds(200.0, 50.0, 3.0));
    assert!((found / true_ - 1.0).abs() < 0.2, "{found} for {true_}: {service:?}");
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
            let band = Band {
                calls: number,
                micros: number,
                output: number * 10,
                load: 10_000 * number * own,
                ..Band::default()
            };
            TierCounts { in_flight: 2 * own, endpoints: 2, bands: vec![band], ..TierCounts::default() }
        };
        report(&mut calls, "a", 1, &counts(3), second);
        report(&mut calls, "b", 1, &counts(1), second);
    }
    // Both see a part of the same four at a time.
    let four = calls.bins[4].sums();
    assert!(four[0] > 400.0 && total(&calls.bins)[0] < four[0] + 10.0, "{four:?}");
    assert!((four[4] / four[3] - 4.0).abs() < 0.1, "{four:?}");
}

#[test]
fn a_restart_of_a_router_or_of_the_operator_counts_nothing_twice() {
    let counts = |calls: u64| TierCounts {
        bands: vec![Band {
            calls,
            micros: calls * 500_000,
            output: calls * 10,
            load: calls * 10_000,
            ..Band::default()
        }],
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
    let band = Band {
        calls: 100,
        micros: 1,
        output: 2000,
        output_squared: 50 * 100 + 50 * 900,
        load: 2_000_000,
        ..Band::default()
    };
    assert_eq!(of(band), [0.25, 0.0, 0.0]);
    // Those of 10 after 100 tokens of input, those of 30 after 300; and the other way round.
    let input = Band { input: 20_000, input_squared: 50 * 10_000 + 50 * 90_000, ..band };
    assert_eq!(of(Band { input_output: 50 * 1000 + 50 * 9000, ..input }), [0.25, 0.25, 0.25]);
    assert_eq!(of(Band { input_output: 100 * 3000, ..input }), [0.25, 0.25, 0.0]);
}
