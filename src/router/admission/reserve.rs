//! Reserves: what requests of Low risk must leave of an account for workloads of High risk.
//!
//! A reserve is a part of every limit, and its workload's own use counts against it first. What is left of it is kept
//! from Low requests: one is admitted if, with it taken, the account still holds what is left of all reserves. As a
//! reserve fills no faster than the account, its workload always finds it there, whatever Low does. (What a Low answer
//! used beyond its reservation is only known afterwards: it may reach into the reserves once, and later ones then wait.)

use std::collections::BTreeMap;
use std::time::Instant;

use crate::lease::bucket::{Bucket, settle};
use crate::routing::table::{RoutingTable, reserved};

/// The whole, in the unit of parts.
const ONE: u64 = 1_000_000_000;

/// A workload's part of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The workload.
    pub workload: String,
    /// Its part, in 1e-9.
    pub nanos: u64,
}

/// The reserves of a table, by account.
#[must_use]
pub fn reserves(table: &RoutingTable) -> BTreeMap<&str, Vec<Reserve>> {
    let mut reserves: BTreeMap<&str, Vec<Reserve>> = BTreeMap::new();
    for (workload, nanos) in table.workloads.iter().filter_map(|w| Some((w, w.reserve?))) {
        let path = table.paths.get(&workload.path);
        for account in path.map(|path| reserved(path, &table.tiers)).unwrap_or_default() {
            reserves.entry(account).or_default().push(Reserve { workload: workload.name.clone(), nanos });
        }
    }
    reserves
}

/// What is left of a reserve.
#[derive(Debug)]
pub(super) struct Held {
    nanos: u64,
    buckets: [Option<Bucket>; 4],
    in_flight: u32,
}

impl Held {
    /// All of a reserve, with what it keeps of each kind.
    pub(super) const fn new(reserve: &Reserve, buckets: [Option<Bucket>; 4]) -> Self {
        let nanos = if reserve.nanos < ONE { reserve.nanos } else { ONE };
        Self { nanos, buckets, in_flight: 0 }
    }

    pub(super) fn fill(&mut self, now: Instant) {
        self.buckets.iter_mut().flatten().for_each(|bucket| bucket.fill(now));
    }

    pub(super) fn take(&mut self, amounts: [u64; 4]) {
        self.in_flight += 1;
        for (bucket, amount) in self.buckets.iter_mut().zip(amounts) {
            bucket.iter_mut().for_each(|bucket| bucket.take(amount));
        }
    }

    pub(super) fn close(&mut self, reserved: [u64; 4], used: [u64; 4]) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for ((bucket, reserved), used) in self.buckets.iter_mut().zip(reserved).zip(used) {
            bucket.iter_mut().for_each(|bucket| settle(bucket, reserved, used));
        }
    }
}

/// What all reserves keep of one kind of bucket.
pub(super) fn kept(held: &[Held], kind: usize) -> i128 {
    held.iter().filter_map(|held| held.buckets.get(kind)?.as_ref()).map(Bucket::level).sum()
}

/// Places that all reserves keep of so many, whole ones.
pub(super) fn kept_places(held: &[Held], most: u32) -> u32 {
    u32::try_from(kept_of(held, most).div_ceil(ONE)).unwrap_or(u32::MAX)
}

fn kept_of(held: &[Held], most: u32) -> u64 {
    let left = |held: &Held| (u64::from(most) * held.nanos).saturating_sub(u64::from(held.in_flight) * ONE);
    held.iter().map(left).fold(0, u64::saturating_add)
}

/// Whether a place is free and, with it taken, those are left that reserves keep. A part of a place keeps a whole one.
pub(super) fn leaves_places(held: &[Held], most: u32, in_flight: u32) -> bool {
    let kept = kept_of(held, most);
    most.checked_sub(in_flight).and_then(|free| free.checked_sub(1)).is_some_and(|rest| u64::from(rest) * ONE >= kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_place_keeps_a_whole_one() {
        let held = |parts: &[u64]| -> Vec<Held> {
            let reserve = |nanos: &u64| Reserve { workload: String::new(), nanos: *nanos };
            parts.iter().map(|nanos| Held::new(&reserve(nanos), [const { None }; 4])).collect()
        };
        let admitted = |parts: &[u64], most| (0..).take_while(|n| leaves_places(&held(parts), most, *n)).count();
        assert_eq!([admitted(&[], 2), admitted(&[300_000_000], 2), admitted(&[500_000_000], 2)], [2, 1, 1]);
        assert_eq!([admitted(&[300_000_000; 2], 10), admitted(&[900_000_000], 10)], [4, 1]);
        // A table that nobody has checked.
        assert_eq!(admitted(&[u64::MAX; 3], u32::MAX), 0);
    }
}
