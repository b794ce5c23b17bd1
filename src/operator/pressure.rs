//! What is done while accounts are short: which thresholds are lowered and which requests are moved to pools, as routers are
//! told with every report, and what is said of it.
//!
//! What is needed is done at once, and ends when it was not needed for [`STABILIZATION`]. A new leader says nothing before its
//! second look: by then every router has told what it counted, and what the leader before it said still holds.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::observe::Observed;
use super::observe::cache::Id;
use super::plan::portfolio::called;
use crate::api::sizing::{Measure, QuotaStatus};
use crate::api::types::Decimal;
use crate::routing::RoutingTable;
use crate::routing::report::{GivesWay, PerStep};
use crate::sizing::input::Portfolio;
use crate::sizing::output::{AccountSize, Sizes};
use crate::sizing::thresholds::{self, InForce, STABILIZATION};

/// Least time between two statements of which the second has only other numbers.
const SELDOM: Duration = Duration::from_secs(60);
/// What of `needed` must have changed for them.
const CHANGE: f64 = 0.2;
/// Looks before anything is said.
const LOOKS: u32 = 2;

/// All namespaces.
#[derive(Debug, Default)]
pub struct Pressure(Mutex<HashMap<String, Namespace>>);

#[derive(Debug, Default)]
struct Namespace {
    looks: u32,
    thresholds: InForce,
    moves: InForce,
    /// How accounts stood at the looks within [`STABILIZATION`], the last one last.
    recent: VecDeque<(Duration, BTreeMap<String, AccountSize>)>,
    /// What routers are told, by policy.
    told: BTreeMap<String, GivesWay>,
    /// What is said of tiers, and when that was new.
    said: BTreeMap<String, (QuotaStatus, Duration)>,
}

impl Pressure {
    fn namespaces(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in how the accounts of a namespace stand, `now` since any moment. Gives the tiers of which there is something
    /// new to say.
    pub fn look(&self, observed: &Observed, portfolio: &Portfolio, sizes: &Sizes, now: Duration) -> Vec<Id> {
        let Observed { namespace, tables, tiers, .. } = observed;
        let mut namespaces = self.namespaces();
        let state = namespaces.entry(namespace.clone()).or_default();
        state.looks = state.looks.saturating_add(1);
        state.recent.retain(|(at, _)| now.saturating_sub(*at) <= STABILIZATION);
        state.recent.push_back((now, sizes.accounts.clone()));
        let in_force = [state.thresholds.settle(&sizes.lowered, now), state.moves.settle(&sizes.moved, now)];
        if state.looks < LOOKS {
            return Vec::new();
        }
        let [mut lowered, mut moved] = in_force.map(|all| by_policy(&all, tables));
        let told = |policy: &String| {
            let of = |all: &mut BTreeMap<String, PerStep>| all.remove(policy).unwrap_or_default();
            (policy.clone(), GivesWay { lowered: of(&mut lowered), moved: of(&mut moved) })
        };
        state.told = tables.keys().map(told).collect();
        let mut said = std::mem::take(&mut state.said);
        let mut news = Vec::new();
        for (account, of) in &portfolio.accounts {
            let Some((new, asked)) = worst(&state.recent, account).map(status) else { continue };
            let declared = |name: &&String| {
                tiers.get(*name).is_some_and(|tier| tier.spec.provider.as_ref().is_some_and(|p| p.quota.is_some()))
            };
            for name in of.tiers.iter().filter(declared) {
                let stored = || Some((tiers.get(name)?.status.as_ref()?.quota.clone()?, Duration::ZERO));
                let before = said.remove(name).or_else(stored);
                if before.is_none() && !asked {
                    continue;
                }
                let standing = before.filter(|(old, since)| !is_news(old, &new, now.saturating_sub(*since)));
                if standing.is_none() {
                    news.push((namespace.clone(), name.clone()));
                }
                state.said.insert(name.clone(), standing.unwrap_or_else(|| (new.clone(), now)));
            }
        }
        news
    }

    /// What routers of a policy are told. `None`: nothing is known yet.
    #[must_use]
    pub fn told(&self, policy: &Id) -> Option<GivesWay> {
        let namespaces = self.namespaces();
        let state = namespaces.get(&policy.0).filter(|state| state.looks >= LOOKS)?;
        Some(state.told.get(&policy.1).cloned().unwrap_or_default())
    }

    /// What is said of a tier. `None`: nothing yet.
    #[must_use]
    pub fn said(&self, tier: &Id) -> Option<QuotaStatus> {
        self.namespaces().get(&tier.0)?.said.get(&tier.1).map(|(said, _)| said.clone())
    }

    /// Forgets the namespaces that are not looked at any more.
    pub fn forget_all_but(&self, namespaces: &BTreeSet<String>) {
        self.namespaces().retain(|name, _| namespaces.contains(name));
    }

    /// Forgets everything: another operator leads now.
    pub fn clear(&self) {
        self.namespaces().clear();
    }
}

/// What is in force, by policy, as routers are told.
fn by_policy(
    in_force: &thresholds::PerStep,
    tables: &BTreeMap<String, Arc<RoutingTable>>,
) -> BTreeMap<String, PerStep> {
    let mut all = BTreeMap::<String, PerStep>::new();
    for (policy, table) in tables {
        for workload in &table.workloads {
            let name = called(tables.len() == 1, policy, &workload.name);
            for ((_, step), by) in in_force.iter().filter(|((of, _), _)| *of == name) {
                let steps = all.entry(policy.clone()).or_default().entry(workload.name.clone()).or_default();
                steps.insert(step.clone(), nanos(*by));
            }
        }
    }
    all
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part, or at most a slack, which is 4 at most"
)]
fn nanos(by: f64) -> u64 {
    (by * 1e9).floor() as u64
}

/// The look at an account that found most to be done; the last of several.
fn worst<'l>(
    recent: &'l VecDeque<(Duration, BTreeMap<String, AccountSize>)>,
    account: &str,
) -> Option<&'l AccountSize> {
    let looks = recent.iter().filter_map(|(_, sizes)| sizes.get(account));
    looks.max_by_key(|size| (!size.fits, measures(size).last().copied()))
}

/// What is done, in order.
fn measures(size: &AccountSize) -> Vec<Measure> {
    let of = &size.measures;
    let taken = [
        (Measure::ThresholdsLowered, of.relaxed.is_empty()),
        (Measure::EscalationLimited, of.held_back.is_empty()),
        (Measure::MovedToPools, of.moved.is_empty()),
        (Measure::Shed, of.shed.is_empty()),
    ];
    taken.into_iter().filter_map(|(measure, none)| (!none).then_some(measure)).collect()
}

/// What is said of an account, and whether anything is asked of it.
fn status(size: &AccountSize) -> (QuotaStatus, bool) {
    let needed = size.quotas.iter().map(|quota| quota.needed() / quota.usable().max(f64::MIN_POSITIVE));
    let needed = needed.fold(0.0, f64::max).min(1e6);
    let mut message = size.sentence.clone();
    crate::operator::status::cut(&mut message);
    // A reserve is kept free whether anybody asks or not.
    let asked = size.quotas.iter().any(|quota| quota.direct + quota.escalated + quota.beside > 0.0);
    (QuotaStatus { needed: Decimal(format!("{needed:.2}")), measures: measures(size), message }, asked)
}

/// Whether a person should be told: what is done is something else, or the numbers are, and were not said lately.
fn is_news(said: &QuotaStatus, new: &QuotaStatus, age: Duration) -> bool {
    let other = said.measures != new.measures || said.is_short() != new.is_short();
    other || age >= SELDOM && (said.needed() - new.needed()).abs() > CHANGE
}

#[cfg(test)]
mod tests;
