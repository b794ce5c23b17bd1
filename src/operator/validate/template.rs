//! What a pool's `template` may not ask for: it must not become a way around the operator's own restrictions.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::model_tier::Pool;

const ROOT: &str = "spec.pool.template";

/// Checks the template of a pool.
pub(super) fn check(problems: &mut Problems, pool: &Pool) {
    let Some(template) = &pool.template else { return };
    for problem in self::problems(&template.0) {
        problems.add(REASON_INVALID, problem.0, problem.1);
    }
}

/// What is wrong with a template: field and problem.
fn problems(template: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (key, value) in template {
        match (key.as_str(), value) {
            ("metadata", Value::Object(metadata)) => check_metadata(&mut found, metadata),
            ("spec", Value::Object(spec)) => check_spec(&mut found, spec),
            ("metadata" | "spec", _) => found.push((format!("{ROOT}.{key}"), "must be an object".to_owned())),
            _ => found.push((format!("{ROOT}.{key}"), "only metadata and spec can be set".to_owned())),
        }
    }
    if found.is_empty()
        && let Err(error) = serde_json::from_value::<PodTemplateSpec>(Value::Object(without_nulls(template)))
    {
        found.push((ROOT.to_owned(), format!("not a pod template: {error}")));
    }
    found
}

type Found = Vec<(String, String)>;
type Map = serde_json::Map<String, Value>;

fn check_metadata(found: &mut Found, metadata: &Map) {
    for key in metadata.keys().filter(|key| !matches!(key.as_str(), "labels" | "annotations")) {
        found.push((format!("{ROOT}.metadata.{key}"), "only labels and annotations can be set".to_owned()));
    }
    for kind in ["labels", "annotations"] {
        match metadata.get(kind) {
            Some(Value::Object(map)) => {
                let own = |key: &&String| key.starts_with("smallfirst.dev/") || key.starts_with("app.kubernetes.io/");
                for key in map.keys().filter(own) {
                    let field = format!("{ROOT}.metadata.{kind}[{key:?}]");
                    found.push((field, "belongs to the operator".to_owned()));
                }
            }
            None => {}
            Some(_) => found.push((format!("{ROOT}.metadata.{kind}"), "must be an object".to_owned())),
        }
    }
}

fn check_spec(found: &mut Found, spec: &Map) {
    let refused = |problem: &str| format!("refused: {problem}");
    for field in ["serviceAccountName", "serviceAccount"] {
        if spec.contains_key(field) {
            found.push((format!("{ROOT}.spec.{field}"), refused("pools run under their own service account")));
        }
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(field).is_some_and(|v| *v != Value::Bool(false)) {
            found.push((format!("{ROOT}.spec.{field}"), refused("pools do not share namespaces with the node")));
        }
    }
    for (i, volume) in items(found, spec, "volumes").iter().enumerate() {
        let field = format!("{ROOT}.spec.volumes[{i}]");
        named(found, &field, volume);
        if volume.get("hostPath").is_some_and(|v| !v.is_null()) {
            found.push((format!("{field}.hostPath"), refused("pools do not mount folders of the node")));
        }
    }
    check_privileged(found, &format!("{ROOT}.spec.securityContext"), spec.get("securityContext"));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, container) in items(found, spec, list).iter().enumerate() {
            let field = format!("{ROOT}.spec.{list}[{i}]");
            named(found, &field, container);
            check_privileged(found, &format!("{field}.securityContext"), container.get("securityContext"));
            let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
            for (j, port) in ports.enumerate() {
                if port.get("hostPort").is_some_and(|v| !v.is_null() && v.as_i64() != Some(0)) {
                    let field = format!("{field}.ports[{j}].hostPort");
                    found.push((field, refused("pools do not take ports of the node")));
                }
            }
        }
    }
}

fn check_privileged(found: &mut Found, field: &str, context: Option<&Value>) {
    let Some(context) = context else { return };
    let on = |pointer: &str| context.pointer(pointer).is_some_and(|v| !v.is_null() && *v != Value::Bool(false));
    for (pointer, name) in
        [("/privileged", "privileged"), ("/windowsOptions/hostProcess", "windowsOptions.hostProcess")]
    {
        if on(pointer) {
            found.push((format!("{field}.{name}"), "refused: pools run without privileges".to_owned()));
        }
    }
}

/// Items of a list; notes a field that is no list.
fn items<'a>(found: &mut Found, spec: &'a Map, field: &str) -> &'a [Value] {
    match spec.get(field) {
        Some(Value::Array(items)) => items,
        None | Some(Value::Null) => &[],
        Some(_) => {
            found.push((format!("{ROOT}.spec.{field}"), "must be a list".to_owned()));
            &[]
        }
    }
}

/// Items are merged by name, so they need one.
fn named(found: &mut Found, field: &str, item: &Value) {
    if item.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        found.push((format!("{field}.name"), "must be set: items are merged by name".to_owned()));
    }
}

/// `null` in a template removes a field, so it is no part of what is parsed.
fn without_nulls(map: &Map) -> Map {
    fn stripped(value: &Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(without_nulls(map)),
            Value::Array(items) => items.iter().filter(|v| !v.is_null()).map(stripped).collect(),
            other => other.clone(),
        }
    }
    map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), stripped(v))).collect()
}
