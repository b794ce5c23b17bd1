//! How many requests an endpoint has, and for how long.
//!
//! How fast an endpoint works on n requests shows in how often one of n leaves it. So the time is kept by n until the next
//! of them leaves: if its call is counted, it takes that time along; if it is not, it broke off or its client left, the time
//! is forgotten. Each time between two that leave belongs to the second, so that nothing is said of an endpoint that is
//! frozen, and nothing wrong of one whose calls can't all be counted.

use std::time::Instant;

use crate::routing::counts::{BANDS, band_of};

/// For how long an endpoint had a band's number of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passed {
    /// Seconds.
    pub seconds: f64,
    /// Those seconds times the requests, summed up: request-seconds.
    pub requests: f64,
}

/// The requests of an endpoint.
#[derive(Debug)]
pub struct Crowd {
    requests: usize,
    at: Instant,
    passed: [Passed; BANDS],
}

impl Crowd {
    /// None yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { requests: 0, at: now, passed: [Passed::default(); BANDS] }
    }

    /// Time passed. The clock of one thread may have been read before another's.
    fn pass(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        if let Some(passed) = self.passed.get_mut(band_of(self.requests)).filter(|_| self.requests > 0) {
            passed.seconds += seconds;
            #[expect(clippy::cast_precision_loss, reason = "requests of one endpoint")]
            let requests = self.requests as f64;
            passed.requests += requests * seconds;
        }
    }

    /// One more: how many there are now.
    pub fn enter(&mut self, now: Instant) -> usize {
        self.pass(now);
        self.requests += 1;
        self.requests
    }

    /// What passed, by band, since one left or this was asked: of a call that is counted, just before it leaves.
    pub fn take(&mut self, now: Instant) -> [Passed; BANDS] {
        self.pass(now);
        std::mem::take(&mut self.passed)
    }

    /// One less.
    pub fn leave(&mut self, now: Instant) {
        self.pass(now);
        self.requests = self.requests.saturating_sub(1);
        self.passed = [Passed::default(); BANDS];
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_between_two_that_leave_belongs_to_the_second() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let seen = |passed: [Passed; BANDS]| [0, 1, 2].map(|band| (passed[band].seconds, passed[band].requests));
        let mut crowd = Crowd::new(begin);
        assert_eq!(crowd.enter(at(10)), 1, "nobody was there before");
        assert_eq!([crowd.enter(at(12)), crowd.enter(at(13))], [2, 3]);
        assert_eq!(seen(crowd.take(at(17))), [(2.0, 2.0), (1.0, 2.0), (4.0, 12.0)]);
        crowd.leave(at(17));
        // One breaks off: nothing is known of the two seconds before.
        crowd.leave(at(19));
        assert_eq!(seen(crowd.take(at(22))), [(3.0, 3.0), (0.0, 0.0), (0.0, 0.0)]);
        crowd.leave(at(22));
        // Nobody is no company. A thread whose clock was read before another's.
        assert_eq!(crowd.enter(at(21)), 1);
        assert_eq!(seen(crowd.take(at(30))), [(8.0, 8.0), (0.0, 0.0), (0.0, 0.0)]);
    }
}
