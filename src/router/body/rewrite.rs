//! The upstream's body: the client's bytes with `model` replaced and a few fields injected.

use bytes::Bytes;

use super::fields::{StreamOptions, stream_options};
use super::{LOGPROBS, MODEL, Peek, STREAM, STREAM_OPTIONS, TOP_LOGPROBS};
use crate::router::json::Splice;

/// What the upstream must be asked for beyond what the client wrote. What is injected here is removed again from the
/// reply by [`Strip`](crate::router::answer::Strip).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inject {
    /// Ask for log probabilities with at least this many alternatives. At least 1 is sent: llama.cpp takes 0 for none
    /// at all.
    pub logprobs: Option<u8>,
    /// Ask for a stream, or for none. `None`: as the client wrote.
    pub stream: Option<bool>,
    /// Ask for the usage chunk. Only where the upstream streams; `stream_options` of a request that does not stream is
    /// an error at OpenAI, so `stream: Some(false)` sets it to null.
    pub include_usage: bool,
}

impl Peek<'_> {
    /// The body for a tier. `body` must be the bytes that were peeked at: when nothing changes they are shared, not
    /// copied.
    #[must_use]
    pub fn rewrite(&self, body: &Bytes, model: &str, inject: Inject) -> Bytes {
        let mut splice = Splice::new(self.body);
        self.edit(&mut splice, model, inject);
        if splice.is_empty() { body.clone() } else { splice.apply() }
    }

    /// Notes the edits that a tier's body needs.
    pub(super) fn edit(&self, splice: &mut Splice<'_>, model: &str, inject: Inject) {
        if self.model != model
            && let (Some(raw), Ok(name)) = (self.slots[MODEL], serde_json::to_string(model))
        {
            splice.replace(raw.get(), name);
        }
        if let Some(top) = inject.logprobs {
            if !self.logprobs {
                self.set(splice, LOGPROBS, "true");
            }
            if self.top_logprobs.is_none_or(|asked| asked < top.max(1)) {
                self.set(splice, TOP_LOGPROBS, &top.max(1).to_string());
            }
        }
        let streams = inject.stream.unwrap_or(self.stream);
        if streams != self.stream {
            self.set(splice, STREAM, if streams { "true" } else { "false" });
        }
        if !streams {
            if self.stream && self.slots[STREAM_OPTIONS].is_some() {
                self.set(splice, STREAM_OPTIONS, "null");
            }
        } else if inject.include_usage && !self.include_usage {
            self.set_include_usage(splice);
        }
    }

    fn set(&self, splice: &mut Splice<'_>, field: usize, value: &str) {
        match self.slots[field] {
            Some(raw) => splice.replace(raw.get(), value.to_owned()),
            None => splice.insert_member(self.body.trim_start(), &format!("\"{}\":{value}", super::FIELDS[field])),
        }
    }

    fn set_include_usage(&self, splice: &mut Splice<'_>) {
        match (self.slots[STREAM_OPTIONS], stream_options(self.slots[STREAM_OPTIONS])) {
            (_, Ok(StreamOptions { include_usage: Some(raw) })) => splice.replace(raw.get(), "true"),
            (Some(options), _) if options.get() != "null" => {
                splice.insert_member(options.get(), r#""include_usage":true"#)
            }
            _ => self.set(splice, STREAM_OPTIONS, r#"{"include_usage":true}"#),
        }
    }
}
