//! When a tier is left alone -> its entry in the routing table.

use super::path::positive;
use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::health::{self as api, Recovery};
use crate::routing::table;

pub(super) fn health(problems: &mut Problems, health: &api::Health) -> table::Health {
    let api::Health { consecutive_failures, error_ratio, window, latency_limit, recovery } = health;
    let Recovery { after, max_after, probes } = recovery;
    let ratio = problems.parsed("spec.health.errorRatio", error_ratio.value());
    if error_ratio.nanos() == Ok(0) {
        problems.add(REASON_INVALID, "spec.health.errorRatio", "must be above 0");
    }
    let entry = table::Health {
        consecutive_failures: within(problems, "consecutiveFailures", *consecutive_failures, 1000),
        error_ratio: ratio,
        window_ms: positive(problems, "spec.health.window", window),
        latency_limit_ms: latency_limit.as_ref().map(|limit| positive(problems, "spec.health.latencyLimit", limit)),
        recovery_after_ms: positive(problems, "spec.health.recovery.after", after),
        recovery_max_after_ms: positive(problems, "spec.health.recovery.maxAfter", max_after),
        recovery_probes: within(problems, "recovery.probes", *probes, 100),
    };
    if entry.recovery_max_after_ms < entry.recovery_after_ms {
        let problem = format!("{max_after} must be at least spec.health.recovery.after, which is {after}");
        problems.add(REASON_INVALID, "spec.health.recovery.maxAfter", problem);
    }
    entry
}

fn within(problems: &mut Problems, field: &str, count: i32, most: u32) -> u32 {
    u32::try_from(count).ok().filter(|count| (1..=most).contains(count)).unwrap_or_else(|| {
        problems.add(REASON_INVALID, format!("spec.health.{field}"), format!("{count} must be 1 to {most}"));
        1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_what_the_table_takes_for_granted() {
        let mut problems = Problems::default();
        assert_eq!(health(&mut problems, &api::Health::default()), table::Health::default());
        assert!(problems.into_invalid("Accepted").is_none());
    }
}
