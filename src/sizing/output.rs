//! What sizing says.

use std::collections::BTreeMap;

use super::thresholds::PerStep;
pub use crate::api::sizing::Binding;
use crate::api::types::Risk;

/// The sizes of a namespace's pools, and how its accounts stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizes {
    /// Pools by the name of their tier.
    pub pools: BTreeMap<String, PoolSize>,
    /// Accounts by name.
    pub accounts: BTreeMap<String, AccountSize>,
    /// By how much thresholds must be lowered for all accounts together.
    pub lowered: PerStep,
    /// Part of a step's requests that must be moved to a pool instead, 0 to 1.
    pub moved: PerStep,
}

/// The size of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSize {
    /// Requests a second that come to the pool by itself, escalations and what accounts have no room for included.
    pub own_rate: f64,
    /// Requests a second of the tiers it is sized against that may fall back to it, all of them.
    pub fallback_rate: f64,
    /// Part of its own judged answers that gates refuse, by verdicts. 0 where nothing is judged.
    pub escalation: f64,
    /// Slots for its own requests, and for both.
    pub slots: Slots,
    /// Replicas for its own requests alone, before `min` and `ceiling`.
    pub own_replicas: u32,
    /// Replicas for both constraints, before `min` and `ceiling`.
    pub replicas: u32,
    /// Fewest replicas: the autoscaler's minimum. At least `min`, at most `ceiling`.
    pub floor: u32,
    /// Most replicas: `max`, or what `hourly_budget` pays for; at least `min`.
    pub ceiling: u32,
    /// The numbers of replicas that can't be told from `replicas` by how exactly the demand is known: a standing floor among
    /// them stays.
    pub band: Band,
    /// How many times as much demand the floor's replicas would serve as promised; below 1 where it is limited. `None`:
    /// there is no demand, or nothing is known of it.
    pub growth: Option<f64>,
    /// The wait for a slot at `Asked::percentile`, in seconds, that the floor's replicas give at the mean rate, with what
    /// they take over. Infinite: more comes than they serve. `None` as for `growth`.
    pub wait: Option<f64>,
    /// What decided.
    pub binding: Binding,
    /// What can't be promised. `None`: everything that was asked for is.
    pub limited: Option<Limited>,
    /// All this in one sentence for people, with the numbers that bind and what would change them.
    pub sentence: String,
}

/// Slots that a pool needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// For its own requests.
    pub own: u64,
    /// With what it takes over.
    pub all: u64,
}

/// A range of replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Band {
    /// The lowest.
    pub low: u32,
    /// The highest.
    pub high: u32,
}

/// What a pool's ceiling leaves of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limited {
    /// `Maximum` or `Budget`.
    pub by: Binding,
    /// Replicas that are missing.
    pub missing: u32,
    /// Part of the traffic of lost tiers that the ceiling can take over beside its own, instead of `absorb`.
    pub absorb: f64,
    /// Requests a second of its own that the ceiling serves as promised: all of them, or fewer.
    pub own_rate: f64,
}

/// How an account stands against its demand.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountSize {
    /// Its limits, each with what is needed of it.
    pub quotas: Vec<QuotaUse>,
    /// Whether everything fits without any measure.
    pub fits: bool,
    /// What is done where it does not, in this order.
    pub measures: Measures,
    /// All this in one sentence for people.
    pub sentence: String,
}

/// A limit of an account, with what demand needs of it before any measure. Per minute, but for concurrency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaUse {
    /// Which limit.
    pub kind: QuotaKind,
    /// The limit.
    pub limit: f64,
    /// What of it routers can take that are there.
    pub within_reach: f64,
    /// Needed by requests that come straight to the account's tiers.
    pub direct: f64,
    /// Needed by escalations.
    pub escalated: f64,
    /// Needed by judges, shadows and the like.
    pub beside: f64,
    /// Kept free for workloads with a reserve, beyond what they need.
    pub reserved: f64,
    /// The limit at which all of it would fit.
    pub enough: f64,
}

/// A kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Requests a minute.
    Requests,
    /// Tokens a minute, input and output.
    Tokens,
    /// Tokens of input a minute.
    InputTokens,
    /// Tokens of output a minute.
    OutputTokens,
    /// Requests at a time.
    Concurrency,
}

/// What is done where an account is short, in the order in which it is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// (a) Thresholds are lowered: the answers that missed them by least are accepted.
    pub relaxed: Vec<Relaxed>,
    /// (b) `escalationLimit` holds back escalations.
    pub held_back: Vec<Cut>,
    /// (c) Requests go to a later step of their path, whose pool is sized up.
    pub moved: Vec<Moved>,
    /// (d) Requests are shed, Low first.
    pub shed: Vec<Cut>,
}

/// A threshold that is lowered.
#[derive(Clone, Debug, PartialEq)]
pub struct Relaxed {
    /// The workload.
    pub workload: String,
    /// The step whose gate it is.
    pub step: String,
    /// How far, in the unit of the gate's score.
    pub by: f64,
    /// Escalations a second that this saves.
    pub rate: f64,
}

/// Requests of a workload that an account does not get.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The workload.
    pub workload: String,
    /// Its risk.
    pub risk: Risk,
    /// Requests a second.
    pub rate: f64,
}

/// Requests of a workload that a pool gets instead of an account.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The workload.
    pub workload: String,
    /// The tier of the pool.
    pub tier: String,
    /// Requests a second.
    pub rate: f64,
}
