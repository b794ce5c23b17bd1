//! Pure: demand, capacity and what was asked for -> how many replicas each pool needs at least and may have at most, and
//! why. No clock, no I/O, no randomness.
//!
//! ```text
//!   Portfolio (input) --> size --> Sizes (output) --> settle --> the floor that is written
//! ```
//! The operator calls `size(&Portfolio) -> Sizes` every [`PERIOD`] with what it measured, and [`steady::settle`]
//! with each pool's size; the simulator does the same in virtual time, and `smallfirst plan` calls `size` alone.

mod account;
mod flow;
pub mod input;
mod load;
pub mod output;
mod pool;
mod sentence;
#[cfg(test)]
mod simulated;
mod slots;
pub mod steady;
#[cfg(test)]
mod testing;
pub mod thresholds;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use flow::{Decided, Walker};
pub use input::Portfolio;
pub use output::Sizes;

/// How often pools are sized.
pub const PERIOD: Duration = Duration::from_secs(15);

/// Sizes every pool of a namespace. First the accounts: what they have no room for may come to pools.
#[must_use]
pub fn size(portfolio: &Portfolio) -> Sizes {
    let walker = Walker::new(portfolio);
    let mut decided = Decided::default();
    let names = portfolio.accounts.keys().enumerate();
    let accounts = names
        .filter_map(|(i, name)| Some((name.clone(), account::plan(portfolio, &walker, i, &mut decided)?)))
        .collect();
    // Routers hold to it whether an account is short or not.
    decided.limited = (0..portfolio.workloads.len()).collect();
    let pools = portfolio.pools.iter();
    let pools = pools.map(|(tier, of)| (tier.clone(), pool::plan(portfolio, &walker, tier, of, &decided))).collect();
    let named = |all: &BTreeMap<(usize, usize), f64>| {
        let named = all.iter().filter(|(_, by)| **by > 0.0).filter_map(|((workload, step), by)| {
            let workload = portfolio.workloads.get(*workload)?;
            Some(((workload.name.clone(), workload.steps.get(*step)?.name.clone()), *by))
        });
        named.collect()
    };
    Sizes { pools, accounts, lowered: named(&decided.relaxed), moved: named(&decided.moved) }
}

#[cfg(test)]
mod tests;
