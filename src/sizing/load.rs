//! Requests that come to a pool, with what they ask of it.

use super::input::{Offered, Service, Takes, Variation};
use super::wait::Speed;

/// The largest number that is reckoned with: of requests, tokens or seconds.
const MOST: f64 = 1e9;

/// The least that a request takes, in seconds.
const LEAST: f64 = 1e-6;

/// A number from 0 to [`MOST`].
pub(super) fn number(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, MOST) }
}

/// A number from 0 to 1.
pub(super) fn share(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

/// Requests of one workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    /// Requests a second.
    pub rate: f64,
    /// Index of dispersion.
    pub dispersion: f64,
    /// Time over which the rate was measured. 0: exact.
    pub window: f64,
    /// What each takes.
    pub takes: Takes,
}

impl Part {
    /// `rate` of the requests that are offered. A random part p of a stream has the dispersion 1 + p (I - 1); where each
    /// makes several at once, they come together.
    pub fn of(offered: &Offered, rate: f64, takes: Takes) -> Self {
        let whole = number(offered.rate);
        let part = if whole > 0.0 { rate / whole } else { 0.0 };
        let index = number(offered.dispersion);
        let dispersion = if part <= 1.0 { 1.0 + part * (index - 1.0) } else { part * index };
        Self { rate, dispersion, window: number(offered.window), takes }
    }

    /// A random part of it.
    pub fn thinned(&self, part: f64) -> Self {
        Self { rate: self.rate * part, dispersion: 1.0 + part * (self.dispersion - 1.0), ..*self }
    }
}

/// All requests that come to a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    pub parts: Vec<Part>,
}

impl Load {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        // A sum of nothing is -0.
        self.parts.iter().map(|part| part.rate).sum::<f64>() + 0.0
    }

    /// How far the count of a second varies: variances of streams that know nothing of each other add up.
    fn variance(&self) -> f64 {
        self.parts.iter().map(|part| part.rate * part.dispersion).sum()
    }

    /// Standard deviation of the mean rate over `seconds`.
    pub fn deviation(&self, seconds: f64) -> f64 {
        (self.variance() / seconds).sqrt()
    }

    /// Standard error of the rate, by how long it was measured.
    pub fn error(&self) -> f64 {
        let measured = self.parts.iter().filter(|part| part.window > 0.0);
        measured.map(|part| part.rate * part.dispersion / part.window).sum::<f64>().sqrt()
    }

    /// How fast a replica of `slots` slots serves this mixture.
    pub fn speed(&self, service: &Service, slots: f64) -> Speed {
        let (fixed, growing) = match *service {
            Service::Constant { seconds } => (number(seconds), 0.0),
            Service::Batching { alpha, beta, gamma } => {
                let input = self.mean(|part| number(part.takes.input_tokens));
                let output = self.mean(|part| number(part.takes.output_tokens));
                let alpha = number(alpha) - number(-alpha);
                (number(gamma) * input + alpha * output, number(beta) * output)
            }
        };
        if fixed >= LEAST {
            return Speed { fixed, growing, slots };
        }
        // It gets less done with company than alone: taken for one that always gets as much done as with its slots full, where
        // the waits are made. And a request takes some time, whatever was measured.
        Speed { fixed: LEAST, growing: (fixed + growing * slots).max(0.0) / slots, slots }
    }

    /// Squared coefficient of variation of the work of all: within workloads, and between them.
    ///
    /// Work that could not be told apart into input and output is not taken to vary less than exponentially.
    pub fn variation(&self, service: &Service, slots: f64) -> f64 {
        let alone = |part: &Part| Self { parts: vec![*part] };
        let seconds = |part: &Part| alone(part).speed(service, slots).seconds(slots);
        let variance = |part: &Part| {
            let Variation { output, input, together } = part.takes.variation;
            let (output, input) = (number(output), number(input));
            let together = number(together).min((output * input).sqrt());
            match *service {
                Service::Constant { .. } => seconds(part).powi(2) * output.max(1.0),
                Service::Batching { gamma, .. } => {
                    let reading = number(gamma) * number(part.takes.input_tokens);
                    let writing = (seconds(part) - reading).max(0.0);
                    (reading.powi(2) * input) + (writing.powi(2) * output) + 2.0 * reading * writing * together
                }
            }
        };
        let mean = self.mean(seconds);
        let square = self.mean(|part| seconds(part).powi(2) + variance(part));
        if mean > 0.0 { square / (mean * mean) - 1.0 } else { 1.0 }
    }

    fn mean(&self, of: impl Fn(&Part) -> f64) -> f64 {
        let rate = self.rate();
        if rate > 0.0 { self.parts.iter().map(|part| part.rate * of(part)).sum::<f64>() / rate } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rate: f64, output_tokens: f64, variation: f64) -> Part {
        let takes =
            Takes { input_tokens: 100.0, output_tokens, variation: Variation::of_output(variation), seconds: 0.0 };
        Part { rate, dispersion: 1.0, window: 100.0, takes }
    }

    #[test]
    fn a_mixture_has_the_mean_and_the_variance_of_its_parts() {
        let service = Service::Batching { alpha: 0.02, beta: 0.001, gamma: 0.0005 };
        let load = Load { parts: vec![part(3.0, 50.0, 0.0), part(1.0, 450.0, 0.0)] };
        let speed = load.speed(&service, 4.0);
        // 150 tokens in the mean: 0.05 of prefill, 150 steps of 0.02 + 0.001 b.
        assert!((speed.fixed - 3.05).abs() < 1e-9 && (speed.growing - 0.15).abs() < 1e-9, "{speed:?}");
        // 1.25 s three times of four, 10.85 s once; of each 0.05 s as if they varied exponentially, the output not at all.
        let mean: f64 = 0.75 * 1.25 + 0.25 * 10.85;
        let of = |all: f64| all.powi(2) + 0.05_f64.powi(2);
        let square = 0.75 * of(1.25) + 0.25 * of(10.85);
        assert!((load.variation(&service, 4.0) - (square / mean / mean - 1.0)).abs() < 1e-9);
    }

    #[test]
    fn a_replica_that_gets_less_done_with_company_is_taken_for_one_that_always_gets_as_much_done() {
        let load = Load { parts: vec![part(1.0, 10.0, 1.0)] };
        // A step takes 4 ms alone, 28 with three others.
        let speed = |alpha, beta| load.speed(&Service::Batching { alpha, beta, gamma: 0.0 }, 4.0);
        assert!((speed(-0.004, 0.008).seconds(4.0) - 0.28).abs() < 1e-4, "full replicas are as slow as they are");
        assert!((speed(-0.004, 0.008).seconds(1.0) - 0.07).abs() < 1e-4);
        assert!(speed(-0.04, 0.008).seconds(4.0) > 0.0);
        assert_eq!(speed(f64::NEG_INFINITY, f64::NAN).growing, 0.0);
    }

    #[test]
    fn input_and_output_vary_apart_or_in_step() {
        let service = Service::Batching { alpha: 0.02, beta: 0.0, gamma: 0.01 };
        let of = |output, input, together| {
            let mut part = part(1.0, 150.0, 0.0);
            part.takes.variation = Variation { output, input, together };
            Load { parts: vec![part] }.variation(&service, 1.0)
        };
        // A second of reading, three of writing.
        assert!((of(0.0, 0.0, 0.0)).abs() < 1e-9);
        assert!((of(1.0, 1.0, 1.0) - 1.0).abs() < 1e-9, "what is unknown is exponential");
        assert!((of(2.0, 0.5, 0.0) - (9.0 * 2.0 + 0.5) / 16.0).abs() < 1e-9);
        assert!((of(2.0, 0.5, 0.3) - (9.0 * 2.0 + 0.5 + 6.0 * 0.3) / 16.0).abs() < 1e-9);
        // In step no further than both vary, and never against each other.
        assert!((of(1.0, 0.25, 9.0) - (3.0_f64 + 0.5).powi(2) / 16.0).abs() < 1e-9);
        assert!((of(1.0, 0.0, 1.0) - 9.0 / 16.0).abs() < 1e-9 && of(1.0, 1.0, -1.0) == of(1.0, 1.0, 0.0));
        // Nobody knows of what the time comes.
        let part = part(1.0, 150.0, 0.25);
        let of = |output| {
            let takes = Takes { variation: Variation::of_output(output), ..part.takes };
            Load { parts: vec![Part { takes, ..part }] }.variation(&Service::Constant { seconds: 2.0 }, 1.0)
        };
        assert!((of(0.25) - 1.0).abs() < 1e-9 && (of(4.0) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn streams_that_are_thinned_come_closer_to_poisson() {
        let offered = Offered { rate: 10.0, dispersion: 5.0, window: 300.0 };
        let of = |rate| Part::of(&offered, rate, Takes::default()).dispersion;
        assert!((of(10.0) - 5.0).abs() < 1e-9 && (of(1.0) - 1.4).abs() < 1e-9 && (of(20.0) - 10.0).abs() < 1e-9);
        let load = Load { parts: vec![part(9.0, 1.0, 1.0)] };
        assert!((load.error() - 0.3).abs() < 1e-9 && (load.deviation(36.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn nonsense_counts_as_the_nearest_sense() {
        assert!(number(f64::NAN) == 0.0 && number(-1.0) == 0.0 && number(f64::INFINITY) == MOST);
        assert!(share(f64::NAN) == 0.0 && share(7.0) == 1.0);
    }
}
