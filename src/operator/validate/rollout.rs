//! How a pool's pods may be replaced and evicted.

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::model_tier::Pool;
use crate::api::types::IntOrPercent;

/// Checks `rollout` and `disruption` of a pool.
pub(super) fn check(problems: &mut Problems, pool: &Pool) {
    if let Some(disruption) = &pool.disruption {
        problems.parsed("spec.pool.disruption.maxUnavailable", disruption.max_unavailable.is_zero());
    }
    let Some(rollout) = &pool.rollout else { return };
    let mut is_zero = |name: &str, value: &Option<IntOrPercent>| {
        let field = format!("spec.pool.rollout.{name}");
        value.as_ref().is_some_and(|value| problems.parsed(field, value.is_zero()))
    };
    let none = is_zero("maxSurge", &rollout.max_surge) && is_zero("maxUnavailable", &rollout.max_unavailable);
    if none {
        let problem = "maxSurge and maxUnavailable must not both be 0";
        problems.add(REASON_INVALID, "spec.pool.rollout", problem);
    }
    if let Some(deadline) = &rollout.progress_deadline {
        let field = "spec.pool.rollout.progressDeadline";
        // What does not parse is 0 and told as such.
        let parsed = deadline.millis();
        if parsed == Ok(0) {
            problems.add(REASON_INVALID, field, "must be above 0s");
        }
        problems.parsed(field, parsed);
    }
}
