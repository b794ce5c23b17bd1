//! Tokens with log probabilities, and where each lies in the content.
//!
//! Tokens are not always characters: a piece may be part of a UTF-8 sequence, and then only its `bytes` say what it
//! is. Where an engine reports tokens that the content does not have (reasoning, special tokens), the content is
//! looked for in the tokens' bytes and what lies outside of it is left out.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Token, Tokens};
use crate::router::json::Object;

/// `logprobs.content`.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct TokenList<'a>(#[serde(borrow)] Vec<Object<TokenIn<'a>>>);

#[derive(Deserialize)]
struct TokenIn<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(deserialize_with = "logprob")]
    logprob: f64,
    #[serde(borrow, default)]
    bytes: Option<&'a RawValue>,
    #[serde(borrow, default)]
    top_logprobs: Option<Best<'a>>,
}

#[derive(Deserialize)]
struct Alternative<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(deserialize_with = "logprob")]
    logprob: f64,
}

/// JSON has no infinity: the logarithm of nothing is written as null by some engines.
fn logprob<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NEG_INFINITY))
}

/// The two likeliest alternatives: the chosen token is usually one of them.
#[derive(Default)]
struct Best<'a>([Option<Alternative<'a>>; 2]);

impl<'de: 'a, 'a> Deserialize<'de> for Best<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Best<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of alternatives")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut best = Best::default();
                while let Some(Object(other)) = seq.next_element::<Object<Alternative<'de>>>()? {
                    best.offer(other);
                }
                Ok(best)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'a> Best<'a> {
    fn offer(&mut self, other: Alternative<'a>) {
        let beats = |held: &Option<Alternative<'a>>| held.as_ref().is_none_or(|held| other.logprob > held.logprob);
        let [first, second] = &mut self.0;
        if beats(first) {
            *second = first.replace(other);
        } else if beats(second) {
            *second = Some(other);
        }
    }

    /// The likeliest one that is not the chosen token.
    fn other_than(&self, chosen: &str) -> Option<f64> {
        self.0.iter().flatten().find(|other| other.token != chosen).map(|other| other.logprob)
    }
}

/// Gathers tokens over the chunks of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Builder {
    list: Vec<Token>,
    /// The tokens' bytes, one after the other; their offsets are in `list`.
    bytes: Vec<u8>,
}

impl TokenList<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Builder {
    pub(super) fn extend(&mut self, list: TokenList<'_>) {
        self.list.reserve(list.0.len());
        for Object(token) in list.0 {
            let start = self.bytes.len();
            if !token.bytes.is_some_and(|raw| append(&mut self.bytes, raw.get())) {
                self.bytes.truncate(start);
                self.bytes.extend_from_slice(token.token.as_bytes());
            }
            let best_other = token.top_logprobs.and_then(|best| best.other_than(&token.token));
            self.list.push(Token { logprob: token.logprob, best_other, start, end: self.bytes.len() });
        }
    }

    /// Moves the offsets to the content's.
    pub(super) fn align(mut self, content: &str) -> Tokens {
        // From the end: reasoning comes before the answer and may quote it.
        let Some(offset) = memchr::memmem::rfind(&self.bytes, content.as_bytes()) else {
            return Tokens { list: self.list, aligned: false };
        };
        let (from, to) = (offset, offset + content.len());
        self.list
            .retain(|t| if t.start == t.end { (from..=to).contains(&t.start) } else { t.start < to && t.end > from });
        for token in &mut self.list {
            token.start = token.start.clamp(from, to) - from;
            token.end = token.end.clamp(from, to) - from;
        }
        Tokens { list: self.list, aligned: true }
    }
}

/// Appends a JSON list of bytes; false if it is none.
fn append(out: &mut Vec<u8>, list: &str) -> bool {
    let Some(inside) = list.strip_prefix('[').and_then(|l| l.strip_suffix(']')) else { return false };
    if inside.trim().is_empty() {
        return true;
    }
    inside.split(',').all(|number| number.trim().parse().map(|byte| out.push(byte)).is_ok())
}
