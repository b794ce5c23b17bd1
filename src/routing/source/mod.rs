//! Where a router's table, keys and endpoints come from.

pub mod configmap;
pub mod endpoints;
pub mod file;
pub mod manifests;
pub mod secrets;
