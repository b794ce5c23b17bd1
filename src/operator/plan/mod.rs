//! Pure: validated resources -> the full list of desired objects.
//!
//! Same input, same bytes: no client, no clock, no randomness, ordered maps only. Fields that others may own
//! (autoscalers, admission, users with their own field manager) are left out, never written as null.

mod common;
pub mod engines;
mod labels;
mod merge;
mod objects;
mod pool;
mod router;
pub mod table;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

pub use labels::{COMPONENT, MANAGED_BY, POLICY, TABLE_HASH, TIER};
pub use objects::Desired;

use super::observe::Observed;
use super::validate::{self, Invalid};
use crate::api::{ModelTier, RoutingPolicy};

/// What the operator was started with, as far as objects depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Image of router pods; its entrypoint is this program.
    pub router_image: String,
}

/// The children of a tier: all of them with a pool, none otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct TierPlan {
    /// The model servers and what they stand on.
    pub pool: Option<PoolPlan>,
}

/// The children of a pool, all named `<tier>-pool`.
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
    /// The model servers. The pod template of the spec is merged into it by [`TierPlan::objects`].
    pub deployment: Deployment,
    /// Merged last into the Deployment's pod template.
    pub template: Option<serde_json::Map<String, serde_json::Value>>,
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
    /// The routers.
    pub deployment: Deployment,
    /// Name of the table's content: not an object.
    pub table_hash: String,
    /// What the table had to leave out: not an object.
    pub unresolved: Option<Invalid>,
}

/// The children of a tier.
///
/// # Errors
/// When the tier's spec is wrong.
pub fn tier(tier: &ModelTier, _settings: &Settings) -> Result<TierPlan, Invalid> {
    let valid = validate::tier(tier)?;
    Ok(TierPlan { pool: tier.spec.pool.as_ref().map(|spec| pool::plan(tier, spec, &valid.value)) })
}

/// The children of a policy.
///
/// # Errors
/// When the policy, or a path that it uses, is wrong or missing: the last good table then keeps serving.
pub fn policy(policy: &RoutingPolicy, observed: &Observed, settings: &Settings) -> Result<PolicyPlan, Invalid> {
    let valid = validate::policy(policy, observed)?;
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
        let Self { service_account, network_policy, service, disruption_budget, deployment, template } = self;
        let mut deployment = Desired::of(&deployment);
        if let (Some(template), Some(pod)) = (template, deployment.body.pointer_mut("/spec/template")) {
            merge::merge(pod, template);
        }
        vec![
            Desired::of(&service_account),
            Desired::of(&network_policy),
            Desired::of(&service),
            Desired::of(&disruption_budget),
            deployment,
        ]
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
            deployment,
            table_hash: _,
            unresolved: _,
        } = self;
        vec![
            Desired::of(&table),
            Desired::of(&service_account),
            Desired::of(&role),
            Desired::of(&role_binding),
            Desired::of(&network_policy),
            Desired::of(&service),
            Desired::of(&disruption_budget),
            Desired::of(&deployment),
        ]
    }
}
