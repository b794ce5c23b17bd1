use super::*;
use crate::sizing::input::{Offered, Portfolio};
use crate::sizing::output::Band;
use crate::sizing::testing::{Chance, pool, step, workload};
use crate::sizing::{PERIOD, size};

const STABILIZATION: Duration = Duration::from_secs(300);

fn of(floor: u32, low: u32, high: u32) -> PoolSize {
    let mut size = sized(1.0, 300.0);
    (size.floor, size.ceiling, size.band) = (floor, 100, Band { low, high });
    size
}

fn sized(rate: f64, window: f64) -> PoolSize {
    let offered = Offered { rate, dispersion: 1.0, window };
    let portfolio = Portfolio {
        workloads: vec![workload("intent", offered, vec![step("compact")])],
        pools: [("compact".to_owned(), pool())].into(),
        ..Portfolio::default()
    };
    size(&portfolio).pools["compact"].clone()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_floor_rises_at_once_and_falls_after_a_while_to_the_highest_since() {
    let look =
        |standing, floor, seconds| settle(Some(standing), &of(floor, floor, floor), 1, STABILIZATION, at(seconds));
    let mut standing = settle(None, &of(3, 3, 3), 1, STABILIZATION, at(0));
    assert_eq!(standing.floor, 3);
    standing = look(standing, 7, 15);
    assert_eq!(standing.floor, 7);
    for (floor, seconds) in [(2, 30), (4, 45), (2, 60), (2, 329)] {
        standing = look(standing, floor, seconds);
        assert_eq!(standing.floor, 7, "{seconds}");
    }
    standing = look(standing, 2, 330);
    assert_eq!(standing.floor, 4);
    // The next step down waits as long.
    standing = look(standing, 2, 345);
    standing = look(standing, 2, 644);
    assert_eq!(standing.floor, 4);
    assert_eq!(look(standing, 2, 645).floor, 2);
}

#[test]
fn demand_that_comes_back_starts_the_wait_anew() {
    let look =
        |standing, floor, seconds| settle(Some(standing), &of(floor, floor, floor), 1, STABILIZATION, at(seconds));
    let mut standing = look(Standing::at(7), 2, 0);
    standing = look(standing, 7, 200);
    standing = look(standing, 2, 215);
    assert_eq!(look(standing, 2, 500).floor, 7);
    assert_eq!(look(standing, 2, 515).floor, 2);
}

#[test]
fn a_floor_within_the_band_stays() {
    let settled = |floor| settle(Some(Standing::at(floor)), &of(5, 4, 6), 1, Duration::ZERO, at(0)).floor;
    assert_eq!([3, 4, 5, 6, 7].map(settled), [5, 4, 5, 6, 5]);
}

#[test]
fn minimum_and_ceiling_hold_at_once() {
    let mut size = of(5, 5, 5);
    size.ceiling = 6;
    assert_eq!(settle(Some(Standing::at(9)), &size, 1, STABILIZATION, at(0)).floor, 6);
    assert_eq!(settle(Some(Standing::at(3)), &of(5, 1, 5), 4, STABILIZATION, at(0)).floor, 4);
}

/// Counts of arrivals of the last five minutes, and what they say.
#[derive(Default)]
struct Counts(Vec<f64>);

impl Counts {
    /// The mean of five minutes; where the last period alone is higher for certain, that.
    fn offered(&mut self, chance: &mut Chance, rate: f64) -> Offered {
        self.0.push(chance.poisson(rate * PERIOD.as_secs_f64()));
        let recent = &self.0[self.0.len().saturating_sub(20)..];
        #[expect(clippy::cast_precision_loss, reason = "twenty")]
        let window = PERIOD.as_secs_f64() * recent.len() as f64;
        let mean = recent.iter().sum::<f64>() / window;
        let last = self.0.last().copied().unwrap_or_default();
        let certain = (last - 3.0 * last.sqrt()) / PERIOD.as_secs_f64();
        Offered { rate: mean.max(certain), dispersion: 1.0, window }
    }
}

#[test]
fn constant_load_changes_a_floor_at_most_once_in_thirty_minutes() {
    for (rate, seed) in [0.5, 5.0, 50.0, 500.0].into_iter().flat_map(|rate| (1..=3).map(move |s| (rate, s))) {
        let (mut chance, mut counts) = (Chance::new(seed), Counts::default());
        let (mut standing, mut changes) = (None::<Standing>, 0);
        for period in 0..120_u32 {
            let offered = counts.offered(&mut chance, rate);
            let size = sized(offered.rate, offered.window);
            let next = settle(standing, &size, 1, STABILIZATION, PERIOD * period);
            changes += u32::from(standing.is_some_and(|before| before.floor != next.floor));
            standing = Some(next);
        }
        assert!(changes <= 1, "{rate} req/s, seed {seed}: {changes} changes");
    }
}

#[test]
fn five_times_the_load_is_met_within_two_periods() {
    for (rate, seed) in [2.0, 20.0, 200.0].into_iter().flat_map(|rate| (1..=5).map(move |s| (rate, s))) {
        let (mut chance, mut counts) = (Chance::new(seed), Counts::default());
        let mut standing = None::<Standing>;
        let mut look = |rate, standing, period: u32| {
            let offered = counts.offered(&mut chance, rate);
            Some(settle(standing, &sized(offered.rate, offered.window), 1, STABILIZATION, PERIOD * period))
        };
        for period in 0..40 {
            standing = look(rate, standing, period);
        }
        for period in 40..42 {
            standing = look(5.0 * rate, standing, period);
        }
        // What the load itself needs, as if it were known.
        let exact = sized(5.0 * rate, 0.0);
        let floor = standing.unwrap().floor;
        let allowed = exact.floor.div_ceil(10).max(1);
        assert!(floor + allowed >= exact.floor, "{rate} req/s, seed {seed}: {floor} of {}", exact.floor);
    }
}
