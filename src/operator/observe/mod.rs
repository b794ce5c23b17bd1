//! What the cluster says, as plain data: the input of `validate`, `plan` and `status`.

pub mod cache;
pub mod children;
pub mod guard;
pub mod optional;
pub mod watch;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::sizing::{QuotaStatus, SizingStatus};
use crate::api::{EscalationPath, ModelTier, RoutingPolicy};
use crate::lease::budget::book::Standing;
use crate::operator::demand::Figures;
use crate::routing::RoutingTable;
use crate::routing::report::RefusedTable;

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
    /// What the routers of the policy that is looked at say. `None`: they have nobody to report to.
    pub reports: Option<Reports>,
    /// What is said of how many replicas the tier that is looked at needs. `None`: nothing yet.
    pub sizing: Option<SizingStatus>,
    /// What is said of how the quota of its account stands. `None`: nothing yet.
    pub quota: Option<QuotaStatus>,
    /// Whether a router says of the tier that is looked at that it does not answer, or said so a short while ago.
    pub degraded: bool,
    /// How the budgets of that policy stand, by their keys. `None`: this operator does not keep them.
    pub budgets: Option<BTreeMap<String, Standing>>,
    /// What requests of its workloads came to. `None`: this operator does not measure it.
    pub figures: Option<BTreeMap<String, Figures>>,
}

/// The routers of a policy: what they reported last, and which should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// What was reported, by pod.
    pub pods: BTreeMap<String, Reported>,
    /// Pods that are ready, by the endpoints of the routers' Service.
    pub ready: BTreeSet<String>,
    /// Whether the operator has listened for so short a time that a router may not have reported yet.
    pub patient: bool,
}

/// What a router reported, as far as a status depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Hash of the table in force.
    pub table_hash: Option<String>,
    /// The table that it was given last and refuses.
    pub refused: Option<RefusedTable>,
    /// Keys that it lacks, in words.
    pub missing: Vec<String>,
    /// Highest format of a table that it reads.
    pub table_format: u32,
    /// Version of the program.
    pub version: String,
    /// Whether it was not heard lately.
    pub silent: bool,
}

/// Whether autoscalers can read the metrics API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It is not served.
    #[default]
    Off,
    /// It is not known yet.
    Unknown,
    /// They can.
    Available,
    /// They can't, for this reason, which does not change from one look to the next.
    Unavailable(String),
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
    /// Whether that is an autoscaler's.
    pub autoscaled: bool,
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
