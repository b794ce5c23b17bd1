//! Deep merge of a partial pod template, by the rules of a strategic merge patch as far as pods need them.
//!
//! Objects merge key by key; `null` removes a key; lists whose items have an identity (containers and volumes by
//! name, ports by containerPort, mounts by mountPath) merge item by item and keep the order of the base; every
//! other list and every scalar is replaced.

use serde_json::{Map, Value};

/// Key that identifies the items of a list, by the list's field name.
fn key_of(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => Some("name"),
        "ports" => Some("containerPort"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        _ => None,
    }
}

/// Merges `patch` into `base`.
pub(in crate::operator) fn merge(base: &mut Value, patch: Map<String, Value>) {
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    let Some(base) = base.as_object_mut() else { return };
    for (field, value) in patch {
        match value {
            Value::Null => {
                base.remove(&field);
            }
            Value::Object(patch) => merge(base.entry(field).or_insert_with(|| Value::Object(Map::new())), patch),
            Value::Array(items) => match (key_of(&field), base.get_mut(&field).and_then(Value::as_array_mut)) {
                (Some(key), Some(base)) => merge_list(base, items, key),
                _ => {
                    base.insert(field, Value::Array(items.into_iter().filter_map(stripped).collect()));
                }
            },
            scalar => {
                base.insert(field, scalar);
            }
        }
    }
}

fn merge_list(base: &mut Vec<Value>, patch: Vec<Value>, key: &str) {
    for item in patch {
        let same = |other: &&mut Value| item.get(key).is_some_and(|id| other.get(key) == Some(id));
        match base.iter_mut().find(same) {
            Some(found) => {
                if let Value::Object(item) = item {
                    merge(found, item);
                }
            }
            None => base.extend(stripped(item)),
        }
    }
}

/// A value without its nulls, which in a patch mean "not there".
fn stripped(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(patch) => {
            let mut object = Value::Object(Map::new());
            merge(&mut object, patch);
            Some(object)
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(stripped).collect())),
        scalar => Some(scalar),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(mut base: Value, patch: Value) -> Value {
        let Value::Object(patch) = patch else { panic!("a patch is an object") };
        merge(&mut base, patch);
        base
    }

    #[test]
    fn lists_with_an_identity_merge_by_it_and_others_are_replaced() {
        let base = json!({"containers": [{"name": "a", "args": ["1", "2"], "env": [{"name": "X", "value": "1"}]}]});
        let patch = json!({"containers": [
            {"name": "a", "args": ["3"], "env": [{"name": "Y", "value": "2"}]},
            {"name": "b", "image": "side", "command": null}
        ]});
        assert_eq!(
            merged(base, patch),
            json!({"containers": [
                {"name": "a", "args": ["3"], "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b", "image": "side"}
            ]})
        );
    }

    #[test]
    fn null_removes_and_objects_merge() {
        assert_eq!(
            merged(json!({"spec": {"a": 1, "b": {"c": 1}}}), json!({"spec": {"a": null, "b": {"d": 2}}})),
            json!({"spec": {"b": {"c": 1, "d": 2}}})
        );
    }
}
