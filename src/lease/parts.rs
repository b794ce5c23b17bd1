//! How a limit a minute is divided: floors, and what the operator lends.

use super::minute::SECONDS;
use super::{Kind, Scope, floor};

/// How whoever set a limit counts what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// By a bucket that holds a minute's amount and fills evenly: in any time `t` it lets through
    /// `limit + limit * t / 1 min`.
    Bucket,
    /// In a window that slides: no minute, whenever it begins, has more than the limit.
    Minute,
}

impl Count {
    /// How a limit is counted. Of requests, providers count no more than the limit in any minute, and some look at a few
    /// seconds only; of tokens they count an estimate, by a bucket, and one request may need nearly all of it at once.
    /// Users of our own limits expect what the bucket gives: that what was not used lately is there at once.
    #[must_use]
    pub const fn of(scope: Scope, kind: Kind) -> Self {
        match (scope, kind) {
            (Scope::Account, Kind::Requests) => Self::Minute,
            _ => Self::Bucket,
        }
    }
}

/// The part of a minute whose amount lies ready, where any minute counts: two and a half seconds. Routers that lack
/// something report every quarter of a second, others every second, and what is gained meanwhile has to find room.
const READY: u64 = 24;
/// By so much, in percent, what is gained stays below what may be taken: the operator's clock may be fast by 1 %, and
/// requests of 60.6 s may reach the provider within 60 s.
const BELOW: i128 = 2;

/// A limit a minute, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) count: Count,
    pub(super) limit: u64,
    /// What each router has without asking.
    pub(super) floor: u64,
    /// The most that the operator's bucket and what it lent hold together.
    pub(super) bucket: u64,
    /// What the bucket gains, in thousandths a minute.
    pub(super) rate: i128,
    /// What all hold together when nobody takes anything.
    pub(super) full: u64,
}

impl Parts {
    /// Of a limit of at least 1, for so many routers at most.
    pub(super) fn of(limit: u64, most: u32, count: Count) -> Self {
        let floor = floor(limit, most);
        let lent = limit - floor * u64::from(most);
        match count {
            Count::Bucket => Self { count, limit, floor, bucket: lent, rate: i128::from(lent) * 1_000, full: limit },
            // What is taken are whole ones: as many as are lent if bucket and gain stay below one more.
            Count::Minute => {
                let bucket = lent.div_ceil(READY);
                let rate = i128::from(lent + 1 - bucket) * 100_000 / (100 + BELOW);
                Self { count, limit, floor, bucket, rate, full: bucket }
            }
        }
    }

    /// Of how much a reserve is kept where it is lent, if reserves come to so much, in 1e-9: of the limit, or of what lies
    /// ready where any minute counts. Some of what is lent must go round even if all reserves are full.
    pub(super) fn reservable(&self, nanos: u64) -> u64 {
        let (of, most) = match self.count {
            Count::Bucket => (self.limit, self.bucket - self.bucket.div_ceil(READY)),
            Count::Minute => (self.bucket, self.bucket - self.bucket.div_ceil(10)),
        };
        let fits = u128::from(most) * 1_000_000_000 / u128::from(nanos.max(1));
        u64::try_from(fits).map_or(of, |fits| fits.min(of))
    }

    /// Seconds in which a floor gains itself. Where any minute counts it is the time for which is remembered what the floor
    /// took: faster, and it would gain nothing at the end of each such time.
    pub(super) const fn floor_fills(&self) -> u64 {
        match self.count {
            Count::Bucket => 60,
            Count::Minute => SECONDS as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A full bucket and what it gains in a minute are less than one more than what is lent, and nearly as much.
        #[test]
        fn a_minute_gains_no_more_than_is_lent(limit in 1_u64..1_000_000, most in 1_u32..100) {
            let Parts { floor, bucket, rate, .. } = Parts::of(limit, most, Count::Minute);
            let lent = i128::from(limit - floor * u64::from(most));
            let minute = i128::from(bucket) * 1_000 + rate * 101 / 100;
            prop_assert!(bucket >= 1 && minute < (lent + 1) * 1_000);
            prop_assert!(rate >= lent * 1_000 * 93 / 100);
        }
    }
}
