//! The HTTPRoute that brings a Gateway's traffic to the routers.
//!
//! Gateway API's kinds are no part of Kubernetes: a cluster has them or not, and what a policy asks of them waits.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::Desired;
use super::labels::Owner;
use crate::api::router::{ParentRef, RouterGateway};

/// The kind, where there is one.
#[must_use]
pub fn http_route() -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    ApiResource::from_gvk_with_plural(&kind, "httproutes")
}

/// The route of every path and method of the hostnames to a Service.
pub(super) fn route(owner: &Owner<'_>, name: &str, gateway: &RouterGateway, port: i32) -> Desired {
    let resource = http_route();
    let mut spec = json!({
        "parentRefs": gateway.parent_refs.iter().map(parent).collect::<Vec<_>>(),
        "rules": [{"backendRefs": [{"name": name, "port": port}]}],
    });
    if !gateway.hostnames.is_empty() {
        spec["hostnames"] = json!(gateway.hostnames);
    }
    let body = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": owner.meta(name.to_owned()), "spec": spec,
    });
    Desired { resource, name: name.to_owned(), body }
}

/// Without what is not set: no field is owned without a value.
fn parent(parent: &ParentRef) -> Value {
    serde_json::to_value(parent).unwrap_or_default()
}
