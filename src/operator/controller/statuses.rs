//! Statuses: written after the children, the latest one only, and never in their way.
//!
//! [`write::decide`] says which difference is worth a write. A status that waits is replaced by the next one of the same
//! object, so that a tier whose pods are ready by then costs one write. Statuses wait while children are written or objects are due, [`LONGEST_WAIT`] at most.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::REPORTER;
use super::queue::{Key, Kind, Queue};
use super::turns::Turns;
use crate::api::{EscalationPath, ModelTier, RoutingPolicy, RoutingPolicyStatus};
use crate::operator::apply::{Applier, Error, guarded};
use crate::operator::events;
use crate::operator::metrics::Metrics;
use crate::operator::observe::cache::Cache;
use crate::operator::observe::guard::Guard;
use crate::operator::observe::world::World;
use crate::operator::status::write::{self, Status, Write};
use crate::runtime::leader::Leader;

/// Field manager of statuses.
pub const MANAGER: &str = "smallfirst-status";
/// How long a status waits for children at most.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often it looks whether they are done.
const LOOK: Duration = Duration::from_millis(20);
/// How long an object waits whose status is being written.
const ANSWER: Duration = Duration::from_millis(100);
/// How often it looks whether a status that is on its way has been written.
const SOON: Duration = Duration::from_millis(2);
/// Statuses in flight at a time.
const IN_FLIGHT: usize = 8;

/// Statuses that wait to be written.
pub struct Statuses {
    client: Client,
    leader: Leader,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    waiting: Mutex<HashMap<Key, Waiting>>,
    /// Since when the status of an object differs from the stored one in what may wait.
    differs: Mutex<HashMap<Key, Instant>>,
    /// When the status of an object was written, while that matters.
    written: Mutex<HashMap<Key, Instant>>,
    turns: Mutex<Turns>,
    /// Objects whose status is being written: until the answer is there, nobody knows what is stored.
    writing: Mutex<HashSet<Key>>,
    news: Notify,
}

struct Waiting {
    since: Instant,
    body: Value,
    events: Vec<Event>,
    reference: k8s_openapi::api::core::v1::ObjectReference,
}

impl Statuses {
    /// No status waits.
    pub fn new(client: Client, leader: Leader, world: Arc<World>, metrics: Arc<Metrics>) -> Self {
        let reporter = Reporter { controller: REPORTER.to_owned(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            leader,
            world,
            metrics,
            recorder,
            waiting: Mutex::default(),
            differs: Mutex::default(),
            written: Mutex::default(),
            turns: Mutex::default(),
            writing: Mutex::default(),
            news: Notify::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn differs(&self) -> MutexGuard<'_, HashMap<Key, Instant>> {
        self.differs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago a status was written, if that was lately.
    fn written(&self, key: &Key, now: Instant) -> Option<Duration> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(key).map(|at| now - *at)
    }

    fn note_written(&self, key: &Key) {
        let now = Instant::now();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, at| now < *at + write::FIGURES);
        written.insert(key.clone(), now);
    }

    /// Turns of the statuses that nobody waits for.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every status was written.
    pub fn idle(&self) -> bool {
        self.waiting().is_empty()
    }

    /// The object's status is what it should be, or there is no object.
    pub fn keep(&self, key: &Key) {
        self.waiting().remove(key);
        self.differs().remove(key);
        self.turns().give_up(key);
    }

    /// The object's status should be this one: it is written now, or never; or the answer is when to look again.
    pub fn tell<K, S>(&self, key: &Key, object: &K, stored: Option<&S>, new: &S) -> Option<Duration>
    where
        K: Resource<DynamicType = ()>,
        S: Status + Serialize,
    {
        if self.writing().contains(key) {
            return Some(ANSWER);
        }
        let now = Instant::now();
        let since = self.differs().get(key).copied();
        let waited = since.map_or(Duration::ZERO, |since| now - since);
        let mut write = write::decide(stored, new, waited, self.written(key, now));
        if write == Write::Sometime {
            write = self.turns().wait(key, now).map_or(Write::Now, Write::After);
        }
        match write {
            Write::Not => self.keep(key),
            Write::Now | Write::Sometime => {
                self.differs().remove(key);
                self.set(key, object, new, stored);
            }
            Write::After(wait) => {
                self.waiting().remove(key);
                self.differs().insert(key.clone(), since.unwrap_or(now));
                return Some(wait);
            }
        }
        None
    }

    /// Writes a status of a policy before anything else is written of it; the next [`tell`](Self::tell) goes on from
    /// there. If that fails the next status says it.
    pub async fn at_once(&self, key: &Key, policy: &RoutingPolicy, status: Option<RoutingPolicyStatus>) {
        let Some(status) = status else { return };
        self.waiting().remove(key);
        // An older status may be on its way: this one must come after it.
        while !self.writing().insert(key.clone()) {
            tokio::time::sleep(SOON).await;
        }
        let written = self.patch::<RoutingPolicy>(&self.world.policies, key, &body(policy, &status)).await;
        self.writing().remove(key);
        if let Err(error) = written {
            tracing::debug!(%key, %error, "a status was not written");
        }
    }

    fn set<K, S>(&self, key: &Key, object: &K, status: &S, stored: Option<&S>)
    where
        K: Resource<DynamicType = ()>,
        S: Status + Serialize,
    {
        let body = body(object, status);
        let old = stored.map(Status::conditions).unwrap_or_default();
        let mut events = events::between(old, status.conditions(), object.meta().generation.unwrap_or_default());
        events.extend(stored.iter().flat_map(|stored| status.events(stored)));
        let mut waiting = self.waiting();
        let since = waiting.get(key).map_or_else(Instant::now, |before| before.since);
        waiting.insert(key.clone(), Waiting { since, body, events, reference: object.object_ref(&()) });
        drop(waiting);
        self.news.notify_one();
    }

    /// Writes statuses for ever.
    pub async fn run(&self, applier: &Applier, queue: &Queue) {
        loop {
            self.news.notified().await;
            while !self.idle() {
                if !applier.idle() || queue.busy() {
                    let now = Instant::now();
                    let late = self.waiting().values().any(|w| now >= w.since + LONGEST_WAIT);
                    if !late {
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                }
                self.write_some(queue).await;
            }
        }
    }

    /// Writes what waits, whatever else is under way.
    pub async fn flush(&self, queue: &Queue) {
        while !self.idle() {
            self.write_some(queue).await;
        }
    }

    /// Writes the oldest statuses that wait.
    async fn write_some(&self, queue: &Queue) {
        let batch: Vec<(Key, Waiting)> = {
            let mut waiting = self.waiting();
            let mut keys: Vec<(Instant, Key)> = waiting.iter().map(|(key, w)| (w.since, key.clone())).collect();
            keys.sort();
            let keys = keys.into_iter().take(IN_FLIGHT);
            let mut writing = self.writing();
            keys.filter_map(|(_, key)| {
                let status = waiting.remove(&key)?;
                writing.insert(key.clone());
                Some((key, status))
            })
            .collect()
        };
        let mut writes: FuturesUnordered<_> = batch.into_iter().map(|(key, w)| self.write_one(queue, key, w)).collect();
        while writes.next().await.is_some() {}
    }

    async fn write_one(&self, queue: &Queue, key: Key, waiting: Waiting) {
        let Waiting { body, events, reference, .. } = waiting;
        let written = match key.kind {
            Kind::Tier => self.patch::<ModelTier>(&self.world.tiers, &key, &body).await,
            Kind::Path => self.patch::<EscalationPath>(&self.world.paths, &key, &body).await,
            Kind::Policy => self.patch::<RoutingPolicy>(&self.world.policies, &key, &body).await,
        };
        self.writing().remove(&key);
        match written {
            Ok(()) => {
                self.note_written(&key);
                for event in events {
                    let publish = self.recorder.publish(&event, &reference);
                    match guarded(&self.leader, "Event", publish).await {
                        Ok(()) => self.metrics.write("Event", "create"),
                        Err(error) => tracing::warn!(%key, %error, "an event was not published"),
                    }
                }
            }
            // Gone, or another object of the same name: its own reconcile tells its status.
            Err(Error::Refused { code: 404 | 409, .. } | Error::NotLeading) => {}
            Err(error) => {
                tracing::warn!(%key, %error, "a status was not written");
                queue.retry(key);
            }
        }
    }

    async fn patch<K>(&self, cache: &Cache<Guard<K>>, key: &Key, body: &Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let (namespace, name) = &key.id;
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        // Nobody else writes this status: what is there from before, such as the schema's default, gives way.
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(body);
        let request = api.patch_status(name, &params, &patch);
        let mut answer = guarded(&self.leader, &format!("{key} status"), request).await?;
        self.metrics.write(key.kind.name(), "status");
        answer.meta_mut().managed_fields = None;
        cache.wrote(Guard(Ok(answer)));
        Ok(())
    }
}

/// The apply configuration of a status.
fn body<K: Resource<DynamicType = ()>, S: Serialize>(object: &K, status: &S) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // With its UID: never the status of another object of the same name.
        "metadata": {"name": object.name_any(), "uid": object.meta().uid},
        "status": status,
    })
}
