//! What a pool is sized for, and what came of it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Decimal, Duration, LocalRef, Ratio};

/// What a pool is sized for: its own requests, and those that it takes over from tiers that are lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.against) == has(self.absorb)").message("spec.pool.sizing: against and absorb must be set together"))]
#[serde(rename_all = "camelCase")]
pub struct Sizing {
    /// Tiers that may be lost, all at once. What counts are requests that then come to this pool by their path: by a step with entry FailoverOnly, mostly. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub against: Vec<LocalRef>,
    /// Part of these requests that the pool takes over beside its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absorb: Option<Ratio>,
    /// How long requests may wait for a place in a replica.
    #[serde(default)]
    pub wait_target: WaitTarget,
    /// Most that all replicas may cost an hour, in the policy's currency. Needs spec.replicaHour. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly_budget: Option<Decimal>,
}

/// How long requests may wait for a place in a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.percentile) || !self.percentile.matches('^(0([.]0+)?|1([.]0+)?)$')").message("spec.pool.sizing.waitTarget.percentile: must be above 0 and below 1"))]
#[serde(rename_all = "camelCase")]
pub struct WaitTarget {
    /// Longest wait. Default: 500ms.
    #[serde(default = "default_within")]
    pub within: Duration,
    /// Part of the requests that wait no longer, above 0 and below 1. Default: 0.95.
    #[serde(default = "default_percentile")]
    pub percentile: Ratio,
}

fn default_within() -> Duration {
    Duration::from("500ms")
}

fn default_percentile() -> Ratio {
    Ratio::from("0.95")
}

impl Default for WaitTarget {
    fn default() -> Self {
        Self { within: default_within(), percentile: default_percentile() }
    }
}

/// What a pool needs, written anew when a bound or what decides it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SizingStatus {
    /// Requests a second that come to the pool by themselves.
    pub requests_per_second: Decimal,
    /// Part of its judged answers that gates refuse.
    pub escalation_ratio: Ratio,
    /// Places in replicas that are needed.
    pub slots: i64,
    /// Replicas that are needed for all that was asked for.
    pub needed: i32,
    /// Fewest replicas: what is needed, as far as the ceiling allows. It rises at once, and falls after scaling.scaleDownStabilization (5m without scaling) of less demand.
    pub floor: i32,
    /// Most replicas: spec.pool.scaling.max, spec.pool.replicas without scaling, or what hourlyBudget pays for.
    pub ceiling: i32,
    /// What decides the floor.
    pub binding: Binding,
    /// All this in one sentence, with what would change it.
    #[schemars(length(max = 8192))]
    pub message: String,
}

/// What decides a pool's floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Binding {
    /// The least that may be: demand needs no more.
    Minimum,
    /// Its own requests.
    OwnDemand,
    /// What it takes over when a tier is lost.
    Absorb,
    /// The most that may be: demand needs more.
    Maximum,
    /// hourlyBudget: demand needs more.
    Budget,
    /// Nothing yet: it is not known how long a request takes.
    Unknown,
}

/// How the quota of a provider's account stands against demand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStatus {
    /// What demand needs of the limit that lacks most, reserves that are kept free included, over the part of it that is planned with (nine tenths of what the router pods that there are can take), before any measure. Above 1: the account is short.
    pub needed: Decimal,
    /// What is done about it, in the order in which it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub measures: Vec<Measure>,
    /// All this in one sentence, with who gives way and by how much.
    #[schemars(length(max = 8192))]
    pub message: String,
}

/// What is done where an account is short, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Measure {
    /// Thresholds are lowered (pressure.slack of the path).
    ThresholdsLowered,
    /// escalationLimit holds escalations back.
    EscalationLimited,
    /// Requests go to a later step of their path, with a pool.
    MovedToPools,
    /// Requests are shed: those that have an answer get that, the others 429.
    Shed,
}

impl QuotaStatus {
    /// [`needed`](Self::needed) as a number.
    #[must_use]
    pub fn needed(&self) -> f64 {
        self.needed.0.parse().unwrap_or_default()
    }

    /// Whether more is needed than there is.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.measures.is_empty() || self.needed() > 1.0
    }
}
