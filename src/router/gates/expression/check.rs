//! What can be known of a program before there is an answer: that its names exist, that it says true or false, that its
//! work is bounded.
//!
//! A selection `a.b` becomes the index `a["b"]` on the way. The evaluator takes a selection from what is no map for
//! `false`, so that `!json.refused` would accept an answer whose JSON is a list; an index is an error, and so missing
//! evidence.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use regex::Regex;

use crate::router::gates::text_match;

/// Deepest nesting of a program's tree: the evaluator is recursive, on the stack of whoever asks.
pub(super) const MAX_DEPTH: u16 = 32;

/// The variables that a program reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Variables {
    pub(super) answer: bool,
    pub(super) json: bool,
    pub(super) finish_reason: bool,
    pub(super) usage: bool,
    pub(super) request: bool,
}

const VARIABLES: &str = "answer, json, finishReason, usage, request";
const USAGE: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];
const REQUEST: [&str; 3] = ["model", "stream", "max_tokens"];
const FUNCTIONS: &str =
    "size, contains, startsWith, endsWith, matches, int, double, string, has, all, exists, exists_one, filter";

/// What was found.
pub(super) struct Checked {
    pub(super) reads: Variables,
    /// The patterns of `matches`.
    pub(super) patterns: HashMap<String, Regex>,
    /// Parts of the program: names, operators, literals.
    pub(super) parts: usize,
    /// Whether it goes over the items of a list or map.
    pub(super) loops: bool,
}

/// What a part of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Boolean,
    Other,
    /// Known only of an answer.
    Unknown,
}

/// Checks a program, and mends its selections.
pub(super) fn check(program: &mut IdedExpr) -> Result<Checked, String> {
    let mut walk = Walk {
        found: Checked { reads: Variables::default(), patterns: HashMap::new(), parts: 0, loops: false },
        item: None,
    };
    if walk.part(program, 0)? == Kind::Other {
        return Err("must be true or false".into());
    }
    Ok(walk.found)
}

struct Walk {
    found: Checked,
    /// Name of the item in the loop that we are in.
    item: Option<String>,
}

impl Walk {
    fn part(&mut self, part: &mut IdedExpr, depth: u16) -> Result<Kind, String> {
        if depth > MAX_DEPTH {
            return Err(format!("must not be nested deeper than {MAX_DEPTH}"));
        }
        self.found.parts += 1;
        let below = depth + 1;
        match &mut part.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Ok(Kind::Boolean),
            Expr::Literal(_) => Ok(Kind::Other),
            Expr::Ident(name) => self.name(name),
            Expr::List(list) => {
                list.elements.iter_mut().try_for_each(|item| self.part(item, below).map(drop))?;
                Ok(Kind::Other)
            }
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.part(&mut entry.key, below)?;
                        self.part(&mut entry.value, below)?;
                    }
                }
                Ok(Kind::Other)
            }
            Expr::Select(select) => {
                let kind = self.selection(select, below)?;
                if !select.test {
                    let (operand, field) = (std::mem::take(&mut *select.operand), select.field.as_str());
                    let field = Expr::Literal(LiteralValue::String(field.into()));
                    let field = IdedExpr { id: part.id, expr: field };
                    let func_name = operators::INDEX.to_owned();
                    part.expr = Expr::Call(CallExpr { func_name, target: None, args: vec![operand, field] });
                }
                Ok(kind)
            }
            Expr::Call(call) => self.call(call, below),
            Expr::Comprehension(all) => self.comprehension(all, below),
            Expr::Struct(_) | Expr::Unspecified => Err("messages are not supported".into()),
        }
    }

    fn name(&mut self, name: &str) -> Result<Kind, String> {
        // Names with @ are the macros' own: nobody can write one.
        if name.starts_with('@') || self.item.as_deref() == Some(name) {
            return Ok(Kind::Unknown);
        }
        let reads = &mut self.found.reads;
        let (read, kind) = match name {
            "answer" => (&mut reads.answer, Kind::Other),
            "json" => (&mut reads.json, Kind::Unknown),
            "finishReason" => (&mut reads.finish_reason, Kind::Other),
            "usage" => (&mut reads.usage, Kind::Other),
            "request" => (&mut reads.request, Kind::Other),
            _ => return Err(format!("{name:?} is not known; known are {VARIABLES}")),
        };
        *read = true;
        Ok(kind)
    }

    fn selection(&mut self, select: &mut SelectExpr, depth: u16) -> Result<Kind, String> {
        self.part(&mut select.operand, depth)?;
        let field = select.field.as_str();
        let kind = match &select.operand.expr {
            Expr::Ident(name) if self.item.as_ref() != Some(name) => match name.as_str() {
                "usage" => known(name, field, &USAGE).map(|()| Kind::Other)?,
                "request" => {
                    known(name, field, &REQUEST)?;
                    if field == "stream" { Kind::Boolean } else { Kind::Other }
                }
                "json" => Kind::Unknown,
                _ => return Err(format!("{name} is a text, it has no {field:?}")),
            },
            _ => Kind::Unknown,
        };
        Ok(if select.test { Kind::Boolean } else { kind })
    }

    fn call(&mut self, call: &mut CallExpr, depth: u16) -> Result<Kind, String> {
        use operators as op;
        if let Some(target) = &mut call.target {
            self.part(target, depth)?;
        }
        let kinds = call.args.iter_mut().map(|arg| self.part(arg, depth)).collect::<Result<Vec<_>, _>>()?;
        let arguments = kinds.len() + usize::from(call.target.is_some());
        let booleans = |kinds: &[Kind]| {
            let wrong = kinds.contains(&Kind::Other);
            if wrong { Err("&&, ||, ! and ? take what is true or false".to_owned()) } else { Ok(Kind::Boolean) }
        };
        match (call.func_name.as_str(), call.target.is_some(), arguments) {
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, ..) => booleans(&kinds),
            (op::EQUALS | op::NOT_EQUALS | op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, ..)
            | (op::IN, ..)
            | ("contains" | "startsWith" | "endsWith", true, 2) => Ok(Kind::Boolean),
            (op::CONDITIONAL, ..) => {
                let (condition, ways) = kinds.split_at(1.min(kinds.len()));
                booleans(condition)?;
                Ok(if ways.contains(&Kind::Other) {
                    Kind::Other
                } else if ways.contains(&Kind::Unknown) {
                    Kind::Unknown
                } else {
                    Kind::Boolean
                })
            }
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO | op::NEGATE, ..)
            | ("size", _, 1)
            | ("int" | "double" | "string", false, 1) => Ok(Kind::Other),
            (op::INDEX, ..) => Ok(Kind::Unknown),
            ("matches", true, 2) => self.pattern(call).map(|()| Kind::Boolean),
            ("map", true, _) => Err(NO_MAP.into()),
            (name, ..) => Err(format!("there is no function {name:?} that is called like this; known are {FUNCTIONS}")),
        }
    }

    /// A pattern that the answer brings could be any: only those of the program are compiled.
    fn pattern(&mut self, call: &CallExpr) -> Result<(), String> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.first().map(|arg| &arg.expr) else {
            return Err("matches: the pattern must be written as a text".into());
        };
        let regex = text_match::regex(pattern.inner()).map_err(|e| format!("matches: {e}"))?;
        self.found.patterns.insert(pattern.inner().to_owned(), regex);
        Ok(())
    }

    fn comprehension(&mut self, all: &mut ComprehensionExpr, depth: u16) -> Result<Kind, String> {
        if self.item.is_some() {
            return Err("all, exists, exists_one and filter must not be nested in one another".into());
        }
        self.found.loops = true;
        self.part(&mut all.iter_range, depth)?;
        if makes_values(&all.loop_step, &all.iter_var) {
            return Err(NO_MAP.into());
        }
        let start = self.part(&mut all.accu_init, depth)?;
        self.item = Some(all.iter_var.clone());
        self.part(&mut all.loop_cond, depth)?;
        self.part(&mut all.loop_step, depth)?;
        let result = self.part(&mut all.result, depth)?;
        self.item = None;
        Ok(if result == Kind::Unknown { start } else { result })
    }
}

const NO_MAP: &str = "map is not supported; use all, exists, exists_one or filter";

/// Whether a loop's step adds to a list what is not an item: the list would grow without bound.
fn makes_values(step: &IdedExpr, item: &str) -> bool {
    let Expr::Call(call) = &step.expr else { return false };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [_, IdedExpr { expr: Expr::List(list), .. }]) => {
            list.elements.iter().any(|element| !matches!(&element.expr, Expr::Ident(name) if name == item))
        }
        (operators::CONDITIONAL, [_, step, _]) => makes_values(step, item),
        _ => false,
    }
}

fn known(of: &str, field: &str, fields: &[&str]) -> Result<(), String> {
    if fields.contains(&field) {
        return Ok(());
    }
    Err(format!("{of} has no {field:?}; it has {}", fields.join(", ")))
}
