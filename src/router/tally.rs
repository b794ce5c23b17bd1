//! What a tier's calls come to, for reports: kept while its backend is the same, whatever tables come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::answer::Usage;
use super::call::CallError;
use super::crowd::Passed;
use crate::api::escalation_path::FailoverReason;
use crate::routing::counts::{BANDS, Band, TierCounts, band_of};

/// Why a call was not made, or was refused by who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The tier is set aside, or what is left of it is for others.
    Degraded,
    /// Its account has no room.
    Quota,
    /// A budget has not enough.
    Budget,
    /// The provider is at its limit.
    RateLimited,
    /// The request is too long for it.
    ContextOverflow,
    /// It refuses the request as such.
    Refused,
    /// It is scaled to zero.
    Cold,
}

/// As reports have them, in the order of the enum.
const REASONS: [&str; 7] = ["Degraded", "Quota", "Budget", "RateLimited", "ContextOverflow", "Refused", "Cold"];

/// Counters of a tier, shared by all cores.
#[derive(Debug, Default)]
pub struct Tally {
    failed: AtomicU64,
    rejected: [AtomicU64; REASONS.len()],
    queued: AtomicU64,
    bands: [Cells; BANDS],
}

#[derive(Debug, Default)]
struct Cells {
    calls: AtomicU64,
    micros: AtomicU64,
    input: AtomicU64,
    output: AtomicU64,
    output_squared: AtomicU64,
    output_micros: AtomicU64,
    input_squared: AtomicU64,
    input_output: AtomicU64,
    input_micros: AtomicU64,
    occupied: AtomicU64,
    requests: AtomicU64,
}

impl Tally {
    /// Counts a call that was not made.
    pub fn rejected(&self, why: Rejected) {
        if let Some(counter) = self.rejected.get(why as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Counts a call that was made and not answered.
    pub fn unanswered(&self, error: &CallError) {
        match error.reason {
            Some(FailoverReason::RateLimited) => self.rejected(Rejected::RateLimited),
            Some(FailoverReason::ContextOverflow) => self.rejected(Rejected::ContextOverflow),
            // Every endpoint is set aside.
            Some(FailoverReason::Degraded) => self.rejected(Rejected::Degraded),
            None => self.rejected(Rejected::Refused),
            Some(FailoverReason::Unreachable | FailoverReason::Timeout | FailoverReason::ServerError) => {
                self.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Counts a call that was answered whole, in this time, by an endpoint that had `found` requests with it, and what
    /// passed there since another one left.
    pub fn answered(&self, found: usize, time: Duration, usage: Usage, passed: &[Passed; BANDS]) {
        for (cells, passed) in self.bands.iter().zip(passed).filter(|(_, passed)| passed.seconds > 0.0) {
            cells.occupied.fetch_add(micros(passed.seconds), Relaxed);
            cells.requests.fetch_add(micros(passed.requests), Relaxed);
        }
        let Some(cells) = self.bands.get(band_of(found)) else { return };
        let (input, output) = (usage.prompt.saturating_sub(usage.cached), usage.completion);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for (cell, amount) in [
            (&cells.calls, 1),
            (&cells.micros, micros),
            (&cells.input, input),
            (&cells.output, output),
            (&cells.output_squared, output.saturating_mul(output)),
            (&cells.output_micros, output.saturating_mul(micros)),
            (&cells.input_squared, input.saturating_mul(input)),
            (&cells.input_output, input.saturating_mul(output)),
            (&cells.input_micros, input.saturating_mul(micros)),
        ] {
            cell.fetch_add(amount, Relaxed);
        }
    }

    /// Counts a request as waiting for the tier or its account until the guard is dropped.
    #[must_use]
    pub fn wait(&self) -> Queued<'_> {
        self.queued.fetch_add(1, Relaxed);
        Queued(self)
    }

    /// All this, as a report has it, with what else it says.
    #[must_use]
    pub fn counts(&self, now: TierCounts) -> TierCounts {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        let rejected = REASONS.iter().zip(&self.rejected).map(|(reason, count)| ((*reason).to_owned(), read(count)));
        let rejected: BTreeMap<String, u64> = rejected.filter(|(_, count)| *count > 0).collect();
        let band = |cells: &Cells| Band {
            calls: read(&cells.calls),
            micros: read(&cells.micros),
            input: read(&cells.input),
            output: read(&cells.output),
            output_squared: read(&cells.output_squared),
            output_micros: read(&cells.output_micros),
            input_squared: read(&cells.input_squared),
            input_output: read(&cells.input_output),
            input_micros: read(&cells.input_micros),
            occupied: read(&cells.occupied),
            requests: read(&cells.requests),
        };
        let mut bands: Vec<Band> = self.bands.iter().map(band).collect();
        let used = bands.iter().rposition(|band| *band != Band::default()).map_or(0, |last| last + 1);
        bands.truncate(used);
        TierCounts { failed: read(&self.failed), rejected, queued: read(&self.queued), bands, ..now }
    }
}

/// Seconds in microseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 or more, and never centuries")]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

/// A request that waits.
#[derive(Debug)]
pub struct Queued<'a>(&'a Tally);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_counted_once_by_what_became_of_it() {
        use FailoverReason::{ContextOverflow, Degraded, RateLimited, ServerError, Timeout, Unreachable};
        let tally = Tally::default();
        for reason in [ServerError, Timeout, Unreachable, RateLimited, ContextOverflow, Degraded] {
            tally.unanswered(&CallError::of(reason, "why"));
        }
        tally.unanswered(&CallError { reason: None, ..CallError::of(ServerError, "refused") });
        tally.rejected(Rejected::Quota);
        tally.rejected(Rejected::Budget);
        tally.rejected(Rejected::Cold);
        let usage = Usage { prompt: 100, cached: 40, completion: 7 };
        let mut passed = [Passed::default(); BANDS];
        (passed[0], passed[2]) = (Passed { seconds: 0.1, requests: 0.1 }, Passed { seconds: 0.2, requests: 0.6 });
        tally.answered(2, Duration::from_millis(250), usage, &passed);
        tally.answered(2, Duration::from_millis(50), usage, &[Passed::default(); BANDS]);
        let waits = tally.wait();
        let counts = tally.counts(TierCounts { in_flight: 5, degraded: true, ..TierCounts::default() });
        assert_eq!((counts.failed, counts.in_flight, counts.queued, counts.degraded), (3, 5, 1, true));
        assert_eq!(counts.rejected.len(), REASONS.len());
        assert!(counts.rejected.values().all(|count| *count == 1), "{:?}", counts.rejected);
        assert_eq!(counts.turned_away(), 4, "Cold, Degraded, Quota, RateLimited");
        let calls = Band {
            calls: 2,
            micros: 300_000,
            input: 120,
            output: 14,
            output_squared: 98,
            output_micros: 2_100_000,
            input_squared: 7200,
            input_output: 840,
            input_micros: 18_000_000,
            ..Band::default()
        };
        let passed = |occupied, requests| Band { occupied, requests, ..Band::default() };
        assert_eq!(counts.bands, [passed(100_000, 100_000), calls, passed(200_000, 600_000)]);
        drop(waits);
        assert_eq!(tally.counts(TierCounts::default()).queued, 0);
    }
}
