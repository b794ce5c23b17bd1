//! A circuit: stop asking who does not answer, and find out carefully when it does again.
//!
//! Closed until `FAILURES` in a row, or half of at least `MIN_REQUESTS` within a window, failed. Then open for a back-off
//! that doubles with each failed probe; then half-open: one request at a time is let through as the probe. Faults of the
//! client (4xx but for 429) are no failures. Pure: the caller brings the time and the randomness.

use std::time::{Duration, Instant};

/// Failures in a row that open the circuit.
const FAILURES: u32 = 5;
/// Requests in a window below which the error ratio says nothing.
const MIN_REQUESTS: u32 = 10;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(30);
/// First and longest time that the circuit stays open.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// First and longest time for which one who is at its limit is left alone, where it does not say how long.
const THROTTLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A probe that never came back is given up after this time.
const PROBE_LIMIT: Duration = Duration::from_secs(120);

/// State of one tier or endpoint.
#[derive(Debug, Default)]
pub struct Circuit {
    in_row: u32,
    window: Option<Instant>,
    requests: u32,
    failures: u32,
    open_until: Option<Instant>,
    probing_since: Option<Instant>,
    openings: u32,
}

/// A back-off's randomness, 0 to 1: those that failed together must not try again together.
pub fn jitter(random: impl Fn(usize) -> usize) -> f64 {
    f64::from(u32::try_from(random(1000)).unwrap_or(0)) / 1000.0
}

impl Circuit {
    /// Whether a request would go through now.
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        let probing = self.probing_since.is_some_and(|since| now.duration_since(since) < PROBE_LIMIT);
        self.open_until.is_none_or(|until| now >= until && !probing)
    }

    /// Whether a request may go through now. In the half-open state this takes the place of the probe.
    pub fn admit(&mut self, now: Instant) -> bool {
        let admits = self.would_admit(now);
        if admits && self.open_until.is_some() {
            self.probing_since = Some(now);
        }
        admits
    }

    /// Whether requests are being turned away.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// A request was answered. Only a probe's success closes an open circuit: an answer to what was sent before it
    /// opened says nothing of now, and must not end a pause that the upstream asked for.
    pub fn success(&mut self, now: Instant) {
        if self.open_until.is_none() {
            self.count(now, false);
            self.in_row = 0;
        } else if self.probing_since.is_some() {
            *self = Self::default();
        }
    }

    /// A request failed for a reason that is the upstream's. `jitter` in 0..1 spreads the back-off.
    pub fn failure(&mut self, now: Instant, jitter: f64) {
        self.count(now, true);
        self.in_row += 1;
        let half = self.requests >= MIN_REQUESTS && self.failures * 2 >= self.requests;
        let probe_failed = self.probing_since.take().is_some();
        if probe_failed || self.open_until.is_none() && (self.in_row >= FAILURES || half) {
            let backoff = BACKOFF.0.saturating_mul(1 << self.openings.min(5)).min(BACKOFF.1);
            self.openings += 1;
            self.open(now + backoff.mul_f64(1.0 + 0.2 * jitter));
        }
    }

    /// The request ended without saying anything of the upstream (the client left): a probe's place is free again.
    pub fn release(&mut self) {
        self.probing_since = None;
    }

    /// A request was turned away for a limit, without a word of how long it lasts. That is no fault: a back-off of its
    /// own, which doubles while the limit lasts. `jitter` in 0..1 spreads it.
    pub fn throttled(&mut self, now: Instant, jitter: f64) {
        // What was sent before it opened says nothing new.
        if self.open_until.is_some() && self.probing_since.is_none() {
            return;
        }
        let backoff = THROTTLE.0.saturating_mul(1 << self.openings.min(6)).min(THROTTLE.1);
        self.openings += 1;
        self.open(now + backoff.mul_f64(1.0 + 0.5 * jitter));
    }

    /// Turn requests away until a time, which the upstream said.
    pub fn open(&mut self, until: Instant) {
        self.open_until = Some(until);
        self.probing_since = None;
        (self.requests, self.failures) = (0, 0);
    }

    fn count(&mut self, now: Instant, failed: bool) {
        if self.window.is_none_or(|start| now.duration_since(start) > WINDOW) {
            self.window = Some(now);
            (self.requests, self.failures) = (0, 0);
        }
        self.requests += 1;
        self.failures += u32::from(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_half_opens_with_one_probe() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(circuit.admit(t0));
            circuit.failure(t0, 0.0);
        }
        assert!(!circuit.admit(t0 + Duration::from_secs(4)));
        let later = t0 + Duration::from_secs(6);
        assert!(circuit.admit(later), "the probe");
        assert!(!circuit.admit(later), "one probe at a time");
        circuit.failure(later, 0.0);
        assert!(!circuit.admit(later + Duration::from_secs(9)), "back-off doubled");
        assert!(circuit.admit(later + Duration::from_secs(11)));
        circuit.success(later + Duration::from_secs(11));
        assert!(circuit.admit(later) && !circuit.is_open());
    }

    #[test]
    fn opens_at_half_of_a_window() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        for n in 0..MIN_REQUESTS {
            if n % 2 == 0 { circuit.success(t0) } else { circuit.failure(t0, 0.0) }
        }
        assert!(circuit.is_open());
    }

    #[test]
    fn an_answer_from_before_it_opened_does_not_close_it() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        assert!(circuit.admit(t0));
        circuit.open(t0 + Duration::from_secs(10));
        circuit.success(t0);
        assert!(!circuit.admit(t0 + Duration::from_secs(9)));
        assert!(circuit.admit(t0 + Duration::from_secs(10)));
    }

    #[test]
    fn a_limit_without_a_word_is_backed_off_from_longer_each_time() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        assert!(circuit.admit(t0));
        circuit.throttled(t0, 1.0);
        circuit.throttled(t0, 1.0);
        assert!(
            !circuit.admit(t0 + Duration::from_millis(1400)),
            "what was in flight does not make it longer or shorter"
        );
        let later = t0 + Duration::from_millis(1500);
        assert!(circuit.admit(later), "the probe");
        circuit.throttled(later, 0.0);
        assert!(!circuit.admit(later + Duration::from_millis(1900)));
        assert!(circuit.admit(later + Duration::from_secs(2)));
        circuit.success(later + Duration::from_secs(2));
        circuit.throttled(later, 0.0);
        assert!(circuit.admit(later + Duration::from_secs(1)), "an answer ends it");
    }

    #[test]
    fn a_probe_whose_client_left_frees_its_place() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        circuit.open(t0);
        assert!(circuit.admit(t0));
        circuit.release();
        assert!(circuit.admit(t0));
    }
}
