//! Pure: what routers report -> how many requests each tier has at a time, and when somebody last wanted it.
//!
//! ```text
//! requests at a tier  =  in flight + queued  +  turned away a second x seconds of a call
//! ```
//! The last part is what would be in flight if there were room (Little's law). Every operator pod keeps this, the leader
//! or not, because routers report to all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::observe::cache::Id;
use super::sync::routers::{FORGOTTEN, SILENT};
use crate::routing::counts::TierCounts;
use crate::routing::report::Report;

/// Time over which a tier's requests are averaged, exponentially. An autoscaler looks every 15 seconds: what it finds must
/// stand for that time and not for one moment of it.
const SMOOTHING: Duration = Duration::from_secs(10);
/// What a call takes of whose time nothing is known.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Pods of a policy, tiers of a pod, and tiers in all, that are known at a time.
const MOST: (usize, usize, usize) = (512, 256, 16_384);

/// Why it can't be said how many requests a tier has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// Routers report to nobody.
    #[error("routers don't report to this operator: start it with --sync-address")]
    Deaf,
    /// The operator has just begun.
    #[error("the operator has not seen the cluster yet")]
    Starting,
    /// A ready router has not said.
    #[error("router pod {pod} of RoutingPolicy {namespace}/{policy} is ready and has not reported for {}", seconds(.silent))]
    Silent {
        /// Namespace of the policy.
        namespace: String,
        /// Its name.
        policy: String,
        /// The pod.
        pod: String,
        /// For how long. `None`: it never has.
        silent: Option<Duration>,
    },
}

fn seconds(silent: &Option<Duration>) -> String {
    silent.map_or_else(|| "as long as this operator listens".to_owned(), |time| format!("{} s", time.as_secs()))
}

/// The requests of all tiers.
#[derive(Debug, Default)]
pub struct Concurrency(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    policies: HashMap<Id, BTreeMap<String, Router>>,
    wanted: HashMap<Id, Wanted>,
}

/// When somebody last wanted a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Wanted {
    /// When it was seen.
    surely: Option<Instant>,
    /// Until when nobody saw whether anybody did.
    perhaps: Option<Instant>,
}

/// What a router said.
#[derive(Debug)]
struct Router {
    /// Its process, and the number of the report.
    order: (u64, u64),
    heard: Instant,
    tiers: BTreeMap<String, Tier>,
}

/// Of one tier.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tier {
    /// Requests at a time.
    mean: f64,
    turned_away: u64,
    failed: u64,
    /// Calls that ended, however.
    ended: u64,
}

impl Tier {
    /// What a process says first: what it counted before is not of this moment.
    fn first(counts: &TierCounts, ended: u64) -> Self {
        Self { mean: present(counts), turned_away: counts.turned_away(), failed: counts.failed, ended }
    }

    /// The same after another report.
    fn after(self, counts: &TierCounts, ended: u64, time: Duration) -> Self {
        let fades = (-time.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
        let (turned_away, failed) = (counts.turned_away(), counts.failed);
        // Where nobody is, calls fail for that reason.
        let nobody = if counts.endpoints == 0 { failed.saturating_sub(self.failed) } else { 0 };
        let new = turned_away.saturating_sub(self.turned_away).saturating_add(nobody) as f64;
        // A mean over the time of something that happened in an instant.
        let of_turned_away = new * counts.mean_time().unwrap_or(UNKNOWN).as_secs_f64() / SMOOTHING.as_secs_f64();
        let mean = self.mean.mul_add(fades, present(counts) * (1.0 - fades)) + of_turned_away;
        Self { mean, turned_away, failed, ended }
    }
}

fn present(counts: &TierCounts) -> f64 {
    counts.in_flight.saturating_add(counts.queued) as f64
}

/// Calls of a tier that ended. What was refused because of its cost did not want the tier.
fn ended(report: &Report, name: &str, counts: &TierCounts) -> u64 {
    let answered = report.counts.workloads.values().filter_map(|workload| workload.tiers.get(name));
    let timed = counts.bands.iter().map(|band| band.calls);
    let rejected = counts.rejected.iter().filter(|(reason, _)| *reason != "Budget").map(|(_, count)| *count);
    answered.map(|taken| taken.calls).chain(timed).chain(rejected).fold(counts.failed, u64::saturating_add)
}

impl Concurrency {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on routers can report.
    pub fn listen(&self, now: Instant) {
        self.state().since.get_or_insert(now);
    }

    /// Takes in a report of a policy's router. Says which tiers are wanted after a silence.
    pub fn report(&self, policy: &Id, report: &Report, now: Instant) -> Vec<String> {
        let mut state = self.state();
        let State { policies, wanted, .. } = &mut *state;
        let pods = policies.entry(policy.clone()).or_default();
        pods.retain(|_, router| now.duration_since(router.heard) < FORGOTTEN);
        let order = (report.incarnation, report.sequence);
        let known = pods.get(&report.pod);
        // Overtaken on its way, or of a process that has ended; or one too many.
        if known.map_or(pods.len() >= MOST.0, |known| order <= known.order) {
            return Vec::new();
        }
        // Another process counts from nothing.
        let known = known.filter(|known| known.order.0 == report.incarnation);
        let (mut tiers, mut woken) = (BTreeMap::new(), Vec::new());
        for (name, counts) in report.counts.tiers.iter().take(MOST.1) {
            let ended = ended(report, name, counts);
            let before = known.and_then(|known| Some((known.heard, *known.tiers.get(name)?)));
            let tier = match before {
                Some((heard, tier)) => tier.after(counts, ended, now.duration_since(heard)),
                None => Tier::first(counts, ended),
            };
            // Of what an old process counted before it was heard nobody knows when: perhaps just now.
            let seen = before.is_some() || Duration::from_millis(report.stamp_ms) <= SILENT;
            if present(counts) > 0.0 || seen && ended > before.map_or(0, |(_, tier)| tier.ended) {
                let last = wanted_of(wanted, policy, name).surely.replace(now);
                if last.is_none_or(|last| now.duration_since(last) >= SILENT) {
                    woken.push(name.clone());
                }
            } else if !seen && ended > 0 {
                wanted_of(wanted, policy, name).perhaps = Some(now);
            }
            tiers.insert(name.clone(), tier);
        }
        pods.insert(report.pod.clone(), Router { order, heard: now, tiers });
        woken
    }

    /// How many requests a tier has at a time, over all routers. `ready`: the ready routers of each policy of its namespace.
    ///
    /// # Errors
    /// Unless each of them that may use the tier has reported lately.
    pub fn of(&self, tier: &Id, ready: &[(String, BTreeSet<String>)], now: Instant) -> Result<f64, NotYet> {
        let (namespace, name) = tier;
        let state = self.state();
        if state.since.is_none() {
            return Err(NotYet::Deaf);
        }
        let mut sum = 0.0;
        for (policy, ready) in ready {
            let pods = state.policies.get(&(namespace.clone(), policy.clone()));
            let silence = |router: &Router| now.duration_since(router.heard);
            let heard = pods.into_iter().flatten().filter(|(_, router)| silence(router) <= SILENT);
            let (mut speak, mut uses) = (BTreeSet::new(), false);
            for (pod, router) in heard {
                speak.insert(pod);
                if let Some(tier) = router.tiers.get(name) {
                    (uses, sum) = (true, sum + tier.mean);
                }
            }
            // Policies whose routers say that their table does not have the tier don't matter.
            if !uses && !speak.is_empty() {
                continue;
            }
            if let Some(pod) = ready.iter().find(|pod| !speak.contains(pod)) {
                let silent = pods.and_then(|pods| pods.get(pod)).map(silence);
                let (namespace, policy, pod) = (namespace.clone(), policy.clone(), pod.clone());
                return Err(NotYet::Silent { namespace, policy, pod, silent });
            }
        }
        Ok(sum)
    }

    /// When somebody was last seen to want a tier: had a request at it, or was turned away. `None`: never yet. It is what
    /// wakes a tier.
    #[must_use]
    pub fn last_wanted(&self, tier: &Id) -> Option<Instant> {
        self.state().wanted.get(tier)?.surely
    }

    /// Since when surely nobody has wanted a tier: at the earliest since this operator listens. `None`: it does not. It is
    /// what lets a tier sleep, as long as [`of`](Self::of) says a number.
    #[must_use]
    pub fn idle_since(&self, tier: &Id) -> Option<Instant> {
        let state = self.state();
        let Wanted { surely, perhaps } = state.wanted.get(tier).copied().unwrap_or_default();
        state.since.map(|since| [surely, perhaps].into_iter().flatten().fold(since, Instant::max))
    }

    /// Forgets a policy that is gone.
    pub fn forget(&self, policy: &Id) {
        self.state().policies.remove(policy);
    }
}

/// When a tier of a policy was wanted. Of too many the one is forgotten that was wanted longest ago.
fn wanted_of<'w>(wanted: &'w mut HashMap<Id, Wanted>, policy: &Id, tier: &str) -> &'w mut Wanted {
    let tier = (policy.0.clone(), tier.to_owned());
    if wanted.len() >= MOST.2 && !wanted.contains_key(&tier) {
        let oldest = wanted.iter().min_by_key(|(_, at)| at.surely.max(at.perhaps)).map(|(tier, _)| tier.clone());
        oldest.and_then(|oldest| wanted.remove(&oldest));
    }
    wanted.entry(tier).or_default()
}

#[cfg(test)]
mod tests;
