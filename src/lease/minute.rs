//! What a floor lost within the last minute: a sliding window, to the second.

use std::time::Instant;

/// Seconds that are remembered: the one that goes on, and 61 whole ones. The clock may be fast by 1 %, and ways to the
/// provider may differ.
pub(super) const SECONDS: usize = 62;

/// What was taken within the last minute, and up to two seconds more; in any unit.
#[derive(Clone, Debug)]
pub(super) struct Minute {
    begin: Instant,
    /// The second that goes on.
    second: u64,
    taken: [u64; SECONDS],
    sum: u64,
}

impl Minute {
    /// Nothing.
    pub(super) const fn new(now: Instant) -> Self {
        Self { begin: now, second: 0, taken: [0; SECONDS], sum: 0 }
    }

    /// Brings it up to a time. An earlier time than the last one changes nothing.
    pub(super) fn fill(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.begin).as_secs();
        for over in (self.second + 1..=second).take(SECONDS) {
            self.sum -= std::mem::take(&mut self.taken[place(over)]);
        }
        self.second = self.second.max(second);
    }

    /// Adds what is taken now.
    pub(super) const fn take(&mut self, amount: u64) {
        let amount = if amount > u64::MAX - self.sum { u64::MAX - self.sum } else { amount };
        self.taken[place(self.second)] += amount;
        self.sum += amount;
    }

    /// What was taken, as of the last [`fill`](Self::fill).
    pub(super) const fn taken(&self) -> u64 {
        self.sum
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder")]
const fn place(second: u64) -> usize {
    (second % SECONDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It counts all of a minute, and nothing that is older than 62 s.
        #[test]
        fn it_slides(taken in prop::collection::vec((0_u64..30_000, 0_u64..10), 1..60)) {
            let begin = Instant::now();
            let (mut minute, mut now, mut all) = (Minute::new(begin), 0, Vec::new());
            for (pause, amount) in taken {
                now += pause;
                minute.fill(begin + Duration::from_millis(now));
                minute.take(amount);
                all.push((now, amount));
                let since = |ms| -> u64 { all.iter().filter(|(at, _)| at + ms > now).map(|(_, amount)| amount).sum() };
                prop_assert!((since(61_000)..=since(62_000)).contains(&minute.taken()));
            }
        }
    }
}
