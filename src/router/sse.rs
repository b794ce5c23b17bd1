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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Events of a stream that comes in the given chunks.
    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Bytes>, Result<(), SseError>) {
        let mut parser = Parser::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            if let Err(error) = parser.push(chunk, &mut events) {
                return (events, Err(error));
            }
        }
        let end = parser.finish();
        (events, end)
    }

    const STREAM: &str = "\u{feff}: welcome\r\n\r\ndata: {\"a\":1}\n\ndata:two\r\ndata: lines\r\n\r\n\
        event: x\rid: 7\rdata\rdata:  é\r\rretry: 3\n\ndatum: no\n\ndata:\n\n\n\ndata: [DONE]\n\n";

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_events() {
        let wanted: Vec<Bytes> = ["{\"a\":1}", "two\nlines", "\n é", "", "[DONE]"].map(Bytes::from).into();
        let bytes = STREAM.as_bytes();
        assert_eq!(read([bytes]), (wanted.clone(), Ok(())));
        assert_eq!(read(bytes.chunks(1)), (wanted.clone(), Ok(())));
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let chunks = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(chunks), (wanted.clone(), Ok(())), "{first} {second}");
            }
        }
    }

    #[test]
    fn half_an_event_is_none() {
        for cut in ["data: {\"a\"", "data: 1\n", "data: 1\r\n", "da"] {
            assert_eq!(read([cut.as_bytes()]), (Vec::new(), Err(SseError::Truncated)), "{cut}");
        }
    }

    #[test]
    fn an_event_over_the_bound_is_refused_before_it_is_held() {
        let mut events = Vec::new();
        for stream in ["data: 12345678901234567\n\n", "data: 12345678\ndata: 12345678\n\n", ": 12345678901234567"] {
            let mut parser = Parser::new(15);
            let ended = stream.as_bytes().chunks(3).try_for_each(|chunk| parser.push(chunk, &mut events));
            assert_eq!(ended, Err(SseError::TooLarge(15)), "{stream}");
            assert!(parser.line.len() <= 15 && parser.data.len() <= 16);
        }
        assert!(events.is_empty());
        assert_eq!(Parser::new(15).push(b"data: 123456789\n\n", &mut events), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            payloads in proptest::collection::vec("[^\r]{0,20}", 0..5),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let payloads: Vec<Bytes> = payloads.into_iter().map(Bytes::from).collect();
            let stream = encode(&payloads);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(read(chunks), (payloads, Ok(())));
        }

        #[test]
        fn any_bytes_are_read_or_refused(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5)) {
            let _ = read(chunks.iter().map(Vec::as_slice));
        }
    }
}
