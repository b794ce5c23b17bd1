//! Tokens with log probabilities, and where each lies in the content.
//!
//! Tokens are not always characters: a piece may be part of a UTF-8 sequence, and then only its `bytes` say what it
//! is. Where an engine reports tokens that the content does not have (reasoning, special tokens), the content is
//! looked for in the tokens' bytes and what lies outside of it is left out.

use std::borrow::Cow;

use super::{Token, Tokens};
use crate::router::json::Cursor;

/// An alternative to a token.
struct Alternative<'a> {
    token: Cow<'a, str>,
    logprob: f64,
}

/// The two likeliest alternatives: the chosen token is usually one of them.
#[derive(Default)]
struct Best<'a>([Option<Alternative<'a>>; 2]);

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

impl Builder {
    /// Number of tokens.
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    /// Reads `logprobs`, with the alternatives to each token where they are wanted; `None` within if it has no list.
    pub(super) fn read(cursor: &mut Cursor<'_>, alternatives: bool) -> Option<Option<Self>> {
        let mut content = None;
        cursor.members(|key, cursor| {
            if key != "content" || cursor.peek() != Some(b'[') {
                return cursor.skip();
            }
            let mut builder = Self::default();
            cursor.items(|cursor| builder.token(cursor, alternatives))?;
            content = Some(builder);
            Some(())
        })?;
        Some(content)
    }

    fn token(&mut self, cursor: &mut Cursor<'_>, alternatives: bool) -> Option<()> {
        let (mut text, mut logprob, mut bytes, mut best) = (None, None, false, Best::default());
        let start = self.bytes.len();
        cursor.members(|key, cursor| {
            match key {
                "token" => text = Some(cursor.string()?),
                "logprob" => logprob = Some(number(cursor)?),
                "bytes" => bytes = self.append(cursor)?,
                "top_logprobs" if alternatives && cursor.peek() == Some(b'[') => {
                    cursor.items(|cursor| alternative(cursor).map(|other| best.offer(other)))?;
                }
                _ => cursor.skip()?,
            }
            Some(())
        })?;
        let text = text?;
        if !bytes {
            self.bytes.truncate(start);
            self.bytes.extend_from_slice(text.as_bytes());
        }
        let best_other = best.other_than(&text);
        self.list.push(Token { logprob: logprob?, best_other, start, end: self.bytes.len() });
        Some(())
    }

    /// Appends a list of bytes; false if it is none.
    fn append(&mut self, cursor: &mut Cursor<'_>) -> Option<bool> {
        if cursor.peek() != Some(b'[') {
            return cursor.skip().map(|()| false);
        }
        let mut all = true;
        cursor.items(|cursor| {
            match cursor.scalar()?.parse() {
                Ok(byte) => self.bytes.push(byte),
                Err(_) => all = false,
            }
            Some(())
        })?;
        Some(all)
    }

    /// Adds what a later chunk has.
    pub(super) fn extend(&mut self, more: &Self) {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&more.bytes);
        let moved = more.list.iter().map(|t| Token { start: t.start + offset, end: t.end + offset, ..*t });
        self.list.extend(moved);
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

/// JSON has no infinity: the logarithm of nothing is written as null by some engines.
fn number(cursor: &mut Cursor<'_>) -> Option<f64> {
    cursor.number().map(|number| number.unwrap_or(f64::NEG_INFINITY))
}

fn alternative<'a>(cursor: &mut Cursor<'a>) -> Option<Alternative<'a>> {
    let (mut token, mut logprob) = (None, None);
    cursor.members(|key, cursor| {
        match key {
            "token" => token = Some(cursor.string()?),
            "logprob" => logprob = Some(number(cursor)?),
            _ => cursor.skip()?,
        }
        Some(())
    })?;
    Some(Alternative { token: token?, logprob: logprob? })
}
