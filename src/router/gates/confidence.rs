//! `confidence`: the model was sure of the tokens that carry the answer.
//!
//! With `scope: Values` only tokens that overlap leaf values of a JSON answer count. On intent classification with a
//! 135M model the mean over all tokens tells right from wrong no better than chance; the value tokens do (see the test
//! on recorded answers). Without a scope, Values is taken when the answer is JSON, else All.

use std::ops::Range;

use super::Finding;
use super::leaves::leaves;
use crate::api::escalation_path::{ConfidenceMeasure, ConfidenceScope, OnMissing};
use crate::router::answer::{Choice, Token, Tokens};

#[derive(Debug)]
pub(super) struct Confidence {
    measure: ConfidenceMeasure,
    quantile: f64,
    scope: Option<ConfidenceScope>,
    at_least: f64,
}

impl Confidence {
    pub(super) fn compile(
        measure: ConfidenceMeasure,
        quantile: Option<f64>,
        scope: Option<ConfidenceScope>,
        at_least: f64,
    ) -> Result<Self, String> {
        let quantile = match (measure, quantile) {
            (ConfidenceMeasure::LogprobQuantile, Some(quantile)) if (0.0..=1.0).contains(&quantile) => quantile,
            (ConfidenceMeasure::LogprobQuantile, _) => return Err("confidence: quantile must be from 0 to 1".into()),
            _ => 0.0,
        };
        if !at_least.is_finite() {
            return Err("confidence: atLeast must be a finite number".into());
        }
        Ok(Self { measure, quantile, scope, at_least })
    }

    /// Whether every token counts, wherever it stands.
    pub(super) const fn is_of_all(&self) -> bool {
        matches!(self.scope, Some(ConfidenceScope::All))
    }

    /// The chosen token is usually among the alternatives, so a margin needs two.
    pub(super) const fn alternatives(&self) -> u8 {
        match self.measure {
            ConfidenceMeasure::FirstTokenMargin => 2,
            _ => 1,
        }
    }

    pub(super) fn judge(&self, choice: &Choice) -> Finding {
        match self.score(choice) {
            Err(what) => Finding::missing(what),
            Ok(score) => {
                Finding { score: Some(score), ..Finding::pass_if(score >= self.at_least, "below the threshold") }
            }
        }
    }

    /// How far a choice is below the threshold; 0 if it passes. `None`: there is no score.
    pub(super) fn missed(&self, choice: &Choice, on_missing: OnMissing) -> Option<f64> {
        match self.score(choice) {
            Ok(score) if score.is_nan() => None,
            Ok(score) => Some((self.at_least - score).max(0.0)),
            Err(_) => (on_missing == OnMissing::Accept).then_some(0.0),
        }
    }

    /// The score of a choice, or what evidence is missing.
    pub(super) fn score(&self, choice: &Choice) -> Result<f64, &'static str> {
        let tokens = choice.tokens.as_ref().ok_or("no log probabilities")?;
        let scoped = self.scoped(choice, tokens)?;
        let mut logprobs = scoped.iter().map(|token| token.logprob);
        match self.measure {
            ConfidenceMeasure::MeanLogprob => {
                let count = u32::try_from(scoped.len()).map_err(|_| "too many tokens")?;
                Ok(logprobs.sum::<f64>() / f64::from(count))
            }
            ConfidenceMeasure::MinLogprob => Ok(logprobs.fold(f64::INFINITY, f64::min)),
            ConfidenceMeasure::LogprobQuantile => {
                let mut sorted: Vec<f64> = logprobs.collect();
                sorted.sort_by(f64::total_cmp);
                quantile(&sorted, self.quantile).ok_or("no tokens")
            }
            ConfidenceMeasure::FirstTokenMargin => {
                let first = logprobs.next().ok_or("no tokens")?;
                let other =
                    scoped.first().and_then(|token| token.best_other).ok_or("no alternatives to the first token")?;
                Ok(first - other)
            }
        }
    }

    /// The tokens in scope, at least one.
    fn scoped(&self, choice: &Choice, tokens: &Tokens) -> Result<Vec<Token>, &'static str> {
        let values = match self.scope {
            Some(ConfidenceScope::All) => None,
            Some(ConfidenceScope::Values) => Some(leaves(&choice.content).ok_or("the answer is not JSON")?),
            None => leaves(&choice.content),
        };
        let Some(values) = values else {
            return if tokens.list.is_empty() { Err("no tokens") } else { Ok(tokens.list.clone()) };
        };
        if !tokens.aligned {
            return Err("tokens and content differ");
        }
        let scoped = overlapping(&tokens.list, &values);
        if scoped.is_empty() { Err("no value tokens") } else { Ok(scoped) }
    }
}

/// Tokens that overlap a range. Both are in order.
fn overlapping(tokens: &[Token], ranges: &[Range<usize>]) -> Vec<Token> {
    let mut ranges = ranges.iter().filter(|range| !range.is_empty()).peekable();
    let overlaps = |token: &&Token| {
        while ranges.next_if(|range| range.end <= token.start).is_some() {}
        token.start < token.end && ranges.peek().is_some_and(|range| range.start < token.end)
    };
    tokens.iter().filter(overlaps).copied().collect()
}

/// The quantile of sorted values by linear interpolation.
#[expect(clippy::cast_precision_loss, reason = "answers have far fewer than 2^52 tokens")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of values")]
fn quantile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let at = quantile * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests;
