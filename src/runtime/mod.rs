//! What every process needs, whatever it does.

pub mod admin;
pub mod events;
pub mod leader;
pub mod listen;
pub mod problems;
pub mod shutdown;
pub mod telemetry;
