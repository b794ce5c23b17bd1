//! `agreement`: more answers of the same tier to the same request say the same.
//!
//! What is compared, and how it is counted. The answers are asked for in
//! [`second_opinion`](crate::router::second_opinion). One that did not come counts for neither side: it is missing
//! evidence only where it would decide.

use serde_json::Value;

use super::Finding;
use super::grounded::thousands;
use super::leaves::json_span;
use crate::api::escalation_path::Compare;

/// More answers that are asked for.
pub const SAMPLES: std::ops::RangeInclusive<u32> = 2..=8;

/// A gate of this kind.
#[derive(Debug)]
pub struct Agreement {
    /// Answers to ask for.
    pub samples: u32,
    at_least: f64,
    compare: Compare,
}

/// What an answer says, as far as it is compared.
#[derive(Debug)]
enum Said<'a> {
    Text(&'a str),
    Json(Value),
    Number(f64),
}

impl Agreement {
    pub(super) fn compile(samples: u32, at_least: f64, compare: Compare) -> Result<Self, String> {
        if !SAMPLES.contains(&samples) {
            return Err(format!("agreement: samples must be {} to {}", SAMPLES.start(), SAMPLES.end()));
        }
        if !(0.0..=1.0).contains(&at_least) {
            return Err("agreement: atLeast must be from 0 to 1".into());
        }
        Ok(Self { samples, at_least, compare })
    }

    /// Judges an answer by samples; `None` for one that did not come.
    pub(in crate::router) fn judge(&self, answer: &str, samples: &[Option<String>]) -> Finding {
        let Some(said) = self.said(answer) else {
            return Finding::missing(match self.compare {
                Compare::Number => "the answer has no number",
                Compare::Exact | Compare::Json => "the answer is not JSON",
            });
        };
        let came = samples.iter().flatten();
        let agree = came.filter(|sample| self.said(sample).is_some_and(|other| said.same(&other))).count();
        let absent = samples.iter().filter(|sample| sample.is_none()).count();
        let (least, most) = (share(agree, samples.len()), share(agree + absent, samples.len()));
        let finding = if least >= self.at_least {
            Finding::PASS
        } else if most < self.at_least {
            Finding::fail("too few answers agree")
        } else {
            Finding::missing("too few answers came")
        };
        Finding { score: Some(least), ..finding }
    }

    fn said<'a>(&self, text: &'a str) -> Option<Said<'a>> {
        match self.compare {
            Compare::Exact => Some(Said::Text(text.trim())),
            Compare::Json => serde_json::from_str(&text[json_span(text)]).ok().map(Said::Json),
            Compare::Number => last_number(text).map(Said::Number),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most eight samples")]
fn share(some: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

impl Said<'_> {
    #[expect(clippy::float_cmp, reason = "the same number is meant, not one nearby")]
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Json(a), Self::Json(b)) => same_json(a, b),
            (Self::Number(a), Self::Number(b)) => a == b,
            _ => false,
        }
    }
}

/// Whether two values are the same whatever the order of their members and the spelling of their numbers. The nesting is
/// bounded by the parser's limit of 128.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same_json(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b)),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// The last number of a text: models reason first and conclude last. `1,500.50` is one number, `1, 2` are two.
fn last_number(text: &str) -> Option<f64> {
    if let Ok(number) = text.trim().parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let run = &text[..end];
    let start = run.rfind(|c| !is_part(c)).map_or(0, |at| at + run[at..].chars().next().map_or(1, char::len_utf8));
    let digits = run[start..].trim_start_matches(['.', ',']);
    let digits = if thousands(digits) { digits } else { digits.rsplit(',').next().unwrap_or(digits) };
    let number: f64 = digits.replace(',', "").parse().ok()?;
    let negative = run[..end - digits.len()].ends_with(['-', '\u{2212}']);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        compare: Compare,
        at_least: f64,
        answer: &str,
        samples: &[Option<&str>],
    ) -> (Option<f64>, Option<&'static str>, bool) {
        let samples: Vec<Option<String>> = samples.iter().map(|sample| sample.map(str::to_owned)).collect();
        let gate = Agreement::compile(u32::try_from(samples.len()).unwrap(), at_least, compare).expect("a gate");
        let finding = gate.judge(answer, &samples);
        (finding.score, finding.failure, finding.missing)
    }

    #[test]
    fn the_share_that_agrees_decides() {
        let (yes, no) = (Some(" refund\n"), Some("billing"));
        for (samples, wanted) in [
            (&[yes, yes, yes][..], (Some(1.0), None, false)),
            (&[yes, no, yes, yes], (Some(0.75), None, false)),
            (&[yes, no, yes, no], (Some(0.5), Some("too few answers agree"), false)),
            // What did not come is missing only where it would decide.
            (&[yes, None, yes, yes], (Some(0.75), None, false)),
            (&[yes, None, yes, no], (Some(0.5), Some("too few answers came"), true)),
            (&[no, None, yes, no], (Some(0.25), Some("too few answers agree"), false)),
            (&[None, None], (Some(0.0), Some("too few answers came"), true)),
        ] {
            assert_eq!(judged(Compare::Exact, 0.75, "refund", samples), wanted, "{samples:?}");
        }
        assert_eq!(judged(Compare::Exact, 0.6, "a", &[Some("a"), Some("a"), Some("a"), Some("b"), Some("c")]).1, None);
    }

    #[test]
    fn answers_are_compared_by_what_they_mean() {
        let json = r#"{"a": 1, "b": [2.50, "x"]}"#;
        for (compare, answer, other, same) in [
            (Compare::Exact, "Yes", "yes", false),
            (Compare::Exact, "", " ", true),
            (Compare::Json, json, "```json\n{\"b\":[2.5,\"x\"],\"a\":1.0}\n```", true),
            (Compare::Json, json, r#"{"a": 1, "b": ["x", 2.5]}"#, false),
            (Compare::Json, json, r#"{"a": 1}"#, false),
            (Compare::Json, json, "a: 1", false),
            (Compare::Number, "So 3 times 14 is 42.", "42", true),
            (Compare::Number, "= -1,500.50 EUR", "-1500.5", true),
            (Compare::Number, "it is 1, 2, 3", "3", true),
            (Compare::Number, "1e3", "1,000", true),
            (Compare::Number, "5", "-5", false),
            (Compare::Number, "5", "five", false),
            (Compare::Number, "é7", "7.", true),
        ] {
            let (score, ..) = judged(compare, 0.5, answer, &[Some(other), Some(other)]);
            assert_eq!(score, Some(if same { 1.0 } else { 0.0 }), "{answer} and {other}");
        }
        let (_, why, missing) = judged(Compare::Json, 0.5, "Hello.", &[Some("Hello."), Some("Hello.")]);
        assert_eq!((why, missing), (Some("the answer is not JSON"), true));
        let (_, why, missing) = judged(Compare::Number, 0.5, "Hello.", &[Some("1"), Some("1")]);
        assert_eq!((why, missing), (Some("the answer has no number"), true));
    }

    #[test]
    fn bounds_are_checked() {
        for (samples, at_least) in [(1, 0.5), (9, 0.5), (3, 1.5), (3, f64::NAN)] {
            assert!(
                Agreement::compile(samples, at_least, Compare::Exact).expect_err("refused").starts_with("agreement: ")
            );
        }
    }
}
