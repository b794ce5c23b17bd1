//! When requests came: their rate, and how much burstier than chance they are.

use std::collections::BTreeMap;

use super::meter::Span;
use super::mix::float;
use crate::sizing::input::Offered;

/// Seconds that are counted together.
pub const SLOT: i64 = 10;
/// Seconds over which a rate is measured.
pub const WINDOW: i64 = 300;
/// Seconds that are remembered: over these bursts are measured.
const HORIZON: i64 = 3600;
/// Seconds within which a rise counts.
const LATELY: i64 = 6 * SLOT;
/// Standard deviations by which a rise must exceed what chance explains: once in some hundred looks chance does.
const CERTAIN: f64 = 3.0;
/// Pairs of windows below which bursts are not measured.
const PAIRS: usize = 8;

/// Requests by the number of their slot since the epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrivals {
    slots: BTreeMap<i64, u64>,
    /// The first slot that was looked at.
    since: Option<i64>,
}

impl Arrivals {
    /// From what was written down.
    #[must_use]
    pub fn restore(slots: BTreeMap<i64, u64>) -> Self {
        Self { since: slots.keys().next().copied(), slots }
    }

    /// What is to be written down: as much as a rate needs.
    #[must_use]
    pub fn to_store(&self, now: i64) -> BTreeMap<i64, u64> {
        let first = (now - WINDOW).div_euclid(SLOT);
        self.slots.range(first..).map(|(slot, count)| (*slot, *count)).collect()
    }

    /// Adds requests that came in a time: evenly, as nobody knows better.
    pub fn add(&mut self, count: u64, span: Span) {
        let last = span.to.div_euclid(SLOT);
        let oldest = last - HORIZON / SLOT + 1;
        let first = span.from.div_euclid(SLOT);
        self.since = Some(self.since.map_or(first, |since| since.min(first)).max(oldest));
        if count == 0 {
            return;
        }
        // Seconds of the time, and those of them up to the end of a slot.
        let upto = |slot: i64| u64::try_from(((slot + 1) * SLOT).min(span.to + 1) - span.from).unwrap_or_default();
        let all = upto(last).max(1);
        let part =
            |passed: u64| u64::try_from(u128::from(count) * u128::from(passed) / u128::from(all)).unwrap_or(u64::MAX);
        for slot in first.max(oldest)..=last {
            let before = if slot == first { 0 } else { upto(slot - 1) };
            let sum = self.slots.entry(slot).or_default();
            *sum = sum.saturating_add(part(upto(slot)) - part(before));
        }
        self.slots.retain(|slot, count| *slot >= oldest && *count > 0);
    }

    /// Requests and seconds of so many seconds up to now, as far as it was looked.
    fn counted(&self, seconds: i64, now: i64) -> (f64, f64) {
        let Some(since) = self.since else { return (0.0, 0.0) };
        let last = now.div_euclid(SLOT);
        let first = (now - seconds).div_euclid(SLOT) + 1;
        let first = first.max(since.min(last));
        let count = self.slots.range(first..=last).fold(0, |sum: u64, (_, count)| sum.saturating_add(*count));
        // The slot of now has only begun.
        let time = (now + 1 - first * SLOT).max(1);
        (float(count), float(u64::try_from(time).unwrap_or(1)))
    }

    /// Requests a second in the last five minutes.
    #[must_use]
    pub fn rate(&self, now: i64) -> f64 {
        let (count, time) = self.counted(WINDOW, now);
        // Less than a slot says nothing of how long there will be so many.
        if time > 0.0 { count / time.max(SLOT as f64) } else { 0.0 }
    }

    /// Requests a second in the last five minutes; less where it was not looked for so long.
    #[must_use]
    pub fn sustained(&self, now: i64) -> f64 {
        let (count, time) = self.counted(WINDOW, now);
        count / time.max((WINDOW - SLOT) as f64)
    }

    /// What is offered now. The rate is that of five minutes, but a rise that chance does not explain counts at once, as
    /// far as it is certain.
    #[must_use]
    pub fn offered(&self, start: f64, now: i64) -> Offered {
        let dispersion = self.dispersion(start, now);
        let (_, window) = self.counted(WINDOW, now);
        // By how bursty they were before: a rise is no burst of its own.
        let before = self.dispersion(start, now - LATELY);
        let risen = [SLOT, 3 * SLOT, LATELY].map(|seconds| {
            let (count, time) = self.counted(seconds, now);
            let certain = CERTAIN.mul_add(-(before * count).sqrt(), count);
            certain / time.max(SLOT as f64)
        });
        let rate = risen.into_iter().fold(self.rate(now), f64::max);
        Offered { rate, dispersion, window }
    }

    /// Index of dispersion of counts over a time: their variance over their mean, 1 for arrivals by chance (Poisson). The
    /// variance is that of Allan, half the mean square of the differences between neighbours, so that a rate which changes
    /// slowly is no burst. Never below 1: who waits for answers before asking again comes evenly only while there is room.
    fn dispersion(&self, start: f64, now: i64) -> f64 {
        let Some(since) = self.since else { return 1.0 };
        #[expect(clippy::cast_possible_truncation, reason = "clamped to an hour")]
        let seconds = start.clamp(1.0, HORIZON as f64) as i64;
        let width = (seconds + SLOT - 1) / SLOT;
        // The slot of now has only begun.
        let end = now.div_euclid(SLOT);
        let slots: Vec<u64> = (since..end).map(|slot| self.slots.get(&slot).copied().unwrap_or_default()).collect();
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        if slots.len() / width < PAIRS {
            return 1.0;
        }
        // Windows at every slot, each against the one that follows it.
        let counts: Vec<f64> = slots.windows(width).map(|window| float(window.iter().sum())).collect();
        let pairs = || counts.iter().zip(counts.iter().skip(width));
        let number = float(pairs().count() as u64);
        let squares: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let mean = counts.iter().sum::<f64>() / float(counts.len() as u64);
        if mean > 0.0 { (squares / (2.0 * number) / mean).max(1.0) } else { 1.0 }
    }
}
