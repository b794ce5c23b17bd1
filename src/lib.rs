//! smallfirst: a Kubernetes operator and router for mixed-model serving: *small first, escalate when needed*.
//!
//! ```text
//!   ModelTier  EscalationPath  RoutingPolicy              api
//!                     |
//!             validate + plan   (pure)                    operator::{validate, plan}
//!              /              \
//!      pool objects        RoutingTable                   operator::apply, routing
//!                               |  ConfigMap, watched     routing::source
//!                            router  <---- clients        router
//! ```
//! Data walks one way; the boundary test in `tests/boundary.rs` holds which room may do I/O.

pub mod api;
pub mod cli;
pub mod lease;
pub mod operator;
pub mod router;
pub mod routing;
pub mod runtime;
pub mod simulate;
pub mod sizing;
#[cfg(test)]
mod testkit;
pub mod yaml;
