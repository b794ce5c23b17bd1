//! KEDA's external scaler: a gRPC service that says how many requests a tier has at a time, and wakes it when somebody wants
//! it.
//!
//! ```text
//!   ScaledObject: trigger external-push, metadata {tier, targetConcurrency} <-- KEDA --gRPC, no TLS--> server --> service: world
//! ```
//! It reads, and of nothing but these two figures: see ADR 29.

pub mod messages;
pub mod server;
pub mod service;
