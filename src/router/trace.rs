//! What happened to one request, step by step: for the reply's headers, the access log and the metrics.

use std::fmt::Write;
use std::time::Duration;

use super::answer::Usage;
use super::money::Money;

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

/// One tier of one step.
#[derive(Debug, Clone)]
pub struct StepTrace {
    /// Name of the step.
    pub step: String,
    /// Name of the tier.
    pub tier: String,
    /// How it ended.
    pub ending: Ending,
    /// Score of the confidence gate, where it was judged.
    pub score: Option<f64>,
    /// Time that the step took.
    pub latency: Duration,
    /// Tokens of the leg.
    pub usage: Usage,
    /// Cost of the leg.
    pub cost: Money,
}

/// All steps of a request.
#[derive(Debug, Clone, Default)]
pub struct Trace(pub Vec<StepTrace>);

impl Trace {
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
            // Writing to a String cannot fail.
            let _ = match each.ending {
                Ending::Accepted => write!(text, "{separator}{}:accepted", each.step),
                Ending::Escalated(gate) => write!(text, "{separator}{}:escalated({gate})", each.step),
                Ending::Failed(reason) => write!(text, "{separator}{}:failed({reason})", each.step),
                Ending::Skipped(reason) => write!(text, "{separator}{}:skipped({reason})", each.step),
            };
        }
        text
    }
}
