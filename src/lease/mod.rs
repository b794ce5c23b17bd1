//! Shared limits as leases: how several routers keep to one limit without asking anybody on a request's path.
//!
//! ```text
//! router                                      operator (the leader)
//! Holding, Places: what this router may take  Ledger: every limit, and what each router holds of it
//!   Lessee --- Claims, about once a second -->  report
//!          <-- Grants, good for 5 s ----------
//! ```
//! - A quarter of every limit is carved out beforehand, in equal whole parts for the most routers that there may be: a
//!   router's *floor*, which it has without asking anybody.
//! - *Amounts* (requests and tokens a minute): the operator's bucket fills with the rest, and hands it out as balances of
//!   about two seconds of a router's demand. Whatever is in the bucket, in balances and in floors is one minute's limit
//!   at most: so in any time `t` all routers together take at most `limit + limit * t / 1 min`. What a floor gains while
//!   it is full, and what a request did not use of its reservation, is *freed*: the operator's bucket takes it, so that a
//!   router without demand keeps nothing from others.
//! - *Requests a minute of an account* are counted by the provider in every minute, so no minute may have more of them than
//!   the limit ([`Count::Minute`]). The operator's bucket then holds two and a half seconds' worth, and gains so much less that both
//!   together are a minute's part. A floor takes and frees no more than itself in any minute, and while there is a lease
//!   it frees all that it gains.
//! - *Places* (requests at a time): all are handed out, those that nobody asks for too. A router counts for what it may
//!   have taken until it says itself that it holds less.
//! - A lease is good for [`VALID`] from the router's own time of the report that it answers. The operator takes back what
//!   it lent [`GONE`] after it received that report: clocks may differ in rate by 1 %. A new leader knows of no lease, so
//!   it lends nothing new in its first [`GONE`].
//!
//! Of an account what is left of [`reserve`]s is lent to requests of High risk only.
//!
//! Money is lent by other rules: see [`budget`].
//!
//! Pure: the callers bring the time. The caller's clocks need not agree on anything but the length of a second.

mod amounts;
pub mod bucket;
pub mod budget;
pub mod holding;
pub mod ledger;
pub mod lessee;
mod minute;
mod parts;
mod places;
pub mod reserve;
#[cfg(test)]
mod rules;
mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

pub use parts::Count;

use serde::{Deserialize, Serialize};

/// How long a grant is good, from the router's time of the report that it answers.
pub const VALID: Duration = Duration::from_secs(5);
/// When the operator takes it back, from its own time of receiving that report.
pub const GONE: Duration = Duration::from_millis(5_100);
/// How often a router reports.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How soon it reports again if it gave something back: others may wait for it.
pub const GAVE_BACK: Duration = Duration::from_millis(100);
/// How soon it reports again while it lacks an amount, which grows all the time.
pub const LACKED: Duration = Duration::from_millis(250);

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// A provider's account, over all policies of its namespace.
    Account,
    /// A client of one policy.
    Client,
    /// A workload of one policy.
    Workload,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
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

/// One limit, as one router's policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Whose limit it is.
    pub scope: Scope,
    /// The account, client or workload.
    pub name: String,
    /// What is limited.
    pub kind: Kind,
}

/// A router process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouterId {
    /// Namespace of its policy.
    pub namespace: String,
    /// Its policy.
    pub policy: String,
    /// Its pod.
    pub pod: String,
    /// Which process of the pod: differs after each restart.
    pub incarnation: u64,
}

/// What a router says of its leases. One report is on its way at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claims {
    /// The [`Grants::session`] that its numbers belong to; 0 if it has none.
    pub session: u64,
    /// The [`Grants::number`] of the last reply in force.
    pub seen: u64,
    /// Number of this report, rising.
    pub sequence: u64,
    /// When it was written, in milliseconds of the router's own monotonic clock.
    pub stamp_ms: u64,
    /// The router is about to stop: it lives on what it was lent, and no longer on floors.
    pub draining: bool,
    /// One for each limit, without those that are as in the last report whose reply is in force.
    pub claims: Vec<Claim>,
}

/// What a router says of one limit. Numbers of amounts are cumulative within their ledger and never fall, but for those of
/// reserves; those that are 0 are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Which limit.
    pub key: Key,
    /// The [`Grant::ledger`] that the numbers belong to; 0 before the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ledger: u64,
    /// Amount taken from the lease. More than was granted is a debt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spent: u64,
    /// Amount of the lease that is given back untaken.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returned: u64,
    /// Thousandths that nobody had before: what a floor gained that has to hold no more, and what requests did not use of
    /// their reservations.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub freed_milli: u64,
    /// Amount that it would hold if it could, or places that it would fill.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wanted: u64,
    /// The part of that which comes before what all others want: amounts that requests of High risk ask for, places that
    /// workloads with a reserve would fill.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub urgent: u64,
    /// The part of the lease in force that requests of Low risk leave to workloads with a reserve. Only for amounts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept: u64,
    /// Of each workload with a reserve: the amount that it used, since the process began (less once a request used less than
    /// it took), or its requests in flight.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, i64>,
    /// The least amount that is of use: what the smallest request asked that found no room. 0 if none did.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unit: u64,
    /// Requests in flight. Only for places.
    #[serde(default, skip_serializing_if = "is_none")]
    pub in_flight: u32,
    /// Places of the lease in force. Only for places.
    #[serde(default, skip_serializing_if = "is_none")]
    pub places: u32,
    /// It has a floor, or had one until it was about to stop. Only for places.
    #[serde(default, skip_serializing_if = "is_false")]
    pub floor: bool,
}

impl Claim {
    /// Nothing taken, nothing wanted.
    #[must_use]
    pub const fn new(key: Key, ledger: u64) -> Self {
        Self {
            key,
            ledger,
            spent: 0,
            returned: 0,
            freed_milli: 0,
            wanted: 0,
            urgent: 0,
            kept: 0,
            reserved: BTreeMap::new(),
            unit: 0,
            in_flight: 0,
            places: 0,
            floor: false,
        }
    }
}

/// What the leader answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Grants {
    /// Made anew when the leader does not know the router: whatever it held before is void. Never 0.
    pub session: u64,
    /// Number of this reply, rising within the session.
    pub number: u64,
    /// The [`Claims::sequence`] that it answers.
    pub sequence: u64,
    /// What is given. A limit that is not named stays as it is, and is good for as long as the others.
    pub grants: Vec<Grant>,
}

/// What the leader gives of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Which limit.
    pub key: Key,
    /// Which ledger the numbers belong to. A new one begins at nothing.
    pub ledger: u64,
    /// Amount given, cumulative within the ledger.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub granted: u64,
    /// Others lack it: give back what you hold above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// Places. They take the place of those given before.
    #[serde(default, skip_serializing_if = "is_none")]
    pub places: u32,
    /// Where there are reserves: the part of them that requests of Low risk may fill too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common: Option<u32>,
    /// Part of the limit that the operator could still lend, in percent, rounded down to tens.
    #[serde(default)]
    pub free: u8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(says: &bool) -> bool {
    !*says
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_none(number: &u32) -> bool {
    *number == 0
}

/// The whole part of a limit that a router has without asking: a quarter of the limit, shared by the most that there may
/// be.
#[must_use]
pub const fn floor(limit: u64, most: u32) -> u64 {
    limit / (4 * if most == 0 { 1 } else { most as u64 })
}
