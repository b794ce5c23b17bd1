//! Whether the tokens of an answer are those that were asked for: all, once, in order, and nobody else's.

use bytes::Bytes;
use memchr::memmem;

/// Reads an answer's tokens, `TAG.0 TAG.1 ...`.
pub struct Tokens {
    tag: String,
    next: usize,
}

impl Tokens {
    pub fn new(tag: String) -> Self {
        Self { tag, next: 0 }
    }

    /// Whether these are the next tokens.
    fn take(&mut self, text: &str) -> bool {
        for token in text.split_ascii_whitespace() {
            let number = token.strip_prefix(self.tag.as_str()).and_then(|rest| rest.strip_prefix('.')?.parse().ok());
            if number != Some(self.next) {
                return false;
            }
            self.next += 1;
        }
        true
    }

    pub const fn count(&self) -> usize {
        self.next
    }
}

/// Reads a stream's events as they come.
pub struct Events {
    pub tokens: Tokens,
    rest: Vec<u8>,
    done: bool,
}

#[derive(serde::Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    error: Option<serde::de::IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default, alias = "message")]
    delta: Delta<'a>,
}

#[derive(Default, serde::Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<std::borrow::Cow<'a, str>>,
}

impl Events {
    pub fn new(tag: String) -> Self {
        Self { tokens: Tokens::new(tag), rest: Vec::new(), done: false }
    }

    /// Takes what came.
    pub fn take(&mut self, bytes: &Bytes) -> Result<(), &'static str> {
        self.rest.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(end) = memmem::find(&self.rest[from..], b"\n\n") {
            let event = self.rest[from..from + end].to_vec();
            from += end + 2;
            self.event(&event)?;
        }
        self.rest.drain(..from);
        Ok(())
    }

    fn event(&mut self, event: &[u8]) -> Result<(), &'static str> {
        let Some(data) = event.strip_prefix(b"data: ") else { return Ok(()) };
        if self.done {
            return Err("content");
        }
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        read(data, &mut self.tokens)
    }

    /// Whether the stream came to its end with so many tokens.
    pub fn finish(&self, tokens: usize) -> Result<(), &'static str> {
        match (self.done && self.rest.is_empty(), self.tokens.count() == tokens) {
            (false, _) => Err("incomplete"),
            (true, false) => Err("content"),
            (true, true) => Ok(()),
        }
    }
}

fn read(json: &[u8], tokens: &mut Tokens) -> Result<(), &'static str> {
    let chunk: Chunk<'_> = serde_json::from_slice(json).map_err(|_| "content")?;
    if chunk.error.is_some() {
        return Err("error_event");
    }
    let mut texts = chunk.choices.iter().filter_map(|choice| choice.delta.content.as_deref());
    if texts.all(|text| tokens.take(text)) { Ok(()) } else { Err("content") }
}

/// Whether a whole reply has so many tokens.
pub fn whole(body: &[u8], tag: String, count: usize) -> Result<(), &'static str> {
    let mut tokens = Tokens::new(tag);
    read(body, &mut tokens)?;
    if tokens.count() == count { Ok(()) } else { Err("content") }
}
