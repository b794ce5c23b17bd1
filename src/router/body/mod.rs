//! One borrowed pass over a chat request: what the rules need is read, the rest passes through untouched.
//!
//! ```text
//! body bytes --peek--> Peek (borrowed) --rewrite--> upstream body: `model` replaced, a few fields injected
//! ```
//! Only fields that a rule reads are checked; a wrong one is the caller's fault and the error names it. Fields that
//! we read must appear once: with two, the upstream could act on the one that we did not judge by. Unknown fields are
//! skipped without recursion, so that deep nesting costs no stack.

mod fields;
mod messages;
mod rewrite;
mod sample;
mod tools;

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use fields::{flag, integer, list, present, response_format, stream_options, string};
use messages::Messages;
pub use rewrite::Inject;
pub use tools::{Tool, ToolChoice};

/// A request that the caller must mend (400).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BodyError {
    /// The field at fault, or `body`.
    pub field: Cow<'static, str>,
    /// What must be.
    pub message: Cow<'static, str>,
}

impl BodyError {
    fn new(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// What `response_format` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseFormat {
    /// Text, or a type that this build does not know (the upstream judges it).
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON under a schema.
    JsonSchema,
}

/// What the router reads of a chat request.
#[derive(Debug)]
pub struct Peek<'a> {
    body: &'a str,
    slots: Slots<'a>,
    messages: Messages<'a>,
    /// The alias or tier that the client named.
    pub model: Cow<'a, str>,
    /// Whether the client wants server-sent events.
    pub stream: bool,
    /// Whether the client asked for a usage chunk (`stream_options.include_usage`).
    pub include_usage: bool,
    /// Number of choices, 1..=128. Default: 1.
    pub n: u32,
    /// `max_completion_tokens`, else `max_tokens`.
    pub max_tokens: Option<u64>,
    /// Whether the request offers tools (or the older functions).
    pub tools: bool,
    /// Whether a message holds an image.
    pub vision: bool,
    /// Kind of `response_format`.
    pub response_format: ResponseFormat,
    /// `response_format.json_schema.schema`.
    pub schema: Option<&'a RawValue>,
    /// Whether the client asked for log probabilities.
    pub logprobs: bool,
    /// Alternatives that the client asked for, 0..=20; `None` where not said.
    pub top_logprobs: Option<u8>,
}

/// The fields that are read, in the order of [`Slots`].
const FIELDS: [&str; 14] = [
    "messages",
    "model",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "tools",
    "functions",
    "response_format",
    "logprobs",
    "top_logprobs",
    "tool_choice",
    "function_call",
];
const MESSAGES: usize = 0;
const MODEL: usize = 1;
const STREAM: usize = 2;
const STREAM_OPTIONS: usize = 3;
const N: usize = 4;
const MAX_TOKENS: usize = 5;
const MAX_COMPLETION_TOKENS: usize = 6;
const TOOLS: usize = 7;
const FUNCTIONS: usize = 8;
const RESPONSE_FORMAT: usize = 9;
const LOGPROBS: usize = 10;
const TOP_LOGPROBS: usize = 11;
const TOOL_CHOICE: usize = 12;
const FUNCTION_CALL: usize = 13;

/// Raw values of [`FIELDS`]; that of `messages` stays empty, its pass is in [`Messages`].
type Slots<'a> = [Option<&'a RawValue>; FIELDS.len()];

/// Reads a chat request.
///
/// # Errors
/// The body is not UTF-8, not JSON, not an object, or a field that is read is wrong or appears twice.
pub fn peek(body: &[u8]) -> Result<Peek<'_>, BodyError> {
    let body = std::str::from_utf8(body)
        .map_err(|e| BodyError::new("body", format!("must be UTF-8 (wrong byte at {})", e.valid_up_to())))?;
    let mut scan = Scan { slots: [None; FIELDS.len()], messages: None, in_messages: false, fault: None };
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let scanned = (&mut scan).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if let Some(fault) = scan.fault {
        return Err(fault);
    }
    scanned.map_err(|e| match e.classify() {
        serde_json::error::Category::Data if scan.in_messages => {
            BodyError::new("messages", "must be a list of messages")
        }
        _ => not_json(&e),
    })?;
    let messages = scan.messages.ok_or_else(|| BodyError::new("messages", "must be set"))?;
    if messages.is_empty() {
        return Err(BodyError::new("messages", "must hold at least one message"));
    }
    interpret(body, scan.slots, messages)
}

fn not_json(error: &serde_json::Error) -> BodyError {
    let (line, column) = (error.line(), error.column());
    BodyError::new("body", format!("must be one JSON object (wrong at line {line}, column {column})"))
}

fn interpret<'a>(body: &'a str, slots: Slots<'a>, messages: Messages<'a>) -> Result<Peek<'a>, BodyError> {
    let model = slots[MODEL].ok_or_else(|| BodyError::new("model", "must be set"))?;
    let model = string(model).filter(|m| !m.is_empty());
    let model = model.ok_or_else(|| BodyError::new("model", "must be a string that is not empty"))?;
    let (response_format, schema) = response_format(slots[RESPONSE_FORMAT])?;
    let max_tokens = match integer(&slots, MAX_COMPLETION_TOKENS, 1, u64::MAX)? {
        Some(most) => Some(most),
        None => integer(&slots, MAX_TOKENS, 1, u64::MAX)?,
    };
    Ok(Peek {
        body,
        model,
        stream: flag(&slots, STREAM)?,
        include_usage: stream_options(slots[STREAM_OPTIONS])?.include_usage.is_some_and(|u| u.get() == "true"),
        n: integer(&slots, N, 1, 128)?.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        max_tokens,
        tools: list(&slots, TOOLS)? | list(&slots, FUNCTIONS)?,
        vision: messages.images > 0,
        response_format,
        schema,
        logprobs: flag(&slots, LOGPROBS)?,
        top_logprobs: integer(&slots, TOP_LOGPROBS, 0, 20)?.and_then(|n| u8::try_from(n).ok()),
        slots,
        messages,
    })
}

impl Peek<'_> {
    /// Tokens that the request probably has, for admission and context checks before any tokenizer has seen it: four
    /// bytes a token (English text has 4 to 5) over the text of messages, tools and schema, 4 tokens a message for its
    /// frame, and 1,000 for each part that is not text (an image in high detail). Exact counts come from `usage`.
    #[must_use]
    pub fn input_tokens_estimate(&self) -> u64 {
        let raw = [TOOLS, FUNCTIONS, RESPONSE_FORMAT].into_iter().filter_map(|field| present(&self.slots, field));
        let bytes = self.messages.text_bytes + raw.map(str::len).sum::<usize>();
        let frames = 4 * self.messages.count() + 1_000 * self.messages.other_parts;
        u64::try_from(bytes.div_ceil(4) + frames).unwrap_or(u64::MAX)
    }

    /// The messages as they stand, and how many of them came before the last answer. Parsed anew at each call.
    #[must_use]
    pub fn conversation(&self) -> (Vec<&[u8]>, Option<usize>) {
        messages::conversation(self.body)
    }

    /// The tools on offer, and whether one must be called. Parsed anew at each call: call it only for a gate.
    #[must_use]
    pub fn tools_offered(&self) -> (Vec<Tool<'_>>, ToolChoice) {
        tools::offered(&self.slots)
    }

    /// Text of all messages, one after the other on lines of their own. Decoded anew at each call: call it only for a
    /// gate that needs it.
    #[must_use]
    pub fn user_text(&self) -> String {
        self.messages.text()
    }
}

/// The first pass.
struct Scan<'a> {
    slots: Slots<'a>,
    messages: Option<Messages<'a>>,
    in_messages: bool,
    /// A fault of meaning: serde's own errors can't name the field.
    fault: Option<BodyError>,
}

impl<'de> DeserializeSeed<'de> for &mut Scan<'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Scan<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(&FIELDS))? {
            let seen = match key {
                None => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                Some(MESSAGES) => {
                    self.in_messages = true;
                    let messages = map.next_value_seed(messages::Seed { fault: &mut self.fault })?;
                    self.in_messages = false;
                    self.messages.replace(messages).is_some()
                }
                Some(field) => {
                    let raw = map.next_value::<&'de RawValue>()?;
                    self.slots.get_mut(field).and_then(|slot| slot.replace(raw)).is_some()
                }
            };
            if seen {
                let name = key.and_then(|field| FIELDS.get(field)).copied().unwrap_or_default();
                self.fault = Some(BodyError::new(name, "must appear only once"));
                return Err(serde::de::Error::custom("repeated field"));
            }
        }
        Ok(())
    }
}

/// Position of a key in a list of names; `None` for any other key.
struct Key(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

#[cfg(test)]
mod tests;
