//! Server-sent events: an incremental reader that does not care how the bytes were cut, and a writer.
//!
//! Follows the WHATWG rules for what chat streams use: lines end with LF, CRLF or CR; `data` lines of one event are
//! joined with LF; comments and other fields are skipped; an event that its blank line has not ended is none.

use bytes::Bytes;

/// Payload of the event that ends an OpenAI stream.
pub const DONE: &[u8] = b"[DONE]";

/// A stream that can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event (or line) is larger than the bound.
    #[error("an event is larger than {0} bytes")]
    TooLarge(usize),
    /// The stream ended within an event.
    #[error("the stream ended within an event")]
    Truncated,
}

/// Reads events from bytes as they come.
#[derive(Debug)]
pub struct Parser {
    /// Bytes of the line that has not ended.
    line: Vec<u8>,
    /// `data` lines of the event that has not ended, each followed by LF.
    data: Vec<u8>,
    /// Bound on `line` and on `data`, in bytes.
    limit: usize,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// No line has been read yet: it may start with a byte order mark.
    first: bool,
}

impl Parser {
    /// A reader that refuses events of more than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { line: Vec::new(), data: Vec::new(), limit, after_cr: false, first: true }
    }

    /// Reads on, and appends the payload of each event that has ended to `events`.
    ///
    /// # Errors
    /// [`SseError::TooLarge`]. What was appended before stands; the reader must not be used again.
    pub fn push(&mut self, mut chunk: &[u8], events: &mut Vec<Bytes>) -> Result<(), SseError> {
        while let Some(&first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', chunk);
            let (part, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
            if self.line.len() + part.len() > self.limit {
                return Err(SseError::TooLarge(self.limit));
            }
            if let Some((terminator, rest)) = rest.split_first() {
                self.after_cr = *terminator == b'\r';
                if self.line.is_empty() {
                    self.end_line(part, events)?;
                } else {
                    self.line.extend_from_slice(part);
                    let line = std::mem::take(&mut self.line);
                    self.end_line(&line, events)?;
                    // Its allocation serves the next line that is cut.
                    self.line = line;
                    self.line.clear();
                }
                chunk = rest;
            } else {
                self.line.extend_from_slice(part);
                chunk = rest;
            }
        }
        Ok(())
    }

    /// The end of the bytes.
    ///
    /// # Errors
    /// [`SseError::Truncated`] if an event had begun: what there is of it must not be used.
    pub const fn finish(&self) -> Result<(), SseError> {
        if self.line.is_empty() && self.data.is_empty() { Ok(()) } else { Err(SseError::Truncated) }
    }

    fn end_line(&mut self, line: &[u8], events: &mut Vec<Bytes>) -> Result<(), SseError> {
        let line =
            if std::mem::take(&mut self.first) { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.is_empty() {
            if self.data.pop().is_some() {
                events.push(Bytes::copy_from_slice(&self.data));
                self.data.clear();
            }
            return Ok(());
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return Ok(()),
        };
        if self.data.len() + value.len() > self.limit {
            return Err(SseError::TooLarge(self.limit));
        }
        self.data.extend_from_slice(value);
        self.data.push(b'\n');
        Ok(())
    }
}

/// Appends one event to `out`.
pub fn write(out: &mut Vec<u8>, payload: &[u8]) {
    out.reserve(payload.len() + 8);
    for line in payload.split(|b| *b == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Events as the bytes of a stream.
#[must_use]
pub fn encode<'a>(payloads: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut out = Vec::new();
    for payload in payloads {
        write(&mut out, payload);
    }
    Bytes::from(out)
}
