//! Cost of a request: integers in 1e-15 of the currency, rounded only for display.
//!
//! A table's prices are 1e-9 of the currency for a million tokens, so that tokens times price is exact in 1e-15.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use serde::{Serialize, Serializer};

use super::answer::Usage;
use crate::routing::table::Tier;

/// An amount in 1e-15 of the policy's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub i128);

/// Units of [`Money`] in one unit of the currency.
const ONE: i128 = 1_000_000_000_000_000;
/// Units of [`Money`] in the last digit that is displayed.
const SHOWN: i128 = 1_000_000;

impl Money {
    /// A decimal of a table, in 1e-9 of the currency.
    #[must_use]
    pub fn from_nanos(nanos: u64) -> Self {
        Self(i128::from(nanos).saturating_mul(SHOWN))
    }

    /// What an answer costs at a tier's prices. OpenAI's prompt tokens include the cached ones.
    #[must_use]
    pub fn of(usage: Usage, tier: &Tier) -> Self {
        let cached = usage.cached.min(usage.prompt);
        let times = |tokens: u64, price: u64| i128::from(tokens).saturating_mul(price.into());
        Self(
            times(usage.prompt - cached, tier.input_price)
                .saturating_add(times(cached, tier.cached_input_price))
                .saturating_add(times(usage.completion, tier.output_price)),
        )
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

/// As a decimal with nine digits after the point at most, rounded half away from zero, without trailing zeros.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.decimal(&mut [0; LONGEST]))
    }
}

/// Letters of the longest amount: 33 digits, a point and a sign.
const LONGEST: usize = 35;

impl Money {
    /// Written by hand, from the end: it is done several times for each request, and formatting an i128 takes long.
    fn decimal(self, buffer: &mut [u8; LONGEST]) -> &str {
        let half = if self.0 < 0 { -SHOWN / 2 } else { SHOWN / 2 };
        let shown = self.0.saturating_add(half) / SHOWN;
        let (mut whole, mut fraction) = (shown.unsigned_abs() / 1_000_000_000, shown.unsigned_abs() % 1_000_000_000);
        let mut start = LONGEST;
        let mut put = |letter: u8| {
            start -= 1;
            buffer[start] = letter;
        };
        if fraction > 0 {
            let mut ended = false;
            for _ in 0..9 {
                ended |= fraction % 10 > 0;
                if ended {
                    put(digit(fraction));
                }
                fraction /= 10;
            }
            put(b'.');
        }
        put(digit(whole));
        while whole >= 10 {
            whole /= 10;
            put(digit(whole));
        }
        if shown < 0 {
            put(b'-');
        }
        str::from_utf8(&buffer[start..]).unwrap_or_default()
    }
}

/// The last digit of a number.
const fn digit(number: u128) -> u8 {
    b'0' + (number % 10) as u8
}

/// As text: a decimal that JSON's readers must not round.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.decimal(&mut [0; LONGEST]))
    }
}

impl From<Money> for f64 {
    /// In units of the currency, for metrics: rounded to what a float holds.
    #[expect(clippy::cast_precision_loss, reason = "a metric; sums are kept as integers")]
    fn from(money: Money) -> Self {
        money.0 as Self / ONE as Self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::types::{DataClass, ModelClass};
    use crate::routing::table::{Backend, Health};

    fn tier(input: u64, cached: u64, output: u64) -> Tier {
        Tier {
            class: ModelClass::Small,
            data_class: DataClass::Public,
            public: false,
            model: "m".into(),
            context_tokens: 1,
            capabilities: Vec::new(),
            input_price: input,
            cached_input_price: cached,
            output_price: output,
            concurrency: None,
            account: None,
            scales_to_zero: false,
            health: Health::default(),
            backend: Backend::Url { base_url: "http://x".into(), credential: None },
        }
    }

    #[test]
    fn cost_is_exact_and_cached_tokens_are_part_of_the_prompt() {
        // 2.50, 1.25 and 10 a million.
        let tier = tier(2_500_000_000, 1_250_000_000, 10_000_000_000);
        let cost = Money::of(Usage { prompt: 1_000, cached: 400, completion: 10 }, &tier);
        assert_eq!(cost, Money(600 * 2_500_000_000 + 400 * 1_250_000_000 + 10 * 10_000_000_000));
        assert_eq!(cost.to_string(), "0.0021");
        // A provider that says more cached than prompt tokens is not paid for it.
        assert_eq!(Money::of(Usage { prompt: 1, cached: 9, completion: 0 }, &tier), Money(1_250_000_000));
        let most = Usage { prompt: u64::MAX, cached: 0, completion: u64::MAX };
        assert!(Money::of(most, &self::tier(u64::MAX, 0, u64::MAX)) > Money(0));
    }

    #[test]
    fn display_rounds_and_trims() {
        for (amount, shown) in [
            (0, "0"),
            (499_999, "0"),
            (500_000, "0.000000001"),
            (1_500_000, "0.000000002"),
            (ONE, "1"),
            (-ONE - ONE / 4, "-1.25"),
            (-1, "0"),
            (10 * ONE, "10"),
            (ONE - 1, "1"),
        ] {
            assert_eq!(Money(amount).to_string(), shown);
        }
        let shown: BTreeSet<String> = [i128::MAX, i128::MIN].map(|most| Money(most).to_string()).into();
        assert_eq!(shown.len(), 2);
    }
}
