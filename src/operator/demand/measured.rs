//! What this operator has measured while it leads: of each policy its demand, of each tier how long it takes. Shared by who
//! takes reports, who writes statuses and who sizes pools.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::service::Calls;
use super::{Demand, Figures, Heard, Stored};
use crate::operator::observe::cache::Id;
use crate::routing::counts::Counts;
use crate::sizing::input::{Escalation, Offered, Service, Takes};

/// All policies and tiers.
#[derive(Debug, Default)]
pub struct Measured(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    policies: HashMap<Id, Demand>,
    /// By namespace and name: policies of a namespace share them.
    tiers: HashMap<Id, Calls>,
}

impl Measured {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to measure a policy, from what was written down of it.
    pub fn begin(&self, policy: &Id, stored: Stored) {
        self.state().policies.insert(policy.clone(), Demand::restore(stored));
    }

    /// Takes in what a router of a policy counted. Says whether anything came that is to be written down.
    pub fn report(&self, policy: &Id, heard: Heard<'_>, counts: &Counts) -> bool {
        let mut state = self.state();
        let State { policies, tiers } = &mut *state;
        let Some(demand) = policies.get_mut(policy) else { return false };
        for (name, counts) in &counts.tiers {
            let calls = tiers.entry((policy.0.clone(), name.clone())).or_default();
            calls.report(heard, counts);
        }
        demand.report(heard, counts)
    }

    /// What is to be written down of a policy with these workloads. `None`: it is not measured.
    #[must_use]
    pub fn to_store(&self, policy: &Id, workloads: &BTreeSet<&str>, now: i64) -> Option<Stored> {
        let mut state = self.state();
        let demand = state.policies.get_mut(policy)?;
        demand.forget_all_but(workloads, now);
        Some(demand.to_store(now))
    }

    /// What requests of a policy's workloads came to. `None`: it is not measured.
    #[must_use]
    pub fn figures(&self, policy: &Id) -> Option<BTreeMap<String, Figures>> {
        self.demand(policy, Demand::figures)
    }

    /// Reads a policy's demand. `None`: it is not measured.
    pub fn demand<T>(&self, policy: &Id, read: impl FnOnce(&Demand) -> T) -> Option<T> {
        self.state().policies.get(policy).map(read)
    }

    /// Reads what is known of a tier's calls. `None`: none is.
    pub fn calls<T>(&self, tier: &Id, read: impl FnOnce(&Calls) -> T) -> Option<T> {
        self.state().tiers.get(tier).map(read)
    }

    /// What sizing asks of a namespace; `now` in seconds of the Unix epoch.
    #[must_use]
    pub const fn of_namespace<'a>(&'a self, namespace: &'a str, now: i64) -> OfNamespace<'a> {
        OfNamespace { measured: self, namespace, now }
    }

    /// Forgets a policy.
    pub fn forget(&self, policy: &Id) {
        self.state().policies.remove(policy);
    }

    /// Forgets the tiers that are gone.
    pub fn retain_tiers(&self, is_there: impl Fn(&Id) -> bool) {
        self.state().tiers.retain(|tier, _| is_there(tier));
    }

    /// Forgets everything: another operator measures now.
    pub fn clear(&self) {
        *self.state() = State::default();
    }
}

/// What sizing asks: all of one namespace, at one time.
#[derive(Clone, Copy, Debug)]
pub struct OfNamespace<'a> {
    measured: &'a Measured,
    namespace: &'a str,
    now: i64,
}

impl OfNamespace<'_> {
    fn id(&self, name: &str) -> Id {
        (self.namespace.to_owned(), name.to_owned())
    }

    /// What clients offer to a workload of a policy, with its dispersion over so many seconds.
    #[must_use]
    pub fn offered(&self, policy: &str, workload: &str, seconds: f64) -> Offered {
        let offered = |demand: &Demand| demand.offered(workload, seconds, self.now);
        self.measured.demand(&self.id(policy), offered).unwrap_or_default()
    }

    /// Refused answers of a step over judged ones. `None`: none was judged yet.
    #[must_use]
    pub fn escalation(&self, policy: &str, workload: &str, step: &str) -> Option<Escalation> {
        self.measured.demand(&self.id(policy), |demand| demand.escalation(workload, step))?
    }

    /// What a request of a workload takes of a tier; how much its tokens vary, and how long it takes, is that of all
    /// requests of the tier. `None`: none came to it yet.
    #[must_use]
    pub fn takes(&self, policy: &str, workload: &str, tier: &str) -> Option<Takes> {
        let takes = self.measured.demand(&self.id(policy), |demand| demand.takes(workload, tier))??;
        let of_tier = |calls: &Calls| Takes {
            variation: calls.variation().unwrap_or(takes.variation),
            seconds: calls.seconds().unwrap_or(takes.seconds),
            ..takes
        };
        Some(self.measured.calls(&self.id(tier), of_tier).unwrap_or(takes))
    }

    /// How long a tier takes, with so many requests at a time at most in a replica. `None`: too few were seen.
    #[must_use]
    pub fn service(&self, tier: &str, concurrency: Option<u32>) -> Option<Service> {
        self.measured.calls(&self.id(tier), |calls| calls.service(concurrency))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::counts::{Band, Taken, TierCounts, Verdicts, WorkloadCounts};
    use crate::sizing::input::Variation;

    #[test]
    fn sizing_is_told_what_the_routers_of_a_namespace_counted() {
        let (measured, now) = (Measured::default(), 1_000_000_000);
        let front = ("ml".to_owned(), "front".to_owned());
        let chat = WorkloadCounts {
            offered: 600,
            answered: 600,
            steps: [("first".to_owned(), Verdicts { judged: 600, failed: 60, ..Verdicts::default() })].into(),
            tiers: [("small".to_owned(), Taken { calls: 600, input: 60_000, output: 12_000, cost: 0 })].into(),
            ..WorkloadCounts::default()
        };
        // Fifty calls of two seconds and twenty tokens each.
        let (micros, output_squared) = (100_000_000, 20_000);
        let times = Band { micros, occupied: micros, requests: micros, output_micros: 20 * micros, ..Band::default() };
        let band = Band { calls: 50, output: 1000, output_squared, ..times };
        let small = TierCounts { bands: vec![band], ..TierCounts::default() };
        let counts =
            Counts { workloads: [("chat".to_owned(), chat)].into(), tiers: [("small".to_owned(), small)].into() };
        let heard = Heard { pod: "a", incarnation: 1, sequence: 1, age: 300, at: now };
        assert!(!measured.report(&front, heard, &counts), "it is not measured yet");
        measured.begin(&front, Stored::default());
        assert!(measured.report(&front, heard, &counts));
        let told = measured.of_namespace("ml", now);
        let rate = told.offered("front", "chat", 60.0).rate;
        assert!((1.9..2.1).contains(&rate), "{rate}");
        assert_eq!(told.escalation("front", "chat", "first").map(|known| known.ratio), Some(0.1));
        let takes = Takes { input_tokens: 100.0, output_tokens: 20.0, variation: Variation::default(), seconds: 2.0 };
        assert_eq!(told.takes("front", "chat", "small"), Some(takes));
        let Some(Service::Batching { alpha, .. }) = told.service("small", None) else { panic!("a time by tokens") };
        assert!((alpha - 0.1).abs() < 1e-9, "{alpha}");
        for (namespace, policy, tier) in [("other", "front", "small"), ("ml", "back", "large")] {
            let told = measured.of_namespace(namespace, now);
            assert_eq!(told.offered(policy, "chat", 60.0), Offered::default());
            assert_eq!((told.takes(policy, "chat", tier), told.service(tier, None)), (None, None));
        }
        measured.retain_tiers(|_| false);
        assert_eq!(told.service("small", None), None);
        measured.forget(&front);
        assert_eq!(told.escalation("front", "chat", "first"), None);
    }
}
