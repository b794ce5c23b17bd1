//! What is desired -> the cluster, by server-side apply, and nothing else.
//!
//! A child that already is what is desired is not written: the watch's copy contains the desired fields, and its
//! annotation [`HASH`] says that the last apply had exactly these fields, so that a field that is no longer
//! wanted is noticed too. Nothing is forced (but for [`handover`]): a field that another manager took is a conflict that a person reads
//! about, not a fight. An object that was not seen is applied with a version that no existing object has, so
//! that the API server refuses instead of adopting somebody else's; that costs no read.
//!
//! All writes share [`IN_FLIGHT`] slots, each has its own timeout, and none begins unless this process leads.

mod contains;
mod error;
mod handover;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use contains::contains;
pub use error::Error;

use super::metrics::Metrics;
use super::observe::cache::Id;
use super::observe::children::{ChildId, controller};
use super::observe::world::World;
use super::plan::{Desired, MANAGED_BY};
use crate::runtime::leader::Leader;

/// Field manager of children.
pub const MANAGER: &str = "smallfirst";
/// Annotation of children: what was applied last.
pub const HASH: &str = "smallfirst.dev/applied-hash";
/// Writes in flight at a time.
pub const IN_FLIGHT: usize = 16;
/// Bound on one write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A version that no object has by the time anybody sees it: applied with it, an object is created or refused.
const CREATE_ONLY: &str = "1";

/// Writes children.
pub struct Applier {
    client: Client,
    leader: Leader,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    slots: Semaphore,
    /// Children of which the API server's answer did not contain what was asked for (an admission webhook
    /// rewrites them, say), as answered: asking again would change nothing.
    settled: Mutex<HashMap<ChildId, (String, String)>>,
}

/// Phase of the autoscalers: after their Deployments.
const AUTOSCALERS: usize = 2;

/// When objects of a kind are applied: an autoscaler comes after its Deployment, and that after all that its pods need.
fn phase(kind: &str) -> usize {
    match kind {
        "Deployment" => 1,
        "HorizontalPodAutoscaler" | "ScaledObject" => AUTOSCALERS,
        _ => 0,
    }
}

/// Who owns the children.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

/// What has to be done about a child.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is what it should be.
    Keep,
    /// It has to be applied; `create`: it was not seen.
    Apply { create: bool },
    /// It belongs to somebody else.
    Foreign(String),
}

impl Applier {
    /// An applier over one client.
    #[must_use]
    pub fn new(client: Client, leader: Leader, world: Arc<World>, metrics: Arc<Metrics>) -> Self {
        Self { client, leader, world, metrics, slots: Semaphore::new(IN_FLIGHT), settled: Mutex::default() }
    }

    /// Whether no write is under way.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.slots.available_permits() == IN_FLIGHT
    }

    /// Makes the owner's children what is desired, and deletes those that are no longer.
    ///
    /// Deployments come after all that their pods need, autoscalers after them. While a pod template can't be stored they do not
    /// come at all: what runs must be what the next operator finds. Nor do autoscalers while the one before is there, or the
    /// replicas were not handed over: two would scale one Deployment.
    ///
    /// # Errors
    /// The first thing that went wrong, in the order of `desired`. Everything else was done.
    pub async fn apply(&self, owner: &Owner, desired: Vec<Desired>) -> Result<(), Error> {
        let wanted: Vec<Option<ChildId>> = desired.iter().map(|d| self.id(owner, d)).collect();
        let mut phases: [Vec<Desired>; 3] = Default::default();
        desired.into_iter().for_each(|desired| phases[phase(&desired.resource.kind)].push(desired));
        let [first, mut deployments, autoscalers] = phases;
        let templates: Vec<bool> = first.iter().map(|d| d.resource.kind == "ControllerRevision").collect();
        let mut results = join_all(first.into_iter().map(|d| self.child(owner, d))).await;
        if results.iter().zip(templates).any(|(result, template)| template && result.is_err()) {
            deployments.clear();
        }
        if let Some(Err(terminating)) = results.extract_if(.., |r| matches!(r, Err(Error::Terminating { .. }))).next() {
            return Err(terminating);
        }
        let children = self.world.children.of(&owner.uid);
        let unwanted = children.into_iter().filter(|child| !wanted.iter().flatten().any(|w| w == child));
        // An autoscaler goes before the spec sets the replicas again.
        let kind = |child: &ChildId| self.world.children.kinds().get(child.0).map_or("", |kind| kind.kind.as_str());
        let (sooner, later): (Vec<_>, Vec<_>) = unwanted.partition(|child| phase(kind(child)) == AUTOSCALERS);
        let pruned = join_all(sooner.into_iter().map(|child| self.prune(owner, child))).await;
        let applied = join_all(deployments.into_iter().map(|d| self.child(owner, d))).await;
        let alone = pruned.iter().chain(&applied).all(Result::is_ok);
        results.extend(pruned.into_iter().chain(applied));
        if alone {
            results.extend(join_all(autoscalers.into_iter().map(|d| self.child(owner, d))).await);
        }
        results.extend(join_all(later.into_iter().map(|child| self.prune(owner, child))).await);
        results.into_iter().collect()
    }

    fn id(&self, owner: &Owner, desired: &Desired) -> Option<ChildId> {
        let id: Id = (owner.namespace.clone(), desired.name.clone());
        Some((self.world.children.kind(&desired.resource)?, id))
    }

    async fn child(&self, owner: &Owner, mut desired: Desired) -> Result<(), Error> {
        let object = format!("{} {}", desired.resource.kind, desired.name);
        let Some(id) = self.id(owner, &desired) else {
            return Err(Error::Refused { object, code: 0, message: "a kind that is not watched".to_owned() });
        };
        let hash = stamp(&mut desired.body);
        let seen = self.world.children.get(&id);
        match verdict(seen.as_deref(), &desired.body, owner) {
            Verdict::Keep => Ok(()),
            Verdict::Foreign(other) => Err(Error::Foreign { object, owner: other }),
            Verdict::Apply { create } => {
                if seen.as_ref().is_some_and(|seen| self.is_settled(&id, &hash, seen)) {
                    return Ok(());
                }
                let handover = seen.as_ref().and_then(|seen| handover::replicas(seen, &desired.body));
                if create {
                    desired.body["metadata"]["resourceVersion"] = json!(CREATE_ONLY);
                }
                let _slot = self.slots.acquire().await;
                if let Some(handover) = &handover {
                    self.hand_over(owner, &desired, &handover.take, &object).await?;
                }
                let mut answer = self.patch(owner, &desired, &object).await;
                if answer.is_ok()
                    && let Some(release) = handover.and_then(|handover| handover.release)
                {
                    answer = self.hand_over(owner, &desired, &release, &object).await;
                }
                if create && matches!(&answer, Err(Error::Refused { code: 409, .. })) {
                    // It exists and was not seen: it is ours without its label, or just made, or somebody else's.
                    self.check_owner(owner, &desired, &object).await?;
                    if let Some(metadata) = desired.body["metadata"].as_object_mut() {
                        metadata.remove("resourceVersion");
                    }
                    answer = self.patch(owner, &desired, &object).await;
                }
                let answer = answer?;
                self.settle(&id, &hash, &answer, &desired.body);
                self.world.children.wrote(id.0, answer);
                Ok(())
            }
        }
    }

    async fn patch(&self, owner: &Owner, desired: &Desired, object: &str) -> Result<DynamicObject, Error> {
        self.send(owner, desired, &PatchParams::apply(MANAGER), &desired.body, object).await
    }

    /// The only write that is forced: of `spec.replicas`, when it changes hands because the spec says so.
    async fn hand_over(&self, owner: &Owner, to: &Desired, body: &Value, object: &str) -> Result<DynamicObject, Error> {
        self.send(owner, to, &PatchParams::apply(handover::MANAGER).force(), body, object).await
    }

    /// Sets the replicas of an object that was seen in this version, by its `/scale`. Whoever changed it since then is heard
    /// first: the change is on its way to the caches.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn scale<K: Resource<DynamicType = ()>>(
        &self,
        owner: &Owner,
        (name, version): (&str, Option<&str>),
        replicas: i32,
    ) -> Result<(), Error> {
        let resource = ApiResource::erase::<K>(&());
        let object = format!("{} {name}", resource.kind);
        let api = self.api(owner, &resource);
        let params = PatchParams { field_manager: Some(handover::MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}));
        let _slot = self.slots.acquire().await;
        let request = api.patch_scale(name, &params, &patch);
        match self.write("scale", &resource.kind, &object, request).await {
            Ok(_) | Err(Error::Refused { code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        owner: &Owner,
        desired: &Desired,
        params: &PatchParams,
        body: &Value,
        object: &str,
    ) -> Result<DynamicObject, Error> {
        let api = self.api(owner, &desired.resource);
        let patch = Patch::Apply(body);
        let request = api.patch(&desired.name, params, &patch);
        let mut answer = self.write("apply", &desired.resource.kind, object, request).await?;
        answer.metadata.managed_fields = None;
        Ok(answer)
    }

    async fn check_owner(&self, owner: &Owner, desired: &Desired, object: &str) -> Result<(), Error> {
        let api = self.api(owner, &desired.resource);
        let request = api.get_metadata(&desired.name);
        let found = tokio::time::timeout(TIMEOUT, request)
            .await
            .map_err(|_| Error::Unreachable { object: object.to_owned() })?
            .map_err(|error| Error::of(object, &error))?;
        let controller = found.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true));
        match controller {
            Some(r) if r.uid == owner.uid => Ok(()),
            Some(r) => Err(Error::Foreign { object: object.to_owned(), owner: format!("{} {}", r.kind, r.name) }),
            None => Err(Error::Foreign { object: object.to_owned(), owner: "nobody that smallfirst knows".to_owned() }),
        }
    }

    async fn prune(&self, owner: &Owner, id: ChildId) -> Result<(), Error> {
        let Some(resource) = self.world.children.kinds().get(id.0) else { return Ok(()) };
        let Some(child) = self.world.children.get(&id) else { return Ok(()) };
        let ours = child.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER);
        if !ours || child.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let object = format!("{} {}", resource.kind, id.1.1);
        let api = self.api(owner, resource);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: child.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        let _slot = self.slots.acquire().await;
        match self.write("delete", &resource.kind, &object, api.delete(&id.1.1, &params)).await {
            // Gone already, or not the object that was seen.
            Ok(_) | Err(Error::Refused { code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn api(&self, owner: &Owner, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &owner.namespace, resource)
    }

    /// Runs one write, within its timeout and the lease.
    async fn write<T>(
        &self,
        verb: &'static str,
        kind: &str,
        object: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        guarded(&self.leader, object, request).await.inspect(|_| self.metrics.write(kind, verb))
    }

    fn is_settled(&self, id: &ChildId, hash: &str, seen: &DynamicObject) -> bool {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.get(id).is_some_and(|(applied, answer)| applied == hash && *answer == content(seen))
    }

    fn settle(&self, id: &ChildId, hash: &str, answer: &DynamicObject, desired: &Value) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if contains(&whole(answer), &without_type(desired)) {
            settled.remove(id);
        } else {
            settled.insert(id.clone(), (hash.to_owned(), content(answer)));
        }
    }
}

/// Runs a write that may only happen while this process leads.
///
/// # Errors
/// [`Error::NotLeading`] without having written; otherwise what the API server said.
pub async fn guarded<T>(
    leader: &Leader,
    object: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    let now = Instant::now();
    let deadline = leader.write_deadline(now).ok_or(Error::NotLeading)?.min(now + TIMEOUT);
    tokio::time::timeout_at(deadline, request)
        .await
        .map_err(|_| Error::Unreachable { object: object.to_owned() })?
        .map_err(|error| Error::of(object, &error))
}

/// Notes in the body what it asks for; gives back the note.
fn stamp(body: &mut Value) -> String {
    let hash: String = Sha256::digest(body.to_string()).iter().take(8).map(|b| format!("{b:02x}")).collect();
    body["metadata"]["annotations"][HASH] = json!(hash);
    hash
}

fn whole(object: &DynamicObject) -> Value {
    let mut value = object.data.clone();
    value["metadata"] = serde_json::to_value(&object.metadata).unwrap_or_default();
    value
}

/// What an object asks for, as text: without what changes by itself.
fn content(object: &DynamicObject) -> String {
    let mut object = object.clone();
    object.metadata.resource_version = None;
    object.metadata.managed_fields = None;
    if let Some(fields) = object.data.as_object_mut() {
        fields.remove("status");
    }
    whole(&object).to_string()
}

fn verdict(seen: Option<&DynamicObject>, body: &Value, owner: &Owner) -> Verdict {
    let Some(seen) = seen else { return Verdict::Apply { create: true } };
    if let Some(other) = controller(seen).filter(|r| r.uid != owner.uid) {
        return Verdict::Foreign(format!("{} {}", other.kind, other.name));
    }
    if contains(&whole(seen), &without_type(body)) { Verdict::Keep } else { Verdict::Apply { create: false } }
}

/// The fields to compare: a kind is what it is, and a create-only version is no field of the object.
fn without_type(body: &Value) -> Value {
    let mut fields = body.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if let Some(metadata) = fields["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    fields
}
