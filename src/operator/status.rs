//! Pure: what was observed and what came of it -> the status to write.
//!
//! Statuses are written seldom: a condition's time changes only when its status flips, messages do not count
//! up, and [`mod@write`] says which difference from the stored status is worth a write, and when.

mod budgets;
mod figures;
mod programmed;
mod progress;
mod scaling;
mod sized;
pub mod write;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::observe::{Availability, DeploymentState, Observed};
use super::plan;
use super::validate::Invalid;
use crate::api::conditions::{
    ACCEPTED, AVAILABLE, PROGRAMMED, READY, REASON_ACCEPTED, REASON_CONFIGURED, REASON_DEGRADED,
    REASON_NO_READY_REPLICAS, REASON_NOT_ACCEPTED, REASON_PROGRESS_DEADLINE, REASON_PROGRESSING, REASON_REPLICAS_READY,
    REASON_RESOLVED, REASON_ROLLED_OUT, REASON_ROUTER_VERSION, REASON_SCALED_TO_ZERO, REASON_TABLE_REFUSED,
    RESOLVED_REFS,
};
use crate::api::routing_policy::{RoutersStatus, TableStatus};
use crate::api::types::Decimal;
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
    /// What a person should know although the object is in force.
    pub warnings: Vec<String>,
    /// A child could not be applied.
    pub apply: Option<ApplyProblem>,
    /// Hash of the table that is published, of policies.
    pub table_hash: Option<String>,
    /// Name of the pod template in force, of tiers with a pool.
    pub current_revision: Option<String>,
    /// Whether the metrics API can be read, of tiers whose autoscaler reads it.
    pub metrics_api: Option<Availability>,
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
pub fn tier(tier: &ModelTier, observed: &Observed, outcome: &Outcome, now: Timestamp) -> ModelTierStatus {
    let stored = tier.status.clone().unwrap_or_default();
    let generation = tier.metadata.generation;
    let name = format!("{}-pool", tier.metadata.name.as_deref().unwrap_or_default());
    let deployment = observed.deployments.get(&name);
    let pool = tier.spec.pool.as_ref();
    let mut conditions = Conditions::new(&stored.conditions, generation, now);
    conditions.set(accepted(outcome));
    conditions.set(match pool {
        None if outcome.invalid.is_some() => not_accepted(AVAILABLE),
        Some(_) if deployment.is_none_or(|state| state.ready == 0) => no_replica(&name),
        _ if observed.degraded => {
            let message =
                "Routers get no answers from the tier and leave it alone; they try again by its health.recovery";
            Verdict::no(AVAILABLE, REASON_DEGRADED, message)
        }
        Some(_) => replicas_ready(&name),
        None => Verdict::yes(AVAILABLE, REASON_CONFIGURED, "Routers measure whether it answers"),
    });
    let sizing = pool.filter(|pool| pool.sizing.is_some()).map(|_| observed.sizing.clone().or(stored.sizing));
    if let Some(sizing) = &sizing {
        conditions.set(sized::sized(outcome, sizing.as_ref()));
    }
    let has_quota = tier.spec.provider.as_ref().is_some_and(|provider| provider.quota.is_some());
    let quota = observed.quota.clone().or(stored.quota).filter(|_| has_quota);
    if let Some(quota) = &quota {
        conditions.set(sized::within_quota(outcome, quota));
    }
    if let Some(metrics_api) = &outcome.metrics_api {
        conditions.set(scaling::active(metrics_api, &stored.conditions));
    }
    let rollout = pool.map(|pool| {
        // What an autoscaler wants is what is wanted.
        let wanted = deployment.filter(|state| state.autoscaled).map_or(pool.replicas, |state| state.desired);
        let needs = pool.model_from.image.as_ref().map(|_| IMAGE_VOLUME);
        Rollout { name: &name, wanted, state: deployment, scales: pool.scaling.is_some(), needs }
    });
    let was_ready = match pool.and_then(|pool| pool.scaling.as_ref()) {
        None => conditions.was_ready(outcome),
        Some(_) => conditions.was_ready_with(outcome, stored.current_revision.as_deref()),
    };
    conditions.close(outcome, ready(outcome, rollout.as_ref(), was_ready));
    let replicas = pool.map(|_| deployment.map_or(0, |d| d.replicas));
    ModelTierStatus {
        conditions: conditions.done(),
        observed_generation: generation,
        replicas,
        selector: pool.map(|_| plan::selector(tier)),
        ready_replicas: pool.map(|_| deployment.map_or(0, |d| d.ready)),
        cost_per_hour: replicas.zip(tier.spec.replica_hour.as_ref()).and_then(|(n, price)| cost_per_hour(n, price)),
        current_revision: pool.and_then(|_| outcome.current_revision.clone().or(stored.current_revision)),
        sizing: sizing.flatten(),
        quota,
        data_class: Some(tier.spec.effective_data_class()),
    }
}

/// None: the price is no number, which validation says.
fn cost_per_hour(replicas: i32, price: &Decimal) -> Option<Decimal> {
    let nanos = price.nanos().ok()?.checked_mul(replicas.into())?;
    Some(budgets::decimal(i64::try_from(nanos).ok()?))
}

/// The status of a path.
#[must_use]
pub fn path(path: &EscalationPath, outcome: &Outcome, now: Timestamp) -> EscalationPathStatus {
    let stored = path.status.clone().unwrap_or_default();
    let generation = path.metadata.generation;
    let mut conditions = Conditions::new(&stored.conditions, generation, now);
    conditions.set(accepted(outcome));
    conditions.set(resolved(outcome));
    conditions.close(outcome, ready(outcome, None, false));
    EscalationPathStatus {
        conditions: conditions.done(),
        observed_generation: generation,
        steps: i32::try_from(path.spec.steps.len()).ok(),
    }
}

/// The status of a policy, and when to look again if nothing is heard. A policy that is not in force keeps the hash of
/// the table that still serves.
#[must_use]
pub fn policy(
    policy: &RoutingPolicy,
    observed: &Observed,
    outcome: &Outcome,
    now: Timestamp,
) -> (RoutingPolicyStatus, Option<Duration>) {
    let stored = policy.status.clone().unwrap_or_default();
    let generation = policy.metadata.generation;
    let name = format!("{}-router", policy.metadata.name.as_deref().unwrap_or_default());
    let deployment = observed.deployments.get(&name);
    // What an autoscaler wants is what is wanted.
    let scaled = policy.spec.router.scaling.as_ref().map(|scaling| deployment.map_or(scaling.min, |d| d.desired));
    let replicas = scaled.unwrap_or(policy.spec.router.replicas);
    let mut conditions = Conditions::new(&stored.conditions, generation, now);
    conditions.set(accepted(outcome));
    conditions.set(resolved(outcome));
    let before = stored.table.as_ref().map(|table| table.hash.as_str());
    let (programmed, again) = programmed::programmed(outcome, observed, &stored.conditions, before, generation, now);
    let rollout = Rollout { name: &name, wanted: replicas, state: deployment, scales: false, needs: None };
    let was_ready = conditions.was_ready(outcome);
    let ready = ready(outcome, Some(&rollout), was_ready).and(&programmed, was_ready);
    conditions.set(programmed);
    conditions.close(outcome, ready);
    let figures::Said { workloads, cost_per_transaction } = figures::figures(policy, observed.figures.as_ref());
    let status = RoutingPolicyStatus {
        conditions: conditions.done(),
        observed_generation: generation,
        workload_count: i32::try_from(policy.spec.workloads.len()).ok(),
        workloads,
        cost_per_transaction,
        routers: Some(RoutersStatus { replicas, ready: deployment.map_or(0, |d| d.ready) }),
        table: outcome.table_hash.clone().map(|hash| TableStatus { hash }).or(stored.table),
        budgets: budgets::budgets(policy, observed.budgets.as_ref()),
    };
    (status, again)
}

/// The stored status of a policy whose table is about to be replaced by another, if it says that routers serve the table
/// that is published: to be written with the table, so that it never speaks of a table that was replaced.
#[must_use]
pub fn replaced(policy: &RoutingPolicy, hash: &str, now: Timestamp) -> Option<RoutingPolicyStatus> {
    let stored = policy.status.as_ref()?;
    let holds = stored.conditions.iter().any(|c| c.type_ == PROGRAMMED && c.status == "True");
    if !holds || stored.table.as_ref().is_some_and(|table| table.hash == hash) {
        return None;
    }
    let mut conditions = Conditions::new(&stored.conditions, policy.metadata.generation, now);
    conditions.set(programmed::propagating());
    let new = conditions.done().pop()?;
    let mut status = stored.clone();
    status.conditions.iter_mut().filter(|c| c.type_ == PROGRAMMED).for_each(|c| c.clone_from(&new));
    Some(status)
}

/// What a condition should say.
struct Verdict {
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: "True", reason, message: message.into() }
    }

    fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: "False", reason, message: message.into() }
    }

    /// Ready, as far as the routers serve the table. Once they did, one that is lost or lacks a key does not fail a wait
    /// for the spec; one that can't take the table over does.
    fn and(self, programmed: &Self, was_ready: bool) -> Self {
        let for_good = [REASON_TABLE_REFUSED, REASON_ROUTER_VERSION].contains(&programmed.reason);
        if self.status != "True" || programmed.status != "False" || (was_ready && !for_good) {
            return self;
        }
        Self { type_: self.type_, status: "False", reason: programmed.reason, message: programmed.message.clone() }
    }
}

/// The problem of a condition, if the outcome has one.
fn problem<'a>(outcome: &'a Outcome, condition: &str) -> Option<&'a Invalid> {
    [&outcome.invalid, &outcome.unresolved].into_iter().flatten().find(|invalid| invalid.condition == condition)
}

fn accepted(outcome: &Outcome) -> Verdict {
    match problem(outcome, ACCEPTED) {
        Some(invalid) => Verdict::no(ACCEPTED, invalid.reason, &invalid.message),
        None if outcome.warnings.is_empty() => Verdict::yes(ACCEPTED, REASON_ACCEPTED, "The spec is valid"),
        None => {
            let message = format!("The spec is valid. Warning: {}", outcome.warnings.join("; "));
            Verdict::yes(ACCEPTED, REASON_ACCEPTED, message)
        }
    }
}

fn resolved(outcome: &Outcome) -> Verdict {
    match problem(outcome, RESOLVED_REFS) {
        Some(invalid) => Verdict::no(RESOLVED_REFS, invalid.reason, &invalid.message),
        None if outcome.invalid.as_ref().is_some_and(|invalid| invalid.condition == ACCEPTED) => {
            not_accepted(RESOLVED_REFS)
        }
        None => Verdict::yes(RESOLVED_REFS, REASON_RESOLVED, "Every reference is to an accepted object"),
    }
}

/// What is not looked at while the spec is wrong.
fn not_accepted(type_: &'static str) -> Verdict {
    Verdict { type_, status: "Unknown", reason: REASON_NOT_ACCEPTED, message: "The spec is not accepted".to_owned() }
}

fn no_replica(name: &str) -> Verdict {
    Verdict::no(AVAILABLE, REASON_NO_READY_REPLICAS, format!("No replica of Deployment {name} is ready"))
}

fn replicas_ready(name: &str) -> Verdict {
    // Not how many: that would be a write for every replica that comes or goes.
    Verdict::yes(AVAILABLE, REASON_REPLICAS_READY, format!("Replicas of Deployment {name} are ready"))
}

/// A Deployment that should be rolled out.
struct Rollout<'a> {
    name: &'a str,
    wanted: i32,
    state: Option<&'a DeploymentState>,
    /// How many replicas there are is not the spec's matter: that some come and go is no rollout.
    scales: bool,
    /// What its pods can't start without, and no API server looks at.
    needs: Option<&'static str>,
}

/// A kubelet tells a container runtime that has none nothing that a person would understand.
const IMAGE_VOLUME: &str = "Its pods mount spec.pool.modelFrom.image: the nodes must be able to pull that image, and have a \
                            container runtime with OCI image volumes (containerd 2.1, CRI-O 1.31)";

/// Ready: the spec is rolled out. Once it was, a replica that is lost for a while shows in Available, not here.
fn ready(outcome: &Outcome, rollout: Option<&Rollout<'_>>, was_ready: bool) -> Verdict {
    if let Some(invalid) = &outcome.invalid {
        let message = format!("Not in force; what served before still serves. {}", invalid.message);
        let reason = if invalid.condition == PROGRAMMED { invalid.reason } else { REASON_NOT_ACCEPTED };
        return Verdict::no(READY, reason, message);
    }
    if let Some(problem) = &outcome.apply {
        return Verdict::no(READY, problem.reason, &problem.message);
    }
    if let Some(invalid) = &outcome.unresolved {
        return Verdict::no(READY, invalid.reason, &invalid.message);
    }
    let Some(Rollout { name, wanted, state, scales, needs }) = rollout else {
        return Verdict::yes(READY, REASON_ROLLED_OUT, "In force");
    };
    let progressing = || Verdict::no(READY, REASON_PROGRESSING, format!("Deployment {name} is rolling out"));
    let Some(state) = state else { return progressing() };
    let current = state.observed_generation >= state.generation && state.desired == *wanted;
    if current && let Some(message) = &state.deadline_exceeded {
        let needs = needs.map(|needs| format!(" {needs}")).unwrap_or_default();
        return Verdict::no(READY, REASON_PROGRESS_DEADLINE, format!("Deployment {name}: {message}{needs}"));
    }
    let complete = current && state.updated == state.desired && state.replicas == state.desired;
    let held = was_ready && (*scales || complete);
    if held || current && state.rolled_out() {
        return match wanted {
            0 if state.autoscaled => {
                let message = format!("Deployment {name} is scaled to zero while nobody asks for the tier");
                Verdict::yes(READY, REASON_SCALED_TO_ZERO, message)
            }
            0 => Verdict::yes(READY, REASON_SCALED_TO_ZERO, format!("Deployment {name} is scaled to zero by the spec")),
            _ => Verdict::yes(READY, REASON_ROLLED_OUT, format!("Deployment {name} is rolled out")),
        };
    }
    if current && let Some(message) = &state.replica_failure {
        return Verdict::no(READY, REASON_PROGRESSING, format!("Deployment {name}: {message}"));
    }
    progressing()
}

/// The conditions of one object, in the order in which they are set.
struct Conditions<'a> {
    stored: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    set: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(stored: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self { stored, generation, now, set: Vec::new() }
    }

    /// Whether this generation was rolled out before.
    fn was_ready(&self, outcome: &Outcome) -> bool {
        outcome.invalid.is_none()
            && self
                .stored
                .iter()
                .any(|c| c.type_ == READY && c.status == "True" && c.observed_generation == self.generation)
    }

    /// Whether the pod template in force was rolled out before, whatever the number of replicas was then.
    fn was_ready_with(&self, outcome: &Outcome, revision: Option<&str>) -> bool {
        outcome.invalid.is_none()
            && revision.is_some()
            && revision == outcome.current_revision.as_deref()
            && self.stored.iter().any(|c| c.type_ == READY && c.status == "True")
    }

    fn set(&mut self, verdict: Verdict) {
        let Verdict { type_, status, reason, mut message } = verdict;
        cut(&mut message);
        let before = self.stored.iter().find(|c| c.type_ == type_ && c.status == status);
        self.set.push(Condition {
            last_transition_time: before.map_or(Time(self.now), |c| c.last_transition_time.clone()),
            message,
            observed_generation: self.generation,
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        });
    }

    /// Ready, and what kstatus reads beside it: the last ones of an object.
    fn close(&mut self, outcome: &Outcome, ready: Verdict) {
        let beside = progress::beside(outcome, &ready);
        self.set(ready);
        if let Some(verdict) = beside {
            self.set(verdict);
        }
    }

    fn done(self) -> Vec<Condition> {
        self.set
    }
}

/// Cuts a message: the API allows 32,768 characters; nobody reads as many.
pub(super) fn cut(message: &mut String) {
    const LONGEST: usize = 8192;
    let end = (0..=LONGEST.min(message.len())).rev().find(|i| message.is_char_boundary(*i)).unwrap_or_default();
    message.truncate(end);
}

#[cfg(test)]
mod tests;
