//! The kinds of objects that the operator makes, each with its cache, and who owns what.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::Event;

use super::cache::{Cache, Change, Id, id};
use crate::operator::plan::{http_route, scaled_object};

/// A child: its kind's place in [`Children::kinds`], namespace and name.
pub type ChildId = (usize, Id);

/// The children that were seen.
#[derive(Debug)]
pub struct Children {
    kinds: Vec<ApiResource>,
    /// Kinds that the cluster does not have.
    absent: Vec<AtomicBool>,
    caches: Vec<Cache<DynamicObject>>,
    by_owner: Mutex<HashMap<String, BTreeSet<ChildId>>>,
}

impl Default for Children {
    fn default() -> Self {
        let kinds = vec![
            ApiResource::erase::<ServiceAccount>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<PodDisruptionBudget>(&()),
            ApiResource::erase::<ConfigMap>(&()),
            ApiResource::erase::<Role>(&()),
            ApiResource::erase::<RoleBinding>(&()),
            ApiResource::erase::<ControllerRevision>(&()),
            ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            ApiResource::erase::<Deployment>(&()),
            http_route(),
            scaled_object(),
        ];
        let caches = kinds.iter().map(|_| Cache::default()).collect();
        // Until the cluster was asked.
        let optional = [http_route(), scaled_object()];
        let absent = kinds.iter().map(|kind| AtomicBool::new(optional.contains(kind))).collect();
        Self { kinds, absent, caches, by_owner: Mutex::default() }
    }
}

/// The controller of an object.
#[must_use]
pub fn controller(object: &DynamicObject) -> Option<&OwnerReference> {
    object.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

impl Children {
    /// The kinds of children.
    #[must_use]
    pub fn kinds(&self) -> &[ApiResource] {
        &self.kinds
    }

    /// The place of a kind. `None`: the operator does not watch it.
    #[must_use]
    pub fn kind(&self, resource: &ApiResource) -> Option<usize> {
        self.kinds.iter().position(|known| known.kind == resource.kind && known.group == resource.group)
    }

    /// Whether the cluster has a kind.
    #[must_use]
    pub fn is_present(&self, kind: usize) -> bool {
        self.absent.get(kind).is_none_or(|absent| !absent.load(Ordering::Relaxed))
    }

    /// The same, of a kind by itself.
    #[must_use]
    pub fn has(&self, resource: &ApiResource) -> bool {
        self.kind(resource).is_some_and(|kind| self.is_present(kind))
    }

    /// Notes whether the cluster has a kind. What was seen of one that went is forgotten.
    pub fn set_present(&self, kind: usize, present: bool) {
        if let Some(absent) = self.absent.get(kind) {
            absent.store(!present, Ordering::Relaxed);
        }
        if !present {
            self.watched(kind, Event::Init);
            self.watched(kind, Event::InitDone);
        }
    }

    /// Takes what the watch of a kind said.
    pub fn watched(&self, kind: usize, event: Event<DynamicObject>) -> Vec<Change<DynamicObject>> {
        let changes = self.caches.get(kind).map(|cache| cache.watched(event)).unwrap_or_default();
        changes.iter().for_each(|change| self.index(kind, change));
        changes
    }

    /// Takes the API server's answer to a write of ours.
    pub fn wrote(&self, kind: usize, object: DynamicObject) {
        if let Some(change) = self.caches.get(kind).and_then(|cache| cache.wrote(object)) {
            self.index(kind, &change);
        }
    }

    fn index(&self, kind: usize, change: &Change<DynamicObject>) {
        let mut by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = &change.old
            && let Some(owner) = controller(old)
            && let Some(children) = by_owner.get_mut(&owner.uid)
        {
            children.remove(&(kind, id(old.as_ref())));
            if children.is_empty() {
                by_owner.remove(&owner.uid);
            }
        }
        if let Some(new) = &change.new
            && let Some(owner) = controller(new)
        {
            by_owner.entry(owner.uid.clone()).or_default().insert((kind, id(new.as_ref())));
        }
    }

    /// One child.
    #[must_use]
    pub fn get(&self, (kind, id): &ChildId) -> Option<Arc<DynamicObject>> {
        self.caches.get(*kind)?.get(id)
    }

    /// The child of a kind known at compile time.
    #[must_use]
    pub fn get_typed<K: Resource<DynamicType = ()>>(&self, id: &Id) -> Option<Arc<DynamicObject>> {
        self.get(&(self.kind(&ApiResource::erase::<K>(&()))?, id.clone()))
    }

    /// The children of an owner that are of a kind known at compile time.
    #[must_use]
    pub fn of_kind<K: Resource<DynamicType = ()>>(&self, owner: &str) -> Vec<Arc<DynamicObject>> {
        let kind = self.kind(&ApiResource::erase::<K>(&()));
        self.of(owner).iter().filter(|child| Some(child.0) == kind).filter_map(|child| self.get(child)).collect()
    }

    /// The children of an owner.
    #[must_use]
    pub fn of(&self, owner: &str) -> Vec<ChildId> {
        let by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        by_owner.get(owner).into_iter().flatten().cloned().collect()
    }

    /// Kinds whose first list is not complete.
    #[must_use]
    pub fn awaited(&self) -> Vec<String> {
        let pairs = self.kinds.iter().zip(&self.caches).enumerate();
        let awaited = pairs.filter(|(index, (_, cache))| self.is_present(*index) && !cache.is_ready());
        awaited.map(|(_, (kind, _))| kind.plural.clone()).collect()
    }
}
