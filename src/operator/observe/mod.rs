//! What the cluster says, as plain data: the input of `validate`, `plan` and `status`.

pub mod cache;
pub mod children;
pub mod guard;
pub mod watch;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{EscalationPath, ModelTier, RoutingPolicy};
use crate::routing::RoutingTable;

/// The objects of one namespace, by name.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The namespace.
    pub namespace: String,
    /// Tiers by name.
    pub tiers: BTreeMap<String, Arc<ModelTier>>,
    /// Paths by name.
    pub paths: BTreeMap<String, Arc<EscalationPath>>,
    /// Policies by name.
    pub policies: BTreeMap<String, Arc<RoutingPolicy>>,
    /// Tables that were published last, by policy: what an object that became invalid falls back to.
    pub tables: BTreeMap<String, Arc<RoutingTable>>,
    /// Names of the TCP ports that have one, by Service and number: endpoints are known by them.
    pub port_names: BTreeMap<(String, u16), String>,
    /// Deployments that the operator owns, by name.
    pub deployments: BTreeMap<String, DeploymentState>,
}

/// How far a Deployment is. Counts are pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentState {
    /// `metadata.generation`. After an apply, the one that the API server answered with, even if the cache lags
    /// behind: otherwise the rollout before would count as this one's.
    pub generation: i64,
    /// `status.observedGeneration`.
    pub observed_generation: i64,
    /// `spec.replicas`.
    pub desired: i32,
    /// `status.replicas`: old and new pods.
    pub replicas: i32,
    /// `status.updatedReplicas`: pods of the current template.
    pub updated: i32,
    /// `status.readyReplicas`.
    pub ready: i32,
    /// `status.availableReplicas`.
    pub available: i32,
    /// Message of `Progressing=False, reason=ProgressDeadlineExceeded`.
    pub deadline_exceeded: Option<String>,
    /// Message of `ReplicaFailure=True`: pods that the API server refuses, such as by quota or Pod Security.
    pub replica_failure: Option<String>,
}

impl DeploymentState {
    /// Whether every wanted pod is of the current template and available, and no other is left.
    #[must_use]
    pub fn rolled_out(&self) -> bool {
        self.observed_generation >= self.generation
            && self.updated == self.desired
            && self.replicas == self.desired
            && self.available == self.desired
    }
}
