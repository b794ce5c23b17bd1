//! One `id`, `created` and `model` for a whole stream.
//!
//! Some engines say the time anew in each chunk (llama.cpp), some send a first chunk that has no id yet (Azure). A client
//! that puts chunks together by them would see several answers. What the first chunk with a choice says holds for all.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::router::json::Splice;

/// What a chunk says of the stream that it is part of.
#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Said<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) model: Option<&'a RawValue>,
}

impl<'a> Said<'a> {
    fn fields(self) -> [Option<&'a str>; 3] {
        [self.id, self.created, self.model].map(|raw| raw.map(RawValue::get))
    }
}

/// What a stream is known by.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    fields: Option<[Option<Box<str>>; 3]>,
    /// A chunk said something else, or spoke before it was known.
    mixed: bool,
}

impl Identity {
    /// Takes note of a chunk, and of whether it has a choice.
    pub(super) fn see(&mut self, said: Said<'_>, has_choice: bool) {
        let said = said.fields();
        match &self.fields {
            Some(known) => self.mixed |= known.iter().zip(said).any(|(known, said)| differs(known.as_deref(), said)),
            None if has_choice => self.fields = Some(said.map(|said| said.map(Box::from))),
            None => self.mixed = true,
        }
    }

    /// Makes all events say the same. Nothing is read of those of a stream that does so by itself.
    pub(super) fn unify(&self, events: &mut [Bytes]) {
        let Some(known) = self.fields.as_ref().filter(|_| self.mixed) else { return };
        for event in events {
            if let Some(unified) = unified(known, event) {
                *event = unified;
            }
        }
    }
}

/// What was not said at first is not known, and what is not said at all contradicts nothing.
fn differs(known: Option<&str>, said: Option<&str>) -> bool {
    known.zip(said).is_some_and(|(known, said)| known != said)
}

/// The event with the known identity; `None` if it has that, or is no chunk.
fn unified(known: &[Option<Box<str>>; 3], event: &Bytes) -> Option<Bytes> {
    let text = str::from_utf8(event).ok()?;
    let said: Said<'_> = serde_json::from_str(text).ok()?;
    let mut splice = Splice::new(text);
    for (known, said) in known.iter().zip(said.fields()) {
        if let (Some(known), Some(said)) = (known, said)
            && differs(Some(known), Some(said))
        {
            splice.replace(said, &**known);
        }
    }
    (!splice.is_empty()).then(|| splice.apply())
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    /// The events as a client gets them.
    fn unified(chunks: &[&'static str]) -> Vec<Bytes> {
        let mut reader = Reader::default();
        let mut events: Vec<Bytes> = chunks.iter().map(|chunk| Bytes::from_static(chunk.as_bytes())).collect();
        events.iter().for_each(|event| reader.chunk(event).expect("a chunk"));
        events.push(Bytes::from_static(b"[DONE]"));
        reader.unify(&mut events);
        assert_eq!(events.pop().expect("the last"), "[DONE]");
        events
    }

    #[test]
    fn the_first_chunk_with_a_choice_says_what_all_are() {
        let events = unified(&[
            r#"{"id":"","created":0,"model":"","choices":[],"prompt_filter_results":[]}"#,
            r#"{"id":"a", "created": 7,"model":"m","choices":[{"index":0,"delta":{"content":"\"id\":\"b\""}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x","id":"c"}}],"created":8,"id":"a"}"#,
            r#"{"id":"b","created":9,"model":"n","choices":[],"usage":{"prompt_tokens":1}}"#,
        ]);
        let wanted = [
            r#"{"id":"a","created":7,"model":"m","choices":[],"prompt_filter_results":[]}"#,
            r#"{"id":"a", "created": 7,"model":"m","choices":[{"index":0,"delta":{"content":"\"id\":\"b\""}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x","id":"c"}}],"created":7,"id":"a"}"#,
            r#"{"id":"a","created":7,"model":"m","choices":[],"usage":{"prompt_tokens":1}}"#,
        ];
        assert_eq!(events, wanted);
    }

    #[test]
    fn a_stream_of_one_identity_is_left_as_it_is() {
        const CHUNK: &str = r#"{"id":"a","created":7,"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
        const MORE: &str = r#"{"model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}"#;
        let events = unified(&[CHUNK, MORE]);
        assert_eq!((events[0].as_ptr(), events[1].as_ptr()), (CHUNK.as_ptr(), MORE.as_ptr()));
    }
}
