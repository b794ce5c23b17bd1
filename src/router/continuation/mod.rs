//! What it takes to go on with an answer that broke off: the request for the rest, and the seam between the two.
//!
//! ```text
//! request + text so far --request--> request for the rest        (an engine that continues assistant messages)
//! chunks of the rest ----Seam------> chunks of the first stream  (its id, created and model; usage of both)
//! ```
//! Engines hold back the beginning of a stop sequence until they know, so one that lies across the seam is generated,
//! and found, anew.

mod request;
mod seam;

pub use request::{Rest, Unfit, rest};
pub use seam::Seam;
