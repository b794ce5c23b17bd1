//! Pure: demand, capacity and what was asked for -> how many replicas each pool needs at least and may have at most, and
//! why. No clock, no I/O, no randomness.
//!
//! ```text
//!   Portfolio (input) --> size --> Sizes (output) --> settle --> the floor that is written
//! ```
//! The operator calls `size(&Portfolio) -> Sizes` every [`PERIOD`] with what it measured, and [`steady::settle`] with each pool's size; the
//! simulator does the same in virtual time, and `smallfirst plan` calls `size` alone.

pub mod input;
pub mod output;
pub mod steady;

use std::time::Duration;

pub use input::Portfolio;
pub use output::Sizes;

/// How often pools are sized.
pub const PERIOD: Duration = Duration::from_secs(15);
