//! Budgets: money that all routers of a policy together may spend in a period.
//!
//! ```text
//! router: Purse  --Claim: what it was granted, what it spent, what it wants-->  operator: Fund --Stored--> ConfigMap
//!                <--Grant: what it is granted now----------------------------
//! ```
//! A grant is money that is gone for everybody else, and it does not expire: a router that nobody hears of may spend all
//! of it. So the sum of what was granted never exceeds the amount, and what a lost router had is spent. The operator
//! writes a high-water mark down *before* it grants beyond it, and a router before it gets its first grant: a new leader
//! then knows what was granted at most, and exactly, once all routers on the list have spoken.
//!
//! Amounts are in 1e-9 of the policy's currency, times in seconds since 1970. Pure: the caller brings the time.

pub mod book;
pub mod fund;
pub mod period;
pub mod purse;

use serde::{Deserialize, Serialize};

/// What a router says of its purse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Begin of the period that it speaks of.
    pub period: i64,
    /// What it was granted in this period, less what it gave back.
    pub granted: i64,
    /// What it spent, with what is reserved for requests in flight.
    pub spent: i64,
    /// What it will spend in the next seconds.
    pub wanted: i64,
    /// The dearest request that waits.
    pub need: i64,
    /// It ends, and spends no more than it has spent.
    #[serde(default)]
    pub closed: bool,
}

/// What the operator answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Begin of the period in force.
    pub period: i64,
    /// Milliseconds until it ends.
    pub ends_in_ms: u64,
    /// What the router said it was granted: the grant is an answer to nothing else.
    pub from: i64,
    /// What it is granted now.
    pub granted: i64,
    /// What it should not hold more of, unspent; the rest it gives back.
    pub keep: i64,
    /// Nothing worth a request is left for anybody.
    pub last: bool,
}

/// Whether so little of an amount is left, under a thousandth, that it counts as spent.
#[must_use]
pub const fn is_little(left: i64, amount: i64) -> bool {
    left <= 0 || left.saturating_mul(1_000) < amount
}
