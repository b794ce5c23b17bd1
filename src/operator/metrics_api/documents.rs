//! Pure: the documents that are answered, as Kubernetes has them.

use serde_json::{Value, json};

use super::{GROUP, METRIC, VERSION};
use crate::operator::plan::labels::TIER;

/// Content types of discovery in one document, the newer first. The API server asks for both.
const AGGREGATED: [(&str, &str); 2] = [
    ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
];
const JSON: &str = "application/json";

/// All groups, with the content type that the `Accept` header asks for.
#[must_use]
pub fn groups(accept: &str) -> (&'static str, Value) {
    let wanted = |version: &str| {
        accept.split(',').any(|part| {
            let has = |parameter: &str| part.split(';').any(|each| each.trim() == parameter);
            has("as=APIGroupDiscoveryList") && has(&format!("v={version}"))
        })
    };
    let Some((version, kind)) = AGGREGATED.into_iter().find(|(version, _)| wanted(version)) else {
        return (JSON, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_of()]}));
    };
    let resource = json!({
        "resource": METRIC, "singularResource": "", "scope": "Namespaced", "verbs": ["get"],
        "responseKind": {"group": GROUP, "version": VERSION, "kind": "ExternalMetricValueList"},
    });
    let item = json!({
        "metadata": {"name": GROUP},
        "versions": [{"version": VERSION, "resources": [resource], "freshness": "Current"}],
    });
    let api = format!("apidiscovery.k8s.io/{version}");
    (kind, json!({"kind": "APIGroupDiscoveryList", "apiVersion": api, "metadata": {}, "items": [item]}))
}

fn group_of() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

/// The group.
#[must_use]
pub fn group() -> Value {
    let mut group = group_of();
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

/// What is in the version.
#[must_use]
pub fn resources() -> Value {
    let metric = json!({
        "name": METRIC, "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"],
    });
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"), "resources": [metric],
    })
}

/// How many requests a tier has at a time. `time` is RFC 3339's.
#[must_use]
pub fn values(tier: &str, requests: f64, time: &str) -> Value {
    let value = json!({
        "metricName": METRIC, "metricLabels": {TIER: tier}, "timestamp": time, "value": quantity(requests),
    });
    json!({
        "kind": "ExternalMetricValueList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": [value],
    })
}

/// A number as a Quantity, in thousandths.
fn quantity(number: f64) -> String {
    format!("{:.0}m", number.max(0.0) * 1000.0)
}

/// A failure.
#[must_use]
pub fn failure(code: u16, message: &str) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        _ => "ServiceUnavailable",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_is_in_the_form_that_is_asked_for() {
        let api_server = format!("{},{}", AGGREGATED[0].1, AGGREGATED[1].1);
        for (accept, kind, version) in [
            (api_server.as_str(), "APIGroupDiscoveryList", "apidiscovery.k8s.io/v2"),
            (AGGREGATED[1].1, "APIGroupDiscoveryList", "apidiscovery.k8s.io/v2beta1"),
            ("application/json", "APIGroupList", "v1"),
            ("*/*", "APIGroupList", "v1"),
            ("application/json;v=v2", "APIGroupList", "v1"),
        ] {
            let (content, document) = groups(accept);
            assert_eq!((document["kind"].as_str(), document["apiVersion"].as_str()), (Some(kind), Some(version)));
            assert_eq!(content.contains("apidiscovery"), kind == "APIGroupDiscoveryList", "{accept}");
        }
    }

    #[test]
    fn a_value_is_a_quantity() {
        for (number, wanted) in [(0.0, "0m"), (1.5, "1500m"), (0.0004, "0m"), (12_345.678_9, "12345679m"), (-0.1, "0m")]
        {
            assert_eq!(values("small", number, "t")["items"][0]["value"], wanted, "{number}");
        }
    }
}
