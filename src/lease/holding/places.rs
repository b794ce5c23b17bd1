//! A router's side of a limit of requests at a time.

use std::time::{Duration, Instant};

use super::{MEASURE, say};
use crate::lease::lessee::Terms;
use crate::lease::{Claim, GAVE_BACK, Grant, Key, VALID, floor};

/// Places for requests at a time.
#[derive(Clone, Debug)]
pub struct Places {
    /// The part, or the floor.
    own: u32,
    lease: Option<Box<PlaceLease>>,
}

#[derive(Clone, Debug)]
struct PlaceLease {
    /// From when on it has its floor.
    from: Instant,
    floor: bool,
    places: u32,
    ledger: u64,
    until: Option<Instant>,
    live: bool,
    draining: bool,
    /// Most in flight in this period, and requests that found no place.
    peak: u32,
    lacked: u32,
    /// What was asked for in the two periods before it.
    asked: [u32; 2],
    period: Instant,
    said: Option<(u64, Claim)>,
}

impl Places {
    /// A part of a limit, all its own.
    #[must_use]
    pub const fn part(places: u32) -> Self {
        Self { own: places, lease: None }
    }

    /// The floor of a limit, and no lease yet. A process that this one replaces may have had its floor, or be lent it until
    /// the operator knows that it stops, and its requests may go on for `longest`: only then is the floor free.
    #[must_use]
    pub fn leased(limit: u32, most: u32, now: Instant, longest: Duration) -> Self {
        let own = u32::try_from(floor(limit.into(), most)).unwrap_or(u32::MAX);
        let lease = PlaceLease {
            from: now.checked_add((VALID + longest) * 51 / 50).unwrap_or(now),
            floor: false,
            places: 0,
            ledger: 0,
            until: None,
            live: false,
            draining: false,
            peak: 0,
            lacked: 0,
            asked: [0; 2],
            period: now,
            said: None,
        };
        Self { own, lease: Some(Box::new(lease)) }
    }

    /// Whether an operator lends them.
    #[must_use]
    pub const fn is_lent(&self) -> bool {
        self.lease.is_some()
    }

    /// Another limit, or another number of routers.
    pub fn resize(&mut self, limit: u32, most: u32) {
        self.own = u32::try_from(floor(limit.into(), most)).unwrap_or(u32::MAX);
    }

    /// Brings it up to a time.
    pub fn fill(&mut self, now: Instant) {
        if let Some(lease) = &mut self.lease {
            lease.live = lease.until.is_some_and(|until| now < until);
            lease.floor = !lease.draining && now >= lease.from;
        }
    }

    /// Most requests at a time, as of the last [`fill`](Self::fill).
    #[must_use]
    pub fn most(&self) -> u32 {
        let Some(lease) = &self.lease else { return self.own };
        let own = if lease.floor { self.own } else { 0 };
        if lease.live { own.max(lease.places) } else { own }
    }

    /// Notes how many are in flight with a request that was admitted, or would be if there were enough of all else: who
    /// has no place when amounts come has to wait for the next report.
    pub fn filled(&mut self, in_flight: u32) {
        if let Some(lease) = &mut self.lease {
            lease.peak = lease.peak.max(in_flight);
        }
    }

    /// Notes that a request found no place.
    pub fn lack(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.lacked = lease.lacked.saturating_add(1);
        }
    }

    /// Gives up its floor.
    pub fn drain(&mut self) {
        if let Some(lease) = &mut self.lease {
            (lease.draining, lease.floor) = (true, false);
        }
    }

    /// As [`Holding::claim`](super::Holding::claim), with the requests in flight, those that wait, and places that must be left.
    #[must_use]
    pub fn claim(
        &mut self,
        key: &Key,
        (report, answered): (u64, u64),
        (in_flight, waiting, kept): (u32, u32, u32),
        now: Instant,
    ) -> Option<Claim> {
        self.fill(now);
        let lease = self.lease.as_mut()?;
        lease.peak = lease.peak.max(in_flight);
        let asked = lease.peak.saturating_add(lease.lacked);
        let most = lease.asked.into_iter().fold(asked, u32::max);
        if now.saturating_duration_since(lease.period) >= MEASURE {
            lease.asked = [asked, lease.asked[0]];
            (lease.period, lease.peak, lease.lacked) = (now, in_flight, 0);
        }
        let wanted = u64::from(most) + u64::from(waiting);
        let claim = Claim {
            wanted: if wanted > 0 { wanted + u64::from(kept) } else { 0 },
            in_flight,
            floor: lease.floor,
            places: if lease.live { lease.places } else { 0 },
            ..Claim::new(key.clone(), lease.ledger)
        };
        say(&mut lease.said, claim, report, answered)
    }

    /// As [`Holding::apply`](super::Holding::apply).
    pub fn apply(&mut self, grant: Option<&Grant>, terms: &Terms<'_>, now: Instant) -> Option<Duration> {
        let lease = self.lease.as_mut()?;
        let before = lease.places;
        if terms.void {
            (lease.places, lease.ledger, lease.until, lease.said) = (0, 0, None, None);
        }
        if let Some(grant) = grant {
            (lease.places, lease.ledger) = (grant.places, grant.ledger);
        }
        if lease.ledger != 0 {
            lease.until = lease.until.max(Some(terms.until));
        }
        let taken = lease.places < before;
        self.fill(now);
        taken.then_some(GAVE_BACK)
    }
}
