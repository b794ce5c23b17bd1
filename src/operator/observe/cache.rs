//! One kind of object as the watch and our own writes last showed it.
//!
//! Like a reflector's store, with two differences that the discipline of few writes needs. It tells what
//! *changed*, also after a list that replaced everything, so that a broken watch does not wake up every object.
//! And the answers to our own writes go into it at once ([`Cache::wrote`]), so that the next reconcile does not
//! mistake a watch that lags behind for an object that needs a write.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::Resource;
use kube::runtime::watcher::Event;

/// Namespace and name.
pub type Id = (String, String);

/// The objects of one kind.
#[derive(Debug)]
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    objects: BTreeMap<Id, Arc<K>>,
    /// What a list that is under way has brought so far.
    listing: Option<BTreeMap<Id, Arc<K>>>,
    ready: bool,
}

/// An object before and after.
#[derive(Debug, Clone)]
pub struct Change<K> {
    /// `None`: it was not there.
    pub old: Option<Arc<K>>,
    /// `None`: it is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { inner: RwLock::new(Inner { objects: BTreeMap::new(), listing: None, ready: false }) }
    }
}

/// Namespace and name of an object.
pub fn id<K: Resource>(object: &K) -> Id {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Whether `new` is an older state of the same object than `old`. Versions are numbers in every API server,
/// and since Kubernetes 1.35 by contract; where they are not, nothing is taken for older.
fn is_older<K: Resource>(new: &K, old: &K) -> bool {
    let number = |object: &K| object.meta().resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    new.meta().uid == old.meta().uid && matches!((number(new), number(old)), (Some(new), Some(old)) if new < old)
}

fn same<K: Resource>(a: &K, b: &K) -> bool {
    a.meta().uid == b.meta().uid && a.meta().resource_version == b.meta().resource_version
}

impl<K: Resource> Cache<K> {
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a watch said; gives back what it changed.
    pub fn watched(&self, event: Event<K>) -> Vec<Change<K>> {
        let mut inner = self.write();
        match event {
            Event::Apply(object) => inner.put(object).into_iter().collect(),
            Event::Delete(object) => {
                let old = inner.objects.remove(&id(&object));
                old.map(|old| Change { old: Some(old), new: None }).into_iter().collect()
            }
            Event::Init => {
                inner.listing = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listing) = &mut inner.listing {
                    listing.insert(id(&object), Arc::new(object));
                }
                Vec::new()
            }
            Event::InitDone => {
                let listing = inner.listing.take().unwrap_or_default();
                inner.ready = true;
                inner.replace(listing)
            }
        }
    }

    /// Takes the API server's answer to a write of ours.
    pub fn wrote(&self, object: K) -> Option<Change<K>> {
        self.write().put(object)
    }

    /// Forgets an object that we deleted.
    pub fn deleted(&self, id: &Id) {
        self.write().objects.remove(id);
    }

    /// Whether the first list is complete.
    pub fn is_ready(&self) -> bool {
        self.read().ready
    }

    /// One object.
    pub fn get(&self, id: &Id) -> Option<Arc<K>> {
        self.read().objects.get(id).cloned()
    }

    /// The objects of a namespace, by name.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from: Id = (namespace.to_owned(), String::new());
        self.read()
            .objects
            .range(from..)
            .take_while(|((of, _), _)| of == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Every object's namespace and name.
    pub fn ids(&self) -> Vec<Id> {
        self.read().objects.keys().cloned().collect()
    }

    /// Number of objects for which the predicate holds.
    pub fn count(&self, predicate: impl Fn(&K) -> bool) -> usize {
        self.read().objects.values().filter(|object| predicate(object)).count()
    }
}

impl<K: Resource> Inner<K> {
    fn put(&mut self, object: K) -> Option<Change<K>> {
        let id = id(&object);
        let old = self.objects.get(&id).cloned();
        if old.as_ref().is_some_and(|old| is_older(&object, old.as_ref()) || same(&object, old.as_ref())) {
            return None;
        }
        let new = Arc::new(object);
        self.objects.insert(id, Arc::clone(&new));
        Some(Change { old, new: Some(new) })
    }

    fn replace(&mut self, listing: BTreeMap<Id, Arc<K>>) -> Vec<Change<K>> {
        let mut before = std::mem::take(&mut self.objects);
        let mut changes = Vec::new();
        for (id, new) in listing {
            let old = before.remove(&id);
            let current = match &old {
                // A list may come from a server's cache that is older than our own write.
                Some(old) if is_older(new.as_ref(), old.as_ref()) || same(new.as_ref(), old.as_ref()) => {
                    Arc::clone(old)
                }
                _ => {
                    changes.push(Change { old, new: Some(Arc::clone(&new)) });
                    new
                }
            };
            self.objects.insert(id, current);
        }
        changes.extend(before.into_values().map(|old| Change { old: Some(old), new: None }));
        changes
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn object(name: &str, version: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some("ns".into()),
                name: Some(name.into()),
                uid: Some(format!("uid-{name}")),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn list(cache: &Cache<ConfigMap>, objects: Vec<ConfigMap>) -> usize {
        cache.watched(Event::Init);
        for object in objects {
            cache.watched(Event::InitApply(object));
        }
        cache.watched(Event::InitDone).len()
    }

    #[test]
    fn a_second_list_changes_only_what_differs() {
        let cache = Cache::default();
        assert!(!cache.is_ready());
        assert_eq!(list(&cache, vec![object("a", 1), object("b", 2)]), 2);
        assert!(cache.is_ready());
        assert_eq!(list(&cache, vec![object("a", 1), object("b", 2)]), 0);
        assert_eq!(list(&cache, vec![object("a", 3)]), 2, "one changed, one gone");
        assert_eq!(cache.ids().len(), 1);
    }

    #[test]
    fn a_watch_that_lags_does_not_undo_our_own_write() {
        let cache = Cache::default();
        list(&cache, vec![object("a", 1)]);
        assert!(cache.wrote(object("a", 5)).is_some());
        assert!(cache.watched(Event::Apply(object("a", 3))).is_empty());
        assert!(cache.watched(Event::Apply(object("a", 5))).is_empty(), "our own write is not news");
        assert_eq!(cache.watched(Event::Apply(object("a", 6))).len(), 1);
        assert_eq!(list(&cache, vec![object("a", 4)]), 0);
        let reborn = ConfigMap {
            metadata: ObjectMeta { uid: Some("other".into()), ..object("a", 2).metadata },
            ..ConfigMap::default()
        };
        assert_eq!(cache.watched(Event::Apply(reborn)).len(), 1, "a new object under an old name is news");
    }

    #[test]
    fn a_namespace_is_not_its_neighbour() {
        let cache: Cache<ConfigMap> = Cache::default();
        let mut other = object("a", 1);
        other.metadata.namespace = Some("ns2".into());
        list(&cache, vec![object("a", 1), object("b", 1), other]);
        assert_eq!(cache.namespace("ns").len(), 2);
        assert_eq!(cache.namespace("n").len(), 0);
    }
}
