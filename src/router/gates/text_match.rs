//! `match` and `notMatch`: a regular expression is found, or is not found, in what the client would read.
//!
//! The engine runs in time linear to the text; the size limit bounds what a table can make it hold.

use regex::{Regex, RegexBuilder};

use super::Finding;
use crate::router::answer::Choice;

/// Bound on a compiled expression, in bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles a table's expression.
pub(super) fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build()
}

#[derive(Debug)]
pub(super) struct TextMatch {
    regex: Regex,
    pub(super) wanted: bool,
}

impl TextMatch {
    pub(super) fn compile(regex: &str, wanted: bool) -> Result<Self, String> {
        let name = if wanted { "match" } else { "notMatch" };
        self::regex(regex).map(|regex| Self { regex, wanted }).map_err(|e| format!("{name}: {e}"))
    }

    pub(super) fn judge(&self, choice: &Choice) -> Finding {
        // An answer of tool calls alone has no text: nothing in it is what must not be there.
        if self.wanted && choice.text().is_empty() && !choice.tool_calls.is_empty() {
            return Finding::missing("no text");
        }
        let found = self.regex.is_match(choice.text());
        Finding::pass_if(found == self.wanted, if found { "the text matches" } else { "the text does not match" })
    }
}
