//! What happened to one request, step by step: for the reply's headers, the access log and the metrics.

use std::time::Duration;

use super::answer::Usage;
use super::gates::Verdict;
use super::money::Money;
use super::route::Leg;
use crate::routing::table::Tier;

/// Outcome of a request, and verdict of a step, whose answer was accepted by a threshold that was lowered.
pub const UNDER_PRESSURE: &str = "under-pressure";

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its answer was accepted.
    Accepted,
    /// Its answer failed a gate.
    Escalated(&'static str),
    /// Its answer failed this gate by so little that it was accepted all the same while an account was short.
    UnderPressure(&'static str),
    /// Its tier gave no answer.
    Failed(&'static str),
    /// Its tier was not asked.
    Skipped(&'static str),
    /// It was given up, because the one beside it was accepted first.
    Cancelled,
}

impl Ending {
    /// The verdict, and why it was no other: as logs and metrics have them.
    #[must_use]
    pub const fn words(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Accepted => ("accepted", None),
            Self::Escalated(gate) => ("escalated", Some(gate)),
            Self::UnderPressure(gate) => (UNDER_PRESSURE, Some(gate)),
            Self::Failed(reason) => ("failed", Some(reason)),
            Self::Skipped(reason) => ("skipped", Some(reason)),
            Self::Cancelled => ("cancelled", None),
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
    /// Whether it was asked beside a slow step, before its turn.
    pub hedge: bool,
    /// What its gates found, in the order in which they judged.
    pub verdicts: Vec<Verdict>,
    /// By how little its answer missed a threshold that may be lowered, if that is all that it missed.
    pub missed: Option<f64>,
    /// Time that the step took.
    pub latency: Duration,
    /// Tokens of the leg.
    pub usage: Usage,
    /// Cost of the leg.
    pub cost: Money,
    /// What gates asked for before they judged.
    pub opinions: Vec<Opinion<'s>>,
}

/// What one gate asked a tier for before it judged.
#[derive(Clone, Debug)]
pub struct Opinion<'s> {
    /// The gate.
    pub gate: &'static str,
    /// The tier that it asked.
    pub tier: &'s str,
    /// Calls that it made.
    pub calls: u32,
    /// Those of them that gave no answer.
    pub failed: u32,
    /// Time until all had ended.
    pub latency: Duration,
    /// Tokens of all calls.
    pub usage: Usage,
    /// Cost of all calls.
    pub cost: Money,
}

impl<'s> Opinion<'s> {
    /// Nobody was asked yet.
    #[must_use]
    pub fn new(gate: &'static str, tier: &'s str) -> Self {
        let (usage, cost) = (Usage::default(), Money::default());
        Self { gate, tier, calls: 0, failed: 0, latency: Duration::ZERO, usage, cost }
    }

    /// Counts a call, by the usage of its answer; `None` if none came.
    pub fn count(&mut self, usage: Option<Usage>, tier: &Tier) {
        self.calls += 1;
        let Some(usage) = usage else {
            self.failed += 1;
            return;
        };
        self.usage.prompt = self.usage.prompt.saturating_add(usage.prompt);
        self.usage.cached = self.usage.cached.saturating_add(usage.cached);
        self.usage.completion = self.usage.completion.saturating_add(usage.completion);
        self.cost += Money::of(usage, tier);
    }
}

impl<'s> StepTrace<'s> {
    /// A tier that is being asked. If nothing more is noted, the client has left.
    #[must_use]
    pub fn new(leg: &'s Leg) -> Self {
        Self {
            leg,
            ending: Ending::Failed("ClientGone"),
            hedge: false,
            verdicts: Vec::new(),
            missed: None,
            latency: Duration::ZERO,
            usage: Usage::default(),
            cost: Money::default(),
            opinions: Vec::new(),
        }
    }

    /// Cost of the leg and of what its gates asked for.
    #[must_use]
    pub fn all_cost(&self) -> Money {
        self.cost + self.opinions.iter().map(|opinion| opinion.cost).sum()
    }

    /// A leg that is not tried.
    #[must_use]
    pub fn skipped(leg: &'s Leg, reason: &'static str) -> Self {
        Self { ending: Ending::Skipped(reason), ..Self::new(leg) }
    }

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
    /// Cost of all legs and of what gates asked for.
    #[must_use]
    pub fn cost(&self) -> Money {
        self.0.iter().map(StepTrace::all_cost).sum()
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
