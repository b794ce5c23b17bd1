//! What a router has counted, as its reports carry it.
//!
//! Numbers only grow while the router's process lives, but for `in_flight` and `queued`, which say how much is under way.
//! Whoever has read two reports knows what happened between them, whatever was lost in between. A new process counts from
//! nothing; its incarnation tells it from the one before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::misses::Misses;

/// Nothing is said of what is not there.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a router has counted since its process began, of the workloads and tiers of the table in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// By workload; a tier that clients name is the workload `tier/NAME`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub workloads: BTreeMap<String, WorkloadCounts>,
    /// By tier, for all workloads together, what gates ask it included.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<String, TierCounts>,
}

/// The requests of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadCounts {
    /// Requests that clients offered, rejected ones too. One that its client says it tries again, and of which this router
    /// knows that it got no answer, is the same one.
    #[serde(skip_serializing_if = "is_zero")]
    pub offered: u64,
    /// Those that were answered, second tries included, as in all that follows.
    #[serde(skip_serializing_if = "is_zero")]
    pub answered: u64,
    /// Those that no tier could answer, or whose answer broke off.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Those that were turned away, by the code of the error: limits, budgets, what the client must mend.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<String, u64>,
    /// Those whose client left before the end.
    #[serde(skip_serializing_if = "is_zero")]
    pub abandoned: u64,
    /// Those that are being worked on.
    #[serde(skip_serializing_if = "is_zero")]
    pub in_flight: u64,
    /// Those of the answered ones that got an answer which a gate had refused, to spare an account: a threshold was lowered,
    /// or the limit on escalations held them back.
    #[serde(skip_serializing_if = "is_zero")]
    pub under_pressure: u64,
    /// Verdicts of the steps that have gates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, Verdicts>,
    /// What they took of each tier.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<String, Taken>,
}

/// What the gates of a step found, whatever became of the request then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdicts {
    /// Answers that were judged.
    #[serde(skip_serializing_if = "is_zero")]
    pub judged: u64,
    /// Those of them that a gate refused.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Those of the refused that missed nothing but a threshold that may be lowered, by how little.
    #[serde(skip_serializing_if = "Misses::is_empty")]
    pub misses: Misses,
}

/// What requests took of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taken {
    /// Answers of it, those included that were not accepted, and what gates asked it.
    #[serde(skip_serializing_if = "is_zero")]
    pub calls: u64,
    /// Tokens of input.
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u64,
    /// Tokens of output.
    #[serde(skip_serializing_if = "is_zero")]
    pub output: u64,
    /// Cost, in 1e-9 of the policy's currency.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost: u64,
}

/// The calls of a tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TierCounts {
    /// Calls that it did not answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Calls that it refused, or for which it was not asked, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rejected: BTreeMap<String, u64>,
    /// Calls that it works on.
    #[serde(skip_serializing_if = "is_zero")]
    pub in_flight: u64,
    /// Its endpoints, over which they are spread.
    #[serde(skip_serializing_if = "is_zero")]
    pub endpoints: u64,
    /// Requests that wait for it to be woken, or for its account.
    #[serde(skip_serializing_if = "is_zero")]
    pub queued: u64,
    /// Whether it is left alone because it failed, or tried again after that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// Calls that it answered whole and of which it said the usage, by how many requests of this router its endpoint had:
    /// see [`band_of`]. Empty ones at the end are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bands: Vec<Band>,
}

/// Reasons of [`TierCounts::rejected`] that more replicas would not change: what the request costs, and what it is.
const NOT_FOR_WANT_OF_ROOM: [&str; 3] = ["Budget", "ContextOverflow", "Refused"];

impl TierCounts {
    /// Calls for which there was no room: the tier was at a limit, or set aside.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        let rejected = self.rejected.iter().filter(|(reason, _)| !NOT_FOR_WANT_OF_ROOM.contains(&reason.as_str()));
        rejected.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// How long the calls of which it is known took on average. `None`: it is known of none.
    #[must_use]
    pub fn mean_time(&self) -> Option<Duration> {
        let sum = |number: fn(&Band) -> u64| self.bands.iter().map(number).fold(0, u64::saturating_add);
        sum(|band| band.micros).checked_div(sum(|band| band.calls)).map(Duration::from_micros)
    }
}

/// What is known of an endpoint that had a band's number of requests. Sums, so that what is linear in tokens holds for them
/// as for each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Band {
    /// Answered calls that made it so many, when they came.
    #[serde(skip_serializing_if = "is_zero")]
    pub calls: u64,
    /// Microseconds from sending them to the ends of their answers.
    #[serde(skip_serializing_if = "is_zero")]
    pub micros: u64,
    /// Their tokens of input that did not come from a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u64,
    /// Their tokens of output.
    #[serde(skip_serializing_if = "is_zero")]
    pub output: u64,
    /// Tokens of output, squared call by call,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_squared: u64,
    /// and times its microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub output_micros: u64,
    /// Those of input, squared call by call,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_squared: u64,
    /// times the tokens of output,
    #[serde(skip_serializing_if = "is_zero")]
    pub input_output: u64,
    /// and times its microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub input_micros: u64,
    /// Microseconds that the endpoint had so many requests, answered by now or not,
    #[serde(skip_serializing_if = "is_zero")]
    pub occupied: u64,
    /// and times how many those were.
    #[serde(skip_serializing_if = "is_zero")]
    pub requests: u64,
}

/// Bands: one for each number of requests up to this,
const EXACT: usize = 16;
/// and above it 17 to 32, 33 to 64, ... 257 and more.
pub const BANDS: usize = EXACT + 5;

/// The band of so many requests, by its place.
#[must_use]
pub const fn band_of(requests: usize) -> usize {
    let (mut band, mut most) = (requests.saturating_sub(1), EXACT);
    if requests > EXACT {
        band = EXACT - 1;
        while requests > most && band < BANDS - 1 {
            (band, most) = (band + 1, most * 2);
        }
    }
    band
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::misses::BINS;

    #[test]
    fn bands_are_exact_and_then_double() {
        let bands = [0, 1, 2, 16, 17, 32, 33, 256, 257, 10_000, usize::MAX].map(band_of);
        assert_eq!(bands, [0, 0, 1, 15, 16, 16, 17, 19, 20, 20, 20]);
    }

    #[test]
    fn calls_are_turned_away_for_want_of_room_and_not_for_what_they_are() {
        let reasons = ["Degraded", "Quota", "RateLimited", "Budget", "ContextOverflow", "Refused"];
        let rejected = reasons.map(|reason| (reason.to_owned(), 10)).into();
        assert_eq!(TierCounts { failed: 5, rejected, ..TierCounts::default() }.turned_away(), 30);
        let band = |calls, micros| Band { calls, micros, ..Band::default() };
        let timed = TierCounts { bands: vec![band(1, 500_000), band(3, 5_500_000)], ..TierCounts::default() };
        assert_eq!(timed.mean_time(), Some(Duration::from_millis(1500)));
        assert_eq!(TierCounts::default().mean_time(), None);
    }

    /// The largest policy: 64 workloads with paths of 8 steps over 8 tiers each, of 64 tiers, all names and numbers long.
    #[test]
    fn the_largest_report_is_half_of_what_an_operator_takes() {
        let long = |n: usize| format!("{n:063}");
        let large = u64::MAX / 1000;
        let each = || (0..8).map(long);
        let verdicts = Verdicts { judged: large, failed: large, misses: Misses([large; BINS]) };
        let taken = Taken { calls: large, input: large, output: large, cost: large };
        let workload = WorkloadCounts {
            offered: large,
            answered: large,
            failed: large,
            rejected: each().map(|code| (code, large)).collect(),
            abandoned: large,
            in_flight: large,
            under_pressure: large,
            steps: each().map(|step| (step, verdicts)).collect(),
            tiers: each().map(|tier| (tier, taken)).collect(),
        };
        let band = Band {
            calls: large,
            micros: large,
            input: large,
            output: large,
            output_squared: large,
            output_micros: large,
            input_squared: large,
            input_output: large,
            input_micros: large,
            occupied: large,
            requests: large,
        };
        let tier = TierCounts {
            failed: large,
            rejected: each().map(|reason| (reason, large)).collect(),
            in_flight: large,
            endpoints: large,
            queued: large,
            degraded: true,
            bands: vec![band; BANDS],
        };
        let counts = Counts {
            workloads: (0..64).map(|n| (long(n), workload.clone())).collect(),
            tiers: (0..64).map(|n| (long(n), tier.clone())).collect(),
        };
        let bytes = serde_json::to_vec(&counts).expect("JSON").len();
        assert!(bytes < super::super::report::MAX_BYTES / 2, "{bytes} bytes");
    }

    #[test]
    fn a_report_without_counts_is_of_a_router_that_does_not_count() {
        let counts: Counts = serde_json::from_str("{}").expect("counts");
        assert_eq!(counts, Counts::default());
        assert_eq!(serde_json::to_string(&counts).expect("JSON"), "{}");
    }
}
