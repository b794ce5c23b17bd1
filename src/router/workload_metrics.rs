//! What requests of a workload count, found when the table is loaded. Reports are read from the metrics' own counters, so
//! that nothing is counted twice; what metrics don't have is counted here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::answer::Usage;
use super::cascade::BEST_ANSWER;
use super::exchange::CLIENT_GONE;
use super::money::Money;
use super::route::Stage;
use super::trace::UNDER_PRESSURE;
use crate::routing::counts::{Taken, Verdicts, WorkloadCounts};
use crate::routing::misses::{BINS, Misses, bin_of};

/// Status of a reply whose answer was at least begun.
const OK: u16 = 200;

/// Counters of a workload. Rare outcomes are made when they first occur.
pub struct WorkloadMetrics {
    /// Requests with the outcome `accepted`.
    pub(super) accepted: Counter,
    /// Seconds from request to reply.
    pub(super) duration: Histogram,
    /// Answers that were accepted by a threshold that was lowered.
    pub(super) lowered: Counter,
    /// Refused answers of requests that the limit on escalations held back.
    pub(super) held_back: Counter,
    /// Kept over tables.
    pub(super) arrivals: Arrivals,
    /// What is taken of each tier of the path, and of those that its gates ask.
    pub(super) taken: BTreeMap<String, TakenMetrics>,
}

/// Requests of a workload as they come, and their rare outcomes, since the process began.
#[derive(Clone, Default)]
pub struct Arrivals {
    came: Counter,
    again: Counter,
    others: Arc<Mutex<Vec<Other>>>,
}

/// An outcome other than `accepted`.
struct Other {
    outcome: &'static str,
    /// Of its first request. Those of one outcome may differ, but only among those that clients are to blame for.
    status: u16,
    count: Counter,
}

/// What requests of a workload take of a tier.
#[derive(Clone)]
pub struct TakenMetrics {
    /// Answers. Not a metric: steps and questions are counted apart there.
    pub(super) calls: Counter,
    /// Tokens.
    pub(super) input: Counter,
    /// Tokens.
    pub(super) output: Counter,
    /// In the policy's currency.
    pub(super) cost: Counter<f64, AtomicU64>,
}

/// Verdicts of the gates of a step, whichever of its tiers answered.
#[derive(Clone, Default)]
pub struct VerdictMetrics {
    judged: Counter,
    failed: Counter,
    misses: Arc<[AtomicU64; BINS]>,
}

impl WorkloadMetrics {
    /// Counts a request that came; `again`: one that had come before and was not answered.
    pub fn came(&self, again: bool) {
        self.arrivals.came.inc();
        if again {
            self.arrivals.again.inc();
        }
    }

    /// The counter of a rare outcome with its status; `make` finds it among the metrics.
    pub(super) fn other(&self, outcome: &'static str, status: u16, make: impl FnOnce() -> Counter) -> Counter {
        let mut others = self.arrivals.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others.iter().find(|other| other.outcome == outcome) {
            return known.count.clone();
        }
        let count = make();
        others.push(Other { outcome, status, count: count.clone() });
        count
    }

    /// As a report has it.
    #[must_use]
    pub fn counts(&self, stages: &[Stage]) -> WorkloadCounts {
        let mut counts = WorkloadCounts { answered: self.accepted.get(), ..WorkloadCounts::default() };
        let others = self.arrivals.others.lock().unwrap_or_else(PoisonError::into_inner);
        for Other { outcome, status, count } in others.iter() {
            let count = count.get();
            match (*status, *outcome) {
                (CLIENT_GONE, _) => counts.abandoned += count,
                (OK, BEST_ANSWER | UNDER_PRESSURE) => counts.answered += count,
                // Its head was sent before it broke.
                (OK, _) | (500.., _) => counts.failed += count,
                (_, code) => *counts.rejected.entry(code.to_owned()).or_default() += count,
            }
        }
        drop(others);
        counts.under_pressure = self.lowered.get().saturating_add(self.held_back.get());
        let ended = counts.answered + counts.failed + counts.abandoned + counts.rejected.values().sum::<u64>();
        // Read last: what ends meanwhile has come before.
        let came = self.arrivals.came.get();
        counts.in_flight = came.saturating_sub(ended);
        counts.offered = came.saturating_sub(self.arrivals.again.get());
        let verdicts = stages.iter().flat_map(|stage| &stage.legs);
        let verdicts = verdicts.filter_map(|leg| Some((leg.step.clone(), leg.metrics.verdicts.as_ref()?.counts())));
        counts.steps = verdicts.collect();
        counts.tiers = self.taken.iter().map(|(tier, taken)| (tier.clone(), taken.counts())).collect();
        counts
    }
}

impl TakenMetrics {
    /// Counts what a leg, or a gate's questions, took: so many answers. Without any usage there was none.
    pub(super) fn count(&self, answers: u64, usage: Usage, cost: Money) {
        if usage == Usage::default() {
            return;
        }
        self.calls.inc_by(answers);
        for (counter, count) in [(&self.input, usage.prompt), (&self.output, usage.completion)] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        if cost > Money::default() {
            self.cost.inc_by(f64::from(cost));
        }
    }

    fn counts(&self) -> Taken {
        /// Parts of one unit of the currency in a report.
        const NANOS: f64 = 1e9;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cost is no less than 0; one above the range is the most that there is"
        )]
        let cost = (self.cost.get() * NANOS).round() as u64;
        Taken { calls: self.calls.get(), input: self.input.get(), output: self.output.get(), cost }
    }
}

impl VerdictMetrics {
    /// Counts an answer that was judged, and what it missed of a threshold if that is all that it missed.
    pub(super) fn count(&self, passed: bool, missed: Option<f64>) {
        self.judged.inc();
        if !passed {
            self.failed.inc();
        }
        if let Some(bin) = missed.and_then(bin_of).and_then(|bin| self.misses.get(bin)) {
            bin.fetch_add(1, Relaxed);
        }
    }

    fn counts(&self) -> Verdicts {
        // Read first: no answer fails before it is judged.
        let misses = Misses(self.misses.each_ref().map(|bin| bin.load(Relaxed)));
        let failed = self.failed.get();
        Verdicts { judged: self.judged.get(), failed, misses }
    }
}
