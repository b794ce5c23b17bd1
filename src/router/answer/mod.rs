//! What a model answered, as far as gates and accounts need it.
//!
//! ```text
//! completion --from_completion--+
//!                               +--> Answer --gates--> accepted or not
//! SSE payloads --from_stream----+
//!
//! completion --strip_completion--> what the client gets --frames_from_completion--> as a stream
//! SSE payloads --strip_frames----> what the client gets
//! ```
//! With `n` > 1 every choice is kept and every choice is judged: the client sees all of them, so one bad choice makes
//! the answer bad.
//! Errors say where, never what: an upstream's body echoes prompts and keys.

mod calls;
mod frames;
mod identity;
mod lean;
mod read;
mod strip;
mod tokens;

use std::ops::Range;

use bytes::Bytes;

use crate::api::escalation_path::FinishReason;

pub use frames::frames_from_completion;
pub use read::Reader;
pub use strip::{EDITS, Edit, Strip, strip_completion, strip_frames};

/// A 200 that is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// An `error` object where an answer should be.
    #[error("the upstream answered 200 with an error object")]
    UpstreamError,
    /// Not JSON, JSON of another shape, or a stream that ended early.
    #[error("the upstream's answer is malformed: {0}")]
    Malformed(&'static str),
}

/// Tokens as the upstream counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens, cached ones included.
    pub prompt: u64,
    /// Input tokens that came from the provider's cache.
    pub cached: u64,
    /// Output tokens, of all choices.
    pub completion: u64,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Choices by index, at least one.
    pub choices: Vec<Choice>,
    /// Usage, where the upstream said it.
    pub usage: Option<Usage>,
    /// Where the choices' log probabilities are in a completion, in the order of its choices.
    pub logprobs: Vec<Range<usize>>,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Text of the answer, without reasoning.
    pub content: String,
    /// Text of a refusal (OpenAI's `refusal`).
    pub refusal: Option<String>,
    /// Why it ended; `None` if not said, or for a reason that OpenAI does not have.
    pub finish_reason: Option<FinishReason>,
    /// Tools (or the older functions) that it calls, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Tokens with log probabilities, where the upstream gave them. Tokens of reasoning are left out.
    pub tokens: Option<Tokens>,
}

/// One call of a tool. What is not as it should be is empty: a gate judges it, not the reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Arguments as JSON text, or the input of a custom tool.
    pub arguments: String,
}

/// Tokens of a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// In order.
    pub list: Vec<Token>,
    /// Whether the byte ranges are known: the tokens' bytes are the content's.
    pub aligned: bool,
}

/// One token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Token {
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// That of the likeliest other token, where the upstream gave alternatives.
    pub best_other: Option<f64>,
    /// First byte in the content. Meaningless unless [`Tokens::aligned`].
    pub start: usize,
    /// One past the last byte in the content; equal to `start` for a token without text, such as the end of sequence.
    pub end: usize,
}

impl Choice {
    /// What the client reads: the content, or the refusal if there is no content.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.refusal {
            Some(refusal) if self.content.is_empty() => refusal,
            _ => &self.content,
        }
    }
}

impl Answer {
    /// Reads a chat completion, with the alternatives to each token where they are wanted.
    ///
    /// # Errors
    /// It is an error object, not JSON, or has no choice with a message.
    pub fn from_completion(body: &Bytes, alternatives: bool) -> Result<Self, AnswerError> {
        read::completion(text(body)?, alternatives)
    }

    /// Assembles the payloads of a stream (without SSE framing; `[DONE]` ends it, and may be missing).
    ///
    /// # Errors
    /// As for [`from_completion`](Self::from_completion), and if a choice has no `finish_reason`: the stream was cut.
    pub fn from_stream<'a>(payloads: impl IntoIterator<Item = &'a Bytes>) -> Result<Self, AnswerError> {
        let mut reader = read::Reader::default();
        for payload in payloads {
            if payload.as_ref() == super::sse::DONE {
                break;
            }
            reader.chunk(payload)?;
        }
        reader.finish()
    }
}

fn text(body: &[u8]) -> Result<&str, AnswerError> {
    std::str::from_utf8(body).map_err(|_| AnswerError::Malformed("not UTF-8"))
}

#[cfg(test)]
mod tests;
