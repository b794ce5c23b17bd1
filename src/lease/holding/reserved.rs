//! A router's side of the reserves of a limit a minute: what requests of Low risk leave at this router.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Periods;
use crate::lease::bucket::{Bucket, levels};
use crate::lease::reserve::{Reserve, nanos};

/// What is left of reserves, as far as this router knows: what their workloads use at other routers it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved(Vec<One>);

#[derive(Clone, Debug)]
struct One {
    reserve: Reserve,
    left: Bucket,
    /// What was used, since the process began.
    used: i64,
    asked: Periods,
}

impl Reserved {
    /// Full reserves: parts of so many a minute, that hold parts of so many. What was used is not forgotten.
    pub(super) fn new(per_minute: u64, holds: u64, reserves: &[Reserve], before: Self, now: Instant) -> Self {
        let one = |reserve: &Reserve| One {
            reserve: reserve.clone(),
            left: Bucket::part_of(per_minute, holds, reserve.nanos, now),
            used: before.0.iter().find(|one| one.reserve.workload == reserve.workload).map_or(0, |one| one.used),
            asked: Periods::default(),
        };
        Self(reserves.iter().map(one).collect())
    }

    /// All parts together, in 1e-9.
    pub(super) fn nanos(&self) -> u64 {
        nanos(self.0.iter().map(|one| &one.reserve))
    }

    pub(super) fn fill(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|one| one.left.fill(now));
    }

    /// What is left, as a level.
    pub(super) fn left(&self) -> i128 {
        self.0.iter().map(|one| one.left.level()).sum()
    }

    /// What of that their workloads will ask for at this router, going by the last periods.
    pub(super) fn soon(&self) -> i128 {
        self.0.iter().map(|one| one.left.level().min(levels(one.asked.two()))).sum()
    }

    pub(super) fn ask(&mut self, at: usize, amount: u64) {
        self.0.get_mut(at).into_iter().for_each(|one| one.asked.ask(amount));
    }

    /// A period is over.
    pub(super) fn next_period(&mut self) {
        self.0.iter_mut().for_each(|one| one.asked.next());
    }

    pub(super) fn take(&mut self, at: usize, amount: u64) {
        let Some(one) = self.0.get_mut(at) else { return };
        one.left.take(amount);
        one.used = one.used.saturating_add_unsigned(amount);
    }

    pub(super) fn put(&mut self, at: usize, amount: u64) {
        let Some(one) = self.0.get_mut(at) else { return };
        one.left.put(amount);
        one.used = one.used.saturating_sub_unsigned(amount);
    }

    /// What was used by each, as a report says it.
    pub(super) fn used(&self) -> BTreeMap<String, i64> {
        self.0.iter().map(|one| (one.reserve.workload.clone(), one.used)).collect()
    }
}
