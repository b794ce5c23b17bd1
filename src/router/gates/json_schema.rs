//! `jsonSchema`: the content is valid JSON under a schema, of the gate or of the request.
//!
//! A fenced answer fails: the client parses the content as it stands. References to other documents are refused,
//! never fetched. Patterns may backtrack only so far.
//!
//! Schemas of requests are compiled once per distinct text and *per thread*, into a small cache: every traffic thread
//! owns its requests, so sharing would only add a lock, and a service uses a handful of schemas.
//!
//! A request's schema is measured first ([`super::schema_size`]); a table's is its author's, and is not.
//!
//! A schema that is wrong is the caller's fault: [`validate_request_schema`] says so (400) before anything is sent. So is
//! one that no answer can satisfy, where that is plain ([`super::satisfiable`]); where it is not, its answers fail.

use std::cell::RefCell;
use std::rc::Rc;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::context::Content;
use super::leaves::json_span;
use super::{Finding, RequestContext, satisfiable, schema_size};
use crate::router::answer::Choice;

/// Largest schema of a request that is judged by, in bytes.
pub const MAX_REQUEST_SCHEMA_BYTES: usize = 256 << 10;

/// Schemas that one thread keeps compiled.
const CACHED: usize = 16;
/// Text of schemas that one thread keeps compiled, in bytes: what they take compiled grows with it.
const CACHED_BYTES: usize = 1 << 20;

/// Bound on one compiled pattern of a table's schema, in bytes.
const SIZE_LIMIT: usize = 1 << 20;
/// Bound on one compiled pattern of a request's schema, in bytes: times the patterns of one schema and the schemas kept,
/// what a hostile client can make a thread hold.
const REQUEST_SIZE_LIMIT: usize = 1 << 18;
/// Steps after which a pattern that backtracks is taken not to match.
const BACKTRACK_LIMIT: usize = 10_000;

#[derive(Debug)]
pub(super) struct JsonSchemaGate(
    /// `None`: the request's.
    Option<Validator>,
);

impl JsonSchemaGate {
    pub(super) fn compile(inline: Option<&str>) -> Result<Self, String> {
        inline
            .map(|schema| compile(&parse(schema)?, SIZE_LIMIT))
            .transpose()
            .map(Self)
            .map_err(|e| format!("jsonSchema: {e}"))
    }

    pub(super) const fn is_of_request(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn judge(&self, request: &RequestContext<'_>, choice: &Choice, content: &Content<'_>) -> Finding {
        if let Some(validator) = &self.0 {
            return valid(validator, content);
        }
        // As at OpenAI: a schema of the request speaks of the content only, and tool calls come instead of one.
        let Some(schema) = request.schema() else { return Finding::PASS };
        if !choice.tool_calls.is_empty() && choice.content.is_empty() {
            return Finding::PASS;
        }
        match cached(schema).as_ref() {
            Ok(validator) => valid(validator, content),
            Err(_) => Finding::fail("the request's schema is wrong"),
        }
    }
}

fn valid(validator: &Validator, content: &Content<'_>) -> Finding {
    let fenced = json_span(content.text).len() != content.text.trim().len();
    match content.json() {
        Some(json) if !fenced => Finding::pass_if(validator.is_valid(json), "not valid under the schema"),
        _ => Finding::fail("the answer is not JSON"),
    }
}

/// Whether a request's schema can be judged by; compiled ones are kept for the answer.
///
/// # Errors
/// What is wrong with it, for the caller to mend.
pub fn validate_request_schema(schema: &str) -> Result<(), String> {
    cached(schema).as_ref().as_ref().map(|_| ()).map_err(Clone::clone)
}

fn parse(schema: &str) -> Result<Value, String> {
    let schema: Value = serde_json::from_str(schema).map_err(|e| format!("must be JSON: {e}"))?;
    if schema.is_object() { Ok(schema) } else { Err("must be an object".into()) }
}

fn compile(schema: &Value, size_limit: usize) -> Result<Validator, String> {
    let patterns = PatternOptions::fancy_regex()
        .backtrack_limit(BACKTRACK_LIMIT)
        .size_limit(size_limit)
        .dfa_size_limit(size_limit);
    let built = jsonschema::options().offline().with_pattern_options(patterns).build(schema);
    built.map_err(|e| format!("must be a JSON schema: {e}"))
}

type Compiled = Rc<Result<Validator, String>>;

thread_local! {
    /// Most recently used first.
    static CACHE: RefCell<Vec<(Box<str>, Compiled)>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn cached(schema: &str) -> Compiled {
    if schema.len() > MAX_REQUEST_SCHEMA_BYTES {
        return Rc::new(Err(format!("must have at most {MAX_REQUEST_SCHEMA_BYTES} bytes")));
    }
    let checked = |schema| {
        let schema = parse(schema)?;
        schema_size::check(&schema)?;
        let compiled = compile(&schema, REQUEST_SIZE_LIMIT)?;
        match satisfiable::nothing(&schema) {
            None => Ok(compiled),
            Some(why) => Err(format!("no answer can be valid under it: {why}")),
        }
    };
    CACHE.with_borrow_mut(|cache| {
        if let Some(at) = cache.iter().position(|(key, _)| **key == *schema) {
            cache.get_mut(..=at).unwrap_or_default().rotate_right(1);
        } else {
            cache.insert(0, (schema.into(), Rc::new(checked(schema))));
            while cache.len() > CACHED || cache.iter().map(|(key, _)| key.len()).sum::<usize>() > CACHED_BYTES {
                cache.pop();
            }
        }
        cache.first().map_or_else(|| Rc::new(Err("no schema".into())), |(_, compiled)| Rc::clone(compiled))
    })
}
