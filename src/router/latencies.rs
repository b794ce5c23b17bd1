//! How long a step takes: a percentile of its last thousand or two of requests, in fixed memory and without a lock.
//!
//! Times are counted in buckets, eight to each doubling, so that a percentile is at most an eighth too high. When there are
//! many, all counts are halved: what is long ago fades. Cores may disagree by a request or two while that is done.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets to a doubling, and the bits of that number.
const PARTS: u64 = 8;
const BITS: u32 = 3;
/// From one millisecond to four minutes; what is longer is in the last.
const BUCKETS: usize = 136;
/// Requests before which nothing is known.
const ENOUGH: u32 = 50;
/// Requests at which all counts are halved.
const MANY: u32 = 2_000;

/// Times of one step, counted by all cores.
#[derive(Debug)]
pub struct Latencies {
    buckets: [AtomicU32; BUCKETS],
    total: AtomicU32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: [const { AtomicU32::new(0) }; BUCKETS], total: AtomicU32::new(0) }
    }
}

fn bucket(millis: u64) -> usize {
    let index = if millis < PARTS {
        millis
    } else {
        let shift = 63 - millis.leading_zeros() - BITS;
        (u64::from(shift) + 1) * PARTS + ((millis >> shift) & (PARTS - 1))
    };
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The first time that is beyond a bucket, in milliseconds.
const fn end(bucket: u64) -> u64 {
    match (bucket / PARTS, bucket % PARTS) {
        (0, part) => part + 1,
        (octave, part) => (PARTS + part + 1) << (octave - 1),
    }
}

impl Latencies {
    /// Counts a request.
    pub fn observe(&self, time: Duration) {
        self.buckets[bucket(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))].fetch_add(1, Ordering::Relaxed);
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let halve = || self.total.compare_exchange(total, total / 2, Ordering::Relaxed, Ordering::Relaxed);
        if total >= MANY && halve().is_ok() {
            for bucket in &self.buckets {
                // Never fails: every count has a half.
                let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count / 2));
            }
        }
    }

    /// The time within which so many of a hundred requests were answered; `None` while too few were seen.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let wanted = (total * u64::from(percent)).div_ceil(100);
        let mut seen = 0;
        let reaches = |(bucket, count): (u64, &u32)| {
            seen += u64::from(*count);
            (seen >= wanted).then(|| Duration::from_millis(end(bucket)))
        };
        if total < u64::from(ENOUGH) { None } else { (0..).zip(&counts).find_map(reaches) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_percentile_is_told_once_enough_were_seen() {
        let latencies = Latencies::default();
        (0..49).for_each(|_| latencies.observe(millis(10)));
        assert_eq!(latencies.percentile(95), None);
        latencies.observe(millis(1_000));
        assert_eq!(latencies.percentile(50), Some(millis(11)));
        assert_eq!(latencies.percentile(98), Some(millis(11)));
        assert_eq!(latencies.percentile(99), Some(millis(1_024)));
    }

    #[test]
    fn what_is_long_ago_fades() {
        let latencies = Latencies::default();
        (0..10_000).for_each(|_| latencies.observe(millis(1_000)));
        (0..3_000).for_each(|_| latencies.observe(millis(5)));
        assert_eq!(latencies.percentile(50), Some(millis(6)));
        (0..12_000).for_each(|_| latencies.observe(millis(5)));
        assert_eq!(latencies.percentile(99), Some(millis(6)));
    }

    proptest! {
        #[test]
        fn a_bucket_ends_at_most_an_eighth_beyond_its_times(time in 0..240_000_u64) {
            let bucket = bucket(time) as u64;
            prop_assert!(end(bucket) > time && end(bucket) <= time + time / 8 + 1, "{bucket} {}", end(bucket));
        }

        #[test]
        fn any_time_has_a_bucket(time in any::<u64>()) {
            prop_assert!(bucket(time) < BUCKETS);
        }
    }
}
