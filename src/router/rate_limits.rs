//! What a reply's headers say of how long its sender is to be left alone.
//!
//! Two kinds, in the words of OpenAI and those who took them over, and of Anthropic: how long to wait after a refusal
//! (`retry-after-ms`, `retry-after` in seconds or as an HTTP date), and, on any reply, that nothing is left until a reset
//! (`x-ratelimit-remaining-*` with `x-ratelimit-reset-*`, `anthropic-ratelimit-*-remaining` with `-reset`). No pause is
//! longer than [`LONGEST`]: a header must not take a tier away for a day. What can't be read is as if it were not there.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use jiff::Timestamp;

/// Longest pause that is obeyed.
pub const LONGEST: Duration = Duration::from_secs(60);

/// What is limited: what is left of it, and when there is more.
const WINDOWS: [(&str, &str); 6] = [
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
];

/// How long a refusal asks to wait, whoever says it.
#[must_use]
pub fn after_refusal(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let millis = || text(headers, "retry-after-ms")?.parse::<f64>().ok().and_then(|ms| seconds(ms / 1000.0));
    let stated = || wait(text(headers, header::RETRY_AFTER.as_str())?, now);
    millis().or_else(stated).map(|pause| pause.min(LONGEST)).or_else(|| until_reset(headers, now))
}

/// How long nothing is left, if nothing is.
#[must_use]
pub fn until_reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let spent = WINDOWS.iter().filter(|(remaining, _)| text(headers, remaining) == Some("0"));
    let pauses = spent.filter_map(|(_, reset)| wait(text(headers, reset)?, now));
    pauses.max().map(|pause| pause.min(LONGEST)).filter(|pause| !pause.is_zero())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A time to wait: seconds, a duration such as `6m0s`, an HTTP date, or a time as in RFC 3339.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        return seconds(number);
    }
    if let Some(duration) = units(text) {
        return Some(duration);
    }
    let at = text.parse::<Timestamp>().ok();
    let at = at.or_else(|| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok())?;
    // A time that has passed means now.
    Some(SystemTime::from(at).duration_since(now).unwrap_or_default())
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

/// `1h2m3.5s`, `20ms`: as Go writes durations, which is what these headers hold.
fn units(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| c.is_ascii_alphabetic())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
        let scale = match unit {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total = total.checked_add(seconds(number.parse::<f64>().ok()? * scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// 1994-11-06 08:49:07 UTC.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_747)
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_refusal_says_how_long() {
        for (lines, millis) in [
            (&[("retry-after", "7")][..], Some(7000)),
            (&[("retry-after", "1.5")], Some(1500)),
            (&[("retry-after", "86400")], Some(60_000)),
            (&[("retry-after-ms", "250"), ("retry-after", "1")], Some(250)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], Some(30_000)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "NaN")], None),
            (&[], None),
            (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "20ms")], Some(20)),
        ] {
            assert_eq!(after_refusal(&headers(lines), now()), millis.map(Duration::from_millis), "{lines:?}");
        }
    }

    #[test]
    fn nothing_left_lasts_until_its_reset() {
        for (lines, millis) in [
            (&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")][..], Some(60_000)),
            (&[("x-ratelimit-remaining-requests", "1"), ("x-ratelimit-reset-requests", "10s")], None),
            (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "7.66s")], Some(7660)),
            (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "12")], Some(12_000)),
            (&[("x-ratelimit-remaining-tokens", "0")], None),
            (
                &[
                    ("anthropic-ratelimit-output-tokens-remaining", "0"),
                    ("anthropic-ratelimit-output-tokens-reset", "1994-11-06T08:49:17Z"),
                ],
                Some(10_000),
            ),
            (
                &[
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "2s"),
                    ("x-ratelimit-remaining-tokens", "0"),
                    ("x-ratelimit-reset-tokens", "5s"),
                ],
                Some(5000),
            ),
            (&[("retry-after", "7")], None),
        ] {
            assert_eq!(until_reset(&headers(lines), now()), millis.map(Duration::from_millis), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_left(text in "[ -~]{0,40}|[0-9.]{1,400}[dhms]{1,2}") {
            let found = after_refusal(&headers(&[("retry-after", &text)]), now());
            prop_assert!(found.is_none_or(|pause| pause <= LONGEST));
        }
    }
}
