//! The fewest slots that meet a wait target.

use super::input::Service;
use super::load::{Load, number, share};
use super::wait::Chain;

/// Standard deviations above its mean that demand is met at: exceeded in one start time of twenty.
const BURST: f64 = 1.645;

/// Slots that no pool has: a thousand replicas have four million at most. What needs more is not reckoned to the slot.
const UNREAL: f64 = 1e8;

/// A wait that nobody has, in seconds: 30 years.
const LONGEST: f64 = 1e9;

/// What a pool can do and must do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Target {
    /// Time that a request takes.
    pub service: Service,
    /// Slots of a replica (k).
    pub concurrency: f64,
    /// Longest wait, in seconds,
    pub within: f64,
    /// for all but this part of the requests.
    pub late: f64,
}

impl Target {
    /// A percentile of 1 can't be met by any number of slots; nine nines can.
    pub fn new(service: Service, concurrency: u32, within: f64, percentile: f64) -> Self {
        let late = (1.0 - share(percentile)).max(1e-9);
        Self { service, concurrency: f64::from(concurrency.max(1)), within: number(within), late }
    }

    /// A pool of so many slots, with requests that are mixed as in `load`.
    fn chain(&self, load: &Load, lambda: f64, slots: f64) -> Chain {
        let speed = load.speed(&self.service, self.concurrency);
        Chain { speed, lambda, slots, variation: load.variation(&self.service, self.concurrency) }
    }

    /// The smallest whole number of slots, at least one more than `lambda` requests a second keep busy, at which no more
    /// requests than allowed wait longer than allowed. The requests are mixed as in `load`. 0 for no requests.
    pub fn slots(&self, load: &Load, lambda: f64) -> f64 {
        if lambda <= 0.0 {
            return 0.0;
        }
        let chain = self.chain(load, lambda, 0.0);
        let meets = |slots| Chain { slots, ..chain }.waits(self.within) <= self.late;
        let least = (chain.speed.busy(lambda) + 1.0).ceil();
        if least > UNREAL || meets(least) {
            return least;
        }
        // About so many more by the rule of the square root; then doubled until they are enough.
        let (mut few, mut step) = (least, (2.0 * least.sqrt()).ceil());
        while !meets(few + step) {
            few += step;
            step *= 2.0;
        }
        let mut enough = few + step;
        while enough - few > 1.0 {
            let middle = f64::midpoint(few, enough).floor();
            if meets(middle) { enough = middle } else { few = middle }
        }
        enough
    }

    /// The highest rate that so many slots carry as promised, of requests that are mixed as in `load`.
    pub fn carries(&self, load: &Load, slots: f64) -> f64 {
        let chain = self.chain(load, 0.0, slots);
        let most = (slots - 1.0).max(0.0) / chain.speed.busy(1.0);
        greatest(|part| Chain { lambda: most * part, ..chain }.waits(self.within) <= self.late) * most
    }

    /// The time, in seconds, within which all but the part that may be late find one of so many slots, with `lambda`
    /// requests a second. Infinite: more come than are served.
    pub fn wait(&self, load: &Load, lambda: f64, slots: f64) -> f64 {
        let chain = self.chain(load, lambda, slots);
        let meets = |seconds: f64| chain.waits(seconds) <= self.late;
        if meets(0.0) {
            return 0.0;
        }
        // Doubled until it is enough: from a thousandth of a request's time to longer than anybody waits.
        let mut high = chain.speed.seconds(chain.speed.slots) / 1024.0;
        while !meets(high) {
            high *= 2.0;
            if high > LONGEST {
                return f64::INFINITY;
            }
        }
        greatest(|part| !meets(part * high)) * high
    }

    /// Replicas for so many slots: divided once, at the end.
    pub fn replicas(&self, slots: f64) -> u32 {
        let replicas = (slots / self.concurrency).ceil();
        // Kubernetes knows no more.
        if replicas >= f64::from(i32::MAX) { i32::MAX.unsigned_abs() } else { whole(replicas) }
    }
}

/// A number without fraction that a `u32` holds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers bound it")]
const fn whole(value: f64) -> u32 {
    value as u32
}

/// The greatest part at which something holds that holds for less as well, or 0.
pub(super) fn greatest(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    if holds(high) {
        return high;
    }
    for _ in 0..30 {
        let part = f64::midpoint(low, high);
        if holds(part) { low = part } else { high = part }
    }
    low
}

/// How many times as many requests as in `load` meet `rate` with their bursts: f m + z sqrt(f v) = rate.
pub(super) fn grown(load: &Load, start: f64, rate: f64) -> f64 {
    let (mean, burst) = (load.rate(), BURST * load.deviation(start));
    let root = ((burst * burst + 4.0 * mean * rate).sqrt() - burst) / (2.0 * mean);
    root * root
}

/// The rate that is met while a replica starts: (m + z sqrt(I m)) / w, for m requests in its start time w.
pub(super) fn burst(load: &Load, start: f64) -> f64 {
    load.rate() + BURST * load.deviation(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizing::input::{Takes, Variation};
    use crate::sizing::load::Part;

    fn load(rate: f64, variation: f64) -> Load {
        let takes = Takes { variation: Variation::of_output(variation), ..Takes::default() };
        Load { parts: vec![Part { rate, dispersion: 1.0, window: 0.0, takes }] }
    }

    /// 50 requests a second of 4 s, of which so many escalate, P(W > 1 s) <= 1 %.
    #[test]
    fn the_worked_example_of_escalation() {
        let target = Target::new(Service::Constant { seconds: 4.0 }, 1, 1.0, 0.99);
        let slots = [0.05, 0.10, 0.20, 1.0].map(|e| target.slots(&load(50.0 * e, 1.0), 50.0 * e));
        assert_eq!(slots, [17.0, 28.0, 50.0, 214.0]);
    }

    /// 10 requests a second of 4 s at 8 slots a replica, P(W > 1 s) <= 5 %.
    #[test]
    fn the_worked_example_of_replicas() {
        let target = Target::new(Service::Constant { seconds: 4.0 }, 8, 1.0, 0.95);
        let slots = target.slots(&load(10.0, 1.0), 10.0);
        assert_eq!((slots, target.replicas(slots)), (47.0, 6));
    }

    #[test]
    fn nobody_needs_nothing_and_few_need_a_spare_slot() {
        let target = Target::new(Service::Constant { seconds: 1.0 }, 1, 1.0, 0.5);
        assert_eq!(target.slots(&load(0.0, 1.0), 0.0), 0.0);
        assert_eq!(target.slots(&load(0.01, 1.0), 0.01), 2.0);
    }

    #[test]
    fn what_slots_carry_is_what_they_are_needed_for() {
        let target = Target::new(Service::Constant { seconds: 4.0 }, 8, 1.0, 0.95);
        let carried = target.carries(&load(10.0, 1.0), 47.0);
        assert!(carried >= 10.0 && target.slots(&load(10.0, 1.0), carried * 1.001) > 47.0, "{carried}");
        assert_eq!(target.carries(&load(10.0, 1.0), 0.0), 0.0);
        let times = grown(&load(10.0, 1.0), 60.0, 40.0);
        assert!((burst(&load(10.0 * times, 1.0), 60.0) - 40.0).abs() < 1e-9, "{times}");
    }

    /// What is waited with the slots that a target needs is within the target, and with one slot less it is not.
    #[test]
    fn the_wait_of_slots_is_the_target_that_needs_them() {
        let (load, service) = (load(10.0, 1.0), Service::Constant { seconds: 4.0 });
        for within in [0.1, 1.0, 5.0] {
            let target = Target::new(service, 8, within, 0.95);
            let slots = target.slots(&load, 10.0);
            let [enough, fewer] = [slots, slots - 1.0].map(|slots| target.wait(&load, 10.0, slots));
            assert!(enough <= within && within < fewer, "{within}: {enough} and {fewer}");
        }
        let target = Target::new(service, 8, 1.0, 0.95);
        assert_eq!(target.wait(&load, 10.0, 400.0), 0.0);
        assert_eq!(target.wait(&load, 10.0, 40.0), f64::INFINITY);
        // M/M/1: P(W > t) = rho exp(-(mu - lambda) t).
        let one = Target::new(Service::Constant { seconds: 1.0 }, 1, 1.0, 0.95).wait(&load, 0.8, 1.0);
        assert!((one - (0.8_f64 / 0.05).ln() / 0.2).abs() < 1e-6, "{one}");
    }

    #[test]
    fn bursts_are_met_as_long_as_a_replica_starts() {
        assert!((burst(&load(100.0, 1.0), 100.0) - 101.645).abs() < 1e-9);
    }

    #[test]
    fn a_target_that_can_t_be_met_is_as_near_as_numbers_go() {
        let target = Target::new(Service::Constant { seconds: 1e9 }, 1, 0.0, 1.0);
        let slots = target.slots(&load(1e9, 1e9), 1e9);
        assert!(slots.is_finite());
        assert_eq!(target.replicas(slots), i32::MAX.unsigned_abs());
    }
}
