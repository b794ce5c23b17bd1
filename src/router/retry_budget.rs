//! A retry budget: second attempts are a small share of all requests, so that a tier which fails is not asked twice as
//! often just then, which is how a short trouble becomes a long one.
//!
//! Of one tier, over the last [`WINDOW`] seconds: retries are at most [`SHARE`] of its requests, and [`FLOOR`] a second
//! besides, so that a tier with few requests has its retries too (as in Finagle and Linkerd). When it is spent there is
//! no second attempt, and the path's next step takes over. What a frozen endpoint was asked is replayed outside of the
//! budget: nobody works on it, so that no load is added.
//!
//! One word a second, counted without a lock. A core may spend what another spends at the same moment: the budget is
//! exceeded by at most one retry a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;

/// Seconds that are looked back.
const WINDOW: u64 = SLOTS as u64;
const SLOTS: usize = 10;
/// One retry for so many requests: a tenth.
const SHARE: u64 = 10;
/// Retries a second that are there without any request.
const FLOOR: u64 = 10;

/// Bits of each count; counts stop at what fits.
const BITS: u32 = 20;
const MOST: u64 = (1 << BITS) - 1;

/// The budget of one tier, shared by all cores.
#[derive(Debug)]
pub struct RetryBudget {
    epoch: Instant,
    /// A second each: which one (24 bits), its requests and its retries (20 bits each).
    seconds: [AtomicU64; SLOTS],
}

impl RetryBudget {
    /// A budget that nothing was spent of. Seconds are counted from `epoch`.
    #[must_use]
    pub fn new(epoch: Instant) -> Self {
        Self { epoch, seconds: Default::default() }
    }

    /// Counts a request's first attempt.
    pub fn request(&self, now: Instant) {
        self.count(now, BITS);
    }

    /// Spends a retry, if there is one left.
    pub fn spend(&self, now: Instant) -> bool {
        let current = self.second(now);
        let (mut requests, mut retries) = (0, 0);
        for word in &self.seconds {
            let word = word.load(Ordering::Relaxed);
            if current.wrapping_sub(word >> (2 * BITS)) < WINDOW {
                requests += (word >> BITS) & MOST;
                retries += word & MOST;
            }
        }
        let left = retries < requests / SHARE + FLOOR * WINDOW;
        if left {
            self.count(now, 0);
        }
        left
    }

    /// The second of a time. The first is not 0, which words begin with.
    fn second(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.epoch).as_secs() + WINDOW) & ((1 << (64 - 2 * BITS)) - 1)
    }

    fn count(&self, now: Instant, shift: u32) {
        let second = self.second(now);
        let slot = &self.seconds[usize::try_from(second % WINDOW).unwrap_or_default()];
        let counted = |word: u64| {
            let fresh = second << (2 * BITS);
            let word = if word >> (2 * BITS) == second { word } else { fresh };
            let full = (word >> shift) & MOST == MOST;
            Some(if full { word } else { word + (1 << shift) })
        };
        // Never fails: there is always a next word.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    }
}

/// The budget of a tier and what is counted of it.
pub struct Retries {
    /// Kept when the table changes.
    pub budget: Arc<RetryBudget>,
    /// Second attempts that were made.
    pub made: Counter,
    /// Second attempts that were not, because the budget was spent.
    pub over_budget: Counter,
}

impl Retries {
    /// Whether a request may be tried again.
    pub fn again(&self, now: Instant) -> bool {
        let left = self.budget.spend(now);
        if left {
            self.made.inc()
        } else {
            self.over_budget.inc()
        };
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spent(budget: &RetryBudget, now: Instant) -> u64 {
        (0..).find(|_| !budget.spend(now)).unwrap_or_default()
    }

    #[test]
    fn a_tenth_of_the_requests_and_a_floor() {
        let t0 = Instant::now();
        let budget = RetryBudget::new(t0);
        assert_eq!(spent(&budget, t0), FLOOR * WINDOW);
        for _ in 0..500 {
            budget.request(t0);
        }
        assert_eq!(spent(&budget, t0), 50);
    }

    #[test]
    fn what_is_longer_ago_than_the_window_is_forgotten() {
        let t0 = Instant::now();
        let budget = RetryBudget::new(t0);
        assert_eq!(spent(&budget, t0), FLOOR * WINDOW);
        assert!(!budget.spend(t0 + Duration::from_secs(WINDOW - 1)));
        assert_eq!(spent(&budget, t0 + Duration::from_secs(WINDOW)), FLOOR * WINDOW);
        // And after a long silence.
        assert_eq!(spent(&budget, t0 + Duration::from_secs(1_000_003)), FLOOR * WINDOW);
    }

    #[test]
    fn counts_of_different_seconds_add_up() {
        let t0 = Instant::now();
        let budget = RetryBudget::new(t0);
        for second in 0..WINDOW {
            for _ in 0..100 {
                budget.request(t0 + Duration::from_secs(second));
            }
        }
        assert_eq!(spent(&budget, t0 + Duration::from_secs(WINDOW - 1)), 100 + FLOOR * WINDOW);
    }

    #[test]
    fn a_count_that_is_full_stays_full() {
        let t0 = Instant::now();
        let budget = RetryBudget::new(t0);
        for _ in 0..MOST + 10 {
            budget.request(t0);
        }
        assert_eq!(spent(&budget, t0), MOST / SHARE + FLOOR * WINDOW);
    }
}
