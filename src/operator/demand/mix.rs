//! What the latest requests of a workload are like: how many of their answers gates refuse, and how many tokens they take.

use std::collections::BTreeMap;

use super::fading::{Fading, Pace};
use super::meter::Detail;
use crate::routing::counts::{Taken, Verdicts};
use crate::routing::misses::{BINS, ENDS, Misses};
use crate::sizing::input::{Escalation, Miss, Takes, Variation};

/// The last five minutes, or two hundred: by so many a ratio is known to a few hundredths.
const PACE: Pace = Pace { time: super::arrivals::WINDOW as f64, least: 200.0 };

/// Sums of a step: answers judged, refused, and those refused by the bin of what they missed.
const STEP: usize = 2 + BINS;

/// Steps and tiers of a workload.
#[derive(Clone, Debug, Default)]
pub struct Mix {
    steps: BTreeMap<String, Fading<STEP>>,
    /// Answers, tokens of input, tokens of output.
    tiers: BTreeMap<String, Fading<3>>,
}

impl Mix {
    /// Takes in what came up to now.
    pub fn add(&mut self, news: &Detail, now: i64) {
        self.each(news, |sums, more| sums.add(more, now, PACE), |sums, more| sums.add(more, now, PACE));
    }

    /// Begins with what was counted at some time, where nothing is known yet.
    pub fn begin(&mut self, whole: &Detail, now: i64) {
        self.each(whole, |sums, more| sums.begin(more, now, PACE), |sums, more| sums.begin(more, now, PACE));
    }

    fn each(
        &mut self,
        detail: &Detail,
        step: impl Fn(&mut Fading<STEP>, [f64; STEP]),
        tier: impl Fn(&mut Fading<3>, [f64; 3]),
    ) {
        for (name, Verdicts { judged, failed, misses: Misses(misses) }) in &detail.steps {
            let mut sums = [0.0; STEP];
            let counts = [judged, failed].into_iter().chain(misses);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = float(*count));
            step(self.steps.entry(name.clone()).or_default(), sums);
        }
        for (name, Taken { calls, input, output, cost: _ }) in &detail.tiers {
            tier(self.tiers.entry(name.clone()).or_default(), [*calls, *input, *output].map(float));
        }
    }

    /// Answers of a step that are refused, and those of them that miss no more than a threshold.
    #[must_use]
    pub fn escalation(&self, step: &str) -> Option<Escalation> {
        let sums = self.steps.get(step)?;
        let mut share = 0.0;
        let misses = ENDS.iter().enumerate().map(|(bin, end)| {
            share += sums.ratio(2 + bin, 0).unwrap_or_default();
            Miss { within: *end, share }
        });
        Some(Escalation { ratio: sums.ratio(1, 0)?, misses: misses.collect(), slack: 0.0 })
    }

    /// Tokens of a request of a tier.
    #[must_use]
    pub fn takes(&self, tier: &str) -> Option<Takes> {
        let sums = self.tiers.get(tier)?;
        let (input_tokens, output_tokens) = (sums.ratio(1, 0)?, sums.ratio(2, 0)?);
        Some(Takes { input_tokens, output_tokens, variation: Variation::UNKNOWN, seconds: 0.0 })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts; what is lost of large ones is far below what is measured")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}
