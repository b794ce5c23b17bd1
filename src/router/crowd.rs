//! How many requests an endpoint had while it worked on one: the mean over the time of that request, and the variance.
//!
//! What they are at its beginning and at its end says too little: a request of a batching server is slow as long as it has
//! company, and S(b) came out an eighth too fast for full replicas.

use std::time::Instant;

/// Requests that an endpoint had at a time, while it worked on one, this one included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Concurrency {
    /// Their mean over the time, at least 1.
    pub mean: f64,
    /// Their variance over the time.
    pub variance: f64,
}

/// The requests of an endpoint, and the integrals over time of their number and of its square.
#[derive(Debug)]
pub(super) struct Crowd {
    requests: f64,
    now: Moment,
}

/// The integrals at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    at: Instant,
    sum: f64,
    squares: f64,
}

impl Crowd {
    pub(super) const fn new(now: Instant) -> Self {
        Self { requests: 0.0, now: Moment { at: now, sum: 0.0, squares: 0.0 } }
    }

    /// Time passed.
    fn pass(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.now.at).as_secs_f64();
        self.now.sum += self.requests * seconds;
        self.now.squares += self.requests * self.requests * seconds;
        self.now.at = self.now.at.max(now);
    }

    /// One more.
    pub(super) fn enter(&mut self, now: Instant) -> Moment {
        self.pass(now);
        self.requests += 1.0;
        self.now
    }

    /// One less.
    pub(super) fn leave(&mut self, now: Instant) {
        self.pass(now);
        self.requests -= 1.0;
    }

    /// How many there were since a moment.
    pub(super) fn since(&mut self, then: Moment, now: Instant) -> Concurrency {
        self.pass(now);
        let seconds = self.now.at.saturating_duration_since(then.at).as_secs_f64();
        if seconds <= 0.0 {
            return Concurrency { mean: self.requests.max(1.0), variance: 0.0 };
        }
        let mean = ((self.now.sum - then.sum) / seconds).max(1.0);
        Concurrency { mean, variance: ((self.now.squares - then.squares) / seconds - mean * mean).max(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn company_counts_for_as_long_as_it_lasts() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut crowd = Crowd::new(begin);
        let first = crowd.enter(at(10));
        let alone = crowd.since(first, at(12));
        assert_eq!(alone, Concurrency { mean: 1.0, variance: 0.0 });
        // Of four seconds two alone, one with another, one with two.
        crowd.enter(at(12));
        crowd.enter(at(13));
        let all = crowd.since(first, at(14));
        assert!((all.mean - 1.75).abs() < 1e-9 && (all.variance - 0.6875).abs() < 1e-9, "{all:?}");
        crowd.leave(at(14));
        crowd.leave(at(14));
        let again = crowd.since(first, at(18));
        assert!((again.mean - 11.0 / 8.0).abs() < 1e-9, "{again:?}");
        crowd.leave(at(18));
        // A thread whose clock was read before another's.
        let late = crowd.enter(at(17));
        assert_eq!(crowd.since(late, at(17)), Concurrency { mean: 1.0, variance: 0.0 });
    }
}
