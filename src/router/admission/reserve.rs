//! Reserves: what requests of Low risk must leave of an account for workloads of High risk.
//!
//! A reserve is a part of every limit, and its workload's own use counts against it first. What is left of it is kept
//! from Low requests: one is admitted if, with it taken, the account still holds what is left of all reserves. As a
//! reserve fills no faster than the account, its workload always finds it there, whatever Low does. (What a Low answer
//! used beyond its reservation is only known afterwards: it may reach into the reserves once, and later ones then wait.)

use std::time::Instant;

use super::bucket::{Bucket, settle};

/// A workload's part of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The workload.
    pub workload: String,
    /// Its part, in 1e-9.
    pub nanos: u64,
}

/// What is left of a reserve.
#[derive(Debug)]
pub(super) struct Held {
    nanos: u64,
    buckets: [Option<Bucket>; 4],
    in_flight: u32,
}

impl Held {
    pub(super) fn new(reserve: &Reserve, limits: [Option<u64>; 4], now: Instant) -> Self {
        let bucket = |limit| Bucket::part(limit, reserve.nanos, now);
        Self { nanos: reserve.nanos, buckets: limits.map(|limit| limit.map(bucket)), in_flight: 0 }
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

/// Whether a free place is left beside those that reserves keep: free > sum of what each has left.
pub(super) fn leaves_places(held: &[Held], most: u32, in_flight: u32) -> bool {
    const ONE: u64 = 1_000_000_000;
    let left = |held: &Held| (u64::from(most) * held.nanos).saturating_sub(u64::from(held.in_flight) * ONE);
    u64::from(most.saturating_sub(in_flight)) * ONE > held.iter().map(left).sum()
}
