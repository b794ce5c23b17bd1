//! Pure: which workload a request is, which steps it may enter, and where it goes after each. No I/O, no clock.
//!
//! A header can only choose among workloads that the client may use: what a caller sends never widens what it may do.

use crate::api::escalation_path::{Direction, Entry, FailoverReason, OnExceeded, OnExhausted};
use crate::api::model_tier::Capability;
use crate::api::types::{DataClass, ModelClass, Risk};
use crate::routing::table::{Backend, Check, Gate, Path, RoutingTable, Step, Tier, Workload};

/// What classification looks at.
pub struct Signals<'a> {
    /// Index of the client in the table; `None` for an anonymous caller.
    pub client: Option<usize>,
    /// The request's `model`.
    pub model: &'a str,
    /// Value of a header, by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// A workload, by its index in the table.
    Workload(usize),
    /// A Public tier that the client named.
    Tier(&'a str),
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// No workload matches, and the default is to refuse. Holds the names that this client may use.
    UnknownModel(Vec<String>),
    /// The only workload that would take it is not among the client's.
    NotAllowed(String),
}

/// Whether a client may use a workload: one that it lists, or, without a list, one that holds no reserve.
#[must_use]
pub fn allowed(table: &RoutingTable, client: Option<usize>, workload: &Workload) -> bool {
    let Some(client) = client.and_then(|index| table.clients.as_ref()?.get(index)) else { return true };
    match &client.workloads {
        Some(names) => names.contains(&workload.name),
        None => workload.reserve.is_none(),
    }
}

/// Aliases that a client may name, in the table's order, then Public tiers.
#[must_use]
pub fn names(table: &RoutingTable, client: Option<usize>) -> Vec<String> {
    let usable = table.workloads.iter().filter(|w| allowed(table, client, w));
    let mut names: Vec<String> = usable.flat_map(|w| w.models.iter().cloned()).collect();
    names.extend(table.tiers.iter().filter(|(_, tier)| tier.public).map(|(name, _)| name.clone()));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn matches(workload: &Workload, client: Option<&str>, signals: &Signals<'_>) -> bool {
    !workload.only_by_default
        && (workload.models.is_empty() || workload.models.iter().any(|m| m == signals.model))
        && (workload.clients.is_empty() || client.is_some_and(|c| workload.clients.iter().any(|n| n == c)))
        && workload.headers.iter().all(|(name, value)| (signals.header)(name) == Some(value))
}

/// The first workload, in the policy's order, that matches and that the client may use; else a Public tier of that
/// name; else the default.
///
/// # Errors
/// When nothing takes the request.
pub fn classify<'t>(table: &'t RoutingTable, signals: &Signals<'_>) -> Result<Route<'t>, Unroutable> {
    let client = signals.client.and_then(|index| table.clients.as_ref()?.get(index)).map(|c| c.name.as_str());
    let mut refused = None;
    for (index, workload) in table.workloads.iter().enumerate() {
        if matches(workload, client, signals) {
            if allowed(table, signals.client, workload) {
                return Ok(Route::Workload(index));
            }
            refused.get_or_insert(&workload.name);
        }
    }
    if let Some((name, _)) = table.tiers.get_key_value(signals.model).filter(|(_, tier)| tier.public) {
        return Ok(Route::Tier(name));
    }
    if let Some(name) = refused {
        return Err(Unroutable::NotAllowed(name.clone()));
    }
    let default = table.default_workload.as_ref();
    match default.and_then(|name| table.workloads.iter().position(|w| &w.name == name)) {
        Some(index) if allowed(table, signals.client, &table.workloads[index]) => Ok(Route::Workload(index)),
        Some(index) => Err(Unroutable::NotAllowed(table.workloads[index].name.clone())),
        None => Err(Unroutable::UnknownModel(names(table, signals.client))),
    }
}

/// What a request needs of a tier.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// It offers tools.
    pub tools: bool,
    /// It holds images.
    pub vision: bool,
    /// It asks for JSON.
    pub json: bool,
    /// The client asked for log probabilities.
    pub logprobs: bool,
    /// Estimated input and greatest output, in tokens.
    pub tokens: u64,
}

/// Why a tier is stepped over without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The tier lacks a capability that the request needs.
    NotCapable(Capability),
    /// The request does not fit the tier's context.
    ContextOverflow,
    /// The tier is not cleared for the workload's data.
    DataClass,
    /// The request may come to cost more than its path allows.
    MaxCost,
}

impl Skip {
    /// The reason as it stands in replies, logs and metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotCapable(_) => "NotCapable",
            Self::ContextOverflow => "ContextOverflow",
            Self::DataClass => "DataClass",
            Self::MaxCost => "MaxCost",
        }
    }

    /// What kind of failure of the tier it amounts to. `None`: it says nothing of the tier.
    #[must_use]
    pub fn failure(self) -> Option<FailoverReason> {
        (self == Self::ContextOverflow).then_some(FailoverReason::ContextOverflow)
    }
}

/// Whether a tier can take a request of a workload. Fails closed on the data class.
#[must_use]
pub fn skip(tier: &Tier, data: DataClass, needs: Needs) -> Option<Skip> {
    if tier.data_class < data {
        return Some(Skip::DataClass);
    }
    let wanted = [
        (true, Capability::Chat),
        (needs.tools, Capability::Tools),
        (needs.vision, Capability::Vision),
        (needs.json, Capability::JsonSchema),
        (needs.logprobs, Capability::Logprobs),
    ];
    if let Some((_, missing)) = wanted.iter().find(|(needed, c)| *needed && !tier.capabilities.contains(c)) {
        return Some(Skip::NotCapable(*missing));
    }
    (needs.tokens > tier.context_tokens).then_some(Skip::ContextOverflow)
}

/// Whether a step is entered, given whether an earlier tier was unavailable.
#[must_use]
pub const fn enters(path: &Path, step: &Step, unavailable: bool) -> bool {
    match step.entry {
        Entry::Always => true,
        Entry::FailoverOnly => unavailable && matches!(path.direction, Direction::UpThenDown),
    }
}

/// Whether a tier that failed for this reason sends the request on.
#[must_use]
pub fn fails_over(path: &Path, reason: FailoverReason) -> bool {
    path.failover_on.contains(&reason)
}

/// What came of one tier of a step, as far as it decides where the request goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its answer passed all gates.
    Accepted,
    /// Its answer failed a gate.
    Rejected,
    /// It was not asked: for what it is or how it stands, and what kind of failure that amounts to.
    Skipped(Option<FailoverReason>),
    /// It was not asked: a budget has not enough for it.
    OverBudget,
    /// It gave no answer. Without a reason it refused the request itself.
    Unavailable(Option<FailoverReason>),
}

/// Where a request goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the client, with the answer.
    Reply,
    /// To the next step.
    Step,
    /// To the next tier of the step, or, after the last, to the next step.
    Tier,
    /// No further.
    End,
}

/// What a request has met on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A tier was unavailable, for a reason that the path takes for one.
    pub unavailable: bool,
    /// A gate refused an answer.
    pub rejected: bool,
}

impl Progress {
    /// Takes in what came of a tier.
    pub fn after(&mut self, path: &Path, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Accepted => Next::Reply,
            Outcome::Rejected => {
                self.rejected = true;
                Next::Step
            }
            Outcome::Skipped(reason) => {
                self.unavailable |= reason.is_some_and(|reason| fails_over(path, reason));
                Next::Tier
            }
            // Not for a reason that the path may choose: what is cheaper comes next, down too.
            Outcome::OverBudget => {
                self.unavailable = true;
                Next::Tier
            }
            Outcome::Unavailable(reason) => {
                let goes_on = reason.is_some_and(|reason| fails_over(path, reason));
                self.unavailable |= goes_on;
                if goes_on { Next::Tier } else { Next::End }
            }
        }
    }
}

/// Whether an answer that failed a gate may be given when no better one came. `refused`: what the path says of a request
/// that its limit on escalations did not let go on.
#[must_use]
pub fn may_answer_best(path: &Path, risk: Risk, refused: Option<OnExceeded>) -> bool {
    let wanted = match refused {
        None => path.on_exhausted == OnExhausted::BestAnswer,
        Some(on_exceeded) => on_exceeded == OnExceeded::BestAnswer,
    };
    wanted && risk != Risk::High
}

/// Whether the threshold of a step, by its place, may be lowered while an account is short: the step has one that answers
/// need not pass to be returned, a refused answer goes on in turn, and nobody else has to be asked about it.
#[must_use]
pub fn may_give_way(path: &Path, step: usize) -> bool {
    let later = path.steps.iter().skip(step + 1).any(|later| later.entry == Entry::Always);
    let gates = path.steps.get(step).map_or(&[][..], |step| &step.accept);
    let gives_way = |gate: &Gate| matches!(gate.check, Check::Confidence { .. });
    let forbids = |gate: &Gate| match gate.check {
        Check::Agreement { .. } | Check::Judge { .. } => true,
        Check::Confidence { .. } => gate.required,
        _ => false,
    };
    later && gates.iter().any(gives_way) && !gates.iter().any(forbids)
}

/// Whether a pool of this class takes over what a frontier has no room for. What a Small one answers instead is less than was
/// asked for.
#[must_use]
pub const fn takes_over(class: ModelClass) -> bool {
    matches!(class, ModelClass::Medium | ModelClass::Large)
}

/// Whether a request that a step, by its place, has no room for goes on to a pool that [takes over](takes_over): a later step
/// asks one first, and is entered then.
#[must_use]
pub fn is_movable(table: &RoutingTable, path: &Path, step: usize, data: DataClass) -> bool {
    let is_pool = |tier: &Tier| {
        takes_over(tier.class) && matches!(tier.backend, Backend::Service { .. }) && tier.data_class >= data
    };
    let is_pool = |tier: &String| table.tiers.get(tier).is_some_and(is_pool);
    let enters = |later: &Step| later.entry == Entry::Always || path.direction == Direction::UpThenDown;
    let takes = |later: &Step| enters(later) && later.tiers.first().is_some_and(is_pool);
    path.failover_on.contains(&FailoverReason::RateLimited) && path.steps.iter().skip(step + 1).any(takes)
}

/// Most by which the threshold of a step may be lowered for requests of a risk, in the unit of its score. 0: not at all.
#[must_use]
pub fn most_given_way(path: &Path, step: usize, risk: Risk) -> f64 {
    let slack = path.slack.filter(|_| may_give_way(path, step)).unwrap_or_default();
    slack * risk.part_of_slack()
}

/// Whether an answer is accepted that missed nothing but its threshold, by so much, while that is lowered.
#[must_use]
pub fn accepts_under_pressure(missed: f64, lowered: f64, most: f64) -> bool {
    lowered > 0.0 && missed <= lowered.min(most)
}
