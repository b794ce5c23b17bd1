//! What a pool is sized for -> what is asked of sizing.

use std::time::Duration as StdDuration;

use super::path::positive;
use super::problems::Problems;
use crate::api::ModelTier;
use crate::api::conditions::{ACCEPTED, REASON_INVALID};
use crate::api::model_tier::ModelTierSpec;
use crate::api::sizing::{Sizing, WaitTarget};
use crate::api::types::Decimal;
use crate::sizing::input::Asked;

/// What is asked of sizing for a tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The pool's `sizing`.
    pub asked: Asked,
    /// What a replica costs an hour, in 1e-9 of the currency. 0: unknown.
    pub replica_hour: u64,
}

/// What is asked of sizing. `None`: the tier is not to be sized, or its spec is wrong.
#[must_use]
pub fn sizing(tier: &ModelTier) -> Option<Wanted> {
    let mut problems = Problems::default();
    wanted(&mut problems, &tier.spec).filter(|_| problems.into_invalid(ACCEPTED).is_none())
}

/// Checks what is asked of sizing and gives it.
pub(super) fn wanted(problems: &mut Problems, spec: &ModelTierSpec) -> Option<Wanted> {
    if spec.replica_hour.is_some() && spec.pool.is_none() {
        problems.add(REASON_INVALID, "spec.replicaHour", "only a tier with a pool has replicas");
    }
    let replica_hour = spec.replica_hour.as_ref().map(|price| money(problems, "spec.replicaHour", price));
    let pool = spec.pool.as_ref()?;
    let Sizing { against, absorb, wait_target, hourly_budget } = pool.sizing.as_ref()?;
    if pool.per_replica.is_none() {
        problems.add(REASON_INVALID, "spec.pool.sizing", "needs perReplica.concurrency");
    }
    if against.is_empty() != absorb.is_none() {
        problems.add(REASON_INVALID, "spec.pool.sizing", "against and absorb must be set together");
    }
    if hourly_budget.is_some() && replica_hour.is_none() {
        problems.add(REASON_INVALID, "spec.pool.sizing.hourlyBudget", "needs spec.replicaHour");
    }
    let WaitTarget { within, percentile } = wait_target;
    let part = problems.parsed("spec.pool.sizing.waitTarget.percentile", percentile.value());
    if percentile.value().is_ok() && (part <= 0.0 || part >= 1.0) {
        problems.add(REASON_INVALID, "spec.pool.sizing.waitTarget.percentile", "must be above 0 and below 1");
    }
    let millis = positive(problems, "spec.pool.sizing.waitTarget.within", within);
    let asked = Asked {
        against: against.iter().map(|tier| tier.name.clone()).collect(),
        absorb: absorb.as_ref().map_or(0.0, |part| problems.parsed("spec.pool.sizing.absorb", part.value())),
        within: StdDuration::from_millis(millis).as_secs_f64(),
        percentile: part,
        hourly_budget: hourly_budget.as_ref().map(|amount| money(problems, "spec.pool.sizing.hourlyBudget", amount)),
    };
    Some(Wanted { asked, replica_hour: replica_hour.unwrap_or_default() })
}

fn money(problems: &mut Problems, field: &str, amount: &Decimal) -> u64 {
    // Nine digits before the point fit: 1e9 * 1e9 < 2^64.
    u64::try_from(problems.parsed(field, amount.nanos())).unwrap_or_default()
}
