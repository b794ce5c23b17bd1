//! Whether the autoscaler of a pool can read what it scales by.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Verdict;
use crate::api::conditions::{
    REASON_METRICS_API_AVAILABLE, REASON_METRICS_API_UNAVAILABLE, REASON_PENDING, SCALING_ACTIVE,
};
use crate::operator::observe::Availability;

/// While it is not known what was said stands: a restart of the operator costs no status.
pub(super) fn active(metrics_api: &Availability, stored: &[Condition]) -> Verdict {
    let unavailable = |problem: &str| Verdict::no(SCALING_ACTIVE, REASON_METRICS_API_UNAVAILABLE, problem);
    let available = || {
        let message = "HorizontalPodAutoscalers can read the metrics API";
        Verdict::yes(SCALING_ACTIVE, REASON_METRICS_API_AVAILABLE, message)
    };
    match metrics_api {
        Availability::Available => available(),
        Availability::Unavailable(problem) => unavailable(problem),
        Availability::Off => unavailable(
            "This operator does not serve the metrics API, so that the replicas stay as they are: set metricsApi.enabled of \
             the chart, or choose another spec.pool.scaling.autoscaler",
        ),
        Availability::Unknown => match stored.iter().find(|condition| condition.type_ == SCALING_ACTIVE) {
            Some(Condition { status, .. }) if status == "True" => available(),
            Some(Condition { status, message, .. }) if status == "False" => unavailable(message),
            _ => Verdict {
                type_: SCALING_ACTIVE,
                status: "Unknown",
                reason: REASON_PENDING,
                message: "It is not known yet whether the metrics API can be read".to_owned(),
            },
        },
    }
}
