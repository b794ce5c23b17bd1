//! Pure: what was observed and what came of it -> the status to write.
//!
//! Statuses are written seldom: a condition's time changes only when its status flips, messages do not count
//! up, and a status that equals the stored one is not written at all.

use jiff::Timestamp;

use super::observe::Observed;
use super::validate::Invalid;
use crate::api::{
    EscalationPath, EscalationPathStatus, ModelTier, ModelTierStatus, RoutingPolicy, RoutingPolicyStatus,
};

/// What one reconcile came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The object is not in force, because of this.
    pub invalid: Option<Invalid>,
    /// The object is in force but for this.
    pub unresolved: Option<Invalid>,
    /// A child could not be applied.
    pub apply: Option<ApplyProblem>,
    /// Hash of the table that is published, of policies.
    pub table_hash: Option<String>,
}

/// Why a child could not be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyProblem {
    /// `Conflict` or `ApplyFailed`.
    pub reason: &'static str,
    /// Which child and why, for people; must not change from one try to the next.
    pub message: String,
}

/// The status of a tier.
#[must_use]
pub fn tier(tier: &ModelTier, _observed: &Observed, _outcome: &Outcome, _now: Timestamp) -> ModelTierStatus {
    tier.status.clone().unwrap_or_default()
}

/// The status of a path.
#[must_use]
pub fn path(path: &EscalationPath, _outcome: &Outcome, _now: Timestamp) -> EscalationPathStatus {
    path.status.clone().unwrap_or_default()
}

/// The status of a policy.
#[must_use]
pub fn policy(
    policy: &RoutingPolicy,
    _observed: &Observed,
    _outcome: &Outcome,
    _now: Timestamp,
) -> RoutingPolicyStatus {
    policy.status.clone().unwrap_or_default()
}

/// Whether the new status must be written.
#[must_use]
pub fn needs_write<S: PartialEq + Default>(stored: Option<&S>, new: &S) -> bool {
    stored.map_or_else(|| *new != S::default(), |stored| stored != new)
}
