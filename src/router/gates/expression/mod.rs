//! `expression`: a CEL program says of an answer whether it is accepted.
//!
//! ```text
//! text --parse--> syntax tree --check (names, types, bounds)--> Expression       when a table is loaded
//! Expression + answer, json, finishReason, usage, request --> true, false, or nothing to judge by
//! ```
//! The evaluator has no limit on cost, so the work is bounded from outside: the program's length and depth; loops are not
//! nested and make no new values ([`check`]); patterns are literals, compiled with the table; and an answer is judged only
//! if its size times that of the program, times the turns of a loop, stays below [`MOST_WORK`].
//!
//! What a program reads and the answer lacks is missing evidence, and so is an error while it runs: a key that is not
//! there, a division by zero, a text where a number should be.

mod check;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::extractors::This;
use cel::objects::Key;
use cel::parser::{Expression as Tree, Parser};
use cel::{Context, ExecutionError, FunctionContext, Value, functions};
use serde_json::Value as Json;

use super::context::Content;
use super::{Finding, RequestContext};
use crate::api::escalation_path::FinishReason;
use crate::router::answer::{Choice, Usage};
use crate::router::own_stack::on_own_stack;
use check::{Checked, Variables};

/// Longest program, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 1024;
/// Brackets that a program may open: each can be a level of the parser's recursion.
const MAX_BRACKETS: usize = 64;
/// Stack for the parser: in a build without optimisation a level takes 170 KiB.
const PARSER_STACK: usize = 32 << 20;
/// Largest answer that a program judges, in bytes.
const MOST_BYTES: usize = 64 << 10;
/// Bound on bytes of the answer, times parts of the program, times turns of its loops: near 20 ms at the worst.
const MOST_WORK: usize = 16 << 20;

const UNREADABLE: &str = "can't be parsed";

/// A program that was checked.
pub(super) struct Expression {
    program: Tree,
    /// The functions, with the patterns of `matches`.
    scope: Context<'static>,
    reads: Variables,
    parts: usize,
    loops: bool,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Expression {
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        Self::checked(text).map_err(|e| format!("expression: {e}"))
    }

    fn checked(text: &str) -> Result<Self, String> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(format!("must have at most {MAX_EXPRESSION_BYTES} bytes"));
        }
        if text.bytes().filter(|byte| b"([{".contains(byte)).count() > MAX_BRACKETS {
            return Err(format!("must have at most {MAX_BRACKETS} brackets"));
        }
        // The parser is generated code, and its own limit on recursion does not hold: whatever it does with a strange
        // text, the table is refused, not the process lost.
        let parsed = on_own_stack(PARSER_STACK, || {
            Parser::new().parse(text).map_err(|errors| {
                let first = errors.errors.first();
                first.map_or(UNREADABLE.to_owned(), |e| format!("column {}: {}", e.pos.1 + 1, e.msg))
            })
        });
        let mut program = parsed.ok_or(UNREADABLE)??;
        let Checked { reads, patterns, parts, loops } = check::check(&mut program)?;
        let mut scope = Context::empty();
        scope.add_function("size", size);
        scope.add_function("contains", functions::contains);
        scope.add_function("startsWith", functions::starts_with);
        scope.add_function("endsWith", functions::ends_with);
        scope.add_function("int", functions::int);
        scope.add_function("double", functions::double);
        scope.add_function("string", functions::string);
        scope.add_function("matches", move |This(text): This<Arc<String>>, pattern: Arc<String>| {
            patterns.get(pattern.as_str()).is_some_and(|regex| regex.is_match(&text))
        });
        Ok(Self { program, scope, reads, parts, loops })
    }

    pub(super) fn judge(
        &self,
        request: &RequestContext<'_>,
        usage: Option<Usage>,
        choice: &Choice,
        content: &Content<'_>,
    ) -> Finding {
        let mut scope = self.scope.new_inner_scope();
        if let Err(what) = self.fill(&mut scope, request, usage, choice, content) {
            return Finding::missing(what);
        }
        let evaluated = catch_unwind(AssertUnwindSafe(|| Value::resolve(&self.program, &scope)));
        match evaluated {
            Ok(Ok(Value::Bool(says))) => Finding::pass_if(says, "the expression is false"),
            Ok(Ok(_)) => Finding::fail("the expression is neither true nor false"),
            Ok(Err(_)) | Err(_) => Finding::missing("the expression could not be evaluated"),
        }
    }

    /// Gives the program what it reads, or says what of it is missing.
    fn fill(
        &self,
        scope: &mut Context<'_>,
        request: &RequestContext<'_>,
        usage: Option<Usage>,
        choice: &Choice,
        content: &Content<'_>,
    ) -> Result<(), &'static str> {
        let text = choice.text();
        let mut turns = 1;
        if (self.reads.answer || self.reads.json) && text.len() > MOST_BYTES {
            return Err("the answer is too long for an expression");
        }
        if self.reads.answer {
            // An answer of tool calls alone has no text.
            if text.is_empty() && !choice.tool_calls.is_empty() {
                return Err("no text");
            }
            scope.add_variable_from_value("answer", text);
        }
        if self.reads.json {
            let json = content.json().ok_or("the answer is not JSON")?;
            scope.add_variable_from_value("json", value(json, &mut turns));
        }
        let turns = if self.loops { turns } else { 1 };
        if text.len().saturating_mul(self.parts).saturating_mul(turns) > MOST_WORK {
            return Err("the answer is too long for this expression");
        }
        if self.reads.finish_reason {
            let reason = choice.finish_reason.ok_or("no known finish reason")?;
            scope.add_variable_from_value("finishReason", name(reason));
        }
        if self.reads.usage {
            let usage = usage.ok_or("no usage")?;
            scope.add_variable_from_value("usage", usage_of(usage));
        }
        if self.reads.request {
            scope.add_variable_from_value("request", request_of(request));
        }
        Ok(())
    }
}

const fn name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
    }
}

/// A count: CEL's integers have a sign.
fn count(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

fn usage_of(Usage { prompt, cached: _, completion }: Usage) -> HashMap<&'static str, Value> {
    let total = prompt.saturating_add(completion);
    [("prompt_tokens", prompt), ("completion_tokens", completion), ("total_tokens", total)]
        .map(|(name, tokens)| (name, count(tokens)))
        .into()
}

fn request_of(request: &RequestContext<'_>) -> HashMap<&'static str, Value> {
    let mut members: HashMap<&'static str, Value> =
        [("model", request.model().into()), ("stream", request.stream().into())].into();
    members.extend(request.max_tokens().map(|most| ("max_tokens", count(most))));
    members
}

/// JSON as CEL has it; `items` counts values. JSON does not tell 5 from 5.0, and CEL does: whole numbers are integers.
/// The nesting is bounded by the parser's limit of 128.
fn value(json: &Json, items: &mut usize) -> Value {
    *items += 1;
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => {
            integer(number).map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int)
        }
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => list.iter().map(|item| value(item, items)).collect::<Vec<Value>>().into(),
        Json::Object(members) => members
            .iter()
            .map(|(name, member)| (Key::from(name.as_str()), value(member, items)))
            .collect::<HashMap<Key, Value>>()
            .into(),
    }
}

/// A number without a fraction, where a float holds it exactly.
#[expect(clippy::cast_possible_truncation, reason = "below 2^53 and without a fraction")]
fn integer(number: &serde_json::Number) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() < EXACT;
    number.as_i64().or_else(|| number.as_f64().filter(whole).map(|float| float as i64))
}

/// As CEL defines it: letters of a text, not bytes.
fn size(ftx: &FunctionContext<'_, '_>, This(this): This<Value>) -> Result<i64, ExecutionError> {
    let size = match this {
        Value::String(text) => text.chars().count(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.map.len(),
        _ => return Err(ftx.error("no text, list or map")),
    };
    Ok(i64::try_from(size).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
