//! What the API server checks before it stores an object of our kinds, done without one: the CRD's schema with
//! unknown fields refused, unique list items, and the CEL rules.

use std::fmt::Write as _;
use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde_json::{Map, Value, json};

use crate::api::{GROUP, VERSION, crd};

/// The schema of one kind.
struct Kind {
    name: String,
    /// As in the CRD: with defaults, list types and rules.
    structural: Value,
    /// As JSON schema that refuses unknown fields. `None` if it does not compile, which a test excludes.
    strict: Option<jsonschema::Validator>,
    /// The CEL rules.
    rules: CompiledSchema,
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| crd::all().iter().filter_map(kind).collect());

fn kind(crd: &Value) -> Option<Kind> {
    let name = crd.pointer("/spec/names/kind")?.as_str()?.to_owned();
    let structural = crd.pointer("/spec/versions/0/schema/openAPIV3Schema")?.clone();
    let mut strict = structural.clone();
    for field in ["apiVersion", "kind"] {
        strict["properties"][field] = json!({"type": "string"});
    }
    strict["properties"]["metadata"] = json!({"type": "object", "required": ["name"]});
    close(&mut strict);
    let rules = compile_schema(&structural);
    Some(Kind { name, strict: jsonschema::validator_for(&strict).ok(), structural, rules })
}

/// Refuses unknown fields wherever the schema names fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let named = map.get("properties").is_some_and(Value::is_object) && map.contains_key("type");
            if named && !map.contains_key("x-kubernetes-preserve-unknown-fields") {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Why the API server would refuse a document of our group; empty if it would take it.
#[must_use]
pub fn problems(document: &Value) -> Vec<String> {
    let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, name) = (text("apiVersion"), text("kind"));
    if api_version != format!("{GROUP}/{VERSION}") {
        return vec![format!("apiVersion: {api_version:?} is not known; use {GROUP}/{VERSION}")];
    }
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name.as_str()).collect();
        return vec![format!("kind: {name:?} is not one of {}", known.join(", "))];
    };
    let Some(strict) = &kind.strict else { return vec![format!("the schema of {name} is broken")] };
    let mut found: Vec<String> = strict
        .iter_errors(document)
        .map(|error| format!("{}: {error}", field(error.instance_path().as_str())))
        .collect();
    duplicates(&kind.structural, document, &mut String::new(), &mut found);
    // Rules are written for objects of the right shape.
    if found.is_empty()
        && let Err(errors) = Validator::new().validate_compiled(&kind.rules, document, None)
    {
        found.extend(errors.iter().map(|error| format!("{}: {}", error.field_path, error.message)));
    }
    found
}

/// `/spec/steps/0/name` as people write it: `spec.steps[0].name`.
fn field(pointer: &str) -> String {
    let mut field = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            let _ = write!(field, "[{part}]");
        } else {
            let _ = write!(field, "{}{part}", if field.is_empty() { "" } else { "." });
        }
    }
    if field.is_empty() { "the document".to_owned() } else { field }
}

/// Items that are given twice, in lists that are sets, and in lists whose items have a key.
fn duplicates(schema: &Value, value: &Value, path: &mut String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            for (name, value) in fields {
                let Some(schema) = properties.and_then(|p| p.get(name)) else { continue };
                let length = path.len();
                let _ = write!(path, "/{name}");
                duplicates(schema, value, path, found);
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            let Some(schema_of_item) = schema.get("items") else { return };
            for (i, item) in items.iter().enumerate() {
                let length = path.len();
                let _ = write!(path, "/{i}");
                if let Some(id) = identity(schema, item)
                    && items.iter().take(i).any(|other| identity(schema, other).as_ref() == Some(&id))
                {
                    found.push(format!("{}: Duplicate value: {id}", field(path)));
                }
                duplicates(schema_of_item, item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// What makes an item of a list the same as another. `None`: items of this list may repeat.
fn identity(list: &Value, item: &Value) -> Option<Value> {
    match list.get("x-kubernetes-list-type")?.as_str()? {
        "set" => Some(item.clone()),
        "map" => {
            let keys = list.get("x-kubernetes-list-map-keys")?.as_array()?.iter().filter_map(Value::as_str);
            let key: Map<String, Value> = keys.filter_map(|k| Some((k.to_owned(), item.get(k)?.clone()))).collect();
            Some(Value::Object(key))
        }
        _ => None,
    }
}
