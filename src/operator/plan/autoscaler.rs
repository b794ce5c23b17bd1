//! HorizontalPodAutoscalers, and the Deployments that they scale.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::labels::{AUTOSCALED, Owner, TIER};
use crate::api::router::RouterScaling;

/// Name of the external metric: the requests that a tier works on, that wait for it, and that it just had no room for.
pub const CONCURRENCY: &str = "smallfirst_tier_concurrency";

/// The autoscaler of the Deployment of the same name, by the CPU that its pods use.
pub(super) fn by_cpu(owner: &Owner<'_>, name: &str, scaling: &RouterScaling) -> HorizontalPodAutoscaler {
    let RouterScaling { min, max, target_utilization, scale_down_stabilization } = scaling;
    let nanos = target_utilization.nanos().unwrap_or_default();
    let seconds = scale_down_stabilization.millis().unwrap_or_default().div_ceil(1000);
    let metric = MetricSpec {
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
    };
    autoscaler(owner, name, [*min, *max], metric, seconds)
}

/// The same by the requests of the owner, a tier, that each of its pods is to work on, in thousandths.
pub(super) fn by_concurrency(
    owner: &Owner<'_>,
    name: &str,
    bounds: [i32; 2],
    target_milli: u64,
    seconds: u64,
) -> HorizontalPodAutoscaler {
    let metric = MetricSpec {
        type_: "External".into(),
        external: Some(ExternalMetricSource {
            metric: MetricIdentifier {
                name: CONCURRENCY.into(),
                selector: Some(LabelSelector {
                    match_labels: Some([(TIER.to_owned(), owner.name().to_owned())].into()),
                    ..LabelSelector::default()
                }),
            },
            target: MetricTarget {
                type_: "AverageValue".into(),
                average_value: Some(Quantity(thousandths(target_milli))),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    autoscaler(owner, name, bounds, metric, seconds)
}

/// A number of thousandths as the API server writes it.
fn thousandths(number: u64) -> String {
    if number.is_multiple_of(1000) { (number / 1000).to_string() } else { format!("{number}m") }
}

fn autoscaler(
    owner: &Owner<'_>,
    name: &str,
    [min, max]: [i32; 2],
    metric: MetricSpec,
    seconds: u64,
) -> HorizontalPodAutoscaler {
    HorizontalPodAutoscaler {
        metadata: owner.meta(name.to_owned()),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".into()),
                kind: "Deployment".into(),
                name: name.to_owned(),
            },
            min_replicas: Some(min),
            max_replicas: max,
            metrics: Some(vec![metric]),
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
