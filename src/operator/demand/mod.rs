//! Pure: what routers counted -> what clients want, as sizing and statuses need it. Times are seconds of the Unix epoch,
//! passed in.
//!
//! ```text
//! reports --meter--> what came since the last, and in which time --+-- days: requests, money, verdicts of 24 hours
//!                                                                  +-- arrivals: rate, dispersion, peak
//!                                                                  +-- mix: tokens and verdicts of the latest requests
//!                    calls of tiers by concurrency -------------------- service: the time that a request takes
//! ```
//! Nothing here changes while nothing is asked: an idle cluster has the same figures, and nothing to write, for ever.

mod arrivals;
mod days;
mod fading;
pub mod measured;
mod meter;
mod mix;
pub mod service;
mod stored;

use std::collections::{BTreeMap, BTreeSet};

pub use arrivals::{SLOT, WINDOW};
pub use days::Figures;
pub use meter::Sums;
pub use stored::Stored;

use crate::routing::counts::Counts;
use crate::sizing::input::{Escalation, Offered, Takes};
use arrivals::Arrivals;
use days::Days;
use meter::{Meter, Since};
use mix::Mix;

/// What is known of the requests of one policy's workloads.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    meter: Meter,
    workloads: BTreeMap<String, Workload>,
    /// When a router was last heard.
    heard: i64,
}

#[derive(Clone, Debug, Default)]
struct Workload {
    arrivals: Arrivals,
    days: Days,
    mix: Mix,
}

/// Which report of which process, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard<'a> {
    /// Name of the router's pod.
    pub pod: &'a str,
    /// Its process: a later one has a higher number.
    pub incarnation: u64,
    /// Number of the report: of two of one process the one with the lower number is older.
    pub sequence: u64,
    /// For how long the process has been there, in seconds.
    pub age: i64,
    /// Now.
    pub at: i64,
}

impl Demand {
    /// What was written down, with what was counted since then still to come.
    #[must_use]
    pub fn restore(stored: Stored) -> Self {
        let Stored { pods, workloads } = stored;
        let workload = |stored: stored::Workload| Workload {
            arrivals: Arrivals::restore(stored.arrivals),
            days: Days::restore(stored.hours),
            mix: Mix::default(),
        };
        let workloads = workloads.into_iter().map(|(name, stored)| (name, workload(stored))).collect();
        let heard = pods.values().map(|pod| pod.at).max().unwrap_or_default();
        Self { meter: Meter::restore(pods), workloads, heard }
    }

    /// What is to be written down at a time.
    #[must_use]
    pub fn to_store(&self, now: i64) -> Stored {
        let workload = |workload: &Workload| stored::Workload {
            arrivals: workload.arrivals.to_store(now),
            hours: workload.days.to_store(),
        };
        let workloads = self.workloads.iter().map(|(name, each)| (name.clone(), workload(each))).collect();
        Stored { pods: self.meter.to_store(), workloads }
    }

    /// Takes in a report. Says whether anything came since the last one.
    pub fn report(&mut self, heard: Heard<'_>, counts: &Counts) -> bool {
        self.heard = self.heard.max(heard.at);
        let Some(news) = self.meter.report(heard, counts) else { return false };
        let mut changed = false;
        for (name, news) in news {
            if news.is_nothing() {
                continue;
            }
            changed |= news.sums != Sums::default();
            let workload = self.workloads.entry(name).or_default();
            workload.arrivals.add(news.sums.offered, news.span);
            workload.days.add(news.sums, news.span);
            workload.days.peaked(heard.at, workload.arrivals.sustained(heard.at));
            match news.detail {
                Since::LastReport(detail) => workload.mix.add(&detail, heard.at),
                Since::Beginning(detail) => workload.mix.begin(&detail, heard.at),
            }
        }
        changed
    }

    /// Forgets the workloads that are not among these and of which nothing came in the last 24 hours.
    pub fn forget_all_but(&mut self, names: &BTreeSet<&str>, now: i64) {
        self.workloads.retain(|name, each| names.contains(name.as_str()) || each.days.is_recent(now));
    }

    /// Requests, money and verdicts of every workload in the 24 hours up to its last request.
    #[must_use]
    pub fn figures(&self) -> BTreeMap<String, Figures> {
        self.workloads.iter().map(|(name, each)| (name.clone(), each.days.figures())).collect()
    }

    /// The requests that clients offer to a workload now. While no router is heard this stands as it was: that nothing is
    /// said does not mean that nothing is wanted. `start` is the time, in seconds, over which bursts matter.
    #[must_use]
    pub fn offered(&self, workload: &str, start: f64, now: i64) -> Offered {
        let at = now.min(self.heard.saturating_add(2 * SLOT));
        self.workloads.get(workload).map(|each| each.arrivals.offered(start, at)).unwrap_or_default()
    }

    /// The highest rate of any five minutes of the last 24 hours, in requests a second.
    #[must_use]
    pub fn peak(&self, workload: &str, now: i64) -> f64 {
        self.workloads.get(workload).map_or(0.0, |each| each.days.peak(now))
    }

    /// Answers of a step that its gates refused over those that were judged, 0 to 1, and by how little. `None`: none was
    /// judged yet.
    #[must_use]
    pub fn escalation(&self, workload: &str, step: &str) -> Option<Escalation> {
        self.workloads.get(workload)?.mix.escalation(step)
    }

    /// What a request of a workload takes of a tier: its tokens. `None`: none came to it yet.
    #[must_use]
    pub fn takes(&self, workload: &str, tier: &str) -> Option<Takes> {
        self.workloads.get(workload)?.mix.takes(tier)
    }
}

#[cfg(test)]
mod tests;
