//! Cost of a request: integers in 1e-15 of the currency, rounded only for display.
//!
//! A table's prices are 1e-9 of the currency for a million tokens, so that tokens times price is exact in 1e-15.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

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
    /// What an answer costs at a tier's prices. OpenAI's prompt tokens include the cached ones.
    #[must_use]
    pub fn of(usage: Usage, tier: &Tier) -> Self {
        let cached = usage.cached.min(usage.prompt);
        let times = |tokens: u64, price: u64| i128::from(tokens) * i128::from(price);
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
        let half = if self.0 < 0 { -SHOWN / 2 } else { SHOWN / 2 };
        let shown = self.0.saturating_add(half) / SHOWN;
        let (whole, fraction) = (shown.unsigned_abs() / 1_000_000_000, shown.unsigned_abs() % 1_000_000_000);
        let sign = if shown < 0 { "-" } else { "" };
        let digits = format!("{sign}{whole}.{fraction:09}");
        f.write_str(digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl From<Money> for f64 {
    /// In units of the currency, for metrics: rounded to what a float holds.
    #[expect(clippy::cast_precision_loss, reason = "a metric; sums are kept as integers")]
    fn from(money: Money) -> Self {
        money.0 as Self / ONE as Self
    }
}
