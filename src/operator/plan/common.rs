//! What pools and routers have in common: restricted pods, their Service, budget and network policy.

use k8s_openapi::api::core::v1::{
    Capabilities, Lifecycle, LifecycleHandler, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
    SecurityContext, Service, ServiceAccount, ServicePort, ServiceSpec, SleepAction,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::Owner;
use crate::api::types::{IntOrPercent, Resources};
use crate::routing::table::{DRAIN_SECONDS, LAME_DUCK_SECONDS};

/// User and group of every container: numeric, because the kubelet cannot check a name against `runAsNonRoot`.
const USER: i64 = 65532;
/// Seconds between the end of a router's endpoint and the signal to its process: what clients take to notice.
pub(super) const ROUTER_STOP_DELAY: i64 = 5;
/// The same for an engine: routers notice within milliseconds, but engines cut what they are answering.
pub(super) const ENGINE_STOP_DELAY: i64 = 10;
/// Seconds that a process takes to end when its requests are done, generously.
const SPARE: i64 = 20;
/// Label of namespaces whose pods may read metrics.
const MONITORING: &str = "smallfirst.dev/monitoring";

/// Seconds that a router's pod has to finish: its delay, and what the router takes by itself.
pub(super) fn router_grace() -> i64 {
    ROUTER_STOP_DELAY + i64::from(LAME_DUCK_SECONDS) + i64::from(DRAIN_SECONDS) + SPARE
}

/// The same of an engine's, whose requests last no longer than those of routers. Not from a path's timeout, which must
/// not restart pods.
pub(super) fn engine_grace() -> i64 {
    ENGINE_STOP_DELAY + i64::from(DRAIN_SECONDS) + SPARE
}

/// A pod that satisfies Pod Security `restricted`, without containers and volumes.
pub(super) fn pod(service_account: &str, token: bool, grace: i64) -> PodSpec {
    PodSpec {
        service_account_name: Some(service_account.to_owned()),
        automount_service_account_token: Some(token),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(grace),
        ..PodSpec::default()
    }
}

/// A container that satisfies Pod Security `restricted`.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Lets the endpoint's end reach everyone before the process is told to stop.
pub(super) fn sleep_before_stop(seconds: i64) -> Lifecycle {
    Lifecycle {
        pre_stop: Some(LifecycleHandler { sleep: Some(SleepAction { seconds }), ..LifecycleHandler::default() }),
        ..Lifecycle::default()
    }
}

/// Requests and limits; nothing when neither is given.
pub(super) fn resources(resources: &Resources) -> Option<ResourceRequirements> {
    let Resources { requests, limits } = resources;
    let list = |quantities: &std::collections::BTreeMap<String, crate::api::types::Quantity>| {
        let list = quantities.iter().map(|(name, q)| (name.clone(), Quantity(q.0.clone()))).collect();
        (!quantities.is_empty()).then_some(list)
    };
    (!requests.is_empty() || !limits.is_empty()).then(|| ResourceRequirements {
        requests: list(requests),
        limits: list(limits),
        claims: None,
    })
}

/// The same value as Kubernetes has it.
pub(super) fn int_or_string(value: &IntOrPercent) -> IntOrString {
    match value {
        IntOrPercent::Int(number) => IntOrString::Int(*number),
        IntOrPercent::Percent(text) => IntOrString::String(text.clone()),
    }
}

/// An identity. Its token is mounted only where a pod says so.
pub(super) fn service_account(owner: &Owner<'_>, name: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: owner.meta(name.to_owned()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// A Service for the port named `http` of the owner's pods.
pub(super) fn service(owner: &Owner<'_>, name: &str, port: i32) -> Service {
    Service {
        metadata: owner.meta(name.to_owned()),
        spec: Some(ServiceSpec {
            selector: Some(owner.selector()),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port,
                target_port: Some(IntOrString::String("http".into())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// So many pods at a time may be evicted, and one that is broken always, so that it never blocks a node's drain.
pub(super) fn disruption_budget(owner: &Owner<'_>, name: &str, max_unavailable: &IntOrPercent) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owner.meta(name.to_owned()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(int_or_string(max_unavailable)),
            selector: Some(selector(owner)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// Who may connect to a port. Without `pods` and `monitoring`: anyone.
pub(super) struct Ingress {
    /// Name of the container port.
    pub port: &'static str,
    /// Pods of the namespace.
    pub pods: Option<LabelSelector>,
    /// Pods of namespaces labelled as monitoring.
    pub monitoring: bool,
}

/// Ingress only: an egress default would block DNS, the API server and providers.
pub(super) fn network_policy(owner: &Owner<'_>, name: &str, allowed: Vec<Ingress>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: owner.meta(name.to_owned()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(owner)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(allowed.into_iter().map(ingress).collect()),
            egress: None,
        }),
    }
}

fn ingress(allowed: Ingress) -> NetworkPolicyIngressRule {
    let Ingress { port, pods, monitoring } = allowed;
    let pods = pods.map(|pods| NetworkPolicyPeer { pod_selector: Some(pods), ..NetworkPolicyPeer::default() });
    let monitoring = monitoring.then(|| NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some([(MONITORING.to_owned(), "true".to_owned())].into()),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    });
    let from: Vec<NetworkPolicyPeer> = pods.into_iter().chain(monitoring).collect();
    NetworkPolicyIngressRule {
        from: (!from.is_empty()).then_some(from),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::String(port.into())),
            ..NetworkPolicyPort::default()
        }]),
    }
}

fn selector(owner: &Owner<'_>) -> LabelSelector {
    LabelSelector { match_labels: Some(owner.selector()), ..LabelSelector::default() }
}
