//! What a reply's headers say of how long its sender is to be left alone.
//!
//! Two kinds, in the words of OpenAI and those who took them over, and of Anthropic: how long to wait after a refusal
//! (`retry-after-ms`, `retry-after` in seconds or as an HTTP date), and, on any reply, that little or nothing is left until
//! a reset (`x-ratelimit-remaining-*` with `x-ratelimit-limit-*` and `x-ratelimit-reset-*`, `anthropic-ratelimit-*-remaining`
//! with `-limit` and `-reset`). No pause is longer than [`LONGEST`]: a header must not take a tier away for a day. What can't be read is as if it were not there.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use jiff::Timestamp;

/// Longest pause that is obeyed.
pub const LONGEST: Duration = Duration::from_secs(60);
/// No reset is further away than this.
const DAY: Duration = Duration::from_secs(86_400);

/// What is limited.
struct Window {
    /// What is left of it.
    remaining: &'static str,
    /// All of it.
    limit: &'static str,
    /// When all of it is there again.
    reset: &'static str,
}

macro_rules! windows {
    (openai $($kind:literal)*, anthropic $($other:literal)*) => {
        [
            $(Window {
                remaining: concat!("x-ratelimit-remaining-", $kind),
                limit: concat!("x-ratelimit-limit-", $kind),
                reset: concat!("x-ratelimit-reset-", $kind),
            },)*
            $(Window {
                remaining: concat!("anthropic-ratelimit-", $other, "-remaining"),
                limit: concat!("anthropic-ratelimit-", $other, "-limit"),
                reset: concat!("anthropic-ratelimit-", $other, "-reset"),
            },)*
        ]
    };
}

const WINDOWS: [Window; 6] =
    windows!(openai "requests" "tokens", anthropic "requests" "tokens" "input-tokens" "output-tokens");

/// How all of these names begin.
const PREFIXES: [&str; 2] = ["x-ratelimit-", "anthropic-ratelimit-"];

/// What a reply says of what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Left {
    /// Nothing is, for so long.
    pub pause: Option<Duration>,
    /// For how long there is less than each of the shares that were asked about; zero: as much is there.
    pub shortages: [Duration; 2],
}

/// How long a refusal asks to wait, whoever says it.
#[must_use]
pub fn after_refusal(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let millis = || text(headers, "retry-after-ms")?.parse::<f64>().ok().and_then(|ms| seconds(ms / 1000.0));
    let stated = || wait(text(headers, header::RETRY_AFTER.as_str())?, now);
    millis().or_else(stated).map(|pause| pause.min(LONGEST)).or_else(|| left(headers, [0.0; 2], now).pause)
}

/// What is left of the limits, measured by two shares of them, the larger one first. Limits fill evenly up to the reset, as
/// those of both providers do: a share that is missing is there again before it.
#[must_use]
pub fn left(headers: &HeaderMap, shares: [f64; 2], now: SystemTime) -> Left {
    // Most replies say nothing, and to look for each name costs more than to look at all that are there.
    if !headers.keys().any(|name| PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))) {
        return Left::default();
    }
    let number = |name| text(headers, name)?.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let mut found = Left::default();
    for window in &WINDOWS {
        let Some(left) = number(window.remaining) else { continue };
        let limit = number(window.limit).unwrap_or_default();
        let spent = left == 0.0;
        if !spent && left >= shares[0] * limit {
            continue;
        }
        let Some(reset) = text(headers, window.reset).and_then(|text| wait(text, now)) else { continue };
        if spent {
            found.pause = found.pause.max(Some(reset.min(LONGEST))).filter(|pause| !pause.is_zero());
        }
        for (shortage, share) in found.shortages.iter_mut().zip(shares) {
            let missing = share * limit - left;
            if missing > 0.0 {
                let fills = reset.min(DAY).mul_f64(missing / (limit - left));
                *shortage = fills.min(LONGEST).max(*shortage);
            }
        }
    }
    found
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
            let found = left(&headers(lines), [0.0; 2], now());
            assert_eq!(found.pause, millis.map(Duration::from_millis), "{lines:?}");
        }
    }

    #[test]
    fn a_share_that_is_missing_is_there_again_before_the_reset() {
        for (lines, shortages) in [
            (&[("x-ratelimit-limit-requests", "100"), ("x-ratelimit-remaining-requests", "10")][..], [0, 0]),
            // Nobody knows for how long.
            (&[("x-ratelimit-limit-requests", "100"), ("x-ratelimit-remaining-requests", "9")], [0, 0]),
            // Of what is nobody knows.
            (&[("x-ratelimit-remaining-requests", "9"), ("x-ratelimit-reset-requests", "9s")], [0, 0]),
            (
                &[
                    ("x-ratelimit-limit-requests", "100"),
                    ("x-ratelimit-remaining-requests", "9"),
                    ("x-ratelimit-reset-requests", "9.1s"),
                ],
                [100, 0],
            ),
            (
                &[
                    ("anthropic-ratelimit-input-tokens-limit", "1000"),
                    ("anthropic-ratelimit-input-tokens-remaining", "40"),
                    ("anthropic-ratelimit-input-tokens-reset", "1994-11-06T08:50:43Z"),
                ],
                [6000, 1000],
            ),
            // The greater of two shortages.
            (
                &[
                    ("x-ratelimit-limit-requests", "10"),
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "1s"),
                    ("x-ratelimit-limit-tokens", "1000"),
                    ("x-ratelimit-remaining-tokens", "0"),
                    ("x-ratelimit-reset-tokens", "1h"),
                ],
                [60_000, 60_000],
            ),
        ] {
            let found = left(&headers(lines), [0.10, 0.05], now()).shortages.map(|time| time.as_millis());
            assert_eq!(found, shortages, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_limits_are_read_or_left(limit in "[ -~]{0,30}|[0-9.]{1,20}", left in "[0-9.e-]{0,20}", reset in "[0-9]{1,400}[dhms]?") {
            let lines = [
                ("x-ratelimit-limit-tokens", limit.as_str()),
                ("x-ratelimit-remaining-tokens", &left),
                ("x-ratelimit-reset-tokens", &reset),
            ];
            let found = super::left(&headers(&lines), [0.10, 0.05], now());
            prop_assert!(found.shortages.iter().all(|time| *time <= LONGEST) && found.shortages[0] >= found.shortages[1]);
        }

        #[test]
        fn any_text_is_read_or_left(text in "[ -~]{0,40}|[0-9.]{1,400}[dhms]{1,2}") {
            let found = after_refusal(&headers(&[("retry-after", &text)]), now());
            prop_assert!(found.is_none_or(|pause| pause <= LONGEST));
        }
    }
}
