//! Pure: whether an observed object already is what is desired.
//!
//! The API server adds defaults, other managers add fields, and quantities come back in canonical form, so that
//! the question is not "equal" but "contained". Maps are compared by key; lists of objects by their merge key
//! where they have one; every other list as a whole. What we once applied and no longer want is not seen here:
//! that is what the hash in [`super::HASH`] is for.

use serde_json::{Map, Value};

/// Keys by which the API server merges lists of objects, the most telling first.
const MERGE_KEYS: [&str; 7] = ["name", "mountPath", "containerPort", "port", "uid", "topologyKey", "ip"];

/// Fields whose values are quantities.
const QUANTITIES: [&str; 4] = ["limits", "requests", "sizeLimit", "hard"];

/// Whether `observed` has everything that `desired` asks for.
#[must_use]
pub fn contains(observed: &Value, desired: &Value) -> bool {
    within(observed, desired, false)
}

fn within(observed: &Value, desired: &Value, quantity: bool) -> bool {
    match (observed, desired) {
        (Value::Object(observed), Value::Object(desired)) => map(observed, desired, quantity),
        (Value::Array(observed), Value::Array(desired)) => list(observed, desired),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) if quantity && !a.is_null() && !b.is_null() => {
            a == b || matches!((amount(a), amount(b)), (Some(a), Some(b)) if same_amount(a, b))
        }
        (a, b) => a == b,
    }
}

fn map(observed: &Map<String, Value>, desired: &Map<String, Value>, quantity: bool) -> bool {
    desired.iter().all(|(key, wanted)| {
        let quantity = quantity || QUANTITIES.contains(&key.as_str());
        match observed.get(key) {
            Some(seen) => within(seen, wanted, quantity),
            // The API server does not store what is empty.
            None => is_empty(wanted),
        }
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn list(observed: &[Value], desired: &[Value]) -> bool {
    match merge_key(observed, desired) {
        // Others may add items of their own, such as an injected container.
        Some(key) => desired
            .iter()
            .all(|wanted| observed.iter().any(|seen| seen.get(key) == wanted.get(key) && within(seen, wanted, false))),
        None => {
            observed.len() == desired.len()
                && observed.iter().zip(desired).all(|(seen, wanted)| within(seen, wanted, false))
        }
    }
}

/// The key that every item of both lists has.
fn merge_key(observed: &[Value], desired: &[Value]) -> Option<&'static str> {
    if desired.is_empty() {
        return None;
    }
    MERGE_KEYS
        .into_iter()
        .find(|key| observed.iter().chain(desired).all(|item| item.get(*key).is_some_and(|v| !v.is_null())))
}

fn amount(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
            let (number, suffix) = match text.get(digits..) {
                // 1e3 is a number, 1E is an exabyte.
                Some(exponent)
                    if exponent.len() > 1 && exponent.starts_with(['e', 'E']) && !exponent.ends_with('i') =>
                {
                    (text.as_str(), "")
                }
                Some(suffix) => (text.get(..digits)?, suffix),
                None => (text.as_str(), ""),
            };
            Some(number.parse::<f64>().ok()? * factor(suffix)?)
        }
        _ => None,
    }
}

fn factor(suffix: &str) -> Option<f64> {
    const KIBI: f64 = 1024.0;
    Some(match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => KIBI,
        "Mi" => KIBI.powi(2),
        "Gi" => KIBI.powi(3),
        "Ti" => KIBI.powi(4),
        "Pi" => KIBI.powi(5),
        "Ei" => KIBI.powi(6),
        _ => return None,
    })
}

fn same_amount(a: f64, b: f64) -> bool {
    (a - b).abs() <= a.abs().max(b.abs()) * 1e-12
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_what_others_add_do_not_count() {
        let desired = json!({"spec": {"containers": [{"name": "engine", "args": ["-a"], "ports": [{"containerPort": 80, "name": "http"}]}]}});
        let observed = json!({"spec": {"dnsPolicy": "ClusterFirst", "containers": [
            {"name": "injected"},
            {"name": "engine", "args": ["-a"], "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}]},
        ]}});
        assert!(contains(&observed, &desired));
    }

    #[test]
    fn what_is_missing_or_differs_counts() {
        let desired = json!({"a": {"b": 1}, "args": ["x", "y"]});
        assert!(!contains(&json!({"a": {}, "args": ["x", "y"]}), &desired));
        assert!(!contains(&json!({"a": {"b": 2}, "args": ["x", "y"]}), &desired));
        assert!(!contains(&json!({"a": {"b": 1}, "args": ["y", "x"]}), &desired));
        assert!(!contains(&json!({"a": {"b": 1}, "args": ["x", "y", "z"]}), &desired), "a list of scalars is whole");
        assert!(!contains(&json!({}), &json!({"automountServiceAccountToken": false})), "false is not absent");
        assert!(!contains(&json!({}), &json!({"replicas": 0})), "zero is not absent");
        assert!(contains(&json!({}), &json!({"volumes": [], "annotations": {}, "clusterName": ""})));
    }

    #[test]
    fn a_rule_without_a_key_is_compared_by_place() {
        let rule = |port: i32| json!({"ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": port, "protocol": "TCP"}]}]});
        assert!(contains(&rule(80), &rule(80)));
        assert!(!contains(&rule(80), &rule(81)));
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let of = |cpu: &str, memory: &str| json!({"resources": {"limits": {"cpu": cpu, "memory": memory}}});
        assert!(contains(&of("1", "1Gi"), &of("1000m", "1024Mi")));
        assert!(contains(&of("1500m", "1e3"), &of("1.5", "1k")));
        assert!(!contains(&of("1", "1G"), &of("1", "1Gi")));
        assert!(!contains(&of("1", "nonsense"), &of("1", "other")));
        // Elsewhere a text is a text.
        assert!(!contains(&json!({"value": "1"}), &json!({"value": "1000m"})));
    }
}
