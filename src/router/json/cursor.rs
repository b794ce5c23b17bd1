//! A walk over JSON text where serde would be too slow: lists of log probabilities are nearly all of a reply's bytes.
//!
//! Strings and brackets are followed, numbers are read when they are asked for; what is stepped over is not checked.
//! Each step gives `None` where the text is no JSON, and the caller then leaves it to serde to say what is wrong.

use std::borrow::Cow;

/// A place in a text.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At a byte of a text.
    pub(crate) const fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    /// The byte that it is at.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is no white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Steps over a byte if it is the next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A string with its escapes, without the quotes.
    fn quoted(&mut self) -> Option<&'a str> {
        if !self.take(b'"') {
            return None;
        }
        let start = self.at;
        self.at = after_string(self.text.as_bytes(), start)?;
        self.text.get(start..self.at - 1)
    }

    /// A string.
    pub(crate) fn string(&mut self) -> Option<Cow<'a, str>> {
        let inner = self.quoted()?;
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str(&format!("\"{inner}\"")).ok().map(Cow::Owned)
    }

    /// A number, a word or whatever else has no structure.
    pub(crate) fn scalar(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let length = rest.bytes().position(|b| matches!(b, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t'))?;
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    /// A number; `None` within for null.
    pub(crate) fn number(&mut self) -> Option<Option<f64>> {
        let text = self.scalar()?;
        if text == "null" {
            return Some(None);
        }
        // Rust also reads words such as `inf`.
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
        if digits { text.parse().ok().map(Some) } else { None }
    }

    /// Steps over a value of any kind.
    pub(crate) fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.quoted().map(|_| ()),
            b'[' | b'{' => self.nested(),
            _ => self.scalar().map(|_| ()),
        }
    }

    fn nested(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (self.at, 0_usize);
        loop {
            at += bytes.get(at..)?.iter().position(|byte| STRUCTURE[usize::from(*byte)])?;
            match bytes.get(at)? {
                b'"' => {
                    at = after_string(bytes, at + 1)?;
                    continue;
                }
                b'[' | b'{' => depth += 1,
                _ => depth -= 1,
            }
            at += 1;
            if depth == 0 {
                self.at = at;
                return Some(());
            }
        }
    }

    /// The members of an object: `each` gets a key and must step over its value.
    pub(crate) fn members(&mut self, mut each: impl FnMut(&'a str, &mut Self) -> Option<()>) -> Option<()> {
        self.list(b'{', b'}', |cursor| {
            let key = cursor.quoted()?;
            if !cursor.take(b':') {
                return None;
            }
            each(key, cursor)
        })
    }

    /// The items of a list: `each` must step over one.
    pub(crate) fn items(&mut self, each: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.list(b'[', b']', each)
    }

    fn list(&mut self, open: u8, close: u8, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if !self.take(open) {
            return None;
        }
        if self.take(close) {
            return Some(());
        }
        loop {
            each(self)?;
            if self.take(close) {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
        }
    }
}

/// Bytes that matter to [`Cursor::skip`]: quotes and brackets.
const STRUCTURE: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 5 {
        table[b"\"[]{}"[at] as usize] = true;
        at += 1;
    }
    table
};

/// Where a string ends that begins at a byte, one past its closing quote.
fn after_string(bytes: &[u8], mut at: usize) -> Option<usize> {
    // Most are keys and tokens: a vector search takes longer to begin than they are.
    let short = at.saturating_add(16).min(bytes.len());
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        match byte {
            b'"' => return Some(at),
            b'\\' => at += 1,
            _ if at > short => at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The value at the cursor, read by its steps alone.
    fn value(cursor: &mut Cursor<'_>) -> Option<Value> {
        match cursor.peek()? {
            b'"' => cursor.string().map(|text| Value::String(text.into_owned())),
            b'[' => {
                let mut list = Vec::new();
                cursor.items(|cursor| value(cursor).map(|item| list.push(item)))?;
                Some(Value::Array(list))
            }
            b'{' => {
                let mut object = serde_json::Map::new();
                cursor.members(|key, cursor| {
                    let key = serde_json::from_str(&format!("\"{key}\"")).ok()?;
                    value(cursor).map(|item| drop(object.insert(key, item)))
                })?;
                Some(Value::Object(object))
            }
            b't' | b'f' => cursor.scalar()?.parse().ok().map(Value::Bool),
            _ => cursor.number().map(|number| number.map_or(Value::Null, Value::from)),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-1e9..1e9).prop_map(|number: f64| json!(number)),
            ".{0,8}".prop_map(Value::String),
            Just(json!("\\\" \u{0} é {[,]}:")),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::hash_map(".{0,6}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_and_skips_what_serde_writes(wanted in any_value(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&wanted) } else { serde_json::to_string(&wanted) };
            // Something must follow: a value is never the last of a reply.
            let text = format!(" {}\n,", text.expect("JSON"));
            let mut cursor = Cursor::new(&text, 0);
            prop_assert_eq!(value(&mut cursor), Some(wanted));
            prop_assert!(cursor.take(b','));
            let mut skipped = Cursor::new(&text, 0);
            prop_assert!(skipped.skip().is_some() && skipped.take(b',') && skipped.at() == text.len());
        }

        #[test]
        fn it_ends_on_any_text(text in ".{0,40}", json in "[\\[\\]{}\",:\\\\ 1a]{0,40}") {
            for text in [text, json] {
                let _ = value(&mut Cursor::new(&text, 0));
                let _ = Cursor::new(&text, 0).skip();
            }
        }
    }
}
