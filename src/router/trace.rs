//! What happened to one request, step by step: for the reply's headers, the access log and the metrics.

use std::time::Duration;

use super::answer::Usage;
use super::gates::Verdict;
use super::money::Money;
use super::route::Leg;

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its answer was accepted.
    Accepted,
    /// Its answer failed a gate.
    Escalated(&'static str),
    /// Its tier gave no answer.
    Failed(&'static str),
    /// Its tier was not asked.
    Skipped(&'static str),
}

impl Ending {
    /// The verdict, and why it was no other: as logs and metrics have them.
    #[must_use]
    pub const fn words(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Accepted => ("accepted", None),
            Self::Escalated(gate) => ("escalated", Some(gate)),
            Self::Failed(reason) => ("failed", Some(reason)),
            Self::Skipped(reason) => ("skipped", Some(reason)),
        }
    }
}

/// One tier of one step.
#[derive(Clone)]
pub struct StepTrace<'s> {
    /// The step and the tier.
    pub leg: &'s Leg,
    /// How it ended.
    pub ending: Ending,
    /// What its gates found, in the order in which they judged.
    pub verdicts: Vec<Verdict>,
    /// Time that the step took.
    pub latency: Duration,
    /// Tokens of the leg.
    pub usage: Usage,
    /// Cost of the leg.
    pub cost: Money,
}

impl StepTrace<'_> {
    /// What the first gate that measures measured.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        self.verdicts.iter().find_map(|verdict| verdict.score)
    }
}

/// All steps of a request.
#[derive(Clone, Default)]
pub struct Trace<'s>(pub Vec<StepTrace<'s>>);

impl Trace<'_> {
    /// Cost of all legs.
    #[must_use]
    pub fn cost(&self) -> Money {
        self.0.iter().map(|s| s.cost).sum()
    }

    /// As `x-smallfirst-steps` has it: `compact:escalated(confidence) frontier:accepted`.
    #[must_use]
    pub fn header(&self) -> String {
        let mut text = String::new();
        for (index, each) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            let (verdict, reason) = each.ending.words();
            for part in [separator, &each.leg.step, ":", verdict] {
                text.push_str(part);
            }
            if let Some(reason) = reason {
                for part in ["(", reason, ")"] {
                    text.push_str(part);
                }
            }
        }
        text
    }
}
