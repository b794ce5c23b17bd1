//! The messages of a request: shape, size, images; their text only when asked for.

use std::fmt;

use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::BodyError;
use super::fields::string;
use crate::router::json::Object;

/// What is known of the messages.
#[derive(Debug, Default)]
pub(super) struct Messages<'a> {
    /// `content` of each message, where it has one.
    contents: Vec<Option<&'a RawValue>>,
    /// Bytes of text as they stand in the JSON, tool calls included.
    pub(super) text_bytes: usize,
    /// Parts that are images.
    pub(super) images: usize,
    /// Parts that are not text, images among them.
    pub(super) other_parts: usize,
}

impl<'a> Messages<'a> {
    /// Checks and counts one message; the error is the field below it and what must be.
    fn add(&mut self, message: &Message<'a>) -> Result<(), (&'static str, &'static str)> {
        if !message.role.is_some_and(|role| role.get().starts_with('"')) {
            return Err((".role", "must be a string"));
        }
        if let Some(content) = message.content {
            let must = (".content", "must be a string, a list of parts that each have a type, or null");
            match content.get().as_bytes().first() {
                Some(b'"' | b'n') => self.text_bytes += content.get().len(),
                _ => self.add_parts(&parts(content).ok_or(must)?),
            }
        }
        self.text_bytes += message.tool_calls.map_or(0, |calls| calls.get().len());
        self.contents.push(message.content);
        Ok(())
    }

    fn add_parts(&mut self, parts: &[Object<Part<'_>>]) {
        for Object(part) in parts {
            match part.text {
                Some(text) => self.text_bytes += text.get().len(),
                None => self.other_parts += 1,
            }
            self.images += usize::from(part.kind.get() == r#""image_url""#);
        }
    }

    pub(super) const fn count(&self) -> usize {
        self.contents.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(self.text_bytes + self.contents.len());
        let mut push = |piece: &RawValue| {
            if let Some(piece) = string(piece) {
                text.push_str(&piece);
                text.push('\n');
            }
        };
        for content in self.contents.iter().flatten() {
            match parts(content) {
                Some(parts) => parts.iter().filter_map(|part| part.0.text).for_each(&mut push),
                None => push(content),
            }
        }
        text
    }
}

/// One message, as far as it is read.
#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

/// One part of a `content` list.
#[derive(serde::Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
}

fn parts(content: &RawValue) -> Option<Vec<Object<Part<'_>>>> {
    content.get().starts_with('[').then(|| serde_json::from_str(content.get()).ok())?
}

/// The messages of a request that was read, and how many of them came before the last one of the assistant.
pub(super) fn conversation(body: &str) -> (Vec<&[u8]>, Option<usize>) {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        messages: Vec<&'a RawValue>,
    }
    let Ok(Body { messages }) = serde_json::from_str::<Body<'_>>(body) else { return (Vec::new(), None) };
    let is_answer = |message: &&RawValue| {
        let message = serde_json::from_str::<Object<Message<'_>>>(message.get());
        message.is_ok_and(|Object(message)| message.role.is_some_and(|role| role.get() == r#""assistant""#))
    };
    let answered = messages.iter().rposition(is_answer);
    (messages.into_iter().map(|message| message.get().as_bytes()).collect(), answered)
}

/// Reads the list. A fault of meaning goes to `fault`, since serde's errors can't name the field.
pub(super) struct Seed<'f> {
    pub(super) fault: &'f mut Option<BodyError>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Messages<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Messages<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut messages = Messages::default();
        while let Some(message) = seq.next_element::<Object<Message<'de>>>()? {
            if let Err((field, must)) = messages.add(&message.0) {
                let at = messages.count();
                *self.fault = Some(BodyError::new(format!("messages[{at}]{field}"), must));
                return Err(A::Error::custom("wrong message"));
            }
        }
        Ok(messages)
    }
}
