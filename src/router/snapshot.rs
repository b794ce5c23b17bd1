//! What routers serve from: a table, compiled. Made off the request path and swapped as a whole.
//!
//! Everything that does not depend on the request is done here: gates compiled, keys hashed, upstream addresses parsed,
//! the state of tiers carried over from the snapshot before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Uri};
use sha2::{Digest, Sha256};

use super::admission::account::Account;
use super::admission::budget::{Budget, Budgets};
use super::admission::limiter::{Limiter, Scope};
use super::admission::share::Share;
use super::admission::store::Terms;
use super::breaker::{Circuit, Rules};
use super::degraded::Scarce;
use super::endpoints::{Endpoint, Endpoints, Port};
use super::metrics::Metrics;
use super::retry_budget::{Retries, RetryBudget};
use super::route::Routes;
use super::secret_problem::SecretProblem;
use super::tally::Tally;
use crate::api::types::{Risk, SecretKeyRef};
use crate::lease::lessee;
use crate::lease::{Claim, Grant, Key};
use crate::routing::counts::{Counts, TierCounts};
use crate::routing::lent::reserves;
use crate::routing::source::secrets::Secrets;
use crate::routing::table::{self, Backend, Client, FORMAT_VERSION, RoutingTable, Tier, hash};

/// A table that a router refuses; the one before stays.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not a table; the text begins with the field, where it is one that is wrong.
    #[error("the table can't be read: {0}")]
    Malformed(String),
    /// Written by a newer operator.
    #[error("the table has format version {0}, this router reads up to {FORMAT_VERSION}")]
    Version(u32),
    /// A part does not compile.
    #[error("{0}")]
    Part(String),
}

/// A table in force.
pub struct Snapshot {
    /// The table.
    pub table: RoutingTable,
    /// Its hash.
    pub hash: String,
    /// Where requests go.
    pub routes: Routes,
    /// Client by SHA-256 of its key.
    keys: Vec<([u8; 32], usize)>,
    /// What each client may take, in the order of the table.
    limiters: Vec<Option<Arc<Limiter>>>,
    /// What each client may spend, in the order of the table.
    budgets: Vec<Option<Arc<Budget>>>,
    /// Tiers by name.
    tiers: BTreeMap<String, Arc<Upstream>>,
    /// Accounts with a quota.
    accounts: Accounts,
    /// What is not mounted or cannot be used.
    pub problems: Vec<SecretProblem>,
}

/// A tier, ready to be asked.
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// As the table has it.
    pub tier: Tier,
    /// Path of chat completions at its endpoints.
    pub chat: Uri,
    /// Path that its endpoints answer while they live, where that is known.
    pub health: Option<Uri>,
    /// `authorization`, where the tier needs one.
    pub authorization: Result<Option<HeaderValue>, SecretProblem>,
    /// The provider's account, where it has a quota to keep.
    pub account: Option<Arc<Account>>,
    /// Whether it answers.
    pub circuit: Arc<Mutex<Circuit>>,
    /// When its circuit and those of its endpoints open and close.
    pub rules: Rules,
    /// Until when little is left of its provider's limits.
    pub scarce: Arc<Scarce>,
    /// Whether a workload of risk High uses it: others give way to that when little is left.
    pub serves_high: bool,
    /// Whether its engine was seen to continue an answer; unset until that is asked.
    pub continues: Arc<OnceLock<bool>>,
    /// How often a request may be tried again.
    pub retries: Retries,
    /// What its calls come to.
    pub tally: Arc<Tally>,
    place: Place,
}

/// Where the endpoints of a tier are found.
enum Place {
    /// A URL.
    Fixed(Arc<Endpoint>),
    /// A port of a Service.
    Service(Port),
}

impl Upstream {
    /// Its circuit.
    pub fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Endpoints that can be asked now.
    #[must_use]
    pub fn endpoints<'a>(&'a self, world: &'a Endpoints) -> &'a [Arc<Endpoint>] {
        match &self.place {
            Place::Fixed(endpoint) => std::slice::from_ref(endpoint),
            Place::Service(port) => world.of(port),
        }
    }

    /// Whether it has no endpoint, which may be on purpose: nobody asked for it.
    #[must_use]
    pub fn is_cold(&self, world: &Endpoints) -> bool {
        self.tier.scales_to_zero && self.endpoints(world).is_empty()
    }

    /// What its calls came to.
    fn counts(&self, world: &Endpoints, now: Instant) -> TierCounts {
        let endpoints = self.endpoints(world);
        let in_flight: usize = endpoints.iter().map(|endpoint| endpoint.load()).sum();
        let circuit = self.circuit();
        // A provider's limit is no failure of it.
        let degraded = circuit.is_open() && circuit.limited_for(now).is_none();
        drop(circuit);
        let (in_flight, endpoints) = (in_flight as u64, endpoints.len() as u64);
        self.tally.counts(TierCounts { in_flight, endpoints, degraded, ..TierCounts::default() })
    }
}

impl Snapshot {
    /// Compiles a table. `lent`: this router reports to the operators, so that they can lend it limits.
    ///
    /// # Errors
    /// When the text is no table, or one that this router can't execute as a whole.
    pub fn compile(
        json: &str,
        secrets: &Secrets,
        metrics: &Metrics,
        budgets: &Budgets,
        lent: bool,
        before: Option<&Self>,
    ) -> Result<Self, Refused> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format_version: u32,
        }
        let Version { format_version } = read(json)?;
        if format_version > FORMAT_VERSION {
            return Err(Refused::Version(format_version));
        }
        let mut table: RoutingTable = read(json)?;
        table.leases.take_if(|_| !lent);
        let mut problems = Vec::new();
        let accounts = compile_accounts(&table, secrets, metrics, before, &mut problems);
        let tiers = compile_tiers(&table, secrets, metrics, before, &accounts, &mut problems)?;
        let keys = compile_keys(&table, secrets, &mut problems);
        let routes = Routes::compile(&table, &tiers, metrics, budgets, before.map(|before| &before.routes))?;
        let limiters = compile_limiters(&table, metrics, before);
        let clients = table.clients.iter().flatten();
        let budgets =
            clients.map(|client| budget(budgets, Scope::Client, &client.name, client.budget, &table)).collect();
        Ok(Self { hash: hash(json), routes, keys, limiters, budgets, tiers, accounts, problems, table })
    }

    /// What a client may take, if that is limited.
    #[must_use]
    pub fn limiter(&self, client: Option<usize>) -> Option<&Arc<Limiter>> {
        self.limiters.get(client?)?.as_ref()
    }

    /// What a client may spend, if that is bounded.
    #[must_use]
    pub fn budget(&self, client: Option<usize>) -> Option<&Arc<Budget>> {
        self.budgets.get(client?)?.as_ref()
    }

    /// What a report says of all that is lent; see [`Holding::claim`](crate::lease::holding::Holding::claim).
    #[must_use]
    pub fn claims(&self, numbers: (u64, u64), now: Instant) -> Vec<Claim> {
        let mut claims = Vec::new();
        self.limiters().for_each(|limiter| limiter.claim(numbers, now, &mut claims));
        self.accounts().for_each(|account| account.claim(numbers, now, &mut claims));
        claims
    }

    /// Puts what the leader answers in force. Returns in what time to report again, if that is to be soon.
    pub fn apply(&self, terms: &lessee::Terms<'_>, now: Instant) -> Option<Duration> {
        let grants: HashMap<&Key, &Grant> = terms.grants.iter().map(|grant| (&grant.key, grant)).collect();
        let grant = |key: &Key| grants.get(key).copied();
        let limiters = self.limiters().filter_map(|limiter| limiter.apply(grant, terms, now)).min();
        let accounts = self.accounts().filter_map(|account| account.apply(grant, terms, now)).min();
        limiters.into_iter().chain(accounts).min()
    }

    /// What was counted of its workloads and tiers.
    #[must_use]
    pub fn counts(&self, endpoints: &Endpoints, now: Instant) -> Counts {
        let workloads = self.routes.all().map(|route| (route.workload.clone(), route.metrics.counts(&route.stages)));
        let tiers = self.tiers.iter().map(|(name, upstream)| (name.clone(), upstream.counts(endpoints, now)));
        Counts { workloads: workloads.collect(), tiers: tiers.collect() }
    }

    /// The router is about to stop: it lives on what it was lent.
    pub fn drain(&self) {
        self.limiters().for_each(|limiter| limiter.drain());
        self.accounts().for_each(|account| account.drain());
    }

    fn limiters(&self) -> impl Iterator<Item = &Arc<Limiter>> {
        self.limiters.iter().flatten().chain(self.routes.limiters())
    }

    fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// The client of a key, compared in constant time; `None` if nobody has it.
    #[must_use]
    pub fn client(&self, key: &str) -> Option<usize> {
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = None;
        for (known, client) in &self.keys {
            if bool::from(subtle::ConstantTimeEq::ct_eq(&known[..], &digest[..])) {
                found = Some(*client);
            }
        }
        found
    }
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, Refused> {
    let mut text = serde_json::Deserializer::from_str(json);
    let read = serde_path_to_error::deserialize(&mut text).map_err(|e| Refused::Malformed(e.to_string()))?;
    text.end().map_err(|e| Refused::Malformed(e.to_string()))?;
    Ok(read)
}

/// The budget of a client or workload. Without operators that grant it, each router holds an equal part.
pub(super) fn budget(
    budgets: &Budgets,
    scope: Scope,
    name: &str,
    terms: Option<table::Budget>,
    table: &RoutingTable,
) -> Option<Arc<Budget>> {
    let terms = terms?;
    let own = table.sync.is_none().then(|| terms.amount / i64::from(table.routers.max(1)));
    Some(budgets.of(scope, name, terms, &table.time_zone, own))
}

/// Accounts with a quota, by name.
type Accounts = BTreeMap<String, Arc<Account>>;

fn compile_accounts(
    table: &RoutingTable,
    secrets: &Secrets,
    metrics: &Metrics,
    before: Option<&Snapshot>,
    problems: &mut Vec<SecretProblem>,
) -> Accounts {
    let mut reserves = reserves(table);
    let mut accounts = Accounts::new();
    for account in table.tiers.values().filter_map(|tier| tier.account.as_ref()) {
        accounts.entry(account.name.clone()).or_insert_with(|| {
            let known = before.and_then(|before| before.accounts.get(&account.name));
            let reserves = reserves.remove(account.name.as_str()).unwrap_or_default();
            let store = account.store.as_ref().and_then(|store| {
                let terms = Terms::new(&account.name, store, secrets, table.longest());
                terms.map_err(|problem| problems.push(problem)).ok()
            });
            Account::new(&account.name, account.quota, Share::of_accounts(table), reserves, store, known, metrics)
        });
    }
    accounts
}

fn compile_tiers(
    table: &RoutingTable,
    secrets: &Secrets,
    metrics: &Metrics,
    before: Option<&Snapshot>,
    accounts: &Accounts,
    problems: &mut Vec<SecretProblem>,
) -> Result<BTreeMap<String, Arc<Upstream>>, Refused> {
    let mut tiers = BTreeMap::new();
    let for_high = for_high(table);
    for (name, tier) in &table.tiers {
        let old = before.and_then(|b| b.tiers.get(name)).filter(|old| old.tier.backend == tier.backend);
        let mut authorization = Ok(None);
        let mut health = None;
        let (chat, place) = match &tier.backend {
            Backend::Service { name, port_name, health: path, .. } => {
                health = path
                    .as_ref()
                    .map(|path| path.parse())
                    .transpose()
                    .map_err(|_| Refused::Part(format!("tier {name}: {path:?} is no path")))?;
                let port = (table.namespace.clone(), name.clone(), port_name.clone().unwrap_or_default());
                (Uri::from_static("/v1/chat/completions"), Place::Service(port))
            }
            Backend::Url { base_url, credential } => {
                if let Some(secret) = credential {
                    let field = format!("ModelTier {name}: spec.provider.credential.secretKeyRef");
                    authorization = bearer(secrets.get(secret), &field, secret).map(Some);
                    if let Err(problem) = &authorization {
                        problems.push(problem.clone());
                    }
                }
                let (chat, endpoint) = at_url(base_url)
                    .map_err(|problem| Refused::Part(format!("tier {name}: baseURL {base_url}: {problem}")))?;
                let known = old.and_then(|old| if let Place::Fixed(at) = &old.place { Some(at.clone()) } else { None });
                (chat, Place::Fixed(known.unwrap_or_else(|| Arc::new(endpoint))))
            }
        };
        let circuit = old.map_or_else(Arc::default, |o| o.circuit.clone());
        let scarce = old.map_or_else(Arc::default, |o| o.scarce.clone());
        let serves_high = for_high.contains(name.as_str());
        let same_model = old.filter(|old| old.tier.model == tier.model);
        let continues = same_model.map_or_else(Arc::default, |o| o.continues.clone());
        let budget = old.map(|o| o.retries.budget.clone());
        let budget = budget.unwrap_or_else(|| Arc::new(RetryBudget::new(Instant::now())));
        let retries = metrics.retries(name, budget);
        let tally = old.map_or_else(Arc::default, |old| old.tally.clone());
        let rules = Rules::from(&tier.health);
        let (name, tier) = (name.clone(), tier.clone());
        let account = tier.account.as_ref().and_then(|account| accounts.get(&account.name)).cloned();
        let upstream = Upstream {
            name: name.clone(),
            tier,
            chat,
            health,
            authorization,
            account,
            circuit,
            rules,
            scarce,
            serves_high,
            continues,
            retries,
            tally,
            place,
        };
        tiers.insert(name, Arc::new(upstream));
    }
    Ok(tiers)
}

/// Names of the tiers that workloads of risk High use, for answers or for grades.
pub(crate) fn for_high(table: &RoutingTable) -> BTreeSet<&str> {
    let high = table.workloads.iter().filter(|workload| workload.risk == Risk::High);
    let steps = high.filter_map(|workload| table.paths.get(&workload.path)).flat_map(|path| &path.steps);
    steps.flat_map(|step| step.tiers.iter().chain(step.judges())).map(String::as_str).collect()
}

/// The path of chat completions below a base URL, and the endpoint that it names.
fn at_url(base: &str) -> Result<(Uri, Endpoint), String> {
    let url: Uri = base.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let endpoint = Endpoint::of_url(&url).ok_or("it has no host")?;
    let chat = format!("{}/chat/completions", url.path().trim_end_matches('/'));
    Ok((chat.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?, endpoint))
}

fn bearer(key: Option<Bytes>, field: &str, secret: &SecretKeyRef) -> Result<HeaderValue, SecretProblem> {
    let key = key.ok_or_else(|| SecretProblem::absent(field, secret))?;
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", key.as_ref()].concat())
        .map_err(|_| SecretProblem::not_a_header(field, secret))?;
    value.set_sensitive(true);
    Ok(value)
}

fn compile_limiters(table: &RoutingTable, metrics: &Metrics, before: Option<&Snapshot>) -> Vec<Option<Arc<Limiter>>> {
    let known = |name: &str| {
        let before = before?;
        before.limiter(before.table.clients.as_ref()?.iter().position(|client| client.name == name))
    };
    let clients = table.clients.iter().flatten();
    let limiter = |client: &Client| {
        let share = Share::of_table(table);
        Some(Limiter::new(Scope::Client, &client.name, client.limits?, share, known(&client.name), metrics))
    };
    clients.map(limiter).collect()
}

fn compile_keys(table: &RoutingTable, secrets: &Secrets, problems: &mut Vec<SecretProblem>) -> Vec<([u8; 32], usize)> {
    let mut keys = Vec::new();
    let mut owners: HashMap<[u8; 32], &str> = HashMap::new();
    for (index, client) in table.clients.iter().flatten().enumerate() {
        let field = format!("RoutingPolicy {}: spec.clients[{}].apiKey.secretKeyRef", table.policy, client.name);
        let Some(key) = secrets.get(&client.api_key).filter(|key| !key.is_empty()) else {
            problems.push(SecretProblem::absent(&field, &client.api_key));
            continue;
        };
        let digest: [u8; 32] = Sha256::digest(&key).into();
        // Two clients with one key could not be told apart: the first keeps it.
        if let Some(first) = owners.insert(digest, &client.name) {
            problems.push(SecretProblem::shared(&field, &client.api_key, first));
            continue;
        }
        keys.push((digest, index));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_table_is_said_with_the_field() {
        let table = serde_json::json!({
            "formatVersion": 1, "namespace": "ai", "policy": "p", "currency": "USD", "clients": null, "tiers": {},
            "paths": {"up": {
                "steps": [{
                    "name": "small", "tiers": [], "entry": "Always", "timeoutMs": 1, "attempts": 1,
                    "accept": [{"check": {"match": "("}, "onMissing": "Escalate", "required": false}]
                }],
                "deadlineMs": 1, "failoverOn": [], "direction": "Up", "onExhausted": "Error"
            }},
            "workloads": [], "defaultWorkload": null, "accessLog": "JSON"
        });
        let table = table.to_string();
        for (from, to, says) in [
            ("-", "-", "path up: step small: match: regex parse error"),
            (
                "\"deadlineMs\":1",
                "\"deadlineMs\":\"1\"",
                "paths.up.deadlineMs: invalid type: string \"1\", expected u64",
            ),
            ("\"attempts\":1", "\"attemps\":1", "paths.up.steps[0].attemps: unknown field `attemps`"),
            ("\"policy\":\"p\",", "", "missing field `policy`"),
            ("\"formatVersion\":1", "\"formatVersion\":2", "format version 2"),
            ("\"accessLog\"", "accessLog", "key must be a string"),
        ] {
            let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
            let refused = Snapshot::compile(
                &table.replace(from, to),
                &Secrets::default(),
                &metrics,
                &Budgets::default(),
                false,
                None,
            )
            .err();
            let text = refused.expect("it is refused").to_string();
            assert!(text.contains(says), "{text} should say {says}");
        }
    }
}
