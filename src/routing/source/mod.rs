//! Where a table comes from.

pub mod manifests;
