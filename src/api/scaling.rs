//! Who scales a pool, and between which bounds.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Duration, Ratio};

/// How many replicas a pool has, by the requests that its tier works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.min) || self.min <= self.max").message("spec.pool.scaling.min: must be at most max"))]
#[x_kube(validation = Rule::new("!has(self.targetUtilization) || !self.targetUtilization.matches('^0([.]0+)?$')").message("spec.pool.scaling.targetUtilization: must be above 0"))]
#[x_kube(validation = Rule::new("!has(self.scaleDownStabilization) || duration(self.scaleDownStabilization) <= duration('1h')").message("spec.pool.scaling.scaleDownStabilization: must be at most 1h"))]
#[x_kube(validation = Rule::new("!has(self.idleAfter) || duration(self.idleAfter) >= duration('10s') && duration(self.idleAfter) <= duration('24h')").message("spec.pool.scaling.idleAfter: must be 10s to 24h"))]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Fewest replicas. With 0 the pool is scaled to zero while nobody asks for the tier, and back when somebody does. With spec.pool.sizing the fewest are status.sizing.floor, which is no lower. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub min: i32,
    /// Most replicas. With spec.pool.sizing the most are status.sizing.ceiling, which is no higher.
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// Who changes the number of replicas. Default: what the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<Autoscaler>,
    /// Part of spec.pool.perReplica.concurrency that a replica is to work on, on average, above 0. Default: 0.7.
    #[serde(default = "target_utilization")]
    pub target_utilization: Ratio,
    /// How long fewer replicas must have been enough before any is taken away, and before status.sizing.floor falls; at most 1h. Default: 5m.
    #[serde(default = "stabilization")]
    pub scale_down_stabilization: Duration,
    /// With min 0: how long nobody must have asked for the tier before it is scaled to zero; 10s to 24h, in whole seconds, rounded up. Default: 10m.
    #[serde(default = "idle_after")]
    pub idle_after: Duration,
}

const fn one() -> i32 {
    1
}

fn target_utilization() -> Ratio {
    "0.7".into()
}

fn stabilization() -> Duration {
    "5m".into()
}

fn idle_after() -> Duration {
    "10m".into()
}

/// Who changes the number of replicas. HorizontalPodAutoscaler: one that the operator makes, by the external metric smallfirst_tier_concurrency. KEDA: a ScaledObject that the operator makes. External: whoever uses the /scale of the ModelTier, such as your own HorizontalPodAutoscaler. When another one takes over it begins with the replicas that there are. Default: what the operator was installed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Autoscaler {
    /// A HorizontalPodAutoscaler of the operator's.
    #[default]
    HorizontalPodAutoscaler,
    /// A ScaledObject of the operator's, for KEDA.
    #[serde(rename = "KEDA")]
    Keda,
    /// Whoever uses the /scale of the ModelTier.
    External,
}
