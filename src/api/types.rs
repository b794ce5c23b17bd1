//! Types that the three kinds share: decimals, durations, classes, references.
//!
//! Numbers with a fraction are strings (`"0.25"`), never floats: a float does not survive the trip
//! through JSON, Go and Rust unchanged, and money must.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A non-negative decimal number as a string, at most nine digits on either side of the point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decimal(pub String);

/// A decimal number as a string that may carry a sign: gate scores and log probabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Score(pub String);

/// A decimal in the range 0 to 1 as a string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(pub String);

/// A duration as in Gateway API (GEP-2257): hours, minutes, seconds and milliseconds, `1m30s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// A value that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct ParseError {
    /// What was written.
    pub value: String,
    /// The form that is asked for, for people.
    pub expected: &'static str,
}

const NANO: i128 = 1_000_000_000;

/// Parses `digits[.digits]` into units of 1e-9. At most nine digits on either side.
fn parse_nanos(text: &str) -> Option<i128> {
    let (whole, frac) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, frac)) => (whole, frac),
        None => (text, ""),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || frac.len() > 9 || !digits(whole) || !digits(frac) {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let frac: i128 = format!("{frac:0<9}").parse().ok()?;
    Some(whole * NANO + frac)
}

impl Decimal {
    /// The value in units of 1e-9, exact.
    ///
    /// # Errors
    /// When the text is not a decimal of the documented form.
    pub fn nanos(&self) -> Result<i128, ParseError> {
        parse_nanos(&self.0).ok_or_else(|| ParseError {
            value: self.0.clone(),
            expected: "a decimal such as \"0.25\" (at most nine digits on either side of the point)",
        })
    }
}

impl Score {
    /// The value as a float, for comparison with a gate's score.
    ///
    /// # Errors
    /// When the text is not a signed decimal of the documented form.
    pub fn value(&self) -> Result<f64, ParseError> {
        let (negative, digits) = match self.0.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, self.0.strip_prefix('+').unwrap_or(&self.0)),
        };
        // Through the decimal first, so that "nan", "inf" and "1e9" are refused.
        let valid = parse_nanos(digits).is_some();
        let value: Option<f64> = if valid { digits.parse().ok() } else { None };
        value.map(|v| if negative { -v } else { v }).ok_or_else(|| ParseError {
            value: self.0.clone(),
            expected: "a score such as \"-0.40\" (a sign, at most nine digits on either side of the point)",
        })
    }
}

impl Ratio {
    /// The value as a float in 0..=1.
    ///
    /// # Errors
    /// When the text is not a decimal between 0 and 1.
    pub fn value(&self) -> Result<f64, ParseError> {
        parse_nanos(&self.0)
            .filter(|n| *n <= NANO)
            .and_then(|_| self.0.parse().ok())
            .ok_or_else(|| ParseError { value: self.0.clone(), expected: "a ratio between \"0\" and \"1\"" })
    }

    /// The value in units of 1e-9, exact: 0 to 1,000,000,000.
    ///
    /// # Errors
    /// As for [`value`](Self::value).
    pub fn nanos(&self) -> Result<u64, ParseError> {
        self.value()?;
        Ok(parse_nanos(&self.0).and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or_default())
    }
}

impl Duration {
    /// The duration in milliseconds.
    ///
    /// # Errors
    /// When the text is not a Gateway API duration.
    pub fn millis(&self) -> Result<u64, ParseError> {
        let error = || ParseError {
            value: self.0.clone(),
            expected: "a duration such as \"250ms\", \"10s\" or \"1m30s\" (units h, m, s, ms)",
        };
        let mut rest = self.0.as_str();
        let mut total: u64 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > 5 || parts == 4 {
                return Err(error());
            }
            let (number, tail) = rest.split_at(digits);
            let (unit, tail) = tail.split_at(tail.bytes().take_while(u8::is_ascii_alphabetic).count());
            let scale = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return Err(error()),
            };
            total += number.parse::<u64>().map_err(|_| error())? * scale;
            rest = tail;
            parts += 1;
        }
        if parts == 0 { Err(error()) } else { Ok(total) }
    }

    /// The duration as the standard library has it.
    ///
    /// # Errors
    /// When the text is not a Gateway API duration.
    pub fn to_std(&self) -> Result<StdDuration, ParseError> {
        self.millis().map(StdDuration::from_millis)
    }
}

macro_rules! string_type {
    ($name:ident, $pattern:literal, $max:literal) => {
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "maxLength": $max})
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}
string_type!(Decimal, r"^[0-9]{1,9}(\.[0-9]{1,9})?$", 19);
string_type!(Score, r"^[+-]?[0-9]{1,9}(\.[0-9]{1,9})?$", 20);
string_type!(Ratio, r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$", 11);
string_type!(Duration, r"^([0-9]{1,5}(h|m|s|ms)){1,4}$", 28);

/// The class of a model, in the order of escalation: an answer escalates from a lower class to a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ModelClass {
    /// A compact model, usually in the cluster.
    Small,
    /// A mid-size model.
    Medium,
    /// A large model.
    Large,
    /// The strongest and dearest models.
    Frontier,
}

/// How sensitive data is, from least to most: Public, Internal, Confidential, Restricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DataClass {
    /// May be seen by anyone.
    Public,
    /// May be seen inside the organisation and by its ordinary suppliers.
    Internal,
    /// Only where the need is shown.
    Confidential,
    /// The most sensitive.
    Restricted,
}

/// What a workload may do when capacity is short: Low gives way first, High last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    /// A second-best answer does little harm.
    Low,
    /// The ordinary case.
    #[default]
    Medium,
    /// A wrong answer is worse than none: an answer that failed its gates is never returned.
    High,
}

impl Risk {
    /// The part of `pressure.slack` by which thresholds may be lowered: Low all, Medium half, High nothing.
    #[must_use]
    pub const fn part_of_slack(self) -> f64 {
        match self {
            Self::Low => 1.0,
            Self::Medium => 0.5,
            Self::High => 0.0,
        }
    }
}

impl fmt::Display for ModelClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for DataClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A reference to an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A key of a Secret of the same namespace. The operator never reads it; it is mounted into router pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// The key within the Secret.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A Secret of the same namespace. The operator never reads it; it is mounted into router pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// A union member that has no settings of its own: write `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// CPU, memory and device requests and limits of a container, as in a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// What the container is guaranteed, by resource name.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: std::collections::BTreeMap<String, Quantity>,
    /// What the container may use at most, by resource name.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: std::collections::BTreeMap<String, Quantity>,
}

/// A Kubernetes quantity: `200m`, `512Mi`, `2`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(from = "IntOrText", into = "String")]
pub struct Quantity(pub String);

#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrText {
    Int(i64),
    Text(String),
}

impl From<IntOrText> for Quantity {
    fn from(value: IntOrText) -> Self {
        match value {
            IntOrText::Int(n) => Self(n.to_string()),
            IntOrText::Text(s) => Self(s),
        }
    }
}

impl From<Quantity> for String {
    fn from(value: Quantity) -> Self {
        value.0
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "description": "A Kubernetes quantity: 200m, 512Mi, 2.",
            "maxLength": 32,
            "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
            "x-kubernetes-int-or-string": true
        })
    }
}

/// A number of pods, or a percentage of them: `1`, `25%`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrPercent {
    /// So many.
    Int(i32),
    /// A percentage with its sign.
    Percent(String),
}

impl IntOrPercent {
    /// Whether it is 0 or 0%.
    ///
    /// # Errors
    /// When it is below 0 or above 1000, or no percentage of 0% to 100%.
    pub fn is_zero(&self) -> Result<bool, ParseError> {
        let number = match self {
            Self::Int(number) => Some(*number).filter(|n| (0..=1000).contains(n)),
            Self::Percent(text) => {
                let digits = text.strip_suffix('%').filter(|d| d.len() <= 3 && d.bytes().all(|b| b.is_ascii_digit()));
                digits.and_then(|digits| digits.parse().ok()).filter(|n| *n <= 100)
            }
        };
        number.map(|number| number == 0).ok_or_else(|| ParseError {
            value: match self {
                Self::Int(number) => number.to_string(),
                Self::Percent(text) => text.clone(),
            },
            expected: "a number from 0 to 1000 or a percentage from 0% to 100%",
        })
    }
}

impl JsonSchema for IntOrPercent {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrPercent".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "maximum": 1000,
            "maxLength": 4,
            "pattern": r"^(100|[1-9]?[0-9])%$",
            "x-kubernetes-int-or-string": true
        })
    }
}

impl FromStr for DataClass {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "Public" => Ok(Self::Public),
            "Internal" => Ok(Self::Internal),
            "Confidential" => Ok(Self::Confidential),
            "Restricted" => Ok(Self::Restricted),
            _ => Err(ParseError { value: text.to_owned(), expected: "Public, Internal, Confidential or Restricted" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        assert_eq!(Decimal::from("0.02").nanos(), Ok(20_000_000));
        assert_eq!(Decimal::from("10").nanos(), Ok(10 * NANO));
        for bad in ["", ".5", "1.", "-1", "1e3", "1234567890", "0.1234567891", "NaN"] {
            assert!(Decimal::from(bad).nanos().is_err(), "{bad}");
        }
    }

    #[test]
    fn scores_carry_a_sign_and_are_finite() {
        assert_eq!(Score::from("-0.40").value(), Ok(-0.40));
        assert_eq!(Score::from("+2").value(), Ok(2.0));
        for bad in ["nan", "-inf", "--1", "1e9", ""] {
            assert!(Score::from(bad).value().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_follow_gep_2257() {
        assert_eq!(Duration::from("1m30s").millis(), Ok(90_000));
        assert_eq!(Duration::from("250ms").millis(), Ok(250));
        assert_eq!(Duration::from("168h").millis(), Ok(604_800_000));
        for bad in ["", "10", "1d", "1.5s", "-1s", "1s1s1s1s1s", "123456s"] {
            assert!(Duration::from(bad).millis().is_err(), "{bad}");
        }
    }

    #[test]
    fn classes_and_ratios_are_ordered_and_bounded() {
        assert!(ModelClass::Small < ModelClass::Frontier && DataClass::Public < DataClass::Restricted);
        assert_eq!(Ratio::from("1.0").value(), Ok(1.0));
        assert!(Ratio::from("1.1").value().is_err());
    }
}
