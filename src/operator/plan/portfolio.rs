//! Routing tables, tiers and what was measured -> the portfolio that sizing looks at.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::router::SURGE;
use crate::api::ModelTier;
use crate::api::escalation_path::{Direction, Entry, FailoverReason};
use crate::operator::validate::{self, Wanted};
use crate::routing::RoutingTable;
use crate::routing::decide;
use crate::routing::table::{self, Check, Leases, Path, Tier};
use crate::sizing::input::{
    Account, Beside, Escalation, Offered, Pool, Portfolio, Quota, Routers, Service, Step, Takes, Workload,
};

/// Seconds from the decision to add a replica until it serves, as long as nobody measures it.
pub const START: f64 = 120.0;

/// Part of a path's requests that are hedged at most: what routers allow.
const HEDGED: f64 = 0.05;

/// What is known of demand and of how tiers work.
pub trait Known {
    /// What clients offer to a workload of a policy, with its dispersion over so many seconds.
    fn offered(&self, policy: &str, workload: &str, seconds: f64) -> Offered;
    /// Refused answers of a step over judged ones, and by how little they were.
    fn escalation(&self, policy: &str, workload: &str, step: &str) -> Option<Escalation>;
    /// What a request of a workload takes of a tier.
    fn takes(&self, policy: &str, workload: &str, tier: &str) -> Option<Takes>;
    /// How many routers of a policy there are; `None`: it is not known, and taken for the most that it wants.
    fn routers(&self, _policy: &str) -> Option<u32> {
        None
    }
    /// How long a tier takes, with so many requests at a time at most in a replica.
    fn service(&self, tier: &str, concurrency: Option<u32>) -> Option<Service>;
}

/// The portfolio of one namespace: the tables of its policies, and its tiers. Only pools that are to be sized are in it.
#[must_use]
pub fn portfolio(
    tables: &BTreeMap<String, Arc<RoutingTable>>,
    tiers: &BTreeMap<String, Arc<ModelTier>>,
    known: &impl Known,
) -> Portfolio {
    let one = tables.len() == 1;
    let mut portfolio = Portfolio::default();
    for (policy, table) in tables {
        for workload in &table.workloads {
            let Some(path) = table.paths.get(&workload.path) else { continue };
            let of = Of { policy, table, workload, path };
            portfolio.workloads.push(of.workload(called(one, policy, &workload.name), known));
        }
        for (name, tier) in &table.tiers {
            let Some(account) = &tier.account else { continue };
            let entry = portfolio.accounts.entry(account.name.clone()).or_default();
            entry.tiers.insert(name.clone());
            narrow(&mut entry.quota, &account.quota);
        }
    }
    portfolio.accounts.retain(|_, account: &mut Account| account.quota != Quota::default());
    for (name, account) in &mut portfolio.accounts {
        account.routers = routers(name, tables, known);
    }
    for (name, tier) in tiers {
        if let Some(wanted) = validate::sizing(tier) {
            portfolio.pools.extend(pool(name, tier, wanted, known).map(|pool| (name.clone(), pool)));
        }
    }
    portfolio
}

/// The routers among which an account's limits are divided. Where a store counts for all nothing is.
fn routers(account: &str, tables: &BTreeMap<String, Arc<RoutingTable>>, known: &impl Known) -> Routers {
    let uses = |table: &RoutingTable| {
        let mut accounts = table.tiers.values().filter_map(|tier| tier.account.as_ref());
        accounts.any(|it| it.name == account && it.store.is_none())
    };
    let lent = tables.iter().filter_map(|(policy, table)| Some((policy, table.leases.filter(|_| uses(table))?)));
    let most = lent.clone().map(|(_, leases)| leases.most_of_accounts).max().unwrap_or_default();
    let there =
        |(policy, leases): (&String, Leases)| known.routers(policy).unwrap_or(leases.most.saturating_sub(SURGE.into()));
    Routers { most, absent: most.saturating_sub(lent.map(there).sum()) }
}

/// How a workload is called in the portfolio of a namespace with one policy, or several.
#[must_use]
pub fn called(one: bool, policy: &str, workload: &str) -> String {
    if one { workload.to_owned() } else { format!("{policy}/{workload}") }
}

/// A workload of a table.
struct Of<'a> {
    policy: &'a str,
    table: &'a RoutingTable,
    workload: &'a table::Workload,
    path: &'a Path,
}

impl Of<'_> {
    fn workload(&self, name: String, known: &impl Known) -> Workload {
        let on = |reason| self.path.failover_on.contains(&reason);
        Workload {
            name,
            risk: self.workload.risk,
            reserve: ratio(self.workload.reserve.unwrap_or_default()),
            offered: known.offered(self.policy, &self.workload.name, START),
            steps: (0..self.path.steps.len()).filter_map(|i| self.step(i, known)).collect(),
            on_outage: [FailoverReason::Unreachable, FailoverReason::ServerError, FailoverReason::Degraded]
                .into_iter()
                .any(on),
            on_shortage: on(FailoverReason::RateLimited),
            escalation_limit: self.path.escalation_limit.map(|limit| ratio(limit.ratio)),
        }
    }

    /// A step, unless no request of the workload enters it.
    fn step(&self, i: usize, known: &impl Known) -> Option<Step> {
        let step = &self.path.steps[i];
        if step.entry == Entry::FailoverOnly && self.path.direction == Direction::Up {
            return None;
        }
        let tiers: Vec<String> = step.tiers.iter().filter(|tier| self.may_see(tier)).cloned().collect();
        let takes = self.takes(tiers.first()?, known);
        let refused = known.escalation(self.policy, &self.workload.name, &step.name);
        let refused = refused.filter(|_| !step.accept.is_empty()).unwrap_or_default();
        let slack = self.path.slack.filter(|_| decide::may_give_way(self.path, i)).unwrap_or_default();
        Some(Step {
            name: step.name.clone(),
            tiers,
            entry: step.entry,
            eligible: 1.0,
            takes,
            escalation: Escalation { slack, ..refused },
            beside: self.beside(i, takes, known),
        })
    }

    fn may_see(&self, tier: &str) -> bool {
        self.table.tiers.get(tier).is_some_and(|tier: &Tier| tier.data_class >= self.workload.data_class)
    }

    /// What a request takes of a tier; where none came to it yet, what one takes of another tier of the path.
    fn takes(&self, tier: &str, known: &impl Known) -> Takes {
        let others = self.path.steps.iter().flat_map(|step| &step.tiers).map(String::as_str);
        let mut found = std::iter::once(tier).chain(others);
        found.find_map(|tier| known.takes(self.policy, &self.workload.name, tier)).unwrap_or_default()
    }

    /// Samples for agreement, grades of judges, and hedges. As if every gate were reached.
    fn beside(&self, i: usize, takes: Takes, known: &impl Known) -> Vec<Beside> {
        let step = &self.path.steps[i];
        let mut beside: Vec<Beside> = step
            .accept
            .iter()
            .filter_map(|gate| match &gate.check {
                Check::Agreement { samples, .. } => {
                    Some(Beside { tier: step.tiers.first()?.clone(), per_request: f64::from(*samples), takes })
                }
                Check::Judge { tier, .. } => {
                    Some(Beside { tier: tier.clone(), per_request: 1.0, takes: self.takes(tier, known) })
                }
                _ => None,
            })
            .collect();
        let next = self.path.steps.get(i + 1).filter(|next| next.entry == Entry::Always);
        if let (Some(_), Some(tier)) = (self.path.hedge, next.and_then(|next| next.tiers.first())) {
            beside.push(Beside { tier: tier.clone(), per_request: HEDGED, takes: self.takes(tier, known) });
        }
        beside
    }
}

fn pool(name: &str, tier: &ModelTier, wanted: Wanted, known: &impl Known) -> Option<Pool> {
    let pool = tier.spec.pool.as_ref()?;
    let concurrency = u32::try_from(pool.per_replica.as_ref()?.concurrency).ok()?;
    let (min, max) = match validate::scaling(tier) {
        Some(scaling) => (scaling.min, scaling.max),
        None => (0, u32::try_from(pool.replicas).ok()?),
    };
    Some(Pool {
        class: tier.spec.class,
        service: known.service(name, Some(concurrency)),
        concurrency,
        start: START,
        min,
        max,
        replica_hour: wanted.replica_hour,
        asked: wanted.asked,
    })
}

/// The smaller of each limit: of several policies, one may not have heard of a change yet.
fn narrow(quota: &mut Quota, other: &table::Quota) {
    let narrow = |limit: &mut Option<f64>, other: Option<f64>| {
        *limit = match (*limit, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    };
    narrow(&mut quota.requests_per_minute, other.requests_per_minute.map(float));
    narrow(&mut quota.tokens_per_minute, other.tokens_per_minute.map(float));
    narrow(&mut quota.input_tokens_per_minute, other.input_tokens_per_minute.map(float));
    narrow(&mut quota.output_tokens_per_minute, other.output_tokens_per_minute.map(float));
    narrow(&mut quota.concurrency, other.max_concurrent.map(f64::from));
}

/// A ratio in 1e-9.
fn ratio(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "limits are planned with nine parts of ten")]
const fn float(value: u64) -> f64 {
    value as f64
}
