//! The data plane: one request in, the first good enough answer out.

pub mod answer;
pub mod body;
pub mod gates;
pub(crate) mod json;
pub mod money;
pub mod sse;
