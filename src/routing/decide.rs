//! Pure: which workload a request is, and which steps it may enter. No I/O, no clock.
//!
//! A header can only choose among workloads that the client may use: what a caller sends never widens what it may do.

use crate::api::escalation_path::{Direction, Entry, FailoverReason};
use crate::api::model_tier::Capability;
use crate::routing::table::{Path, RoutingTable, Step, Tier, Workload};

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
}

/// Whether a tier can take a request of a workload. Fails closed on the data class.
#[must_use]
pub fn skip(tier: &Tier, data: crate::api::types::DataClass, needs: Needs) -> Option<Skip> {
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
