//! The control plane: observe -> validate -> plan -> apply -> status, once per kind.
//!
//! `validate` and `plan` are pure: no client, no clock, no randomness. Same input, same bytes.

pub mod apply;
pub mod concurrency;
pub mod controller;
pub mod demand;
pub mod events;
pub mod metrics;
pub mod metrics_api;
pub mod observe;
pub mod plan;
pub mod pressure;
pub mod reviews;
pub mod scaler;
pub mod sizing;
pub mod status;
pub mod sync;
pub mod validate;
