//! The leader's books: of budgets, where what is granted is written down before, and of what routers counted.
//!
//! ```text
//! report --claims--> Book --grants--> reply        ConfigMap <policy>-state <--server-side apply-- run
//!        --counts--> Measured
//! ```
//! They are read from the policy's ConfigMap when a router first reports to this leader, and dropped when it leads no more.
//! The write names the version that was read or written last, so that a leader that does not know of its successor is
//! refused. What was counted alone is written every ten seconds at most, and not while nothing is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::state::{self, BUDGETS, DEMAND, MANAGER};
use crate::api::RoutingPolicy;
use crate::api::routing_policy::Budget;
use crate::lease::budget::Grant;
use crate::lease::budget::book::{Book, Terms, key};
use crate::lease::budget::fund::Stored;
use crate::operator::apply::guarded;
use crate::operator::controller::Queue;
use crate::operator::controller::queue::{Key, Kind};
use crate::operator::demand::{Figures, Heard};
use crate::operator::observe::cache::Id;
use crate::operator::observe::world::{World, current};
use crate::routing::report::Report;
use crate::runtime::leader::Leader;

/// How often it looks what must be written.
const LOOK: Duration = Duration::from_millis(200);
/// How often what was counted is written at most.
const EVERY: Duration = Duration::from_secs(10);
/// How often statuses are told how budgets stand and what requests came to.
const TELL: Duration = Duration::from_secs(5);
/// Bound on a read.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The books of all policies.
pub struct Books {
    client: Client,
    leader: Leader,
    world: Arc<World>,
    queue: Arc<Queue>,
    books: Mutex<HashMap<Id, Entry>>,
    /// What statuses were told of requests.
    told: Mutex<HashMap<Id, BTreeMap<String, Figures>>>,
    asked: Notify,
}

#[derive(Default)]
struct Entry {
    /// `None` until it is read.
    book: Option<Book>,
    /// Version of the ConfigMap that was read or written; `None` if there is none.
    version: Option<String>,
    /// Version of the policy whose terms are in the book.
    policy: Option<String>,
    /// Whether there is news of what was counted.
    counted: bool,
    /// When the ConfigMap was written.
    written: Option<Instant>,
}

/// What must be written.
struct Due {
    /// The budgets, if what they grant waits for it.
    budgets: Option<BTreeMap<String, Stored>>,
    /// All keys of the ConfigMap.
    text: BTreeMap<&'static str, String>,
    /// The version that it must have.
    version: Option<String>,
}

impl Books {
    /// No book is open.
    #[must_use]
    pub fn new(client: Client, leader: Leader, world: Arc<World>, queue: Arc<Queue>) -> Self {
        let (books, told) = (Mutex::default(), Mutex::default());
        Self { client, leader, world, queue, books, told, asked: Notify::new() }
    }

    fn books(&self) -> MutexGuard<'_, HashMap<Id, Entry>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a router's report and answers what it claims of budgets. Nothing unless this operator leads and has read the
    /// books.
    pub fn report(&self, policy: &Id, report: &Report, now: Instant) -> BTreeMap<String, Grant> {
        if !self.leader.leads(now) {
            return BTreeMap::new();
        }
        let mut books = self.books();
        let entry = books.entry(policy.clone()).or_default();
        let Some(book) = &mut entry.book else {
            self.asked.notify_one();
            return BTreeMap::new();
        };
        let time = Timestamp::now();
        let heard = Heard {
            pod: &report.pod,
            incarnation: report.incarnation,
            sequence: report.sequence,
            age: i64::try_from(report.stamp_ms / 1000).unwrap_or(i64::MAX),
            at: time.as_second(),
        };
        entry.counted |= self.world.measured.report(policy, heard, &report.counts);
        let claims = &report.budgets;
        if claims.is_empty() {
            return BTreeMap::new();
        }
        if let Some(object) = current(&self.world.policies, policy)
            && object.metadata.resource_version != entry.policy
        {
            book.set(&terms(&object), &object.spec.time_zone, time);
            entry.policy = object.metadata.resource_version;
        }
        if claims.values().any(|claim| claim.need > 0) {
            // Somebody waits, perhaps for what must be written down first.
            self.asked.notify_one();
        }
        let router = format!("{}/{:x}", report.pod, report.purses);
        book.report(&router, report.incarnation.saturating_add(report.sequence), claims, now.into_std(), time)
    }

    /// Says how budgets stand and what requests came to, where that has changed.
    fn tell(&self, now: Instant) {
        let mut changed = self.counted();
        self.world.measured.retain_tiers(|tier| self.world.tiers.get(tier).is_some());
        let mut told = self.world.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        for (policy, entry) in self.books().iter() {
            let Some(book) = &entry.book else { continue };
            let new = book.standings(now.into_std(), Timestamp::now());
            if told.get(policy) != Some(&new) {
                told.insert(policy.clone(), new);
                changed.push(Key { kind: Kind::Policy, id: policy.clone() });
            }
        }
        drop(told);
        self.queue.add_all(changed);
    }

    /// Policies whose requests came to something else than what was told.
    fn counted(&self) -> Vec<Key> {
        let open: Vec<Id> = self.books().keys().cloned().collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|policy, _| open.contains(policy));
        let news = open.into_iter().filter(|policy| {
            let figures = self.world.measured.figures(policy).unwrap_or_default();
            let known = told.get(policy).map_or(figures.is_empty(), |told| *told == figures);
            if !known {
                told.insert(policy.clone(), figures);
            }
            !known
        });
        news.map(|id| Key { kind: Kind::Policy, id }).collect()
    }

    /// What this operator kept is another's now.
    fn close(&self) {
        self.books().clear();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.world.measured.clear();
        self.world.budgets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Reads and writes for ever.
    pub async fn run(self: Arc<Self>) {
        let mut told = Instant::now();
        loop {
            tokio::select! {
                () = self.asked.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if !self.leader.leads(Instant::now()) {
                self.close();
                continue;
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                self.tell(told);
            }
            let open: Vec<Id> = self.books().keys().cloned().collect();
            for policy in open {
                if let Err(error) = self.look(&policy).await {
                    let (namespace, name) = &policy;
                    tracing::warn!(%error, namespace, name, "the state of budgets; it is read anew");
                    // What another wrote, or what we can't know to be written, must be read.
                    self.drop_book(&policy);
                }
            }
        }
    }

    fn drop_book(&self, policy: &Id) {
        self.books().remove(policy);
        self.world.measured.forget(policy);
    }

    async fn look(&self, policy: &Id) -> anyhow::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &policy.0);
        let name = format!("{}-state", policy.1);
        let Some(owner) = current(&self.world.policies, policy) else {
            self.drop_book(policy);
            return Ok(());
        };
        let unread = self.books().get(policy).is_some_and(|entry| entry.book.is_none());
        if unread {
            let found = tokio::time::timeout(TIMEOUT, api.get_opt(&name)).await??;
            self.open(policy, &owner, found)?;
            return Ok(());
        }
        let Some(Due { budgets, text, version }) = self.due(policy, &owner)? else { return Ok(()) };
        let body = state::body(&owner, &name, &text, version.as_deref());
        let params = PatchParams::apply(MANAGER);
        let written = guarded(&self.leader, &name, api.patch(&name, &params, &Patch::Apply(&body))).await?;
        if let Some(entry) = self.books().get_mut(policy) {
            entry.version = written.metadata.resource_version;
            entry.written = Some(Instant::now());
            if let (Some(book), Some(new)) = (&mut entry.book, budgets) {
                book.stored(new, Instant::now().into_std());
            }
        }
        Ok(())
    }

    /// Opens a policy's books from what was found.
    fn open(&self, policy: &Id, owner: &RoutingPolicy, found: Option<ConfigMap>) -> anyhow::Result<()> {
        let text = |key: &str| found.as_ref().and_then(|found| found.data.as_ref()?.get(key));
        let stored = text(BUDGETS).map(|text| serde_json::from_str(text)).transpose()?.unwrap_or_default();
        // Money must not be lost; figures may, if somebody has written something else there.
        let demand = text(DEMAND).map(|text| serde_json::from_str(text)).transpose().unwrap_or_else(|error| {
            let (namespace, name) = policy;
            tracing::warn!(%error, namespace, name, "what was counted can't be read; it is counted anew");
            None
        });
        let mut book = Book::new(stored, Instant::now().into_std());
        book.set(&terms(owner), &owner.spec.time_zone, Timestamp::now());
        let version = found.and_then(|found| found.metadata.resource_version);
        let policy_version = owner.metadata.resource_version.clone();
        let entry = Entry { book: Some(book), version, policy: policy_version, ..Entry::default() };
        self.world.measured.begin(policy, demand.unwrap_or_default());
        self.books().insert(policy.clone(), entry);
        Ok(())
    }

    /// What must be written now, if anything must.
    fn due(&self, policy: &Id, owner: &RoutingPolicy) -> anyhow::Result<Option<Due>> {
        let mut books = self.books();
        let Some(entry) = books.get_mut(policy) else { return Ok(None) };
        let Some(book) = &mut entry.book else { return Ok(None) };
        let (now, time) = (Instant::now(), Timestamp::now());
        let budgets = book.to_store(now.into_std(), time);
        let counted = entry.counted && entry.written.is_none_or(|written| now >= written + EVERY);
        if budgets.is_none() && !counted {
            return Ok(None);
        }
        let mut text = BTreeMap::new();
        let kept = budgets.as_ref().unwrap_or_else(|| book.kept());
        if !kept.is_empty() {
            text.insert(BUDGETS, serde_json::to_string(kept)?);
        }
        let workloads = owner.spec.workloads.iter().map(|workload| workload.name.as_str()).collect();
        if let Some(demand) = self.world.measured.to_store(policy, &workloads, time.as_second()) {
            text.insert(DEMAND, demand.text()?);
            entry.counted = false;
        }
        Ok(Some(Due { budgets, text, version: entry.version.clone() }))
    }
}

/// The budgets of a policy that can be read; a policy with others is not in force.
fn terms(policy: &RoutingPolicy) -> Vec<Terms> {
    let term = |(scope, name, budget): (&str, &str, &Budget)| {
        let amount = i64::try_from(budget.amount.nanos().ok()?).ok()?;
        Some(Terms { key: key(scope, name, budget.per), amount, per: budget.per })
    };
    policy.spec.budgets().filter_map(term).collect()
}
