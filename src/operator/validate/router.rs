//! A policy's `router`: its pods and what stands before them.

use std::collections::BTreeMap;

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::router::RouterScaling;
use crate::api::routing_policy::Router;
use crate::routing::table::MAX_BODY_BYTES;

/// Domain of labels and annotations that are the operator's.
const OWN: &str = "smallfirst.dev/";
/// Longest stabilisation that a HorizontalPodAutoscaler takes, in milliseconds.
const LONGEST: u64 = 3_600_000;

/// Checks `router` of a policy.
pub(super) fn check(problems: &mut Problems, router: &Router) {
    number(problems, "spec.router.replicas", router.replicas);
    if let Some(bytes) = router.max_body_bytes.filter(|bytes| !(1024..=1 << 30).contains(bytes)) {
        let problem = format!("{bytes} must be 1024 to 1073741824 bytes");
        problems.add(REASON_INVALID, "spec.router.maxBodyBytes", problem);
    }
    let body = router.max_body_bytes.unwrap_or(i64::try_from(MAX_BODY_BYTES).unwrap_or(i64::MAX));
    if let Some(bytes) = router.max_buffered_bytes.filter(|bytes| *bytes < body) {
        let problem = format!("{bytes} must be at least maxBodyBytes, which is {body}");
        problems.add(REASON_INVALID, "spec.router.maxBufferedBytes", problem);
    }
    if router.gateway.is_some() && router.tls.is_some() {
        let problem = "must not be set beside spec.router.tls: a Gateway speaks plain HTTP to the routers";
        problems.add(REASON_INVALID, "spec.router.gateway", problem);
    }
    if let Some(service) = &router.service {
        annotations(problems, "spec.router.service.annotations", &service.annotations);
    }
    if let Some(account) = &router.service_account {
        annotations(problems, "spec.router.serviceAccount.annotations", &account.annotations);
    }
    if let Some(scaling) = &router.scaling {
        self::scaling(problems, scaling);
        let cpu = router.resources.as_ref().is_none_or(|resources| {
            // A limit is a request too, where there is none.
            resources.requests.contains_key("cpu") || resources.limits.contains_key("cpu")
        });
        if !cpu {
            let problem = "must have cpu: spec.router.scaling compares what is used with it";
            problems.add(REASON_INVALID, "spec.router.resources.requests", problem);
        }
    }
}

fn scaling(problems: &mut Problems, scaling: &RouterScaling) {
    let RouterScaling { min, max, target_utilization, scale_down_stabilization } = scaling;
    number(problems, "spec.router.scaling.min", *min);
    number(problems, "spec.router.scaling.max", *max);
    if min > max {
        problems.add(REASON_INVALID, "spec.router.scaling.min", format!("{min} must be at most max, which is {max}"));
    }
    let field = "spec.router.scaling.targetUtilization";
    let nanos = target_utilization.nanos();
    if nanos == Ok(0) {
        problems.add(REASON_INVALID, field, "must be above 0");
    }
    problems.parsed(field, nanos);
    let field = "spec.router.scaling.scaleDownStabilization";
    if problems.parsed(field, scale_down_stabilization.millis()) > LONGEST {
        problems.add(REASON_INVALID, field, format!("{scale_down_stabilization} must be at most 1h"));
    }
}

fn number(problems: &mut Problems, field: &str, pods: i32) {
    if !(1..=100).contains(&pods) {
        problems.add(REASON_INVALID, field, format!("{pods} must be 1 to 100"));
    }
}

fn annotations(problems: &mut Problems, field: &str, annotations: &BTreeMap<String, String>) {
    for key in annotations.keys().filter(|key| key.starts_with(OWN)) {
        problems.add(REASON_INVALID, format!("{field}[{key:?}]"), "belongs to the operator");
    }
}
