//! Pure: a change of one object -> the objects that have to be looked at again.
//!
//! An object itself whenever it changed in any way; those that refer to it only when what they read of it
//! changed: its spec, or that it came or went. Statuses refer to nothing.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};

use super::queue::{Key, Kind};
use crate::api::escalation_path::Step;
use crate::api::model_tier::Exposure;
use crate::api::{EscalationPath, GROUP, ModelTier, RoutingPolicy};
use crate::operator::observe::cache::{Change, Id, id};
use crate::operator::observe::children::controller;
use crate::operator::observe::guard::Guard;
use crate::operator::observe::world::{World, current, port_names, ready_pods, scaled, service_of};
use crate::operator::plan::scaled_object;
use crate::operator::plan::scaling::Scales;

fn parts<K: Resource>(change: &Change<K>) -> (String, String) {
    let meta = change.new.as_ref().or(change.old.as_ref()).map(|object| object.meta().clone()).unwrap_or_default();
    (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default())
}

/// Whether those that refer to the object see a difference.
fn matters<K: Resource>(change: &Change<K>) -> bool {
    let seen = |object: &K| {
        let meta = object.meta();
        (meta.uid.clone(), meta.generation, meta.deletion_timestamp.is_some())
    };
    change.old.as_deref().map(seen) != change.new.as_deref().map(seen)
}

fn readable<K: Resource>(change: &Change<Guard<K>>) -> Vec<&K> {
    [&change.old, &change.new].into_iter().flatten().filter_map(|guard| guard.0.as_ref().ok()).collect()
}

/// What a change of a tier concerns: the tier, the paths that use it, and the policies that use those or it.
pub fn tier(world: &World, change: &Change<Guard<ModelTier>>) -> Vec<Key> {
    let (namespace, name) = parts(change);
    let mut keys = vec![Key::new(Kind::Tier, &namespace, &name)];
    if !matters(change) {
        return keys;
    }
    keys.extend(users(world, &namespace, &name, &readable(change)));
    keys
}

/// What a change of a Service concerns: those that use a tier which names it, if a port is known by another name.
pub fn service(world: &World, change: &Change<Service>) -> Vec<Key> {
    let names = |service: &Option<Arc<Service>>| service.as_deref().map(port_names).unwrap_or_default();
    if names(&change.old) == names(&change.new) {
        return Vec::new();
    }
    let (namespace, name) = parts(change);
    let mut keys = Vec::new();
    for guard in world.tiers.namespace(&namespace) {
        if let Ok(tier) = &guard.0
            && tier
                .spec
                .service
                .as_ref()
                .is_some_and(|service| service.service_ref.as_ref().is_some_and(|r| r.name == name))
        {
            keys.extend(users(world, &namespace, tier.metadata.name.as_deref().unwrap_or_default(), &[tier]));
        }
    }
    keys
}

/// What a change of the endpoints of routers concerns: their policy, if other pods are ready.
pub fn slice(change: &Change<EndpointSlice>) -> Option<Key> {
    let ready = |slice: &Option<Arc<EndpointSlice>>| slice.as_deref().map(ready_pods).unwrap_or_default();
    if ready(&change.old) == ready(&change.new) {
        return None;
    }
    let slice = change.new.as_deref().or(change.old.as_deref())?;
    let policy = service_of(slice)?.strip_suffix("-router")?;
    Some(Key::new(Kind::Policy, slice.metadata.namespace.as_deref().unwrap_or_default(), policy))
}

/// Whom it concerns whether the metrics API can be read: the tiers that are scaled.
pub fn metrics_api(world: &World) -> Vec<Key> {
    let scaled = |id: &Id| {
        let pool = current(&world.tiers, id).and_then(|tier| tier.spec.pool);
        pool.is_some_and(|pool| pool.scaling.is_some())
    };
    world.tiers.ids().into_iter().filter(scaled).map(|id| Key { kind: Kind::Tier, id }).collect()
}

/// What a change of an InferencePool concerns: the tiers that name it.
pub fn inference_pool(world: &World, change: &Change<DynamicObject>) -> Vec<Key> {
    let (namespace, name) = named(change);
    let uses = |tier: &ModelTier| inference_pool_of(tier).is_some_and(|used| used == name);
    let tiers = world.tiers.namespace(&namespace);
    let tiers = tiers.iter().filter_map(|guard| guard.0.as_ref().ok()).filter(|tier| uses(tier));
    tiers.filter_map(|tier| tier.metadata.name.as_deref()).map(|name| Key::new(Kind::Tier, &namespace, name)).collect()
}

/// What a change of somebody's autoscaler concerns: the tiers that it scales and scaled, if another one is scaled.
pub fn autoscaler(change: &Change<HorizontalPodAutoscaler>) -> Vec<Key> {
    let scales = |object: &Option<Arc<HorizontalPodAutoscaler>>| {
        let (scales, name) = scaled(object.as_deref()?)?;
        let tier = match scales {
            Scales::Deployment => name.strip_suffix("-pool")?,
            Scales::Tier => name,
        };
        Some((scales, tier.to_owned(), object.as_deref()?.metadata.owner_references.clone()))
    };
    let (old, new) = (scales(&change.old), scales(&change.new));
    if old == new {
        return Vec::new();
    }
    let (namespace, _) = parts(change);
    [old, new].into_iter().flatten().map(|(_, tier, _)| Key::new(Kind::Tier, &namespace, &tier)).collect()
}

/// Whom it concerns that a kind of children came or went: all that ask for an object of it.
pub fn kind(world: &World, resource: &ApiResource) -> Vec<Key> {
    if *resource == scaled_object() {
        return tiers(world, |tier| tier.spec.pool.as_ref().is_some_and(|pool| pool.scaling.is_some()));
    }
    let asks = |id: &Id| {
        let guard = world.policies.get(id);
        guard.is_some_and(|guard| guard.0.as_ref().is_ok_and(|policy| policy.spec.router.gateway.is_some()))
    };
    world.policies.ids().into_iter().filter(asks).map(|id| Key { kind: Kind::Policy, id }).collect()
}

/// The same for InferencePools.
pub fn inference_pools(world: &World) -> Vec<Key> {
    tiers(world, |tier| inference_pool_of(tier).is_some())
}

fn tiers(world: &World, asks: impl Fn(&ModelTier) -> bool) -> Vec<Key> {
    let asks = |id: &Id| world.tiers.get(id).is_some_and(|guard| guard.0.as_ref().is_ok_and(&asks));
    world.tiers.ids().into_iter().filter(asks).map(|id| Key { kind: Kind::Tier, id }).collect()
}

fn inference_pool_of(tier: &ModelTier) -> Option<&str> {
    Some(tier.spec.service.as_ref()?.inference_pool_ref.as_ref()?.name.as_str())
}

fn named(change: &Change<DynamicObject>) -> Id {
    let object = change.new.as_ref().or(change.old.as_ref());
    object.map(|object| id(object.as_ref())).unwrap_or_default()
}

/// The paths that use a tier, which is or was in these states, and the policies that use those or it.
fn users(world: &World, namespace: &str, name: &str, states: &[&ModelTier]) -> Vec<Key> {
    let uses = |step: &Step| {
        step.tier_ref.as_ref().is_some_and(|r| r.name == name)
            || step.class.is_some_and(|class| states.is_empty() || states.iter().any(|tier| tier.spec.class == class))
    };
    let mut paths = Vec::new();
    for guard in world.paths.namespace(namespace) {
        if let Ok(path) = &guard.0
            && path.spec.steps.iter().any(uses)
        {
            paths.extend(path.metadata.name.clone());
        }
    }
    // A tier that clients may name is in every table of its namespace.
    let public = states.is_empty() || states.iter().any(|tier| tier.spec.exposure == Exposure::Public);
    let mut keys = policies(world, namespace, |policy| {
        public
            || policy.spec.workloads.iter().any(|w| {
                w.tier_ref.as_ref().is_some_and(|r| r.name == name)
                    || w.path_ref.as_ref().is_some_and(|r| paths.contains(&r.name))
            })
    });
    keys.extend(paths.iter().map(|path| Key::new(Kind::Path, namespace, path)));
    keys
}

/// What a change of a path concerns: the path and the policies that use it.
pub fn path(world: &World, change: &Change<Guard<EscalationPath>>) -> Vec<Key> {
    let (namespace, name) = parts(change);
    let mut keys = vec![Key::new(Kind::Path, &namespace, &name)];
    if matters(change) {
        keys.extend(policies(world, &namespace, |policy| {
            policy.spec.workloads.iter().any(|w| w.path_ref.as_ref().is_some_and(|r| r.name == name))
        }));
    }
    keys
}

/// What a change of a policy concerns: the policy, and the others of its namespace if the number of routers is another, as
/// they share accounts with them.
pub fn policy(world: &World, change: &Change<Guard<RoutingPolicy>>) -> Vec<Key> {
    let (namespace, name) = parts(change);
    let own = Key::new(Kind::Policy, &namespace, &name);
    let routers = |guard: &Option<Arc<Guard<RoutingPolicy>>>| {
        guard.as_deref().and_then(|guard| guard.0.as_ref().ok()).map(|policy| policy.spec.router.replicas)
    };
    let mut keys = vec![own.clone()];
    if routers(&change.old) != routers(&change.new) {
        keys.extend(policies(world, &namespace, |_| true).into_iter().filter(|key| *key != own));
    }
    keys
}

/// What a change of a child concerns: its owner, the one before too.
pub fn child(change: &Change<DynamicObject>) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        let Some(owner) = controller(object).filter(|r| r.api_version.split('/').next() == Some(GROUP)) else {
            continue;
        };
        let kind = match owner.kind.as_str() {
            "ModelTier" => Kind::Tier,
            "RoutingPolicy" => Kind::Policy,
            _ => continue,
        };
        let key = Key::new(kind, object.metadata.namespace.as_deref().unwrap_or_default(), &owner.name);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn policies(world: &World, namespace: &str, uses: impl Fn(&RoutingPolicy) -> bool) -> Vec<Key> {
    let policies = world.policies.namespace(namespace);
    let used = policies.iter().filter_map(|guard| guard.0.as_ref().ok()).filter(|policy| uses(policy));
    used.filter_map(|policy| policy.metadata.name.as_deref()).map(|n| Key::new(Kind::Policy, namespace, n)).collect()
}
