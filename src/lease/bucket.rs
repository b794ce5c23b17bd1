//! A token bucket: what may be taken now, and how fast it fills again.
//!
//! It holds one minute's amount and fills evenly, as the limits of model providers do. So in any time `t` at most
//! `limit + limit * t / 1 min` is taken: the limit at once, and the limit a minute from then on. Amounts are exact:
//! nothing is rounded, however small the limit or the time. Pure: the caller brings the time.

use std::time::{Duration, Instant};

/// Levels are in 1e-9 of what is counted, times nanoseconds of a minute: a rate in 1e-9 a minute is then a whole number
/// of levels a nanosecond.
const NANO: i128 = 1_000_000_000;
const MINUTE: i128 = 60 * NANO;
pub(super) const ONE: i128 = MINUTE * NANO;
/// A thousandth of one.
pub(super) const MILLI: i128 = ONE / 1_000;

pub(super) fn levels(amount: u64) -> i128 {
    i128::from(amount).saturating_mul(ONE)
}

/// The whole ones of a level.
pub(super) const fn whole(level: i128) -> i128 {
    level / ONE * ONE
}

/// Time in which the emptiest bucket fills.
const FILLS: Duration = Duration::from_secs(120);

/// A bucket of requests or tokens.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// What it gains, in levels a nanosecond.
    rate: i128,
    /// What it gains in a minute, or less.
    capacity: i128,
    level: i128,
    at: Instant,
}

impl Bucket {
    /// A full bucket of so many a minute.
    #[must_use]
    pub fn new(per_minute: u64, now: Instant) -> Self {
        Self::part_of(per_minute, per_minute, 1_000_000_000, now)
    }

    /// A full bucket that gains a part, in 1e-9, of so many a minute, and holds that part of so many.
    #[must_use]
    pub fn part_of(per_minute: u64, holds: u64, nanos: u64, now: Instant) -> Self {
        let part = |of: u64| i128::from(of) * i128::from(nanos.min(1_000_000_000));
        Self { rate: part(per_minute), capacity: part(holds) * MINUTE, level: part(holds) * MINUTE, at: now }
    }

    /// An empty bucket of so many, which it gains in so many seconds.
    pub(super) fn empty(holds: u64, seconds: u64, now: Instant) -> Self {
        let mut empty = Self { level: 0, ..Self::new(0, now) };
        empty.resize(holds, seconds);
        empty
    }

    /// Holds so many from now on, which it gains in so many seconds, and no more than it did.
    pub(super) fn resize(&mut self, holds: u64, seconds: u64) {
        self.capacity = levels(holds);
        let nanos = i128::from(seconds.max(1)) * NANO;
        self.rate = (self.capacity + nanos - 1) / nanos;
        self.level = self.level.min(self.capacity);
    }

    pub(super) const fn capacity(&self) -> i128 {
        self.capacity
    }

    /// Brings the level up to a time. An earlier time than the last one changes nothing.
    pub fn fill(&mut self, now: Instant) {
        self.fill_over(now);
    }

    /// As [`fill`](Self::fill); returns what ran over, in its own unit: what it gains in two minutes at most.
    pub(super) fn fill_over(&mut self, now: Instant) -> i128 {
        let elapsed = now.saturating_duration_since(self.at).min(FILLS);
        self.at = self.at.max(now);
        let full = self.level + self.rate * i128::try_from(elapsed.as_nanos()).unwrap_or_default();
        self.level = full.min(self.capacity());
        full - self.level
    }

    /// What it would take before it is full; rounded down.
    pub(super) fn room(&self) -> u64 {
        u64::try_from((self.capacity() - self.level).max(0) / ONE).unwrap_or(u64::MAX)
    }

    /// What can be taken now, as of the last [`fill`](Self::fill); rounded down.
    #[must_use]
    pub fn left(&self) -> u64 {
        u64::try_from(self.level.max(0) / ONE).unwrap_or(u64::MAX)
    }

    /// Time until so much can be taken: zero if now; `None` if the bucket never holds as much.
    #[must_use]
    pub fn wait(&self, amount: u64) -> Option<Duration> {
        self.wait_beside(amount, 0)
    }

    /// Time until so much can be taken and so much is left (a sum of [`level`](Self::level)s of parts of this bucket).
    #[must_use]
    pub fn wait_beside(&self, amount: u64, left: i128) -> Option<Duration> {
        let wanted = levels(amount).saturating_add(left);
        if wanted > self.capacity() { None } else { self.until(wanted) }
    }

    /// What it holds, in its own unit.
    #[must_use]
    pub fn level(&self) -> i128 {
        self.level.max(0)
    }

    /// Time until the bucket is full.
    #[must_use]
    pub fn until_full(&self) -> Duration {
        self.until(self.capacity()).unwrap_or_default()
    }

    fn until(&self, level: i128) -> Option<Duration> {
        let missing = level - self.level;
        if missing <= 0 {
            return Some(Duration::ZERO);
        }
        let nanos = missing.checked_add(self.rate - 1)?.checked_div(self.rate)?;
        u64::try_from(nanos).ok().map(Duration::from_nanos)
    }

    /// Loses what it holds above what it gains in so long.
    pub(super) fn spill(&mut self, time: Duration) {
        let most = i128::try_from(time.as_nanos()).map_or(self.capacity, |nanos| self.rate * nanos);
        self.level = self.level.min(most);
    }

    /// Takes so much, in its own unit.
    pub(super) const fn draw(&mut self, level: i128) {
        self.level -= level;
    }

    /// Takes an amount, whether it is there or not. The debt is never greater than a minute's amount: what a tier says it
    /// used must not lock anybody out for longer.
    pub fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(levels(amount)).max(-self.capacity());
    }

    /// Puts an amount back.
    pub fn put(&mut self, amount: u64) {
        self.level = self.level.saturating_add(levels(amount)).min(self.capacity());
    }
}

/// Corrects what was reserved to what was used.
pub fn settle(bucket: &mut Bucket, reserved: u64, used: u64) {
    if used > reserved {
        bucket.take(used - reserved);
    } else {
        bucket.put(reserved - used);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holds_a_minute_and_fills_evenly() {
        let t0 = Instant::now();
        let mut bucket = Bucket::new(6, t0);
        for _ in 0..6 {
            assert_eq!(bucket.wait(1), Some(Duration::ZERO));
            bucket.take(1);
        }
        assert_eq!((bucket.wait(1), bucket.left()), (Some(Duration::from_secs(10)), 0));
        bucket.fill(t0 + Duration::from_nanos(9_999_999_999));
        assert_eq!(bucket.wait(1), Some(Duration::from_nanos(1)));
        bucket.fill(t0 + Duration::from_secs(10));
        assert_eq!((bucket.wait(1), bucket.left()), (Some(Duration::ZERO), 1));
        assert_eq!(bucket.wait(7), None, "never");
        assert_eq!(bucket.until_full(), Duration::from_secs(50));
    }

    #[test]
    fn what_was_used_beyond_the_reservation_is_paid_back_within_two_minutes() {
        let t0 = Instant::now();
        let mut bucket = Bucket::new(1_000_000_000_000, t0);
        bucket.take(10);
        settle(&mut bucket, 10, u64::MAX);
        assert_eq!(bucket.left(), 0);
        bucket.fill(t0 + FILLS);
        assert_eq!(bucket.left(), 1_000_000_000_000);
        settle(&mut bucket, 500, 0);
        assert_eq!(bucket.left(), 1_000_000_000_000, "never more than it holds");
    }

    proptest! {
        /// Over any window, whatever is asked when: no more than the bucket and what it gains meanwhile.
        #[test]
        fn no_window_takes_more_than_the_limit(
            limit in 1_u64..5_000,
            asked in prop::collection::vec((0_u64..20_000_000_000, 1_u64..2_000, 0_u64..100), 1..200),
        ) {
            let t0 = Instant::now();
            let (mut bucket, mut now) = (Bucket::new(limit, t0), Duration::ZERO);
            let mut taken: Vec<(Duration, u64)> = Vec::new();
            for (pause, amount, given_back) in asked {
                now += Duration::from_nanos(pause);
                bucket.fill(t0 + now);
                if bucket.wait(amount) == Some(Duration::ZERO) {
                    bucket.take(amount);
                    let used = amount - amount * given_back / 100;
                    settle(&mut bucket, amount, used);
                    taken.push((now, used));
                }
            }
            for (first, (begin, _)) in taken.iter().enumerate() {
                let mut sum: i128 = 0;
                for (end, amount) in &taken[first..] {
                    sum += i128::from(*amount);
                    let window = i128::try_from((*end - *begin).as_nanos()).unwrap();
                    prop_assert!(sum * MINUTE <= i128::from(limit) * (MINUTE + window));
                }
            }
        }

        /// The wait that is told is the wait that is needed: after it the amount is there, just before it is not.
        #[test]
        fn the_wait_is_exact(limit in 1_u64..10_000, taken in 1_u64..20_000, wanted in 1_u64..10_000) {
            let t0 = Instant::now();
            let mut bucket = Bucket::new(limit, t0);
            bucket.take(taken);
            let Some(wait) = bucket.wait(wanted) else { return Ok(()) };
            let mut early = bucket.clone();
            bucket.fill(t0 + wait);
            prop_assert_eq!(bucket.wait(wanted), Some(Duration::ZERO));
            if let Some(before) = wait.checked_sub(Duration::from_nanos(1)) {
                early.fill(t0 + before);
                prop_assert_eq!(early.wait(wanted), Some(Duration::from_nanos(1)));
            }
        }
    }
}
