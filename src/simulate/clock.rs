//! Virtual time: events in their order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// A time or a span, in nanoseconds of virtual time since the trace began.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// A span as nanoseconds; about 584 years at most.
#[must_use]
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// So many seconds, rounded up to a nanosecond; what is no positive number is none.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
pub fn of_seconds(seconds: f64) -> Nanos {
    #[expect(clippy::cast_precision_loss, reason = "a constant that is exact")]
    let nanos = seconds * SECOND as f64;
    nanos.ceil() as Nanos
}

/// As seconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people and rates: a microsecond in a century")]
pub fn seconds(span: Nanos) -> f64 {
    span as f64 / SECOND as f64
}

/// Events that are to come. Of two at the same time the one that was scheduled first comes first, so that the same
/// schedule always gives the same history.
#[derive(Debug)]
pub struct Clock<E> {
    now: Nanos,
    scheduled: u64,
    coming: BinaryHeap<Reverse<Coming<E>>>,
}

#[derive(Debug)]
struct Coming<E> {
    at: Nanos,
    number: u64,
    event: E,
}

impl<E> Coming<E> {
    const fn key(&self) -> (Nanos, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Coming<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Coming<E> {}

impl<E> PartialOrd for Coming<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Coming<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E> Default for Clock<E> {
    fn default() -> Self {
        Self { now: 0, scheduled: 0, coming: BinaryHeap::new() }
    }
}

impl<E> Clock<E> {
    /// The time of the event that came last.
    #[must_use]
    pub const fn now(&self) -> Nanos {
        self.now
    }

    /// Events that were scheduled so far.
    #[must_use]
    pub const fn scheduled(&self) -> u64 {
        self.scheduled
    }

    /// Schedules an event. One that should have been before now comes now.
    pub fn at(&mut self, at: Nanos, event: E) {
        let coming = Coming { at: at.max(self.now), number: self.scheduled, event };
        self.scheduled += 1;
        self.coming.push(Reverse(coming));
    }

    /// The next event, whose time is now from here on.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(Coming { at, event, .. }) = self.coming.pop()?;
        self.now = at;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_their_order_and_time_never_goes_back() {
        let mut clock = Clock::default();
        for (at, event) in [(5, 'd'), (1, 'a'), (3, 'b'), (3, 'c')] {
            clock.at(at, event);
        }
        assert_eq!((clock.pop(), clock.now()), (Some('a'), 1));
        assert_eq!((clock.pop(), clock.pop(), clock.now()), (Some('b'), Some('c'), 3));
        clock.at(2, 'e');
        assert_eq!((clock.pop(), clock.now()), (Some('e'), 3));
        assert_eq!((clock.pop(), clock.pop(), clock.now()), (Some('d'), None, 5));
    }

    #[test]
    fn seconds_are_rounded_up_and_nonsense_is_nothing() {
        assert_eq!(
            (of_seconds(1.5), of_seconds(1e-10), of_seconds(-1.0), of_seconds(f64::NAN)),
            (1_500_000_000, 1, 0, 0)
        );
        assert!((seconds(2_500_000_000) - 2.5).abs() < f64::EPSILON);
    }
}
