//! Whether no value at all is valid under a schema, where that is plain to see.
//!
//! Asking a larger model can't help then, so such a request is the caller's to mend. What is said here is certain; that
//! nothing is said proves nothing: references, patterns and conditions are not followed.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Why no value is valid under a schema of draft 6 or later; `None` if that is not plain.
///
/// Recursive in the schema's own nesting, which the parser bounds to 128.
pub(super) fn nothing(schema: &Value) -> Option<&'static str> {
    let schema = match schema {
        Value::Bool(false) => return Some("it is false"),
        Value::Object(schema) => schema,
        _ => return None,
    };
    // In older drafts nothing beside a reference counts.
    if schema.contains_key("$ref") {
        return None;
    }
    let of = |name: &str| schema.get(name).and_then(Value::as_array);
    if let Some(Value::Bool(true)) = schema.get("not") {
        return Some("not is true");
    }
    if schema.get("not").and_then(Value::as_object).is_some_and(Map::is_empty) {
        return Some("not is {}");
    }
    values(schema)
        .or_else(|| of("allOf").and_then(|all| all.iter().find_map(nothing)))
        .or_else(|| of("anyOf").and_then(|any| none_of(any)))
        .or_else(|| of("oneOf").and_then(|any| none_of(any)))
        .or_else(|| match schema.get("type").and_then(Value::as_str)? {
            "integer" | "number" => number(schema),
            "string" => crossed(schema, "minLength", "maxLength").then_some("minLength is above maxLength"),
            "array" => array(schema),
            "object" => object(schema),
            _ => None,
        })
}

fn none_of(any: &[Value]) -> Option<&'static str> {
    let whys: Option<Vec<_>> = any.iter().map(nothing).collect();
    whys?.first().copied()
}

/// What `enum`, `const` and `type` leave of each other.
fn values(schema: &Map<String, Value>) -> Option<&'static str> {
    let listed = schema.get("enum").and_then(Value::as_array);
    if listed.is_some_and(Vec::is_empty) {
        return Some("enum is empty");
    }
    let only = schema.get("const");
    if let (Some(only), Some(listed)) = (only, listed)
        && !listed.iter().any(|value| same(value, only))
    {
        return Some("const is not in enum");
    }
    let types: Vec<&str> = match schema.get("type")? {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let mut candidates = only.into_iter().chain(listed.filter(|_| only.is_none()).into_iter().flatten()).peekable();
    let all_wrong = candidates.peek().is_some() && candidates.all(|value| !types.iter().any(|name| is(value, name)));
    all_wrong.then_some("no value of const or enum has the type")
}

/// Whether a value is of a type, or may be: whole numbers can be written in many ways.
fn is(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(_) => name == "number" || name == "integer",
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    }
}

/// Whether two values are the same, or may be: numbers can be written in many ways.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null | Value::Bool(_) | Value::String(_), _) | (_, Value::Null | Value::Bool(_) | Value::String(_)) => {
            a == b
        }
        _ => true,
    }
}

fn number(schema: &Map<String, Value>) -> Option<&'static str> {
    let of = |name: &str| schema.get(name);
    // Rounding to a float keeps an order, but may make equal what is not.
    let above = |low: Option<&Value>, high: Option<&Value>| {
        let (low, high) = (low.and_then(Value::as_f64), high.and_then(Value::as_f64));
        low.zip(high).is_some_and(|(low, high)| low > high)
    };
    let not_below = |low: Option<&Value>, high: Option<&Value>| above(low, high) || low.is_some() && low == high;
    let (least, most) = (of("minimum"), of("maximum"));
    let (over, under) = (of("exclusiveMinimum"), of("exclusiveMaximum"));
    let numbers = |value: Option<&Value>| value.is_none_or(Value::is_number);
    if ![least, most, over, under].into_iter().all(numbers) {
        return None;
    }
    let crossed = above(least, most) || not_below(over, most) || not_below(least, under) || not_below(over, under);
    crossed.then_some("its minimum is above its maximum")
}

fn crossed(schema: &Map<String, Value>, least: &str, most: &str) -> bool {
    let of = |name: &str| schema.get(name).and_then(Value::as_u64);
    matches!((of(least), of(most)), (Some(least), Some(most)) if least > most)
}

fn array(schema: &Map<String, Value>) -> Option<&'static str> {
    if crossed(schema, "minItems", "maxItems") {
        return Some("minItems is above maxItems");
    }
    let needed = schema.get("minItems").and_then(Value::as_u64).is_some_and(|least| least > 0);
    schema.get("items").filter(|_| needed && !schema.contains_key("prefixItems")).and_then(nothing)
}

fn object(schema: &Map<String, Value>) -> Option<&'static str> {
    if crossed(schema, "minProperties", "maxProperties") {
        return Some("minProperties is above maxProperties");
    }
    let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let required: HashSet<&str> = required.iter().filter_map(Value::as_str).collect();
    let most = schema.get("maxProperties").and_then(Value::as_u64);
    if most.is_some_and(|most| usize::try_from(most).is_ok_and(|most| most < required.len())) {
        return Some("more is required than maxProperties");
    }
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|_| !schema.contains_key("patternProperties"));
    required.into_iter().find_map(|name| match known.and_then(|known| known.get(name)) {
        Some(property) => nothing(property),
        None => others.and_then(nothing).map(|_| "a property is required that additionalProperties refuses"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nothing_can_satisfy_is_seen() {
        for schema in [
            json!({"not": {}}),
            json!({"not": true}),
            json!({"enum": []}),
            json!({"const": "a", "enum": ["b", 1]}),
            json!({"type": "string", "enum": [1, null]}),
            json!({"type": ["object", "array"], "const": "a"}),
            json!({"type": "string", "minLength": 2, "maxLength": 1}),
            json!({"type": "integer", "minimum": 2, "maximum": 1.5}),
            json!({"type": "number", "exclusiveMinimum": 2, "maximum": 2}),
            json!({"type": "array", "minItems": 2, "maxItems": 1}),
            json!({"type": "array", "minItems": 1, "items": false}),
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "enum": [1]}}}),
            json!({"type": "object", "required": ["a"], "properties": {"b": {}}, "additionalProperties": false}),
            json!({"type": "object", "required": ["a", "b"], "maxProperties": 1}),
            json!({"allOf": [{"type": "string"}, {"anyOf": [false, {"not": {}}]}]}),
            json!({"oneOf": [{"enum": []}]}),
        ] {
            assert!(nothing(&schema).is_some(), "{schema}");
            let validator = jsonschema::validator_for(&schema).unwrap();
            for value in [json!(null), json!("a"), json!("ab"), json!(2), json!([]), json!([1, 2]), json!({"a": 1})] {
                assert!(!validator.is_valid(&value), "{value} under {schema}");
            }
        }
    }

    #[test]
    fn what_something_can_satisfy_is_let_through() {
        for (schema, value) in [
            (json!({}), json!(1)),
            (json!({"minLength": 2, "maxLength": 1}), json!(1)),
            (json!({"type": ["string", "null"], "minLength": 2, "maxLength": 1}), json!(null)),
            (json!({"type": "integer", "enum": [1.0, "a"]}), json!(1)),
            (json!({"const": 1.0, "enum": [1]}), json!(1)),
            (json!({"not": {"type": "string"}}), json!(1)),
            (json!({"type": "integer", "minimum": 2, "maximum": 2.0}), json!(2)),
            (
                json!({"type": "integer", "exclusiveMinimum": 9_007_199_254_740_992_u64, "maximum": 9_007_199_254_740_993_u64}),
                json!(9_007_199_254_740_993_u64),
            ),
            (json!({"type": "array", "items": false}), json!([])),
            (json!({"type": "array", "minItems": 1, "prefixItems": [{}], "items": false}), json!([1])),
            (json!({"type": "object", "properties": {"a": false}}), json!({})),
            (
                json!({"type": "object", "required": ["a"], "patternProperties": {"a": {}}, "additionalProperties": false}),
                json!({"a": 1}),
            ),
            (json!({"anyOf": [false, {"type": "string"}]}), json!("a")),
            (json!({"$ref": "#/$defs/a", "$defs": {"a": {}}}), json!(1)),
        ] {
            assert_eq!(nothing(&schema), None, "{schema}");
            assert!(jsonschema::validator_for(&schema).unwrap().is_valid(&value), "{value} under {schema}");
        }
    }
}
