//! Sums that fade: of the latest time, but never of too few.
//!
//! What is older than a time constant counts for less and less (exponential smoothing), as long as enough is left to say
//! anything at all. A workload of many requests is known by its last minutes, one of few by its last few hundred. Ratios of
//! the sums stand still while nothing comes.

/// How fast, and down to what, sums fade.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time constant, in seconds.
    pub time: f64,
    /// The first sum, which counts, fades to this at the lowest.
    pub least: f64,
}

/// Sums, the first of which counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fading<const N: usize> {
    sums: [f64; N],
    at: i64,
}

impl<const N: usize> Default for Fading<N> {
    fn default() -> Self {
        Self { sums: [0.0; N], at: i64::MIN }
    }
}

impl<const N: usize> Fading<N> {
    /// Adds what came up to a time.
    pub fn add(&mut self, more: [f64; N], now: i64, pace: Pace) {
        if more.iter().all(|amount| *amount == 0.0) {
            return;
        }
        // Also the first time, when `at` is none: what is not there does not fade.
        let passed = now.saturating_sub(self.at).max(0);
        #[expect(clippy::cast_precision_loss, reason = "seconds; years of them are exact")]
        let faded = (-(passed as f64) / pace.time).exp();
        let count = self.sums.first().copied().unwrap_or_default();
        let kept = if count * faded >= pace.least { faded } else { (pace.least / count).min(1.0) };
        for (sum, more) in self.sums.iter_mut().zip(more) {
            *sum = sum.mul_add(kept, more);
        }
        self.at = self.at.max(now);
    }

    /// Adds what was counted in a time that nobody knows: as a beginning, for no more than the least.
    pub fn begin(&mut self, whole: [f64; N], now: i64, pace: Pace) {
        let count = whole.first().copied().unwrap_or_default();
        let part = if count > pace.least { pace.least / count } else { 1.0 };
        self.add(whole.map(|sum| sum * part), now, pace);
    }

    /// The sums.
    #[must_use]
    pub const fn sums(&self) -> [f64; N] {
        self.sums
    }

    /// One sum over another; `None` over nothing.
    #[must_use]
    pub fn ratio(&self, part: usize, whole: usize) -> Option<f64> {
        let (part, whole) = (self.sums.get(part)?, self.sums.get(whole)?);
        (*whole > 0.0).then(|| part / whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { time: 300.0, least: 200.0 };

    #[test]
    fn many_are_known_by_the_last_minutes_and_few_by_the_last_few() {
        let (mut busy, mut quiet) = (Fading::default(), Fading::default());
        for second in 0..3600 {
            // A tenth fails, and from half an hour on a half.
            let ratio = if second < 1800 { 0.1 } else { 0.5 };
            busy.add([10.0, 10.0 * ratio], second, PACE);
            if second % 60 == 0 {
                quiet.add([1.0, ratio], second, PACE);
            }
        }
        let (busy, quiet) = (busy.ratio(1, 0).expect("some"), quiet.ratio(1, 0).expect("some"));
        assert!((busy - 0.5).abs() < 0.01, "{busy}");
        assert!((quiet - 0.3).abs() < 0.01, "all sixty count: {quiet}");
    }

    #[test]
    fn a_silence_changes_no_ratio_and_a_beginning_weighs_little() {
        let mut sums = Fading::default();
        assert_eq!(sums.ratio(1, 0), None);
        sums.begin([1_000_000.0, 100_000.0], 0, PACE);
        assert_eq!(sums.ratio(1, 0), Some(0.1));
        assert_eq!(sums.sums()[0], 200.0);
        sums.add([0.0, 0.0], 1_000_000, PACE);
        assert_eq!(sums.ratio(1, 0), Some(0.1));
        sums.add([200.0, 100.0], 1_000_001, PACE);
        let ratio = sums.ratio(1, 0).expect("some");
        assert!((ratio - 0.3).abs() < 1e-9, "{ratio}");
    }
}
