//! What every process needs, whatever it does.

pub mod admin;
pub mod leader;
pub mod shutdown;
pub mod telemetry;
