//! The routing table: the contract between the operator, which compiles it, and the routers, which execute it.
//!
//! ```text
//! ModelTier, EscalationPath, RoutingPolicy --(operator::plan)--> RoutingTable --(source)--> router
//! ```
//! What can be decided without a request is decided when the table is made: classes are resolved to tiers,
//! defaults are filled in, durations are milliseconds, prices are integers.

pub mod counts;
pub mod decide;
pub mod lent;
pub mod misses;
pub mod packed;
pub mod report;
pub mod source;
pub mod table;

pub use table::RoutingTable;
