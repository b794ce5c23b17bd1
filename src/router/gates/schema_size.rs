//! What a request's schema stands for once its references are followed.
//!
//! Sub-schemas that refer to one another can double the work at every link: 40 links would hold a traffic thread for
//! hours. So the sub-schemas are counted before one is compiled, and only references that can be counted are taken,
//! as in OpenAI's structured outputs: `#` and `#/...`. Recursion is free: the validator remembers what it has judged.

use std::collections::HashMap;

use serde_json::Value;

/// Sub-schemas that a request's schema may stand for. A recursive reference counts once.
pub const MAX_SUBSCHEMAS: usize = 10_000;

/// Patterns (`pattern` and the names of `patternProperties`) that a request's schema may have: each is a program to
/// compile and to keep.
const MAX_PATTERNS: usize = 64;

/// Longest chain of references.
const MAX_LINKS: usize = 32;

const REFER_BY: &str = "must refer by # or #/... to a part of itself, without $dynamicRef, $recursiveRef and inner $id";

/// Measures a schema.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    // Draft 4 names a resource by `id`, which elsewhere is any property.
    if schema.get("$schema").and_then(Value::as_str).is_some_and(|draft| draft.contains("draft-04")) {
        return Err("must be of draft 6 or later".into());
    }
    if patterns(schema) > MAX_PATTERNS {
        return Err(format!("must have at most {MAX_PATTERNS} patterns"));
    }
    match (Size { root: schema, known: HashMap::new(), links: 0 }).of(schema)? {
        0..=MAX_SUBSCHEMAS => Ok(()),
        _ => Err(format!("must not stand for more than {MAX_SUBSCHEMAS} sub-schemas once its references are followed")),
    }
}

fn patterns(value: &Value) -> usize {
    match value {
        Value::Object(members) => {
            let own = members.iter().map(|(name, member)| match (name.as_str(), member) {
                ("pattern", Value::String(_)) => 1,
                ("patternProperties", Value::Object(named)) => named.len() + patterns(member),
                _ => patterns(member),
            });
            own.sum()
        }
        Value::Array(items) => items.iter().map(patterns).sum(),
        _ => 0,
    }
}

/// Counts what a schema stands for once its references are followed.
struct Size<'a> {
    root: &'a Value,
    /// Size of what a reference stands for; `None` while it is being counted.
    known: HashMap<&'a str, Option<usize>>,
    /// References that are being followed.
    links: usize,
}

impl<'a> Size<'a> {
    /// Recursive in the schema's own nesting, which the parser bounds to 128, and along chains of references, which
    /// [`MAX_LINKS`] bounds.
    fn of(&mut self, value: &'a Value) -> Result<usize, String> {
        let mut size = 1_usize;
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    size = size.saturating_add(match (name.as_str(), member) {
                        ("$ref", Value::String(reference)) => self.of_reference(reference)?,
                        ("$dynamicRef" | "$recursiveRef", Value::String(_)) => return Err(REFER_BY.into()),
                        ("$id", Value::String(_)) if !std::ptr::eq(value, self.root) => return Err(REFER_BY.into()),
                        _ => self.of(member)?,
                    });
                }
            }
            Value::Array(items) => {
                for item in items {
                    size = size.saturating_add(self.of(item)?);
                }
            }
            _ => {}
        }
        Ok(size)
    }

    fn of_reference(&mut self, reference: &'a str) -> Result<usize, String> {
        let pointer = reference.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'));
        let pointer = pointer.ok_or(REFER_BY)?;
        if let Some(known) = self.known.get(pointer) {
            return Ok(known.unwrap_or(1));
        }
        if self.links >= MAX_LINKS {
            return Err(format!("must not stand for more than {MAX_LINKS} references in a row"));
        }
        let Some(target) = self.root.pointer(pointer) else { return Err(REFER_BY.into()) };
        self.known.insert(pointer, None);
        self.links += 1;
        let size = self.of(target)?;
        self.links -= 1;
        self.known.insert(pointer, Some(size));
        Ok(size)
    }
}
