//! Leaf values of JSON by byte range: the part of an answer that says something.
//!
//! Braces, keys and quotes are given by the grammar or the schema; a model is sure of them (or, under constrained
//! decoding, absurdly unsure) whatever it answers.

use std::ops::Range;

use serde::de::IgnoredAny;

/// Where the JSON lies in a content that may be fenced, as small models do: from three backticks and the name of a
/// language, if any, to the last three backticks, without white space around it. Else all of it, trimmed.
pub(super) fn json_span(content: &str) -> Range<usize> {
    let trimmed = content.trim();
    let inner = trimmed.strip_prefix("```").map_or(trimmed, |fenced| {
        let body = fenced.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        body.rfind("```").map_or(body, |end| &body[..end]).trim()
    });
    crate::router::json::span(content, inner)
}

/// Byte ranges, in the content, of the leaf values of its JSON in order: strings without their quotes, numbers,
/// booleans and nulls. `None` if the content is not JSON.
pub(super) fn leaves(content: &str) -> Option<Vec<Range<usize>>> {
    let Range { start, end } = json_span(content);
    let json = content.get(start..end)?;
    // Iterative, so that deep nesting costs no stack; from here on the text is known to be valid.
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    let bytes = json.as_bytes();
    let mut leaves = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let close = string_end(bytes, at + 1);
                let key = bytes.iter().skip(close + 1).find(|b| !b.is_ascii_whitespace()) == Some(&b':');
                if !key {
                    leaves.push(start + at + 1..start + close);
                }
                at = close + 1;
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            _ => {
                let rest = bytes.get(at..).unwrap_or_default();
                let length = rest.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
                let length = length.unwrap_or(rest.len());
                leaves.push(start + at..start + at + length);
                at += length;
            }
        }
    }
    Some(leaves)
}

/// Position of the quote that ends the string whose first byte is at `from`.
fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        match bytes.get(at) {
            Some(b'\\') => at += 2,
            Some(b'"') | None => return at,
            Some(_) => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(content: &str) -> Option<Vec<&str>> {
        leaves(content).map(|leaves| leaves.into_iter().map(|range| &content[range]).collect())
    }

    #[test]
    fn leaves_of_plain_and_fenced_json() {
        let json = r#" {"a": "x\"y", "b" : [1, -2.5e3, true ,null, {}, []], "c":{"d":"", "é": "ü"}} "#;
        let wanted = Some(vec![r#"x\"y"#, "1", "-2.5e3", "true", "null", "", "ü"]);
        assert_eq!(texts(json), wanted);
        assert_eq!(texts(&format!("```json\n{json}\n```")), wanted);
        assert_eq!(texts(&format!("```\n{json}\n```\nThat is all.")), wanted);
        assert_eq!(texts(&format!("```json{json}```")), wanted);
        assert_eq!(texts(&format!("```json{json}")), wanted, "cut before its end");
        assert_eq!(texts("42"), Some(vec!["42"]));
        assert_eq!(texts("\"refund\""), Some(vec!["refund"]));
    }

    #[test]
    fn what_is_not_json_has_no_leaves() {
        for content in ["", "Hello.", "{", "```", "```json", "```json\n{", "{\"a\":1} and more", "```json {} {}```"] {
            assert_eq!(leaves(content), None, "{content}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(leaves(&deep), Some(Vec::new()));
    }
}
