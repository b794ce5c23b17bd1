//! A HorizontalPodAutoscaler by CPU, and the Deployment that it scales.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget, ResourceMetricSource,
};

use super::labels::{AUTOSCALED, Owner};
use crate::api::router::RouterScaling;

/// The autoscaler of the Deployment of the same name.
pub(super) fn by_cpu(owner: &Owner<'_>, name: &str, scaling: &RouterScaling) -> HorizontalPodAutoscaler {
    let RouterScaling { min, max, target_utilization, scale_down_stabilization } = scaling;
    let nanos = target_utilization.nanos().unwrap_or_default();
    let seconds = scale_down_stabilization.millis().unwrap_or_default().div_ceil(1000);
    HorizontalPodAutoscaler {
        metadata: owner.meta(name.to_owned()),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".into()),
                kind: "Deployment".into(),
                name: name.to_owned(),
            },
            min_replicas: Some(*min),
            max_replicas: *max,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".into(),
                resource: Some(ResourceMetricSource {
                    name: "cpu".into(),
                    target: MetricTarget {
                        type_: "Utilization".into(),
                        average_utilization: i32::try_from(nanos.div_ceil(10_000_000)).ok(),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }]),
            behavior: Some(HorizontalPodAutoscalerBehavior {
                scale_down: Some(HPAScalingRules {
                    stabilization_window_seconds: i32::try_from(seconds).ok(),
                    ..HPAScalingRules::default()
                }),
                scale_up: None,
            }),
        }),
        status: None,
    }
}

/// Leaves the number of replicas to an autoscaler, and says so, so that it is handed over.
pub(super) fn leave_replicas(deployment: &mut Deployment) {
    if let Some(spec) = &mut deployment.spec {
        spec.replicas = None;
    }
    deployment.metadata.annotations.get_or_insert_default().insert(AUTOSCALED.to_owned(), "true".to_owned());
}
