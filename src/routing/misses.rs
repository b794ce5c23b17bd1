//! By how little answers missed a threshold, in bins: how many would be accepted if it were lowered by so much.
//!
//! The bins are of no path's own, so that a report says the same whatever became of thresholds and slacks since. Each ends at
//! seven quarters of the one before: what lies within one is spread evenly when it is read.

use serde::{Deserialize, Serialize};

/// Number of bins.
pub const BINS: usize = 12;

/// Upper ends of the bins, in the unit of the gate's score (natural logarithms): from probabilities 1 % apart to 111 times.
pub const ENDS: [f64; BINS] = ends();

const fn ends() -> [f64; BINS] {
    let mut ends = [0.01; BINS];
    let mut i = 1;
    while i < BINS {
        ends[i] = ends[i - 1] * 1.75;
        i += 1;
    }
    ends
}

/// The bin of a distance below the threshold. `None`: nothing that a slack may reach.
#[must_use]
pub fn bin_of(missed: f64) -> Option<usize> {
    ENDS.iter().position(|end| missed <= *end)
}

/// Answers by the bin of what they missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Misses(pub [u64; BINS]);

impl From<Vec<u64>> for Misses {
    fn from(counts: Vec<u64>) -> Self {
        let mut bins = [0; BINS];
        bins.iter_mut().zip(counts).for_each(|(bin, count)| *bin = count);
        Self(bins)
    }
}

impl From<Misses> for Vec<u64> {
    fn from(Misses(bins): Misses) -> Self {
        let used = bins.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        bins.into_iter().take(used).collect()
    }
}

impl Misses {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What came since others were counted.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        self.0.iter_mut().zip(before.0).for_each(|(new, old)| *new = new.saturating_sub(old));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slack_that_a_path_may_have_is_within_the_bins() {
        assert!(ENDS.is_sorted() && ENDS[BINS - 1] > 4.0, "{ENDS:?}");
        assert_eq!([0.0, 0.01, 0.011, 4.0, 5.0].map(bin_of), [Some(0), Some(0), Some(1), Some(11), None]);
    }

    #[test]
    fn empty_bins_at_the_end_are_not_said_and_more_than_are_known_are_not_read() {
        let mut misses = Misses::default();
        assert_eq!(serde_json::to_string(&misses).expect("JSON"), "[]");
        misses.0[2] = 7;
        assert_eq!(serde_json::to_string(&misses).expect("JSON"), "[0,0,7]");
        let more = format!("[{}]", vec!["1"; BINS + 3].join(","));
        assert_eq!(serde_json::from_str::<Misses>(&more).expect("bins").0, [1; BINS]);
        assert_eq!(misses.since(&Misses::from(vec![0, 1, 5])).0[..4], [0, 0, 2, 0]);
    }
}
