//! The children of a pool: model servers and what they stand on.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::engines::{self, Engine};
use super::labels::{COMPONENT, Owner, TIER};
use super::pinned::{self, StoredTemplate};
use super::{PoolPlan, Renderer, common};
use crate::api::ModelTier;
use crate::api::model_tier::Pool;
use crate::routing::table;

pub(super) fn owner(tier: &ModelTier) -> Owner<'_> {
    Owner::new(tier, TIER, "pool")
}

pub(super) fn name(owner: &Owner<'_>) -> String {
    format!("{}-pool", owner.name())
}

/// Port of the model server.
pub(super) fn port(engine: &Engine, entry: &table::Tier) -> i32 {
    match &entry.backend {
        table::Backend::Service { port, .. } => i32::from(*port),
        table::Backend::Url { .. } => i32::from(engine.port),
    }
}

pub(super) fn plan(
    tier: &ModelTier,
    pool: &Pool,
    entry: &table::Tier,
    stored: &[StoredTemplate],
    renderer: Renderer,
) -> PoolPlan {
    let owner = owner(tier);
    let name = name(&owner);
    let engine = engines::of(pool.engine);
    let pinned = pinned::plan(tier, pool, entry, stored, renderer);
    PoolPlan {
        service_account: common::service_account(&owner, &name),
        network_policy: common::network_policy(&owner, &name, vec![routers_and_monitoring()]),
        service: common::service(&owner, &name, port(engine, entry)),
        disruption_budget: common::disruption_budget(&owner, &name),
        revisions: pinned.revisions,
        current_revision: pinned.current,
        deployment: deployment(pool, engine, &owner, &name),
        template: pinned.template,
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
fn deployment(pool: &Pool, engine: &Engine, owner: &Owner<'_>, name: &str) -> Deployment {
    Deployment {
        metadata: owner.meta(name.to_owned()),
        spec: Some(DeploymentSpec {
            replicas: Some(pool.replicas),
            selector: LabelSelector { match_labels: Some(owner.selector()), ..LabelSelector::default() },
            strategy: Some(strategy(holds_device(pool))),
            // More than it takes to load a model, so that a slow start is no failure.
            progress_deadline_seconds: Some(engine.startup_seconds + 300),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// A new pod beside the old ones, unless it needs a device that the old ones hold.
fn strategy(holds_device: bool) -> DeploymentStrategy {
    let (surge, unavailable) = if holds_device { (0, 1) } else { (1, 0) };
    DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    }
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
