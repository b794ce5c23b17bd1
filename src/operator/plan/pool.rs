//! The children of a pool: model servers and what they stand on.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::engines::{self, Engine};
use super::labels::{COMPONENT, Owner, TIER};
use super::pinned;
use super::{PoolPlan, Seen, Settings, autoscaler, common, scaling};
use crate::api::ModelTier;
use crate::api::model_tier::Pool;
use crate::api::types::IntOrPercent;
use crate::routing::table;

pub(super) fn owner(tier: &ModelTier) -> Owner<'_> {
    Owner::new(tier, TIER, "pool")
}

pub(super) fn name(owner: &Owner<'_>) -> String {
    format!("{}-pool", owner.name())
}

/// Labels of the pods of a tier's pool, as text.
#[must_use]
pub fn selector(tier: &ModelTier) -> String {
    owner(tier).selector_text()
}

/// Port of the model server.
pub(super) fn port(engine: &Engine, entry: &table::Tier) -> i32 {
    match &entry.backend {
        table::Backend::Service { port, .. } => i32::from(*port),
        table::Backend::Url { .. } => i32::from(engine.port),
    }
}

pub(super) fn plan(tier: &ModelTier, pool: &Pool, entry: &table::Tier, seen: &Seen, settings: &Settings) -> PoolPlan {
    let owner = owner(tier);
    let name = name(&owner);
    let engine = engines::of(pool.engine);
    let disruption = pool.disruption.clone().unwrap_or_default();
    let pinned = pinned::plan(tier, pool, entry, &seen.templates, settings.renderer);
    let scaled = scaling::plan(tier, pool, &owner, &name, &seen.scalers, settings);
    let mut deployment = deployment(pool, engine, &owner, &name, scaled.replicas);
    if scaled.replicas.is_none() {
        autoscaler::leave_replicas(&mut deployment);
    }
    PoolPlan {
        service_account: common::service_account(&owner, &name),
        network_policy: common::network_policy(&owner, &name, vec![routers_and_monitoring()]),
        service: common::service(&owner, &name, port(engine, entry)),
        disruption_budget: common::disruption_budget(&owner, &name, &disruption.max_unavailable),
        revisions: pinned.revisions,
        current_revision: pinned.current,
        deployment,
        template: pinned.template,
        scaled,
    }
}

/// Routers of the namespace use the pool; monitoring reads its metrics, which are on the same port.
fn routers_and_monitoring() -> common::Ingress {
    let routers = LabelSelector {
        match_labels: Some([(COMPONENT.to_owned(), "router".to_owned())].into()),
        ..LabelSelector::default()
    };
    common::Ingress { port: "http", pods: Some(routers), monitoring: true }
}

/// The Deployment but for its pod template.
fn deployment(pool: &Pool, engine: &Engine, owner: &Owner<'_>, name: &str, replicas: Option<i32>) -> Deployment {
    Deployment {
        metadata: owner.meta(name.to_owned()),
        spec: Some(DeploymentSpec {
            replicas,
            selector: LabelSelector { match_labels: Some(owner.selector()), ..LabelSelector::default() },
            strategy: Some(strategy(pool)),
            progress_deadline_seconds: Some(progress_deadline(pool, engine)),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// A new pod beside the old ones, unless it needs a device that the old ones hold.
fn strategy(pool: &Pool) -> DeploymentStrategy {
    let rollout = pool.rollout.as_ref();
    let is_zero = |value: &IntOrPercent| value.is_zero().unwrap_or_default();
    let unavailable = rollout.and_then(|rollout| rollout.max_unavailable.clone());
    let in_place = holds_device(pool) && !unavailable.as_ref().is_some_and(is_zero);
    let surge = rollout.and_then(|rollout| rollout.max_surge.clone());
    let surge = surge.unwrap_or(IntOrPercent::Int(i32::from(!in_place)));
    let unavailable = unavailable.unwrap_or(IntOrPercent::Int(i32::from(is_zero(&surge))));
    DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(common::int_or_string(&surge)),
            max_unavailable: Some(common::int_or_string(&unavailable)),
        }),
    }
}

/// In seconds. Unless told otherwise more than it takes to load a model, so that a slow start is no failure.
fn progress_deadline(pool: &Pool, engine: &Engine) -> i32 {
    let told = pool.rollout.as_ref().and_then(|rollout| rollout.progress_deadline.as_ref()?.millis().ok());
    let seconds = told.map(|millis| i32::try_from(millis.div_ceil(1000)).unwrap_or(i32::MAX));
    seconds.unwrap_or(engine.startup_seconds + 300)
}

/// Whether a replica holds a GPU or another extended resource, which are named with a domain.
fn holds_device(pool: &Pool) -> bool {
    let own = pool.resources.iter().flat_map(|r| r.requests.keys().chain(r.limits.keys()));
    let template = pool.template.as_ref().and_then(|t| t.0.get("spec")?.get("containers")?.as_array());
    let templated = template.into_iter().flatten().filter_map(|container| container.get("resources")).flat_map(|r| {
        let lists = ["requests", "limits"].into_iter().filter_map(|list| r.get(list)?.as_object());
        lists.flat_map(|list| list.keys()).collect::<Vec<_>>()
    });
    own.chain(templated).any(|resource| resource.contains('/'))
}
