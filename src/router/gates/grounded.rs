//! `grounded`: the values at some pointers occur in the request's messages.
//!
//! Extraction copies; what was not in the input was made up. A pointer to an object or list means every leaf below
//! it. A pointer that the answer does not have fails. Strings are looked for in the text; with `normalize` without
//! regard to case, white space and punctuation. A match must not cut a number (5 does not occur in 2025). Numbers are
//! compared by value, sign apart, with the numbers of the text, so that 1500 is found in "1,500.00". Booleans, nulls
//! and empty strings claim no words of the text and are passed over; when they are all there is, nothing vouches for
//! the answer and it fails.

use serde_json::Value;

use super::context::Content;
use super::{Finding, RequestContext};

#[derive(Debug)]
pub(super) struct Grounded {
    pub(super) pointers: Vec<String>,
    pub(super) normalize: bool,
}

impl Grounded {
    pub(super) fn judge(&self, request: &RequestContext<'_>, content: &Content<'_>) -> Finding {
        let Some(json) = content.json() else { return Finding::missing("the answer is not JSON") };
        let text = Haystack::new(request.text(), self.normalize);
        let mut found = 0;
        for pointer in &self.pointers {
            let Some(value) = json.pointer(pointer) else { return Finding::missing("a pointer has no value") };
            if !text.holds(value, &mut found) {
                return Finding::fail("a value does not occur in the request");
            }
        }
        if found > 0 { Finding::PASS } else { Finding::missing("no value to look for") }
    }
}

/// The request's text, ready to be searched.
struct Haystack<'a> {
    text: &'a str,
    normalize: bool,
    /// The text, normalised if so asked.
    haystack: String,
    /// Byte offsets in `haystack` before which the text had something that was left out.
    gaps: Vec<usize>,
}

impl<'a> Haystack<'a> {
    fn new(text: &'a str, normalize: bool) -> Self {
        let mut gaps = Vec::new();
        let haystack = if normalize { normalized(text, &mut gaps) } else { text.to_owned() };
        Self { text, normalize, haystack, gaps }
    }

    /// Whether every leaf occurs; `found` counts those that were looked for. The nesting is bounded by the parser's
    /// limit of 128.
    fn holds(&self, value: &Value, found: &mut usize) -> bool {
        match value {
            Value::Object(members) => members.values().all(|value| self.holds(value, found)),
            Value::Array(items) => items.iter().all(|item| self.holds(item, found)),
            Value::Null | Value::Bool(_) => true,
            Value::Number(number) => {
                *found += 1;
                number.as_f64().is_some_and(|number| self.holds_number(number.abs()))
            }
            Value::String(string) => {
                let needle = if self.normalize { normalized(string, &mut Vec::new()) } else { string.clone() };
                *found += usize::from(!needle.is_empty());
                needle.is_empty() || self.holds_text(&needle)
            }
        }
    }

    fn holds_text(&self, needle: &str) -> bool {
        self.haystack.match_indices(needle).any(|(start, found)| {
            let end = start + found.len();
            !self.cuts_number(start) && !self.cuts_number(end)
        })
    }

    /// Whether digits that belong together stand on both sides of an offset.
    fn cuts_number(&self, at: usize) -> bool {
        let bytes = self.haystack.as_bytes();
        let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        digit(at.checked_sub(1)) && digit(Some(at)) && self.gaps.binary_search(&at).is_err()
    }

    fn holds_number(&self, wanted: f64) -> bool {
        let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
        self.text.split(|c| !is_part(c)).map(|run| run.trim_matches(['.', ','])).any(|run| {
            if thousands(run) {
                run.replace(',', "").parse() == Ok(wanted)
            } else {
                run.split(',').any(|part| part.parse() == Ok(wanted))
            }
        })
    }
}

/// Whether the commas of a run of digits part thousands; else they part numbers.
pub(super) fn thousands(run: &str) -> bool {
    let mut groups = run.split('.').next().unwrap_or_default().split(',');
    groups.next().is_some_and(|first| (1..=3).contains(&first.len())) && groups.all(|group| group.len() == 3)
}

/// Lower case, letters and digits only. `gaps` gets the offsets before which something was left out.
fn normalized(text: &str, gaps: &mut Vec<usize>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars() {
        if c.is_alphanumeric() {
            if std::mem::take(&mut gap) {
                gaps.push(out.len());
            }
            out.extend(c.to_lowercase());
        } else {
            gap = true;
        }
    }
    out
}
