//! Pure: whether a status is worth a write, and when.
//!
//! What a person acts on is written at once: a condition, a generation, a hash. Pods that come and go one by one
//! change only counts, and while a rollout is under way also whether a first replica answers; these wait up to
//! [`LONGEST`], in which the rollout ends, or the lost pod is replaced. A pool of any size that is ready within that
//! time costs two writes: one when its children exist, one when they are rolled out. What requests came to changes all the
//! time while there are any: it is written [`FIGURES`] after the last write, and at once after a silence.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::Event;

use crate::api::conditions::{AVAILABLE, READY};
use crate::api::routing_policy::BudgetStatus;
use crate::api::{EscalationPathStatus, ModelTierStatus, RoutingPolicyStatus};
use crate::operator::events;

/// How long counts wait at most.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Least time between two writes of one status of which the second says only what requests came to.
pub const FIGURES: Duration = Duration::from_secs(30);

/// What to do about a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is stored already.
    Not,
    /// Write it.
    Now,
    /// Write it, if the operator has not written many such: nobody waits for it.
    Sometime,
    /// Look again after this time.
    After(Duration),
}

/// One of the three statuses.
pub trait Status: Clone + Default + PartialEq {
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
    /// The same, to change.
    fn conditions_mut(&mut self) -> &mut Vec<Condition>;
    /// Takes over the counts of pods.
    fn take_counts(&mut self, stored: &Self);
    /// Takes over what requests came to.
    fn take_figures(&mut self, _stored: &Self) {}
    /// What happened since the stored one, beside what its conditions say.
    fn events(&self, _stored: &Self) -> Vec<Event> {
        Vec::new()
    }
}

impl Status for ModelTierStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn conditions_mut(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }

    fn take_counts(&mut self, stored: &Self) {
        if self.replicas.is_some() == stored.replicas.is_some() {
            if self.replicas != stored.replicas {
                self.cost_per_hour.clone_from(&stored.cost_per_hour);
            }
            self.replicas = stored.replicas;
            self.ready_replicas = stored.ready_replicas;
        }
    }
}

impl Status for EscalationPathStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn conditions_mut(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }

    fn take_counts(&mut self, _stored: &Self) {}
}

impl Status for RoutingPolicyStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn conditions_mut(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }

    fn take_counts(&mut self, stored: &Self) {
        if let (Some(routers), Some(stored)) = (&mut self.routers, &stored.routers) {
            routers.ready = stored.ready;
        }
        let names = |status: &Self| status.budgets.iter().map(|budget| budget.name.clone()).collect::<Vec<_>>();
        // That one is spent is no count: people act on it. That it is not quite after all may wait.
        let known = |budget: &BudgetStatus| stored.budgets.iter().any(|old| old.name == budget.name && is_spent(old));
        let spent = self.budgets.iter().any(|budget| is_spent(budget) && !known(budget));
        if names(self) == names(stored) && !spent {
            self.budgets.clone_from(&stored.budgets);
        }
    }

    fn take_figures(&mut self, stored: &Self) {
        self.workloads.clone_from(&stored.workloads);
        self.cost_per_transaction.clone_from(&stored.cost_per_transaction);
    }

    fn events(&self, stored: &Self) -> Vec<Event> {
        let before = |budget: &&BudgetStatus| {
            stored
                .budgets
                .iter()
                .any(|old| old.name == budget.name && old.period_ends == budget.period_ends && is_spent(old))
        };
        let spent = self.budgets.iter().filter(|budget| is_spent(budget) && !before(budget));
        spent.map(events::budget_spent).collect()
    }
}

fn is_spent(budget: &BudgetStatus) -> bool {
    budget.left.nanos() == Ok(0)
}

/// What to do about a status that has differed from the stored one for so long in what may wait, and that was written so
/// long ago by this operator, if it was.
#[must_use]
pub fn decide<S: Status>(stored: Option<&S>, new: &S, waited: Duration, written: Option<Duration>) -> Write {
    let nothing = S::default();
    let stored = stored.unwrap_or(&nothing);
    if stored == new {
        return Write::Not;
    }
    let mut urgent = new.clone();
    urgent.take_figures(stored);
    let figures = (urgent != *new).then(|| FIGURES.saturating_sub(written.unwrap_or(FIGURES)));
    let counts = urgent != *stored;
    urgent.take_counts(stored);
    take_first_replica(&mut urgent, stored);
    if urgent != *stored {
        return Write::Now;
    }
    let counts = counts.then(|| LONGEST.saturating_sub(waited));
    match (counts, figures) {
        (Some(Duration::ZERO), _) => Write::Now,
        (_, Some(Duration::ZERO)) => Write::Sometime,
        (counts, figures) => counts.into_iter().chain(figures).min().map_or(Write::Not, Write::After),
    }
}

/// Takes over `Available`, if all that happened to it is that a replica of an unfinished rollout answers.
fn take_first_replica<S: Status>(new: &mut S, stored: &S) {
    let find = |list: &[Condition], type_: &str| list.iter().position(|c| c.type_ == type_);
    let done = new.conditions().iter().any(|c| c.type_ == READY && c.status == "True");
    let places = (find(new.conditions(), AVAILABLE), find(stored.conditions(), AVAILABLE));
    if let (false, (Some(at), Some(before))) = (done, places) {
        let before = stored.conditions()[before].clone();
        let after = &mut new.conditions_mut()[at];
        if after.status == "True" && before.observed_generation == after.observed_generation {
            *after = before;
        }
    }
}
