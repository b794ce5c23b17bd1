//! Parts of a RoutingPolicy's `router`: how many pods there are, and what stands before them.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Duration, Ratio, SecretRef};

/// How many routers there are, by the CPU that they use: a HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.min <= self.max").message("spec.router.scaling.min: must be at most max"))]
#[serde(rename_all = "camelCase")]
pub struct RouterScaling {
    /// Fewest router pods. Default: 2.
    #[serde(default = "default_min")]
    #[schemars(range(min = 1, max = 100))]
    pub min: i32,
    /// Most router pods. Each holds this part of every limit, however many there are.
    #[schemars(range(min = 1, max = 100))]
    pub max: i32,
    /// Part of the CPU that is requested that a pod uses on average, above 0. Default: 0.7.
    #[serde(default = "default_utilization")]
    pub target_utilization: Ratio,
    /// How long fewer routers must have been enough before one is taken away, at most 1h. Default: 5m.
    #[serde(default = "default_stabilization")]
    pub scale_down_stabilization: Duration,
}

const fn default_min() -> i32 {
    2
}

fn default_utilization() -> Ratio {
    "0.7".into()
}

fn default_stabilization() -> Duration {
    "5m".into()
}

/// The Service of the routers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouterService {
    /// Who can reach it: ClusterIP, NodePort or LoadBalancer. Default: ClusterIP.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations, such as those of a cloud's load balancer. Those of smallfirst.dev belong to the operator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    ClusterIP,
    /// A port of every node.
    NodePort,
    /// A load balancer of the cloud.
    LoadBalancer,
}

/// The ServiceAccount of the routers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouterServiceAccount {
    /// Annotations, such as those that give the pods an identity of the cloud. Those of smallfirst.dev belong to the operator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// TLS on the traffic port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouterTls {
    /// A Secret of this namespace of type kubernetes.io/tls: keys tls.crt and tls.key. A new certificate in it is used without a restart. Routers are not ready before it has one.
    pub secret_ref: SecretRef,
}

/// A Gateway of Gateway API before the routers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouterGateway {
    /// The Gateways, or listeners of them, that take the traffic. They must allow routes of this namespace.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names of the routers. Default: those of the listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253), pattern(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")), extend("x-kubernetes-list-type" = "set"))]
    pub hostnames: Vec<String>,
}

/// A Gateway, or a listener of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Name of the Gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the Gateway. Default: the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Name of one of its listeners. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}
