//! What requests of a workload came to, by the hour, for the 24 hours up to its last request.
//!
//! Up to the last request, not up to now: then nothing changes, and nothing must be written, while nobody asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meter::{Span, Sums};

/// Seconds of an hour.
const HOUR: i64 = 3600;
/// Hours that are kept.
const HOURS: i64 = 24;

/// An hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hour {
    /// What came in it.
    pub sums: Sums,
    /// The highest rate of five minutes that ended in it, in requests a second.
    pub peak: f64,
}

/// Hours by their number since the epoch, those in which something came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Days(BTreeMap<i64, Hour>);

/// What requests came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures(pub Sums);

impl Figures {
    /// Together with others'.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0.zip(other.0, u64::saturating_add))
    }

    /// What an answered request costs on average, in 1e-9 of the currency, with all that was asked in vain. `None`: none
    /// was answered.
    #[must_use]
    pub fn cost_per_transaction(self) -> Option<u64> {
        self.0.cost.checked_div(self.0.answered)
    }

    /// Answers that gates refused over those that they judged, in thousandths. `None`: none was judged.
    #[must_use]
    pub fn escalation_ratio(self) -> Option<u64> {
        self.0.failed.min(self.0.judged).saturating_mul(1000).checked_div(self.0.judged)
    }
}

impl Days {
    /// From what was written down.
    #[must_use]
    pub const fn restore(hours: BTreeMap<i64, Hour>) -> Self {
        Self(hours)
    }

    /// What is to be written down.
    #[must_use]
    pub fn to_store(&self) -> BTreeMap<i64, Hour> {
        self.0.clone()
    }

    /// Adds what came in a time: evenly, as nobody knows better.
    pub fn add(&mut self, sums: Sums, span: Span) {
        if sums == Sums::default() {
            return;
        }
        let last = span.to.div_euclid(HOUR);
        let first = span.from.div_euclid(HOUR).max(last - HOURS + 1);
        let begin = span.from.max(first * HOUR);
        let parts = u64::try_from(span.to - begin).unwrap_or_default() + 1;
        let mut done = Sums::default();
        for hour in first..=last {
            let end = ((hour + 1) * HOUR - 1).min(span.to);
            let passed = u64::try_from(end - begin).unwrap_or_default() + 1;
            // Up to the end of this hour, without what was given to those before.
            let upto = sums.zip(Sums::default(), |all, _| part(all, passed, parts));
            let entry = self.0.entry(hour).or_default();
            entry.sums = entry.sums.zip(upto.zip(done, u64::saturating_sub), u64::saturating_add);
            done = upto;
        }
        self.0.retain(|hour, _| *hour > last - HOURS);
    }

    /// Notes the rate of the five minutes that ended at a time.
    pub fn peaked(&mut self, at: i64, rate: f64) {
        if let Some(hour) = self.0.get_mut(&at.div_euclid(HOUR)) {
            hour.peak = hour.peak.max(rate);
        }
    }

    /// The highest rate of the last 24 hours, in requests a second.
    #[must_use]
    pub fn peak(&self, now: i64) -> f64 {
        let first = now.div_euclid(HOUR) - HOURS + 1;
        self.0.range(first..).map(|(_, hour)| hour.peak).fold(0.0, f64::max)
    }

    /// Whether anything came in the last 24 hours.
    #[must_use]
    pub fn is_recent(&self, now: i64) -> bool {
        self.0.range(now.div_euclid(HOUR) - HOURS + 1..).next().is_some()
    }

    /// All hours together.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.0.values().fold(Figures::default(), |sum, hour| sum.and(Figures(hour.sums)))
    }
}

/// `all * passed / parts`, rounded down.
fn part(all: u64, passed: u64, parts: u64) -> u64 {
    u64::try_from(u128::from(all) * u128::from(passed) / u128::from(parts.max(1))).unwrap_or(u64::MAX)
}
