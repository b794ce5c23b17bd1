//! The endpoints of a tier that uses another project's InferencePool: a headless Service with its selector.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{ApiResource, GroupVersionKind};

use super::Invalid;
use super::pool::owner;
use crate::api::ModelTier;
use crate::api::conditions::{READY, REASON_REF_NOT_ACCEPTED, REASON_REF_NOT_FOUND, REASON_UNSUPPORTED};

/// The kind, where there is one.
#[must_use]
pub fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("inference.networking.k8s.io", "v1", "InferencePool");
    ApiResource::from_gvk_with_plural(&kind, "inferencepools")
}

/// Name of the headless Service of a tier. Not that of a pool's, which could not become headless.
#[must_use]
pub fn service_name(tier: &str) -> String {
    format!("{tier}-pods")
}

/// What a tier reads of an InferencePool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InferencePool {
    /// Labels of its pods.
    pub selector: BTreeMap<String, String>,
    /// Port of its model servers.
    pub port: Option<i32>,
}

/// What the cluster says of an InferencePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The cluster does not have the kind.
    NoKind,
    /// It has the kind and no such object.
    NotFound,
    /// It is there.
    Found(InferencePool),
}

/// The headless Service of the tier's InferencePool; `None` for a tier without one.
///
/// # Errors
/// When it is not there or says too little.
pub fn endpoints(tier: &ModelTier, find: impl FnOnce(&str) -> Lookup) -> Result<Option<Service>, Invalid> {
    let Some(reference) = tier.spec.service.as_ref().and_then(|service| service.inference_pool_ref.as_ref()) else {
        return Ok(None);
    };
    let wrong = |reason, problem: String| {
        let message = format!("spec.service.inferencePoolRef.name: {problem}");
        Invalid { condition: READY, reason, message }
    };
    match find(&reference.name) {
        Lookup::NoKind => {
            let problem = "this cluster has no InferencePool (inference.networking.k8s.io/v1); looked for every minute";
            Err(wrong(REASON_UNSUPPORTED, problem.to_owned()))
        }
        Lookup::NotFound => {
            Err(wrong(REASON_REF_NOT_FOUND, format!("InferencePool {:?} does not exist", reference.name)))
        }
        Lookup::Found(InferencePool { selector, port: Some(port) }) if !selector.is_empty() => {
            Ok(Some(headless(tier, selector, port)))
        }
        Lookup::Found(_) => {
            let problem =
                format!("InferencePool {:?} has no spec.selector.matchLabels or no targetPorts", reference.name);
            Err(wrong(REASON_REF_NOT_ACCEPTED, problem))
        }
    }
}

/// Its endpoints are known by the port's name, so that another number changes no table.
fn headless(tier: &ModelTier, selector: BTreeMap<String, String>, port: i32) -> Service {
    let owner = owner(tier);
    Service {
        metadata: owner.meta(service_name(owner.name())),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(selector),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port,
                target_port: Some(IntOrString::Int(port)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tier() -> ModelTier {
        serde_json::from_value(json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": "shared", "namespace": "ns"},
            "spec": {
                "class": "Large", "owner": "team", "model": {"name": "m", "contextTokens": 2048},
                "service": {"inferencePoolRef": {"name": "qwen"}},
            },
        }))
        .expect("a tier")
    }

    #[test]
    fn what_is_missing_is_named() {
        let reason = |found: Lookup| endpoints(&tier(), |_| found).expect_err("missing").reason;
        assert_eq!(reason(Lookup::NoKind), "Unsupported");
        assert_eq!(reason(Lookup::NotFound), "RefNotFound");
        assert_eq!(reason(Lookup::Found(InferencePool::default())), "RefNotAccepted");
        let everything = InferencePool { selector: BTreeMap::new(), port: Some(8000) };
        assert_eq!(reason(Lookup::Found(everything)), "RefNotAccepted", "no selector would be every pod");
    }

    #[test]
    fn its_pods_are_the_tiers_endpoints() {
        let pool = InferencePool { selector: [("app".to_owned(), "qwen".to_owned())].into(), port: Some(8000) };
        let service = endpoints(&tier(), |name| {
            assert_eq!(name, "qwen");
            Lookup::Found(pool)
        });
        let service = serde_json::to_value(service.expect("found")).expect("JSON");
        assert_eq!(service["metadata"]["name"], "shared-pods");
        let port = json!({"name": "http", "port": 8000, "targetPort": 8000});
        assert_eq!(service["spec"], json!({"clusterIP": "None", "selector": {"app": "qwen"}, "ports": [port]}));
    }
}
