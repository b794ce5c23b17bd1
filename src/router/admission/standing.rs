//! How limits stand, as `x-ratelimit-*` headers say it: those of OpenAI's API, which its clients read.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Most a minute, as far as this router holds it.
    pub limit: u64,
    /// What is left now.
    pub left: u64,
    /// Time until all of it is there again.
    pub reset: Duration,
}

/// The limits that a request counts against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Requests a minute.
    pub requests: Option<Level>,
    /// Tokens a minute.
    pub tokens: Option<Level>,
}

static REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
static TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

impl Standing {
    /// Of each limit the one with less left.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let less = |a: Option<Level>, b: Option<Level>| match (a, b) {
            (Some(a), Some(b)) => Some(if b.left < a.left { b } else { a }),
            (a, b) => a.or(b),
        };
        Self { requests: less(self.requests, other.requests), tokens: less(self.tokens, other.tokens) }
    }

    /// Says it in a reply's headers.
    pub fn describe(&self, headers: &mut HeaderMap) {
        for (level, names) in [(self.requests, &REQUESTS), (self.tokens, &TOKENS)] {
            let Some(Level { limit, left, reset }) = level else { continue };
            let [limit_name, left_name, reset_name] = names;
            headers.insert(limit_name, HeaderValue::from(limit));
            headers.insert(left_name, HeaderValue::from(left));
            if let Ok(reset) = HeaderValue::try_from(span(reset)) {
                headers.insert(reset_name, reset);
            }
        }
    }
}

/// A time as these headers have it: `120ms`, `8s`, `1m12s`; rounded up.
#[must_use]
pub fn span(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    match millis.div_ceil(1_000) {
        seconds @ ..60 => format!("{seconds}s"),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_clients_read_them() {
        let spans = [(0, "0ms"), (1, "1ms"), (999, "999ms"), (1_001, "2s"), (59_000, "59s"), (72_000, "1m12s")];
        for (millis, text) in spans {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_tighter_limit_is_told() {
        let level = |left| Some(Level { limit: 10, left, reset: Duration::ZERO });
        let (a, b) = (Standing { requests: level(3), tokens: None }, Standing { requests: level(2), tokens: level(9) });
        assert_eq!(a.tighter(b), b);
        let mut headers = HeaderMap::new();
        a.describe(&mut headers);
        assert_eq!(headers["x-ratelimit-remaining-requests"], "3");
        assert!(!headers.contains_key("x-ratelimit-limit-tokens"));
    }
}
