//! Pure: a resource and what it refers to -> what it compiles to, or everything that is wrong with it.
//!
//! Parse, don't validate: what comes out is the resource's part of the routing table, so that nothing
//! downstream parses a decimal or a duration again. All problems of an object are collected, because
//! a person who mends one at a time needs as many rounds as there are problems.
//!
//! Three outcomes: `Ok` without `unresolved` (in force), `Ok` with `unresolved` (in force but for the parts
//! that wait for another object), `Err` (not in force: the last good table keeps serving).

mod accounts;
mod budgets;
mod devices;
mod health;
mod limits;
mod model_from;
mod path;
mod policy;
mod problems;
mod quota_store;
mod reserves;
mod rollout;
mod router;
mod scaling;
mod sizing;
mod template;
mod tier;

pub use path::{path, path_warnings};
pub use policy::policy;
pub use scaling::{Scaling, scaling};
pub use sizing::{Wanted, sizing};
pub use tier::tier;

/// Why a resource, or a part of it, is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Condition that says so: Accepted or ResolvedRefs.
    pub condition: &'static str,
    /// Reason of the condition.
    pub reason: &'static str,
    /// Every problem, each with its field, for people.
    pub message: String,
}

/// What a resource compiles to.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid<T> {
    /// The resource's part of the routing table.
    pub value: T,
    /// Parts that were left out because what they refer to is missing or not accepted (`ResolvedRefs=False`).
    pub unresolved: Option<Invalid>,
}
