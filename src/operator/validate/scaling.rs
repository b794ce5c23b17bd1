//! A pool's `scaling` -> the bounds and times of its autoscaler.

use std::ops::RangeInclusive;
use std::time::Duration as StdDuration;

use super::problems::Problems;
use crate::api::ModelTier;
use crate::api::conditions::{ACCEPTED, REASON_INVALID};
use crate::api::model_tier::Pool;
use crate::api::scaling::{self as api, Autoscaler};

/// Longest stabilisation that a HorizontalPodAutoscaler takes.
const LONGEST_STABILIZATION: StdDuration = StdDuration::from_secs(3_600);
/// Shortest time without demand, a few reports of routers, and longest, for which these are remembered.
const IDLE: RangeInclusive<StdDuration> = StdDuration::from_secs(10)..=StdDuration::from_secs(24 * 3_600);

/// How a pool is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Fewest replicas.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// Who scales. `None`: what the operator was installed with.
    pub autoscaler: Option<Autoscaler>,
    /// Requests that a replica is to work on, in thousandths, at least 1.
    pub target_milli: u64,
    /// How long fewer replicas must have been enough.
    pub stabilization: StdDuration,
    /// How long nobody must have asked before there is none.
    pub idle_after: StdDuration,
}

/// How a tier's pool is scaled. `None`: its replicas are the spec's, or its spec is wrong.
#[must_use]
pub fn scaling(tier: &ModelTier) -> Option<Scaling> {
    let mut problems = Problems::default();
    parsed(&mut problems, tier.spec.pool.as_ref()?).filter(|_| problems.into_invalid(ACCEPTED).is_none())
}

/// Checks a pool's `scaling` and gives it.
pub(super) fn parsed(problems: &mut Problems, pool: &Pool) -> Option<Scaling> {
    let api::Scaling { min, max, autoscaler, target_utilization, scale_down_stabilization, idle_after } =
        pool.scaling.as_ref()?;
    let mut number = |field: &str, replicas: i32, least: i32| {
        if !(least..=1000).contains(&replicas) {
            let problem = format!("{replicas} must be {least} to 1000");
            problems.add(REASON_INVALID, format!("spec.pool.scaling.{field}"), problem);
        }
        u32::try_from(replicas).unwrap_or_default()
    };
    let (fewest, most) = (number("min", *min, 0), number("max", *max, 1));
    if min > max {
        problems.add(REASON_INVALID, "spec.pool.scaling.min", format!("{min} must be at most max, which is {max}"));
    }
    if pool.per_replica.is_none() && *autoscaler != Some(Autoscaler::External) {
        let problem = "needs perReplica.concurrency, unless autoscaler is External";
        problems.add(REASON_INVALID, "spec.pool.scaling", problem);
    }
    let field = "spec.pool.scaling.targetUtilization";
    let part = target_utilization.nanos();
    if part == Ok(0) {
        problems.add(REASON_INVALID, field, "must be above 0");
    }
    let part = problems.parsed(field, part);
    let concurrency = pool.per_replica.as_ref().and_then(|each| u64::try_from(each.concurrency).ok());
    let field = "spec.pool.scaling.scaleDownStabilization";
    let stabilization = StdDuration::from_millis(problems.parsed(field, scale_down_stabilization.millis()));
    if stabilization > LONGEST_STABILIZATION {
        problems.add(REASON_INVALID, field, format!("{scale_down_stabilization} must be at most 1h"));
    }
    let field = "spec.pool.scaling.idleAfter";
    let millis = idle_after.millis();
    let idle = StdDuration::from_millis(problems.parsed(field, millis.clone()));
    if millis.is_ok() && !IDLE.contains(&idle) {
        problems.add(REASON_INVALID, field, format!("{idle_after} must be 10s to 24h"));
    }
    Some(Scaling {
        min: fewest,
        max: most,
        autoscaler: *autoscaler,
        target_milli: (concurrency.unwrap_or_default().saturating_mul(part) / 1_000_000).max(1),
        stabilization,
        idle_after: idle,
    })
}
