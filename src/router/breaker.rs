//! A circuit: stop asking who does not answer, and find out carefully when it does again.
//!
//! Closed until so many in a row, or a share of at least [`MIN_REQUESTS`] within a window, failed; how many, and how long
//! a window, is the tier's ([`Rules`]). Then open for a back-off that doubles with each failed probe; then half-open: one
//! request at a time is let through as the probe. Faults of the client (4xx but for 429) are no failures. Pure: the caller
//! brings the time and the randomness.

use std::time::{Duration, Instant};

use crate::api::types::Risk;
use crate::routing::table::Health;

/// Requests in a window below which the error ratio says nothing.
const MIN_REQUESTS: u32 = 10;
/// First and longest time for which one who is at its limit is left alone, where it does not say how long.
const THROTTLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A probe that never came back is given up after this time.
const PROBE_LIMIT: Duration = Duration::from_secs(120);

/// When circuits of a tier open and close. Compiled when the table is loaded.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Failures in a row that open.
    failures: u32,
    /// Share of failures in a window that opens.
    ratio: f64,
    window: Duration,
    /// First and longest time that a circuit stays open.
    backoff: (Duration, Duration),
    /// Probes in a row that close.
    probes: u32,
    latency_limit: Option<Duration>,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Self {
        let millis = Duration::from_millis;
        Self {
            failures: health.consecutive_failures.max(1),
            ratio: health.error_ratio,
            window: millis(health.window_ms),
            backoff: (millis(health.recovery_after_ms), millis(health.recovery_max_after_ms)),
            probes: health.recovery_probes,
            latency_limit: health.latency_limit_ms.map(millis),
        }
    }
}

impl Rules {
    /// Whether an answer that began after this time counts as a failure.
    #[must_use]
    pub fn is_slow(&self, began: Duration) -> bool {
        self.latency_limit.is_some_and(|most| began > most)
    }
}

/// What a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There was no answer.
    NoAnswer,
    /// There was one, too late.
    Slow,
}

/// State of one tier or endpoint.
#[derive(Debug, Default)]
pub struct Circuit {
    /// Failures in a row.
    in_row: u32,
    /// Those of them after the last answer, however late that was.
    unanswered: u32,
    window: Window,
    open_until: Option<Instant>,
    /// How long it was to stay open.
    pause: Duration,
    /// It is open for a limit, not for failures.
    limited: bool,
    probing_since: Option<Instant>,
    /// Probes in a row that succeeded.
    passed: u32,
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

    /// Until when it stays open; some time in the past while it is half-open.
    #[must_use]
    pub const fn open_until(&self) -> Option<Instant> {
        self.open_until
    }

    /// Whether the probe is left to requests of a higher risk: those of High try first, others only when none of it came.
    #[must_use]
    pub fn spares(&self, risk: Risk, now: Instant) -> bool {
        let longer = match risk {
            Risk::Low => self.pause / 5,
            Risk::Medium => self.pause / 10,
            Risk::High => Duration::ZERO,
        };
        self.open_until.is_some_and(|until| now < until + longer)
    }

    /// How much longer requests are turned away for a limit; `None` if they are not, or for failures.
    #[must_use]
    pub fn limited_for(&self, now: Instant) -> Option<Duration> {
        self.open_until.filter(|_| self.limited).map(|until| until.saturating_duration_since(now))
    }

    /// A request was answered. Only a probe's success closes an open circuit: an answer to what was sent before it
    /// opened says nothing of now, and must not end a pause that the upstream asked for.
    pub fn success(&mut self, rules: &Rules, now: Instant) {
        if self.open_until.is_none() {
            self.window.count(rules, now, false);
            (self.in_row, self.unanswered) = (0, 0);
        } else if self.probing_since.take().is_some() {
            self.passed += 1;
            if self.passed >= rules.probes {
                *self = Self::default();
            }
        }
    }

    /// A request failed for a reason that is the upstream's. `jitter` in 0..1 spreads the back-off. A row without any
    /// answer opens at once. True: its share of failures, or slow answers, say that it should open; the caller may
    /// [`eject`](Self::eject) it, or know that there would be too few left.
    #[must_use]
    pub fn failure(&mut self, rules: &Rules, fault: Fault, now: Instant, jitter: f64) -> bool {
        self.window.count(rules, now, true);
        self.in_row = self.in_row.saturating_add(1);
        self.unanswered = if fault == Fault::NoAnswer { self.unanswered.saturating_add(1) } else { 0 };
        let probe_failed = self.probing_since.take().is_some();
        if probe_failed || self.open_until.is_none() && self.unanswered >= rules.failures {
            self.eject(rules, now, jitter);
        }
        self.open_until.is_none() && (self.in_row >= rules.failures || self.window.too_many(rules, now))
    }

    /// Turn requests away for a back-off, which is longer each time. Those that were sent before it opened say nothing new:
    /// all that wait for a frozen endpoint find out together, and must not make the back-off the longest at once.
    pub fn eject(&mut self, rules: &Rules, now: Instant, jitter: f64) {
        if self.open_until.is_some_and(|until| now < until) {
            return;
        }
        let (first, longest) = rules.backoff;
        let backoff = first.saturating_mul(1 << self.openings.min(20)).min(longest);
        self.openings += 1;
        self.open(now, backoff.mul_f64(1.0 + 0.2 * jitter));
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
        self.limit(now, backoff.mul_f64(1.0 + 0.5 * jitter));
    }

    /// Turn requests away for a time after which a limit ends.
    pub fn limit(&mut self, now: Instant, pause: Duration) {
        self.open(now, pause);
        self.limited = true;
    }

    /// Turn requests away for a time, which the upstream said.
    pub fn open(&mut self, now: Instant, pause: Duration) {
        self.open_until = Some(now + pause);
        self.pause = pause;
        self.limited = false;
        self.probing_since = None;
        self.passed = 0;
        self.window = Window::default();
    }
}

/// Parts of a window that are forgotten one after the other: it slides by them.
const SLICES: usize = 10;

/// What was counted lately, in a ring of slices.
#[derive(Debug, Default)]
struct Window {
    slices: [Slice; SLICES],
    current: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    begin: Option<Instant>,
    requests: u32,
    failures: u32,
}

impl Window {
    fn count(&mut self, rules: &Rules, now: Instant, failed: bool) {
        // Slices know when they began, not their number: two tiers of one Service may have windows of their own.
        let over = |begin: Instant| now.saturating_duration_since(begin) * 10 >= rules.window;
        if self.slices[self.current].begin.is_none_or(over) {
            self.current = (self.current + 1) % SLICES;
            self.slices[self.current] = Slice { begin: Some(now), requests: 0, failures: 0 };
        }
        let slice = &mut self.slices[self.current];
        slice.requests = slice.requests.saturating_add(1);
        slice.failures = slice.failures.saturating_add(u32::from(failed));
    }

    fn too_many(&self, rules: &Rules, now: Instant) -> bool {
        let within = |begin: Instant| now.saturating_duration_since(begin) < rules.window;
        let (mut requests, mut failures) = (0_u32, 0_u32);
        for slice in self.slices.iter().filter(|slice| slice.begin.is_some_and(within)) {
            requests = requests.saturating_add(slice.requests);
            failures = failures.saturating_add(slice.failures);
        }
        // A quotient, rounded like the text that the ratio was read from: 7 of 100 are 0.07.
        requests >= MIN_REQUESTS && f64::from(failures) / f64::from(requests) >= rules.ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(1);

    fn rules(change: impl FnOnce(&mut Health)) -> Rules {
        let mut health = Health::default();
        change(&mut health);
        Rules::from(&health)
    }

    fn standard() -> Rules {
        rules(|_| ())
    }

    /// A failure that opens wherever it may.
    fn fail(circuit: &mut Circuit, rules: &Rules, now: Instant) {
        if circuit.failure(rules, Fault::NoAnswer, now, 0.0) {
            circuit.eject(rules, now, 0.0);
        }
    }

    #[test]
    fn opens_after_failures_in_a_row_and_half_opens_with_one_probe() {
        let (mut circuit, t0, rules) = (Circuit::default(), Instant::now(), standard());
        for _ in 0..5 {
            assert!(circuit.admit(t0));
            assert!(!circuit.failure(&rules, Fault::NoAnswer, t0, 0.0), "it needs nobody's leave");
        }
        assert!(!circuit.admit(t0 + 4 * T));
        let later = t0 + 6 * T;
        assert!(circuit.admit(later), "the probe");
        assert!(!circuit.admit(later), "one probe at a time");
        fail(&mut circuit, &rules, later);
        assert!(!circuit.admit(later + 9 * T), "back-off doubled");
        assert!(circuit.admit(later + 11 * T));
        circuit.success(&rules, later + 11 * T);
        assert!(circuit.admit(later) && !circuit.is_open());
    }

    #[test]
    fn all_who_find_it_frozen_at_once_are_one_failure() {
        let (mut circuit, t0, rules) = (Circuit::default(), Instant::now(), standard());
        for n in 0..100 {
            circuit.eject(&rules, t0 + n * T / 100, 0.0);
        }
        let again = t0 + 6 * T;
        assert!(circuit.admit(again), "the first back-off, not the longest");
        circuit.eject(&rules, again, 0.0);
        assert!(!circuit.admit(again + 9 * T) && circuit.admit(again + 11 * T), "the second");
    }

    #[test]
    fn half_of_a_window_is_too_many_but_the_caller_decides() {
        let (mut circuit, t0, rules) = (Circuit::default(), Instant::now(), standard());
        for n in 0..MIN_REQUESTS {
            assert!(!circuit.is_open());
            if n % 2 == 0 {
                circuit.success(&rules, t0);
            } else {
                assert_eq!(circuit.failure(&rules, Fault::NoAnswer, t0, 0.0), n + 1 == MIN_REQUESTS);
            }
        }
        assert!(!circuit.is_open());
        circuit.eject(&rules, t0, 0.0);
        assert!(circuit.is_open() && !circuit.failure(&rules, Fault::NoAnswer, t0, 0.0));
    }

    #[test]
    fn a_window_slides_so_that_failures_across_its_edge_count_together() {
        let (mut circuit, t0, rules) = (Circuit::default(), Instant::now(), standard());
        // Nine good ones, long ago; then of ten requests around the thirtieth second half fail.
        (0..9).for_each(|_| circuit.success(&rules, t0));
        let mut too_many = false;
        for second in 26..36 {
            let now = t0 + second * T;
            if second % 2 == 0 {
                circuit.success(&rules, now);
            } else {
                too_many = circuit.failure(&rules, Fault::NoAnswer, now, 0.0);
            }
        }
        assert!(too_many, "those of the first second are forgotten, and nothing since");
        assert!(!circuit.failure(&rules, Fault::NoAnswer, t0 + 100 * T, 0.0), "after a silence all is forgotten");
    }

    #[test]
    fn settings_are_the_tiers() {
        let t0 = Instant::now();
        let two = rules(|health| {
            (health.consecutive_failures, health.recovery_after_ms, health.recovery_max_after_ms) = (2, 1_000, 1_500);
        });
        let mut circuit = Circuit::default();
        fail(&mut circuit, &two, t0);
        assert!(!circuit.is_open());
        fail(&mut circuit, &two, t0);
        assert!(circuit.is_open() && circuit.admit(t0 + T));
        fail(&mut circuit, &two, t0 + T);
        assert!(!circuit.admit(t0 + 2 * T) && circuit.admit(t0 + Duration::from_millis(2_500)), "at most maxAfter");
        let few = rules(|health| {
            (health.consecutive_failures, health.error_ratio, health.window_ms) = (1_000, 0.07, 2_000);
        });
        let mut circuit = Circuit::default();
        (0..93).for_each(|_| circuit.success(&few, t0));
        for n in 1..=7 {
            assert_eq!(circuit.failure(&few, Fault::NoAnswer, t0, 0.0), n == 7, "{n}");
        }
        assert!(!circuit.failure(&few, Fault::NoAnswer, t0 + 3 * T, 0.0));
    }

    #[test]
    fn slow_answers_never_open_by_themselves() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        let rules = rules(|health| health.latency_limit_ms = Some(200));
        assert!(rules.is_slow(Duration::from_millis(201)) && !rules.is_slow(Duration::from_millis(200)));
        assert!(!standard().is_slow(1000 * T));
        let mut after = |faults: &[Fault]| {
            let asks = faults.iter().map(|fault| circuit.failure(&rules, *fault, t0, 0.0)).collect::<Vec<_>>();
            (asks.last().copied().unwrap_or_default(), circuit.is_open())
        };
        assert_eq!(after(&[Fault::Slow; 4]), (false, false));
        assert_eq!(after(&[Fault::Slow; 2]), (true, false), "the caller decides");
        // A slow one among those without an answer: somebody is there.
        assert_eq!(after(&[Fault::NoAnswer, Fault::Slow, Fault::NoAnswer]), (true, false));
        assert_eq!(after(&[Fault::NoAnswer; 3]), (true, false));
        assert_eq!(after(&[Fault::NoAnswer]), (false, true));
    }

    #[test]
    fn as_many_probes_as_the_tier_wants_close_it() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        let rules = rules(|health| health.recovery_probes = 3);
        circuit.open(t0, Duration::ZERO);
        for _ in 0..2 {
            assert!(circuit.admit(t0) && !circuit.admit(t0));
            circuit.success(&rules, t0);
            assert!(circuit.is_open());
        }
        assert!(circuit.admit(t0));
        fail(&mut circuit, &rules, t0);
        let later = t0 + 5 * T;
        assert!(!circuit.admit(t0 + 4 * T));
        for left in [2, 1, 0] {
            assert!(circuit.admit(later), "in a row, so from the beginning");
            circuit.success(&rules, later);
            assert_eq!(circuit.is_open(), left > 0);
        }
    }

    #[test]
    fn high_risk_tries_first_and_others_a_little_later() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        let spares = |circuit: &Circuit, at| [Risk::High, Risk::Medium, Risk::Low].map(|risk| circuit.spares(risk, at));
        assert_eq!(spares(&circuit, t0), [false, false, false]);
        circuit.open(t0, 10 * T);
        assert_eq!(spares(&circuit, t0 + 10 * T), [false, true, true]);
        assert_eq!(spares(&circuit, t0 + 11 * T), [false, false, true]);
        assert_eq!(spares(&circuit, t0 + 12 * T), [false, false, false]);
    }

    #[test]
    fn an_answer_from_before_it_opened_does_not_close_it() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        assert!(circuit.admit(t0));
        circuit.open(t0, 10 * T);
        circuit.success(&standard(), t0);
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
        circuit.success(&standard(), later + Duration::from_secs(2));
        circuit.throttled(later, 0.0);
        assert!(circuit.admit(later + Duration::from_secs(1)), "an answer ends it");
    }

    #[test]
    fn only_a_limit_says_when_it_ends() {
        let (mut circuit, t0, second) = (Circuit::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!(circuit.limited_for(t0), None);
        circuit.limit(t0, 9 * second);
        assert_eq!(circuit.limited_for(t0 + second), Some(8 * second));
        circuit.open(t0, 9 * second);
        assert_eq!(circuit.limited_for(t0), None, "failures say nothing of when they end");
        circuit.limit(t0, Duration::ZERO);
        assert!(circuit.admit(t0), "the probe");
        circuit.success(&standard(), t0);
        assert_eq!(circuit.limited_for(t0), None);
    }

    #[test]
    fn a_probe_whose_client_left_frees_its_place() {
        let (mut circuit, t0) = (Circuit::default(), Instant::now());
        circuit.open(t0, Duration::ZERO);
        assert!(circuit.admit(t0));
        circuit.release();
        assert!(circuit.admit(t0));
    }
}
