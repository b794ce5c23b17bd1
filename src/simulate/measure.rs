//! What a run counts: per workload, per tier, and over time.
//!
//! Nothing is kept of single requests, so that a day's run needs no more memory than an hour's.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::{Nanos, SECOND, seconds};
use crate::api::types::Risk;
use crate::router::money::Money;

/// Risks in the order of series.
pub const RISKS: [Risk; 3] = [Risk::Low, Risk::Medium, Risk::High];

/// Bins of a series, about.
const BINS: u64 = 360;

/// Unit of a latency's histogram: a tenth of a millisecond.
const UNIT: Nanos = SECOND / 10_000;
/// Longest latency that is told from longer ones: two hours.
const LONGEST: u64 = 2 * 3_600 * 10_000;

/// Latencies, exact to a thousandth.
#[derive(Clone, Debug)]
pub struct Latencies(Option<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).ok())
    }
}

impl Latencies {
    /// Counts one.
    pub fn count(&mut self, latency: Nanos) {
        self.0.iter_mut().for_each(|counts| counts.saturating_record((latency / UNIT).max(1)));
    }

    /// The latency that a part of them does not exceed, in seconds. `None`: there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let counts = self.0.as_ref().filter(|counts| !counts.is_empty())?;
        Some(seconds(counts.value_at_quantile(part).saturating_mul(UNIT)))
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(Histogram::reset);
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer that passed its gates.
    Accepted,
    /// With one that missed a threshold which was lowered.
    UnderPressure,
    /// With the best of answers that did not.
    BestAnswer,
    /// 429, for this reason.
    Shed(&'static str),
    /// Any other error.
    Failed(&'static str),
}

/// What became of the requests of one workload.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that came.
    pub arrived: u64,
    /// With an answer that passed its gates.
    pub accepted: u64,
    /// With one that missed a threshold which was lowered.
    pub under_pressure: u64,
    /// With another answer.
    pub best_answer: u64,
    /// 429, by reason.
    pub shed: BTreeMap<&'static str, u64>,
    /// Other errors, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// What its requests cost at the prices of tiers.
    pub cost: Money,
    /// From the request to its answer.
    pub latency: Latencies,
    /// What the tier that answered would have taken for the same request, asked first and alone.
    pub alone: Latencies,
    /// Steps of its path.
    pub steps: Vec<Judged>,
}

impl Tally {
    /// Requests that were answered.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.accepted + self.under_pressure + self.best_answer
    }
}

/// What the gates of one step said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Answers that were judged.
    pub judged: u64,
    /// Answers that were refused.
    pub refused: u64,
}

/// What one tier did.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// Answers that it gave.
    pub answers: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Tokens of input of its answers.
    pub input: u64,
    /// Tokens of output of its answers.
    pub output: u64,
    /// At its prices.
    pub cost: Money,
}

/// Requests that came in an outage, straight to the tier that was lost, and that may fall back to a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedOver {
    /// How many.
    pub arrived: u64,
    /// Those that the pool answered.
    pub answered: u64,
    /// Those of them that waited for a slot no longer than the pool's wait target.
    pub in_time: u64,
}

/// One bin of the series.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bin {
    /// When it begins, in seconds.
    pub at: f64,
    /// Requests that came.
    pub arrived: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Those shed, by risk: Low, Medium, High.
    pub shed: [u64; 3],
    /// Those that failed, by risk.
    pub failed: [u64; 3],
    /// Answers that were judged by gates, and those refused.
    pub judged: Judged,
    /// Cost of the requests that ended, in the currency; without pools that are paid by the hour.
    pub cost: f64,
    /// Median latency of answers by risk, in seconds.
    pub p50: [Option<f64>; 3],
    /// 99th percentile of latency by risk, in seconds.
    pub p99: [Option<f64>; 3],
    /// Pools at its end, in the order of the report's.
    pub pools: Vec<PoolNow>,
    /// Part of each account's tightest limit that was used, in the order of the report's.
    pub accounts: Vec<f64>,
}

/// A pool at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolNow {
    /// Replicas that are ready.
    pub ready: u32,
    /// Fewest that there may be.
    pub floor: u32,
    /// Most that there may be.
    pub ceiling: u32,
    /// Requests at the pool.
    pub requests: usize,
}

/// All counts of a run.
#[derive(Clone, Debug)]
pub struct Measure {
    /// By route.
    pub workloads: Vec<Tally>,
    /// By tier.
    pub tiers: Vec<Work>,
    /// By outage.
    pub outages: Vec<FailedOver>,
    /// From requests to their answers, over all workloads.
    pub latency: Latencies,
    /// Over time.
    pub series: Vec<Bin>,
    /// How long a bin is.
    pub bin: Nanos,
    current: Bin,
    latencies: [Latencies; 3],
}

impl Measure {
    /// Nothing counted. `steps`: of each route.
    #[must_use]
    pub fn new(steps: impl Iterator<Item = usize>, tiers: usize, outages: usize, duration: Nanos) -> Self {
        let tally = |steps| Tally { steps: vec![Judged::default(); steps], ..Tally::default() };
        Self {
            workloads: steps.map(tally).collect(),
            tiers: vec![Work::default(); tiers],
            outages: vec![FailedOver::default(); outages],
            latency: Latencies::default(),
            series: Vec::new(),
            bin: (duration / BINS).div_ceil(SECOND).max(1) * SECOND,
            current: Bin::default(),
            latencies: Default::default(),
        }
    }

    /// A request came.
    pub fn arrived(&mut self, route: usize) {
        self.current.arrived += 1;
        self.workloads.iter_mut().skip(route).take(1).for_each(|tally| tally.arrived += 1);
    }

    /// Gates judged an answer.
    pub fn judged(&mut self, route: usize, step: usize, refused: bool) {
        let step = self.workloads.get_mut(route).and_then(|tally| tally.steps.get_mut(step));
        for judged in step.into_iter().chain([&mut self.current.judged]) {
            judged.judged += 1;
            judged.refused += u64::from(refused);
        }
    }

    /// A request ended. `alone`: what its answer's tier takes for it alone.
    pub fn ended(&mut self, (route, risk): (usize, Risk), end: End, cost: Money, latency: Nanos, alone: Nanos) {
        let at = RISKS.iter().position(|other| *other == risk).unwrap_or(0);
        self.current.cost += currency(cost.0);
        let Some(tally) = self.workloads.get_mut(route) else { return };
        tally.cost += cost;
        match end {
            End::Accepted => tally.accepted += 1,
            End::UnderPressure => tally.under_pressure += 1,
            End::BestAnswer => tally.best_answer += 1,
            End::Shed(why) => {
                *tally.shed.entry(why).or_default() += 1;
                self.current.shed.iter_mut().skip(at).take(1).for_each(|count| *count += 1);
            }
            End::Failed(why) => {
                *tally.failed.entry(why).or_default() += 1;
                self.current.failed.iter_mut().skip(at).take(1).for_each(|count| *count += 1);
            }
        }
        if matches!(end, End::Accepted | End::UnderPressure | End::BestAnswer) {
            self.current.answered += 1;
            self.latency.count(latency);
            tally.latency.count(latency);
            tally.alone.count(alone);
            self.latencies.iter_mut().skip(at).take(1).for_each(|latencies| latencies.count(latency));
        }
    }

    /// A bin is over.
    pub fn close_bin(&mut self, pools: Vec<PoolNow>, accounts: Vec<f64>) {
        let mut bin = std::mem::take(&mut self.current);
        bin.at = seconds(self.bin.saturating_mul(u64::try_from(self.series.len()).unwrap_or(u64::MAX)));
        for ((p50, p99), latencies) in bin.p50.iter_mut().zip(&mut bin.p99).zip(&mut self.latencies) {
            (*p50, *p99) = (latencies.quantile(0.5), latencies.quantile(0.99));
            latencies.clear();
        }
        (bin.pools, bin.accounts) = (pools, accounts);
        self.series.push(bin);
    }
}

/// An amount in 1e-15 of the currency, as the currency's float: for people and plots.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn currency(amount: i128) -> f64 {
    amount as f64 / 1e15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_is_counted_once_and_a_bin_forgets() {
        let mut measure = Measure::new([2].into_iter(), 1, 0, 3_600 * SECOND);
        assert_eq!(measure.bin, 10 * SECOND);
        measure.arrived(0);
        measure.judged(0, 1, true);
        measure.ended((0, Risk::High), End::Accepted, Money(2_000_000_000_000_000), SECOND, SECOND / 2);
        measure.close_bin(Vec::new(), Vec::new());
        measure.ended((0, Risk::Low), End::Shed("capacity"), Money(0), SECOND, 0);
        measure.close_bin(Vec::new(), Vec::new());
        let [first, second] = &measure.series[..] else { panic!("two bins") };
        assert_eq!((first.arrived, first.answered, first.judged.refused, first.shed), (1, 1, 1, [0; 3]));
        assert_eq!((second.at, second.answered, second.shed, second.p50[2]), (10.0, 0, [1, 0, 0], None));
        assert!((first.p99[2].unwrap() - 1.0).abs() < 2e-3 && (first.cost - 2.0).abs() < 1e-9);
        let tally = &measure.workloads[0];
        assert_eq!((tally.answered(), tally.shed["capacity"], tally.steps[1].judged), (1, 1, 1));
    }
}
