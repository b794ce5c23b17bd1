//! Thresholds that are lowered, and requests that are moved to pools, for accounts that are short: at once as far as they must,
//! and back when they need not be.
//!
//! Of each the most that any look within [`STABILIZATION`] found necessary is in force. That keeps the order of
//! who gives way: where a look had lowered a Medium workload's, it had lowered all of Low. Nothing swings by it, since what
//! is found depends on what is offered and on the verdicts of gates, and those are the same whatever is done.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Time for which something must not have been needed before it ends.
pub const STABILIZATION: Duration = Duration::from_secs(60);

/// By how much thresholds are lowered, in the unit of their score, or the part of requests that is moved, by workload and step.
pub type PerStep = BTreeMap<(String, String), f64>;

/// The latest looks.
#[derive(Clone, Debug, Default)]
pub struct InForce(VecDeque<(Duration, PerStep)>);

impl InForce {
    /// Takes in what is necessary, `now` since any moment, and gives what is in force.
    pub fn settle(&mut self, necessary: &PerStep, now: Duration) -> PerStep {
        self.0.retain(|(at, _)| now.saturating_sub(*at) <= STABILIZATION);
        self.0.push_back((now, necessary.clone()));
        let mut most = PerStep::new();
        for (of, by) in self.0.iter().flat_map(|(_, lowered)| lowered) {
            let known = most.entry(of.clone()).or_default();
            *known = known.max(*by);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_necessary_is_in_force_at_once_and_for_a_minute_more() {
        let mut thresholds = InForce::default();
        let of = || ("chat".to_owned(), "first".to_owned());
        let mut at = |second, by: f64| {
            let necessary = if by > 0.0 { [(of(), by)].into() } else { PerStep::new() };
            thresholds.settle(&necessary, Duration::from_secs(second)).get(&of()).copied().unwrap_or_default()
        };
        let steps = [(0, 0.1), (15, 0.3), (30, 0.2), (75, 0.0), (76, 0.0), (90, 0.0), (91, 0.0)];
        assert_eq!(steps.map(|(second, by)| at(second, by)), [0.1, 0.3, 0.3, 0.3, 0.2, 0.2, 0.0]);
    }
}
