//! What sizing is told: demand, service curves, quotas and what was asked for. Plain data, without objects of Kubernetes,
//! so that the operator, the simulator and `smallfirst plan` say the same.
//!
//! Rates are per second, times in seconds, money in 1e-9 of the currency, unless a field says otherwise. What is not a
//! number of its range counts as the nearest one that is, and no number at all as the least.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::escalation_path::Entry;
use crate::api::types::{ModelClass, Risk};

/// All workloads, pools and accounts of one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Portfolio {
    /// Workloads of all policies.
    pub workloads: Vec<Workload>,
    /// Pools by the name of their tier.
    pub pools: BTreeMap<String, Pool>,
    /// Accounts of providers by name, those that have a quota.
    pub accounts: BTreeMap<String, Account>,
}

/// One workload with its demand and its path.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// For people: the workload's name, with its policy's where several of a namespace share it.
    pub name: String,
    /// Who gives way first when an account is short: Low, then Medium, then High.
    pub risk: Risk,
    /// Part of every account on its path that is kept free for it, 0 to 1. 0: none.
    pub reserve: f64,
    /// Requests that clients offer.
    pub offered: Offered,
    /// Steps of its path, in order, but for those that are never entered.
    pub steps: Vec<Step>,
    /// Whether its path goes on when a tier is lost (`failover.on` Unreachable, ServerError or Degraded),
    pub on_outage: bool,
    /// and when an account has no room (`failover.on` RateLimited).
    pub on_shortage: bool,
    /// Most escalations per offered request that its path's `escalationLimit` lets through. `None`: no limit.
    pub escalation_limit: Option<f64>,
}

/// Requests that clients offer: first attempts, those that were rejected or shed included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offered {
    /// Mean rate, requests a second.
    pub rate: f64,
    /// Index of dispersion of the count over a pod's start time: its variance over its mean. 1 for Poisson arrivals.
    pub dispersion: f64,
    /// Time over which the rate was measured, in seconds: says how exact it is. 0: exact, as where a person states it.
    pub window: f64,
}

/// One step of a workload's path.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Name of the step.
    pub name: String,
    /// The tiers that the step asks: the first, and the next one where that is lost.
    pub tiers: Vec<String>,
    /// Whether it is entered in its turn or only when an earlier tier was unavailable.
    pub entry: Entry,
    /// Part of the workload's requests that these tiers may see and can serve (data class, context, capabilities), 0 to 1.
    /// The others go on to the next step.
    pub eligible: f64,
    /// What a request takes of the tier.
    pub takes: Takes,
    /// How many of the answers escalate.
    pub escalation: Escalation,
    /// Requests that each request of this step makes beside itself: judge, shadow, agreement, hedge.
    pub beside: Vec<Beside>,
}

/// What one request takes of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Takes {
    /// Mean tokens of input.
    pub input_tokens: f64,
    /// Mean tokens of output.
    pub output_tokens: f64,
    /// How far requests differ in their tokens.
    pub variation: Variation,
    /// Mean seconds from sending a request to the end of its answer. Read for accounts with a limit of concurrency, not
    /// for pools, whose service curve says it. 0: unknown.
    pub seconds: f64,
}

/// How far requests differ in their tokens. Default: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Variation {
    /// Squared coefficient of variation of output tokens: their variance over their mean squared.
    pub output: f64,
    /// The same of input tokens.
    pub input: f64,
    /// Covariance of input and output tokens over the product of their means, 0 or more. More than the two allow counts as
    /// the most that they allow.
    pub together: f64,
}

impl Variation {
    /// As if both varied exponentially, in step.
    pub const UNKNOWN: Self = Self { output: 1.0, input: 1.0, together: 1.0 };

    /// Of output tokens only so much is known.
    #[must_use]
    pub const fn of_output(output: f64) -> Self {
        Self { output, ..Self::UNKNOWN }
    }
}

/// How many answers of a step escalate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Escalation {
    /// Answers that gates refused over answers that were judged, 0 to 1: verdicts, not the escalations that were let
    /// through.
    pub ratio: f64,
    /// Refused answers that only a confidence gate refused, by how little they missed it, nearest first. `share` is of
    /// all judged answers and counts those before.
    pub misses: Vec<Miss>,
    /// `pressure.slack`: how far the threshold may be lowered when an account is short, in the unit of its score. 0: not.
    pub slack: f64,
}

/// One point of the distribution of near misses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Miss {
    /// Distance below the threshold, in the unit of the gate's score, above 0.
    pub within: f64,
    /// Part of all judged answers that missed by at most this, 0 to 1.
    pub share: f64,
}

/// Requests that a request of a step makes beside itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Beside {
    /// The tier that is asked.
    pub tier: String,
    /// So many for every request of the step.
    pub per_request: f64,
    /// What one of them takes.
    pub takes: Takes,
}

/// A pool of model servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its tier's class.
    pub class: ModelClass,
    /// Time that a request takes. `None`: not known yet, so nothing can be said of it.
    pub service: Option<Service>,
    /// Requests that a replica works on at a time (k), at least 1: what is declared, as far as its inter-token target and
    /// its memory allow.
    pub concurrency: u32,
    /// Time from the decision to add a replica until it serves, in seconds: peaks as long as this must be stood without it.
    pub start: f64,
    /// Fewest replicas.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// What a replica costs an hour. 0: unknown.
    pub replica_hour: u64,
    /// What was asked for.
    pub asked: Asked,
}

/// `pool.sizing`: what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Tiers whose loss the pool must stand.
    pub against: BTreeSet<String>,
    /// Part of their traffic that it takes over, as far as that may fall back to it, 0 to 1.
    pub absorb: f64,
    /// Longest wait for a slot, in seconds,
    pub within: f64,
    /// which this part of the requests must meet, below 1.
    pub percentile: f64,
    /// Most that all replicas may cost an hour. `None`: no bound. Needs `replica_hour`.
    pub hourly_budget: Option<u64>,
}

/// Time that a request is in a replica, by the number b of requests that the replica works on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// S(b) = gamma * input tokens + output tokens * (alpha + beta * b), in seconds.
    Batching {
        /// Seconds of a decoding step, whatever the batch. Below 0 where a second request costs more than the first; but
        /// alpha + beta is not.
        alpha: f64,
        /// More of them for each sequence in the batch.
        beta: f64,
        /// Seconds of prefill per token of input.
        gamma: f64,
    },
    /// The same for every batch and every workload.
    Constant {
        /// In seconds.
        seconds: f64,
    },
}

/// An account of a provider.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Its tiers.
    pub tiers: BTreeSet<String>,
    /// This cluster's part of what it may take.
    pub quota: Quota,
    /// Among how many routers it is divided.
    pub routers: Routers,
}

/// Routers that share limits. Each has a floor of every limit without asking anybody, the same for the most that there may be
/// (see [`crate::lease::floor`]); the floors of those that are not there lie idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routers {
    /// The most that there may be; 0: nothing is divided.
    pub most: u32,
    /// How many of those are not there.
    pub absent: u32,
}

/// What an account may take; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// Requests a minute.
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute, input and output.
    pub tokens_per_minute: Option<f64>,
    /// Tokens of input a minute.
    pub input_tokens_per_minute: Option<f64>,
    /// Tokens of output a minute.
    pub output_tokens_per_minute: Option<f64>,
    /// Requests at a time.
    pub concurrency: Option<f64>,
}
