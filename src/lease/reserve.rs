//! Reserves: what requests of Low risk must leave of an account for workloads of High risk.
//!
//! A reserve is a part of every limit of the account, over all routers. What its workload used counts against it, at whichever
//! router; it fills again as the limit does. What is left of it stays with the operator, who lends it to nobody but requests
//! of High risk: so they find it at whichever router they come to, once that router has reported. At their router Low leaves
//! them what it was lent for them. A router without a lease keeps the reserve's part of its floor instead.
//!
//! Floors are not the operator's, and of what it lends a few seconds' worth must go round: of reserves that come to more
//! than that the rest is kept nowhere, but High finds its own router's floor.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Claim;
use super::bucket::{Bucket, ONE, whole};
use super::parts::{Count, Parts};

/// The whole, in the unit of parts.
pub(super) const WHOLE: u64 = 1_000_000_000;

/// A workload's part of an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reserve {
    /// The workload.
    pub workload: String,
    /// Its part, in 1e-9.
    pub nanos: u64,
}

/// A policy, and the reserve of one of its workloads.
pub type OfPolicy = (String, Reserve);

/// All parts together.
pub(super) fn nanos<'r>(reserves: impl IntoIterator<Item = &'r Reserve>) -> u64 {
    reserves.into_iter().fold(0, |sum, reserve| sum.saturating_add(reserve.nanos))
}

/// The operator's side of the reserves of one limit a minute: what is left of each.
#[derive(Debug, Default)]
pub(super) struct Reserves {
    count: Option<Count>,
    /// By policy and workload.
    left: BTreeMap<(String, String), Bucket>,
    /// What is kept of them all when nobody uses any.
    most: u64,
}

impl Reserves {
    /// Puts reserves in force. New ones begin empty, as the limit does.
    pub(super) fn set(&mut self, reserves: &[OfPolicy], parts: Parts, now: Instant) {
        let holds = parts.reservable(nanos(reserves.iter().map(|(_, reserve)| reserve)));
        let mut before = std::mem::take(&mut self.left);
        for (policy, Reserve { workload, nanos }) in reserves {
            let place = (policy.clone(), workload.clone());
            let mut bucket = Bucket::part_of(parts.limit, holds, *nanos, now);
            let level = before.remove(&place).map_or(0, |before| before.level());
            bucket.draw((bucket.level() - level).max(0));
            self.left.insert(place, bucket);
        }
        self.count = Some(parts.count);
        let all: i128 = self.left.values().map(Bucket::capacity).sum();
        self.most = u64::try_from(all / ONE).unwrap_or(u64::MAX);
    }

    pub(super) fn fill(&mut self, now: Instant) {
        self.left.values_mut().for_each(|left| left.fill(now));
    }

    /// What is kept of them all when nobody uses any; rounded down.
    pub(super) const fn most(&self) -> u64 {
        self.most
    }

    /// What is left of them, in levels of a [`Bucket`]. Of a few seconds' worth whole ones are kept: a part of one would keep
    /// the next one too.
    pub(super) fn left(&self) -> i128 {
        let left = self.left.values().map(Bucket::level).sum();
        if self.count == Some(Count::Minute) { whole(left) } else { left }
    }

    /// Takes in what a router of a policy says that workloads used, since what it said before.
    pub(super) fn hear(&mut self, policy: &str, claim: &Claim, before: &mut BTreeMap<String, i64>) {
        for ((_, workload), bucket) in self.left.iter_mut().filter(|((of, _), _)| of == policy) {
            let Some(used) = claim.reserved.get(workload) else { continue };
            // What it used before it was known is in nobody's book any more.
            let more = before.insert(workload.clone(), *used).map_or(0, |before| used.saturating_sub(before));
            if more > 0 { bucket.take(more.unsigned_abs()) } else { bucket.put(more.unsigned_abs()) }
        }
    }
}

/// Places that are left of so many's reserves, of which so many are taken, whole ones: a part of a place keeps a whole one.
pub(super) fn places_left(of: u32, reserves: impl IntoIterator<Item = (u64, u32)>) -> u32 {
    let left = |(nanos, taken): (u64, u32)| (u64::from(of) * nanos.min(WHOLE)).saturating_sub(u64::from(taken) * WHOLE);
    let all = reserves.into_iter().map(left).fold(0, u64::saturating_add);
    u32::try_from(all.div_ceil(WHOLE)).unwrap_or(u32::MAX)
}
