//! The ScaledObject by which KEDA scales a pool.
//!
//! KEDA's kinds are no part of Kubernetes: a cluster has them or not, and what a tier asks of them waits.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::Desired;
use super::labels::Owner;
use crate::operator::validate::Scaling;

/// The kind, where there is one.
#[must_use]
pub fn scaled_object() -> ApiResource {
    let kind = GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject");
    ApiResource::from_gvk_with_plural(&kind, "scaledobjects")
}

/// Longest name of a ScaledObject that KEDA names its HorizontalPodAutoscaler after: `keda-hpa-` and the name become a label.
const LONGEST_NAME: usize = 54;

/// The ScaledObject of the Deployment of the same name, which asks the operator at an address how much there is to do.
pub(super) fn plan(owner: &Owner<'_>, name: &str, scaling: &Scaling, [min, max]: [i32; 2], address: &str) -> Desired {
    let resource = scaled_object();
    let seconds = |time: std::time::Duration| time.as_millis().div_ceil(1000);
    #[expect(clippy::cast_precision_loss, reason = "at most 4,096 requests")]
    let target = scaling.target_milli as f64 / 1000.0;
    let scale_down = json!({"stabilizationWindowSeconds": seconds(scaling.stabilization)});
    let mut autoscaler = json!({"behavior": {"scaleDown": scale_down}});
    if name.len() > LONGEST_NAME {
        // Names of tiers leave room for it.
        autoscaler["name"] = json!(format!("keda-{}", owner.name()));
    }
    let mut spec = json!({
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicaCount": min,
        "maxReplicaCount": max,
        "advanced": {"horizontalPodAutoscalerConfig": autoscaler},
        "triggers": [{
            "type": "external-push",
            "metricType": "AverageValue",
            // All of it is told to the operator when it is asked.
            "metadata": {"scalerAddress": address, "tier": owner.name(), "targetConcurrency": target.to_string()},
        }],
    });
    // Above zero KEDA warns of them each time.
    if min == 0 {
        let idle = json!(seconds(scaling.idle_after));
        spec["cooldownPeriod"] = idle.clone();
        // Without it what nobody asked for since the ScaledObject was made goes to zero at once.
        spec["initialCooldownPeriod"] = idle;
    }
    let body = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": owner.meta(name.to_owned()), "spec": spec,
    });
    Desired { resource, name: name.to_owned(), body }
}
