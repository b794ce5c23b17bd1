//! CustomResourceDefinitions from the Rust types, tidied so that they read and behave like hand-written ones.
//!
//! schemars and kube leave marks that an API should not have: every `Option` is nullable (`null` and
//! absent would then differ), integers carry formats that OpenAPI does not know, bounds print as floats.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::conditions::{READY, REASON_PENDING};
use super::{EscalationPath, ModelTier, RoutingPolicy};

/// The three CRDs as JSON, in the order in which `kubectl get smallfirst` lists them.
///
/// # Panics
/// Never in practice: serialising a CRD cannot fail.
#[must_use]
pub fn all() -> Vec<Value> {
    [ModelTier::crd(), EscalationPath::crd(), RoutingPolicy::crd()].iter().map(tidied).collect()
}

fn tidied(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).unwrap_or_default();
    if let Some(versions) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                tidy(schema);
                no_defaults_in_lists(schema, false);
                default_status(schema);
            }
        }
    }
    value
}

/// Conditions get a default, as in Gateway API, so that no tool takes a fresh object for a current one.
fn default_status(schema: &mut Value) {
    if let Some(status) = schema.pointer_mut("/properties/status").and_then(Value::as_object_mut) {
        status.insert("description".into(), "What the operator last saw.".into());
        status.insert(
            "default".into(),
            json!({"conditions": [{
                "type": READY, "status": "Unknown", "reason": REASON_PENDING,
                "message": "Waiting for the operator", "lastTransitionTime": "1970-01-01T00:00:00Z"
            }]}),
        );
    }
    if let Some(root) = schema.as_object_mut()
        && let Some(spec) = root.get_mut("properties").and_then(|p| p.get_mut("spec")).and_then(Value::as_object_mut)
    {
        spec.entry("description").or_insert_with(|| "What is wanted.".into());
    }
}

/// Takes the defaults of list items out of a schema: those are the types' own (ADR 14).
///
/// A client that does not know the type replaces a list as a whole. One with defaults written into it by the API server
/// then differs from its manifest for ever, in the eyes of Argo CD and of `kubectl apply`.
fn no_defaults_in_lists(schema: &mut Value, in_list: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    if in_list {
        map.remove("default");
    }
    for field in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        no_defaults_in_lists(field, in_list);
    }
    if let Some(items) = map.get_mut("items") {
        no_defaults_in_lists(items, true);
    }
    if let Some(values) = map.get_mut("additionalProperties") {
        no_defaults_in_lists(values, in_list);
    }
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            tidy_schema(map);
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn tidy_schema(map: &mut Map<String, Value>) {
    let is_schema =
        map.contains_key("type") || map.contains_key("enum") || map.contains_key("x-kubernetes-int-or-string");
    if !is_schema {
        return;
    }
    map.remove("nullable");
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
    if matches!(map.get("format").and_then(Value::as_str), Some("uint8" | "uint16" | "uint32" | "uint64" | "uint")) {
        map.remove("format");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(integer) = map.get(bound).and_then(Value::as_f64).and_then(whole) {
            map.insert(bound.into(), integer.into());
        }
    }
}

/// The integer that a whole float stands for.
#[expect(clippy::cast_possible_truncation, reason = "bounded to what an i32 holds")]
fn whole(float: f64) -> Option<i64> {
    (float.fract() == 0.0 && float.abs() <= 2_147_483_647.0).then_some(float as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_object_is_not_ready_yet() {
        for crd in all() {
            let status = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default");
            let condition = status.and_then(|status| status.pointer("/conditions/0")).expect("a default condition");
            let said = ["type", "status", "reason"].map(|field| condition[field].as_str().unwrap_or_default());
            assert_eq!(said, ["Ready", "Unknown", "Pending"], "{}", crd["metadata"]["name"]);
        }
    }

    #[test]
    fn the_api_server_writes_nothing_into_lists() {
        let list = json!({"default": [], "items": {"properties": {"a": {"default": 1, "type": "integer"}}}});
        let mut schema = json!({"properties": {"b": {"default": 2}, "list": list}});
        no_defaults_in_lists(&mut schema, false);
        assert_eq!(schema.pointer("/properties/b/default"), Some(&json!(2)));
        assert_eq!(schema.pointer("/properties/list/default"), Some(&json!([])));
        assert_eq!(schema.pointer("/properties/list/items/properties/a"), Some(&json!({"type": "integer"})));
    }

    /// `kubectl explain` is the first manual: every field below spec and status has text.
    #[test]
    fn every_field_is_described_and_bounded() {
        /// YAML 1.1, which kubectl and Helm read, would have users put these words in quotes.
        fn boolean(word: &str) -> bool {
            ["y", "n", "yes", "no", "on", "off", "true", "false"].contains(&word.to_lowercase().as_str())
        }
        fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
            let words = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
            if words.filter_map(Value::as_str).any(boolean) {
                missing.push(format!("{path}: a value is a boolean"));
            }
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (name, field) in properties {
                    let path = format!("{path}.{name}");
                    if boolean(name) {
                        missing.push(format!("{path}: the name is a boolean"));
                    }
                    if field.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
                        missing.push(format!("{path}: no description"));
                    }
                    if field.get("nullable").is_some() {
                        missing.push(format!("{path}: nullable"));
                    }
                    walk(&path, field, missing);
                }
            }
            if let Some(items) = schema.get("items") {
                if schema.get("x-kubernetes-list-type").is_none() {
                    missing.push(format!("{path}: no list type"));
                }
                if schema.get("maxItems").is_none() {
                    missing.push(format!("{path}: no maxItems"));
                }
                walk(&format!("{path}[]"), items, missing);
            }
            if schema.get("type") == Some(&"string".into())
                && !path.contains(".conditions[]")
                && !["maxLength", "enum"].iter().any(|k| schema.get(*k).is_some())
            {
                missing.push(format!("{path}: no maxLength"));
            }
        }
        let mut missing = Vec::new();
        for crd in all() {
            let kind = crd.pointer("/spec/names/kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            for part in ["spec", "status"] {
                let schema = crd.pointer(&format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}"));
                walk(&format!("{kind}.{part}"), schema.expect("a schema"), &mut missing);
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
