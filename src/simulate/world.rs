//! Table, manifests and scenario -> all that a run needs and that does not change in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use super::clock::{Nanos, nanos, of_seconds};
use super::kinds::{self, Kind};
use super::pool::ReplicaSpec;
use super::replica::Curve;
use super::scenario::{Looks, Scenario};
use crate::api::ModelTier;
use crate::api::types::{DataClass, Risk};
use crate::lease::reserve::Reserve;
use crate::operator::observe::Observed;
use crate::operator::validate;
use crate::router::admission::escalations::Escalations;
use crate::router::admission::limiter::{Limiter, Scope};
use crate::router::admission::share::Share;
use crate::router::breaker::Rules;
use crate::router::metrics::Metrics;
use crate::router::snapshot::for_high;
use crate::routing::RoutingTable;
use crate::routing::decide::{self, Route as Where};
use crate::routing::lent::reserves;
use crate::routing::table::{self, Backend, Limits, Path, Quota, tier_path};
use crate::sizing::input::Asked;

/// All that does not change in a run.
pub struct World {
    /// The table.
    pub table: Arc<RoutingTable>,
    /// Workloads in the policy's order, then Public tiers that requests name.
    pub routes: Vec<Route>,
    /// Tiers by name.
    pub tiers: Vec<Tier>,
    /// Accounts that the router keeps.
    pub accounts: Vec<Account>,
    /// Accounts as their providers keep them, with their names.
    pub granted: Vec<(String, Quota)>,
    /// Kinds of requests, in the scenario's order.
    pub kinds: Vec<Kind>,
    /// Limits of clients, in the table's order.
    pub clients: Vec<Option<Arc<Limiter>>>,
    /// Outages.
    pub outages: Vec<Outage>,
}

/// Where requests go.
pub struct Route {
    /// Name of the workload.
    pub name: String,
    /// What it may do when capacity is short.
    pub risk: Risk,
    /// How sensitive its data is.
    pub data_class: DataClass,
    /// Its path.
    pub path: Path,
    /// The tiers of each step, by their places.
    pub steps: Vec<Vec<usize>>,
    /// Whether a request goes to a pool where a step has no room.
    pub movable: Vec<bool>,
    /// What all clients together may take of it.
    pub limiter: Option<Arc<Limiter>>,
    /// How many of its requests may escalate.
    pub escalations: Option<Arc<Escalations>>,
    /// Part of accounts that is kept for it, in 1e-9.
    pub reserve: u64,
}

/// A tier.
pub struct Tier {
    /// Its name.
    pub name: String,
    /// As the table has it.
    pub tier: table::Tier,
    /// How long requests take.
    pub curve: Curve,
    /// Its pool, if it is one.
    pub pool: Option<PoolOf>,
    /// The router's account, by its place.
    pub account: Option<usize>,
    /// The provider's, by its place.
    pub granted: Option<usize>,
    /// When its circuit opens and closes.
    pub rules: Rules,
    /// Whether a workload of risk High uses it.
    pub serves_high: bool,
}

/// How a tier's pool is made and scaled.
pub struct PoolOf {
    /// How replicas are made.
    pub spec: ReplicaSpec,
    /// Replicas at the beginning.
    pub replicas: u32,
    /// What a replica costs an hour, in 1e-9 of the currency. `None`: requests cost the tier's prices.
    pub replica_hour: Option<u64>,
    /// Its autoscaler. `None`: the number of replicas is fixed.
    pub scaling: Option<Scaling>,
    /// Whether the operator sizes it.
    pub sized: bool,
    /// What for.
    pub asked: Asked,
    /// Longest wait for a slot that it aims at.
    pub within: Nanos,
}

impl PoolOf {
    /// Fewest and most replicas.
    #[must_use]
    pub fn bounds(&self) -> (u32, u32) {
        self.scaling.as_ref().map_or((self.replicas, self.replicas), |scaling| (scaling.min, scaling.max))
    }

    /// How long fewer replicas must have been enough.
    #[must_use]
    pub fn stabilization(&self) -> Nanos {
        self.scaling.as_ref().map_or(0, |scaling| scaling.stabilization)
    }
}

/// What an autoscaler is told.
pub struct Scaling {
    /// Fewest replicas, at least one: how a pool comes back from zero is not simulated.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// Requests at a replica that it aims for.
    pub target: f64,
    /// How long fewer replicas must have been enough.
    pub stabilization: Nanos,
}

impl Scaling {
    /// What the ModelTier says, for replicas of so many slots.
    fn of(tier: &ModelTier, slots: u32) -> Option<Self> {
        let validate::Scaling { min, max, stabilization, .. } = validate::scaling(tier)?;
        let utilization = tier.spec.pool.as_ref()?.scaling.as_ref()?.target_utilization.value().ok()?;
        let (target, stabilization) = (f64::from(slots) * utilization, nanos(stabilization));
        Some(Self { min: min.max(1), max, target, stabilization })
    }
}

/// An account of the router.
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its quota, whole: one router holds all of it.
    pub quota: Quota,
    /// Parts of it that are kept for workloads.
    pub reserves: Vec<Reserve>,
}

/// A tier that fails for a while.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// The tier, by its place.
    pub tier: usize,
    /// When it begins and ends.
    pub from: Nanos,
    /// When it ends.
    pub to: Nanos,
    /// How it looks.
    pub looks: Looks,
}

impl World {
    /// Joins a table, the manifests that it is of, and a scenario. `epoch`: the time of the run's beginning.
    ///
    /// # Errors
    /// Everything in which the scenario does not fit the table, a line each, with the scenario's field.
    pub fn build(
        table: &RoutingTable,
        observed: &Observed,
        scenario: &Scenario,
        epoch: Instant,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let tiers = tiers(table, observed, scenario, &mut problems);
        let kinds = kinds::all(table, scenario, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let metrics = Metrics::new(&mut Registry::default());
        let limiter = |scope, name: &str, limits: Option<Limits>| {
            limits.map(|limits| Limiter::new(scope, name, limits, Share::ALL, None, &metrics))
        };
        let names: Vec<String> = table.clients.iter().flatten().map(|client| client.name.clone()).collect();
        let places: BTreeMap<&str, usize> =
            tiers.iter().enumerate().map(|(at, tier)| (tier.name.as_str(), at)).collect();
        let steps = |path: &Path| -> Vec<Vec<usize>> {
            let places =
                |step: &table::Step| step.tiers.iter().filter_map(|name| places.get(name.as_str()).copied()).collect();
            path.steps.iter().map(places).collect()
        };
        let movable =
            |path: &Path, data| (0..path.steps.len()).map(|step| decide::is_movable(table, path, step, data)).collect();
        let mut routes = Vec::new();
        for workload in &table.workloads {
            let Some(path) = table.paths.get(&workload.path) else { continue };
            routes.push(Route {
                name: workload.name.clone(),
                risk: workload.risk,
                data_class: workload.data_class,
                steps: steps(path),
                movable: movable(path, workload.data_class),
                limiter: limiter(Scope::Workload, &workload.name, workload.limits),
                escalations: path.escalation_limit.map(|limit| Escalations::new(limit, names.clone(), None, epoch)),
                reserve: workload.reserve.unwrap_or(0),
                path: path.clone(),
            });
        }
        // As the router serves a tier that a client names.
        let public =
            kinds.iter().filter_map(|(_, place)| if let Where::Tier(name) = place { Some(*name) } else { None });
        for name in public.collect::<BTreeSet<_>>() {
            let Some(path) = table.paths.get(&tier_path(name)) else { continue };
            let (risk, data_class) = (Risk::Medium, DataClass::Internal);
            routes.push(Route {
                name: tier_path(name),
                risk,
                data_class,
                steps: steps(path),
                movable: movable(path, data_class),
                limiter: None,
                escalations: None,
                reserve: 0,
                path: path.clone(),
            });
        }
        let place_of = |place: &Where<'_>| match place {
            Where::Workload(index) => Some(*index),
            Where::Tier(name) => routes.iter().position(|route| route.name == tier_path(name)),
        };
        let kinds =
            kinds.into_iter().filter_map(|(kind, place)| Some(Kind { route: place_of(&place)?, ..kind })).collect();
        let outage = |outage: &super::scenario::Outage| {
            Some(Outage {
                tier: *places.get(outage.tier.as_str())?,
                from: nanos(outage.from.to_std().ok()?),
                to: nanos(outage.to.to_std().ok()?),
                looks: outage.looks,
            })
        };
        let clients = table.clients.iter().flatten();
        Ok(Self {
            table: Arc::new(table.clone()),
            outages: scenario.outages.iter().filter_map(outage).collect(),
            clients: clients.map(|client| limiter(Scope::Client, &client.name, client.limits)).collect(),
            accounts: accounts(table).1,
            granted: granted(table, scenario).1,
            routes,
            kinds,
            tiers,
        })
    }
}

/// Accounts of a table with their places by name.
fn accounts(table: &RoutingTable) -> (BTreeMap<&str, usize>, Vec<Account>) {
    let mut reserves = reserves(table);
    let (mut places, mut all) = (BTreeMap::new(), Vec::new());
    for account in table.tiers.values().filter_map(|tier| tier.account.as_ref()) {
        places.entry(account.name.as_str()).or_insert_with(|| {
            let reserves = reserves.remove(account.name.as_str()).unwrap_or_default();
            all.push(Account { name: account.name.clone(), quota: account.quota, reserves });
            all.len() - 1
        });
    }
    (places, all)
}

/// What providers grant: the scenario's word, else the manifests'. Accounts that no manifest names are of one tier.
fn granted<'t>(table: &'t RoutingTable, scenario: &Scenario) -> (BTreeMap<&'t str, usize>, Vec<(String, Quota)>) {
    let (mut places, mut all) = (BTreeMap::new(), Vec::new());
    for (name, tier) in &table.tiers {
        let said = scenario.tiers.get(name).and_then(|tier| tier.quota);
        let account = tier.account.as_ref();
        let Some(quota) = said.or_else(|| account.map(|account| account.quota)) else { continue };
        let key = account.map_or(name.as_str(), |account| account.name.as_str());
        let place = *places.entry(key).or_insert_with(|| {
            all.push((key.to_owned(), quota));
            all.len() - 1
        });
        if let (Some(said), Some((_, known))) = (said, all.get_mut(place)) {
            *known = said;
        }
    }
    (places, all)
}

fn tiers(table: &RoutingTable, observed: &Observed, scenario: &Scenario, problems: &mut Vec<String>) -> Vec<Tier> {
    let known = || table.tiers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let unknown = scenario.tiers.keys().filter(|name| !table.tiers.contains_key(*name));
    problems.extend(
        unknown.map(|name| format!("tiers.{name}: no path of the policy uses such a tier; it uses {}", known())),
    );
    let (accounts, _) = accounts(table);
    let (granted, _) = granted(table, scenario);
    let high = for_high(table);
    let mut all = Vec::new();
    for (name, tier) in &table.tiers {
        let Some(said) = scenario.tiers.get(name) else {
            problems.push(format!("tiers.{name}: must be there, with its curve: the policy uses the tier"));
            continue;
        };
        let curve = {
            let super::scenario::Curve { overhead, alpha, beta, gamma } = said.curve;
            Curve { overhead, alpha, beta, gamma }
        };
        let pool = match &tier.backend {
            Backend::Url { .. } => {
                let fields = [("concurrency", said.concurrency.is_some()), ("replicas", said.replicas.is_some())];
                let wrong = fields.into_iter().filter(|(_, set)| *set);
                problems
                    .extend(wrong.map(|(field, _)| format!("tiers.{name}.{field}: must not be set for a provider")));
                None
            }
            Backend::Service { .. } => {
                if said.curve.overhead > 0.0 {
                    problems.push(format!("tiers.{name}.curve.overhead: must not be set but for a provider"));
                }
                if said.quota.is_some() {
                    problems.push(format!("tiers.{name}.quota: must not be set for a pool or a Service"));
                }
                let slots = said.concurrency.or(tier.concurrency);
                if slots.is_none() {
                    problems.push(format!(
                        "tiers.{name}.concurrency: must be set, here or as spec.pool.perReplica.concurrency of the ModelTier"
                    ));
                }
                let manifest = observed.tiers.get(name);
                let wanted = manifest.and_then(|tier| validate::sizing(tier)).map(|wanted| wanted.asked);
                let spec = manifest.map(|tier| &tier.spec);
                let replicas = spec.and_then(|spec| u32::try_from(spec.pool.as_ref()?.replicas).ok());
                let price = spec.and_then(|spec| spec.replica_hour.as_ref()?.nanos().ok());
                let start = nanos(said.pod_start.to_std().unwrap_or_default());
                let scaling = slots.and_then(|slots| Scaling::of(manifest?, slots));
                slots.map(|slots| PoolOf {
                    spec: ReplicaSpec { curve, slots, start },
                    replicas: said.replicas.or(replicas).unwrap_or(1),
                    replica_hour: price.and_then(|price| u64::try_from(price).ok()),
                    sized: wanted.is_some() && scaling.is_some(),
                    scaling,
                    within: of_seconds(wanted.as_ref().map_or(0.0, |asked| asked.within)),
                    asked: wanted.unwrap_or_default(),
                })
            }
        };
        let account = tier.account.as_ref().map(|account| account.name.as_str());
        all.push(Tier {
            name: name.clone(),
            curve,
            pool,
            account: account.and_then(|account| accounts.get(account).copied()),
            granted: granted.get(account.unwrap_or(name)).copied(),
            rules: Rules::from(&tier.health),
            serves_high: high.contains(name.as_str()),
            tier: tier.clone(),
        });
    }
    all
}

/// A time of a run as the router's code knows times.
#[must_use]
pub fn instant(epoch: Instant, at: Nanos) -> Instant {
    epoch + Duration::from_nanos(at)
}
