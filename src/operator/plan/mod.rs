//! Pure: validated resources -> the full list of desired objects.
//!
//! Same input, same bytes: no client, no clock, no randomness, ordered maps only. Fields that others may own
//! (autoscalers, admission, users with their own field manager) are left out, never written as null.

mod autoscaler;
mod common;
pub mod engines;
mod gateway;
pub mod inference_pool;
mod keda;
pub mod labels;
mod merge;
mod objects;
pub mod pinned;
mod pool;
pub mod portfolio;
mod render;
mod router;
pub mod scaling;
pub mod table;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

pub use gateway::http_route;
pub use keda::scaled_object;
pub use labels::{AUTOSCALED, COMPONENT, MANAGED_BY, POLICY, TABLE_HASH, TIER};
pub use objects::Desired;
use pinned::StoredTemplate;
pub use pool::selector;
pub use render::render;
pub use router::leases;
use scaling::{Scaled, Scalers};

use super::observe::Observed;
use super::validate::{self, Invalid};
use crate::api::model_tier::Pool;
use crate::api::scaling::Autoscaler;
use crate::api::{ModelTier, RoutingPolicy};
use crate::routing::table::{SyncAddress, Tier};

/// What the operator was started with, as far as objects depend on it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Image of router pods; its entrypoint is this program.
    pub router_image: String,
    /// What renders pod templates of specs that have none stored.
    pub renderer: Renderer,
    /// Where routers report. `None`: nowhere.
    pub sync: Option<SyncAddress>,
    /// Who scales a pool whose spec does not say.
    pub autoscaler: Autoscaler,
    /// Where KEDA asks the operator how much a tier has to do: HOST:PORT. `None`: nowhere.
    pub scaler_address: Option<String>,
}

/// What makes pod templates. Versions of the operator differ in it; a tier is rendered by it only once.
#[derive(Clone, Copy, Debug)]
pub struct Renderer {
    /// Noted on what it rendered, for people.
    pub version: &'static str,
    /// A tier, its pool and its entry in the table -> its pod template, before the spec's `template` is merged into it.
    pub render: fn(&ModelTier, &Pool, &Tier) -> PodTemplateSpec,
}

impl Default for Renderer {
    /// This version's.
    fn default() -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), render }
    }
}

/// What the cluster has of a tier's children, as far as a plan depends on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The pod templates that are stored.
    pub templates: Vec<StoredTemplate>,
    /// Who scales its pool.
    pub scalers: Scalers,
}

/// The children of a tier: all of them with a pool, none otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct TierPlan {
    /// The model servers and what they stand on.
    pub pool: Option<PoolPlan>,
}

/// The children of a pool, all named `<tier>-pool`, but for the revisions: `<tier>-pool-<hash>`.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolPlan {
    /// Identity of the pods: no token is mounted.
    pub service_account: ServiceAccount,
    /// Who may connect.
    pub network_policy: NetworkPolicy,
    /// What routers balance over.
    pub service: Service,
    /// Bound on voluntary disruptions.
    pub disruption_budget: PodDisruptionBudget,
    /// The stored pod templates: the one in force, and those before it.
    pub revisions: Vec<ControllerRevision>,
    /// Name of the one in force: not an object.
    pub current_revision: String,
    /// The model servers, without their pod template.
    pub deployment: Deployment,
    /// The Deployment's pod template.
    pub template: serde_json::Value,
    /// Who scales the Deployment; its autoscaler, if it has one.
    pub scaled: Scaled,
}

/// The children of a policy, all but the table named `<policy>-router`.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyPlan {
    /// The routing table, named `<policy>-table`.
    pub table: ConfigMap,
    /// Identity of the router pods.
    pub service_account: ServiceAccount,
    /// What the routers may do: read their table and the endpoints of the namespace, create Events.
    pub role: Role,
    /// Gives the role to the routers.
    pub role_binding: RoleBinding,
    /// Who may connect.
    pub network_policy: NetworkPolicy,
    /// Where clients send requests.
    pub service: Service,
    /// Bound on voluntary disruptions.
    pub disruption_budget: PodDisruptionBudget,
    /// Scales the routers, where the spec says so.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// Brings a Gateway's traffic to the routers, where the spec says so.
    pub http_route: Option<Desired>,
    /// The routers.
    pub deployment: Deployment,
    /// Name of the table's content: not an object.
    pub table_hash: String,
    /// What the table had to leave out: not an object.
    pub unresolved: Option<Invalid>,
}

/// The children of a tier, of which the cluster has these already.
///
/// # Errors
/// When the tier's spec is wrong.
pub fn tier(tier: &ModelTier, seen: &Seen, settings: &Settings) -> Result<TierPlan, Invalid> {
    let valid = validate::tier(tier)?;
    let plan = |pool| pool::plan(tier, pool, &valid.value, seen, settings);
    Ok(TierPlan { pool: tier.spec.pool.as_ref().map(plan) })
}

/// The children of a policy.
///
/// # Errors
/// When the policy, or a path that it uses, is wrong or missing: the last good table then keeps serving.
pub fn policy(policy: &RoutingPolicy, observed: &Observed, settings: &Settings) -> Result<PolicyPlan, Invalid> {
    let mut valid = validate::policy(policy, observed)?;
    valid.value.sync.clone_from(&settings.sync);
    valid.value.leases = settings.sync.is_some().then(|| router::leases(policy, &valid.value, observed));
    router::plan(policy, &valid.value, valid.unresolved, settings)
}

impl TierPlan {
    /// The objects in the order in which they are applied.
    #[must_use]
    pub fn objects(self) -> Vec<Desired> {
        let Self { pool } = self;
        pool.map(PoolPlan::objects).unwrap_or_default()
    }
}

impl PoolPlan {
    fn objects(self) -> Vec<Desired> {
        // No `..`: a new child cannot be forgotten.
        let Self {
            service_account,
            network_policy,
            service,
            disruption_budget,
            revisions,
            current_revision: _,
            deployment,
            template,
            scaled,
        } = self;
        let mut deployment = Desired::of(&deployment);
        deployment.body["spec"]["template"] = template;
        let mut objects = vec![
            Desired::of(&service_account),
            Desired::of(&network_policy),
            Desired::of(&service),
            Desired::of(&disruption_budget),
        ];
        objects.extend(revisions.iter().map(Desired::of));
        objects.push(deployment);
        objects.extend(scaled.autoscaler);
        objects
    }
}

impl PolicyPlan {
    /// The objects in the order in which they are applied: what routers need before the routers.
    #[must_use]
    pub fn objects(self) -> Vec<Desired> {
        let Self {
            table,
            service_account,
            role,
            role_binding,
            network_policy,
            service,
            disruption_budget,
            autoscaler,
            http_route,
            deployment,
            table_hash: _,
            unresolved: _,
        } = self;
        let mut objects = vec![
            Desired::of(&table),
            Desired::of(&service_account),
            Desired::of(&role),
            Desired::of(&role_binding),
            Desired::of(&network_policy),
            Desired::of(&service),
            Desired::of(&disruption_budget),
            Desired::of(&deployment),
        ];
        objects.extend(autoscaler.as_ref().map(Desired::of));
        objects.extend(http_route);
        objects
    }
}
