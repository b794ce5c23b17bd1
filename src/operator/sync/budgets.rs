//! The leader's books of budgets: routers ask, and what is granted is written down before.
//!
//! ```text
//! report --claims--> Book --grants--> reply        ConfigMap <policy>-state <--server-side apply-- run
//! ```
//! A book is read from its ConfigMap when a router first asks this leader, and dropped when it leads no more. The write
//! names the version that was read or written last, so that a leader that does not know of its successor is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::RoutingPolicy;
use crate::api::routing_policy::Budget;
use crate::lease::budget::book::{Book, Terms, key};
use crate::lease::budget::fund::Stored;
use crate::lease::budget::{Claim, Grant};
use crate::operator::apply::guarded;
use crate::operator::controller::Queue;
use crate::operator::controller::queue::{Key, Kind};
use crate::operator::observe::cache::Id;
use crate::operator::observe::world::{World, current};
use crate::runtime::leader::Leader;

/// Field manager of the ConfigMaps.
const MANAGER: &str = "smallfirst-state";
/// Key of the budgets in them.
const KEY: &str = "budgets.json";
/// How often it looks what must be written.
const LOOK: Duration = Duration::from_millis(200);
/// How often statuses are told how budgets stand.
const TELL: Duration = Duration::from_secs(5);
/// Bound on a read.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The books of all policies.
pub struct Budgets {
    client: Client,
    leader: Leader,
    world: Arc<World>,
    queue: Arc<Queue>,
    books: Mutex<HashMap<Id, Entry>>,
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
}

impl Budgets {
    /// No book is open.
    #[must_use]
    pub fn new(client: Client, leader: Leader, world: Arc<World>, queue: Arc<Queue>) -> Self {
        Self { client, leader, world, queue, books: Mutex::default(), asked: Notify::new() }
    }

    fn books(&self) -> MutexGuard<'_, HashMap<Id, Entry>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a router. Nothing unless this operator leads and has read the book.
    pub fn report(
        &self,
        policy: &Id,
        router: &str,
        sequence: u64,
        claims: &BTreeMap<String, Claim>,
        now: Instant,
    ) -> BTreeMap<String, Grant> {
        if claims.is_empty() || !self.leader.leads(now) {
            return BTreeMap::new();
        }
        let mut books = self.books();
        let entry = books.entry(policy.clone()).or_default();
        let Some(book) = &mut entry.book else {
            self.asked.notify_one();
            return BTreeMap::new();
        };
        let time = Timestamp::now();
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
        book.report(router, sequence, claims, now.into_std(), time)
    }

    /// Says how budgets stand, where that has changed.
    fn tell(&self, now: Instant) {
        let mut changed = Vec::new();
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

    /// What this operator kept is another's now.
    fn close(&self) {
        self.books().clear();
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
                    self.books().remove(&policy);
                }
            }
        }
    }

    async fn look(&self, policy: &Id) -> anyhow::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &policy.0);
        let name = format!("{}-state", policy.1);
        let Some(owner) = current(&self.world.policies, policy) else {
            self.books().remove(policy);
            return Ok(());
        };
        let unread = self.books().get(policy).is_some_and(|entry| entry.book.is_none());
        if unread {
            let found = tokio::time::timeout(TIMEOUT, api.get_opt(&name)).await??;
            let text = found.as_ref().and_then(|found| found.data.as_ref()?.get(KEY));
            let stored = text.map(|text| serde_json::from_str(text)).transpose()?.unwrap_or_default();
            let mut book = Book::new(stored, Instant::now().into_std());
            book.set(&terms(&owner), &owner.spec.time_zone, Timestamp::now());
            let version = found.and_then(|found| found.metadata.resource_version);
            let entry = Entry { book: Some(book), version, policy: owner.metadata.resource_version.clone() };
            self.books().insert(policy.clone(), entry);
            return Ok(());
        }
        let due = self.books().get_mut(policy).and_then(|entry| {
            let new = entry.book.as_mut()?.to_store(Instant::now().into_std(), Timestamp::now())?;
            Some((new, entry.version.clone()))
        });
        let Some((new, version)) = due else { return Ok(()) };
        let body = state(&owner, &name, &new, version.as_deref())?;
        let params = PatchParams::apply(MANAGER);
        let written = guarded(&self.leader, &name, api.patch(&name, &params, &Patch::Apply(&body))).await?;
        if let Some(entry) = self.books().get_mut(policy) {
            entry.version = written.metadata.resource_version;
            if let Some(book) = &mut entry.book {
                book.stored(new, Instant::now().into_std());
            }
        }
        Ok(())
    }
}

/// The ConfigMap. It goes with its policy, but is none of the children that a plan makes and prunes.
fn state(
    owner: &RoutingPolicy,
    name: &str,
    stored: &BTreeMap<String, Stored>,
    version: Option<&str>,
) -> anyhow::Result<serde_json::Value> {
    let mut reference = owner.owner_ref(&());
    if let Some(reference) = &mut reference {
        reference.controller = None;
    }
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "smallfirst"},
            "ownerReferences": reference.into_iter().collect::<Vec<_>>(),
        },
        "data": {KEY: serde_json::to_string(stored)?},
    });
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = version.into();
    }
    Ok(body)
}

/// The budgets of a policy that can be read; a policy with others is not in force.
fn terms(policy: &RoutingPolicy) -> Vec<Terms> {
    let term = |(scope, name, budget): (&str, &str, &Budget)| {
        let amount = i64::try_from(budget.amount.nanos().ok()?).ok()?;
        Some(Terms { key: key(scope, name, budget.per), amount, per: budget.per })
    };
    policy.spec.budgets().filter_map(term).collect()
}
