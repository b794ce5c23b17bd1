//! Collects what is wrong with an object.

use std::fmt::Display;

use super::Invalid;
use crate::api::types::ParseError;

/// Problems that a message lists; a condition's message is bounded and so is a person's patience.
const LISTED: usize = 8;
/// Longest text of one problem, in bytes: messages may quote input.
const LONGEST: usize = 1024;

/// Problems of one object, each under a reason. The first reason is the condition's.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<(&'static str, String)>,
}

impl Problems {
    /// Notes that a field is wrong.
    pub(super) fn add(&mut self, reason: &'static str, field: impl Display, problem: impl Display) {
        let mut text = format!("{field}: {problem}");
        if text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
            text.truncate(end);
            text.push_str("...");
        }
        self.found.push((reason, text));
    }

    /// Adds those of another list after these.
    pub(super) fn extend(&mut self, other: Self) {
        self.found.extend(other.found);
    }

    /// The value, or the default and a note that the field does not parse.
    pub(super) fn parsed<T: Default>(&mut self, field: impl Display, parsed: Result<T, ParseError>) -> T {
        parsed.unwrap_or_else(|error| {
            self.add(crate::api::conditions::REASON_INVALID, field, error);
            T::default()
        })
    }

    /// Everything in one message under a condition, or nothing.
    pub(super) fn into_invalid(self, condition: &'static str) -> Option<Invalid> {
        let reason = self.found.first()?.0;
        let rest = self.found.len().saturating_sub(LISTED);
        let mut listed: Vec<String> = self.found.into_iter().take(LISTED).map(|(_, text)| text).collect();
        if rest > 0 {
            listed.push(format!("and {rest} more"));
        }
        Some(Invalid { condition, reason, message: listed.join("; ") })
    }

    /// The value if nothing is wrong.
    pub(super) fn into_result<T>(self, condition: &'static str, value: T) -> Result<T, Invalid> {
        self.into_invalid(condition).map_or(Ok(value), Err)
    }
}

/// At most 16 names, for "known names" in messages.
pub(super) fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    let rest = names.len().saturating_sub(16);
    names.truncate(16);
    match (names.is_empty(), rest) {
        (true, _) => "none".to_owned(),
        (_, 0) => names.join(", "),
        (_, rest) => format!("{} and {rest} more", names.join(", ")),
    }
}
