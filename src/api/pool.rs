//! Parts of a ModelTier's `pool`: how its pods are replaced.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Duration, IntOrPercent};

/// How the pods of a pool are replaced when its template changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.maxSurge) || !has(self.maxUnavailable) || !(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])").message("spec.pool.rollout: maxSurge and maxUnavailable must not both be 0"))]
#[x_kube(validation = Rule::new("!has(self.progressDeadline) || duration(self.progressDeadline) > duration('0s')").message("spec.pool.rollout.progressDeadline: must be above 0s"))]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Pods above the number of replicas while pods are replaced, as a number or a percentage. Default: 1; but 0 where a replica holds a GPU or another device, unless maxUnavailable is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrPercent>,
    /// Pods that may be missing while pods are replaced, as a number or a percentage. Default: 0, but 1 where maxSurge is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrPercent>,
    /// Time without progress after which Ready is False with reason ProgressDeadlineExceeded; in whole seconds, rounded up. Must be longer than the model takes to load. Default: the engine's longest time to load, and 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<Duration>,
}

/// What voluntary disruptions, such as the drain of a node, may do to a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Pods that may be missing because of evictions, as a number or a percentage. With 0 no node with a pod that is ready can be drained. Pods that are not ready can always be evicted. Default: 1.
    #[serde(default = "one")]
    pub max_unavailable: IntOrPercent,
}

const fn one() -> IntOrPercent {
    IntOrPercent::Int(1)
}

impl Default for Disruption {
    fn default() -> Self {
        Self { max_unavailable: one() }
    }
}
