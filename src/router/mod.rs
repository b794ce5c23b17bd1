//! The data plane: one request in, the first good enough answer out.

pub mod answer;
pub mod body;
pub mod gates;
pub mod money;
pub(crate) mod splice;
pub mod sse;
