//! JSON without a DOM: objects read strictly, and edits by byte spans that copy what is not edited as it stands.
//!
//! A request or reply passes through unchanged but for a few fields. Re-serialising it would cost a DOM, and would
//! change number spellings, key order and duplicate keys that are none of the router's business.

mod cursor;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

pub(crate) use cursor::Cursor;

/// A struct that is read from an object only: a derived one also takes a list of its fields.
#[derive(Debug, Default)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OfObject(PhantomData))
    }
}

/// Where `part`, a slice of `source`, lies in it. An empty span at the end if it is no slice of it.
pub(crate) fn span(source: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().checked_sub(source.as_ptr().addr());
    match start {
        Some(start) if start.saturating_add(part.len()) <= source.len() => start..start + part.len(),
        _ => source.len()..source.len(),
    }
}

/// A member of an object: what to cut to take it out, its comma with it, and its value. `None` if there is none.
pub(crate) fn member<'a>(object: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (mut found, mut before) = (None, None);
    Cursor::new(object, 0).members(|key, cursor| {
        cursor.peek();
        let value = cursor.at();
        cursor.skip()?;
        let end = cursor.at();
        if key == name {
            let quote = span(object, key).start.saturating_sub(1);
            let mut after = cursor.clone();
            // With the comma before it, so that what is left looks as if it had never been there. The first has none.
            let cut = match before {
                Some(before) => before..end,
                None if after.take(b',') => quote..after.peek().map_or(end, |_| after.at()),
                None => quote..end,
            };
            found = object.get(cut).zip(object.get(value..end));
        }
        before = Some(end);
        Some(())
    })?;
    found
}

/// A set of replacements in one text.
pub(crate) struct Splice<'a> {
    source: &'a str,
    edits: Vec<(Range<usize>, Cow<'a, str>)>,
}

impl<'a> Splice<'a> {
    /// No edits yet.
    pub(crate) const fn new(source: &'a str) -> Self {
        Self { source, edits: Vec::new() }
    }

    /// Puts `with` in the place of `part`, a slice of the source.
    pub(crate) fn replace(&mut self, part: &str, with: impl Into<Cow<'a, str>>) {
        self.edits.push((span(self.source, part), with.into()));
    }

    /// Puts a member first in `object`, a slice of the source that starts with `{`.
    pub(crate) fn insert_member(&mut self, object: &str, member: &str) {
        let inside = object.get(1..).unwrap_or_default();
        let separator = if inside.trim_start().starts_with('}') { "" } else { "," };
        let at = span(self.source, inside).start;
        self.edits.push((at..at, format!("{member}{separator}").into()));
    }

    /// Whether nothing would change.
    pub(crate) const fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The edited text. Edits must not overlap; of several at one place, the first made comes first.
    pub(crate) fn apply(mut self) -> Bytes {
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let grown: usize = self.edits.iter().map(|(_, with)| with.len()).sum();
        let mut out = Vec::with_capacity(self.source.len() + grown);
        let source = self.source.as_bytes();
        let mut done = 0;
        for (range, with) in &self.edits {
            out.extend_from_slice(source.get(done..range.start).unwrap_or_default());
            out.extend_from_slice(with.as_bytes());
            done = range.end.max(done);
        }
        out.extend_from_slice(source.get(done..).unwrap_or_default());
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_keep_everything_else() {
        let source = r#"{ "a" : 1, "b":{}, "c": {"d":2} }"#;
        let mut splice = Splice::new(source);
        splice.replace(&source[8..9], "7");
        splice.insert_member(&source[15..17], "\"x\":1");
        splice.insert_member(&source[24..31], "\"y\":1");
        splice.insert_member(source, "\"p\":1");
        splice.insert_member(source, "\"q\":1");
        assert_eq!(splice.apply(), r#"{"p":1,"q":1, "a" : 7, "b":{"x":1}, "c": {"y":1,"d":2} }"#.as_bytes());
    }

    #[test]
    fn a_member_is_cut_with_its_comma() {
        for (object, wanted) in [
            (r#"{"u":null}"#, "{}"),
            (r#"{ "u" : null , "a":1}"#, r#"{ "a":1}"#),
            (r#"{"a":"\"u\":null,","u":null}"#, r#"{"a":"\"u\":null,"}"#),
            (r#"{"a":{"u":1}, "u":null ,"b":[]}"#, r#"{"a":{"u":1} ,"b":[]}"#),
            (r#"{"a": 1, "u": null, "b": 2}"#, r#"{"a": 1, "b": 2}"#),
        ] {
            let (cut, value) = member(object, "u").expect("a member");
            assert_eq!(value, "null");
            let mut splice = Splice::new(object);
            splice.replace(cut, "");
            assert_eq!(splice.apply(), wanted.as_bytes(), "{object}");
        }
        assert_eq!(member(r#"{"a":{"u":1}}"#, "u"), None);
        assert_eq!(member("[1", "u"), None);
    }

    #[test]
    fn a_foreign_slice_is_harmless() {
        assert_eq!(span("abc", "xyz"), 3..3);
    }
}
