//! A router's side of a limit of requests at a time.

use std::time::{Duration, Instant};

use super::{MEASURE, Waiting, say};
use crate::lease::lessee::Terms;
use crate::lease::reserve::{Reserve, places_left};
use crate::lease::{Claim, GAVE_BACK, Grant, Key, VALID, floor};

/// Places for requests at a time.
#[derive(Clone, Debug)]
pub struct Places {
    /// The part, or the floor.
    own: u32,
    lease: Option<Box<PlaceLease>>,
    reserved: Vec<Reserved>,
}

/// A workload's reserve.
#[derive(Clone, Debug)]
struct Reserved {
    reserve: Reserve,
    in_flight: u32,
    wants: Wants,
}

/// How many places requests would fill.
#[derive(Clone, Debug, Default)]
struct Wants {
    /// Most in flight in this period, and requests that found no place.
    peak: u32,
    lacked: u32,
    /// What was asked for in the two periods before it.
    asked: [u32; 2],
}

impl Reserved {
    /// Its part, and what is taken.
    const fn part(&self) -> (u64, u32) {
        (self.reserve.nanos, self.in_flight)
    }
}

impl Wants {
    fn filled(&mut self, in_flight: u32) {
        self.peak = self.peak.max(in_flight);
    }

    const fn now(&self) -> u32 {
        self.peak.saturating_add(self.lacked)
    }

    fn most(&self) -> u32 {
        self.asked.into_iter().fold(self.now(), u32::max)
    }

    /// A period is over.
    const fn next(&mut self, in_flight: u32) {
        *self = Self { peak: in_flight, lacked: 0, asked: [self.now(), self.asked[0]] };
    }
}

#[derive(Clone, Debug)]
struct PlaceLease {
    limit: u32,
    /// From when on it has its floor.
    from: Instant,
    floor: bool,
    places: u32,
    /// What of them is not for workloads with a reserve only, where there are any.
    common: Option<u32>,
    ledger: u64,
    until: Option<Instant>,
    live: bool,
    draining: bool,
    wants: Wants,
    period: Instant,
    said: Option<(u64, Claim)>,
}

impl Places {
    /// A part of a limit, all its own.
    #[must_use]
    pub const fn part(places: u32) -> Self {
        Self { own: places, lease: None, reserved: Vec::new() }
    }

    /// The floor of a limit, and no lease yet. A process that this one replaces may have had its floor, or be lent it until
    /// the operator knows that it stops, and its requests may go on for `longest`: only then is the floor free.
    #[must_use]
    pub fn leased(limit: u32, most: u32, now: Instant, longest: Duration) -> Self {
        let own = u32::try_from(floor(limit.into(), most)).unwrap_or(u32::MAX);
        let lease = PlaceLease {
            limit,
            from: now.checked_add((VALID + longest) * 51 / 50).unwrap_or(now),
            floor: false,
            places: 0,
            common: None,
            ledger: 0,
            until: None,
            live: false,
            draining: false,
            wants: Wants::default(),
            period: now,
            said: None,
        };
        Self { own, lease: Some(Box::new(lease)), reserved: Vec::new() }
    }

    /// Whether an operator lends them.
    #[must_use]
    pub const fn is_lent(&self) -> bool {
        self.lease.is_some()
    }

    /// Another limit, or another number of routers.
    pub fn resize(&mut self, limit: u32, most: u32) {
        self.own = u32::try_from(floor(limit.into(), most)).unwrap_or(u32::MAX);
        self.lease.iter_mut().for_each(|lease| lease.limit = limit);
    }

    /// Puts reserves in force, of which nothing is taken if they are others than before. Their places in this list are what they
    /// are known by.
    pub fn reserve(&mut self, reserves: &[Reserve]) {
        if self.reserved.iter().map(|one| &one.reserve).eq(reserves) {
            return;
        }
        let one = |reserve: &Reserve| Reserved { reserve: reserve.clone(), in_flight: 0, wants: Wants::default() };
        self.reserved = reserves.iter().map(one).collect();
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

    /// Places that are free with so many requests in flight, as of the last [`fill`](Self::fill).
    #[must_use]
    pub fn free(&self, in_flight: u32) -> u32 {
        self.most().saturating_sub(in_flight)
    }

    /// As [`free`](Self::free), for requests of Low risk: without a lease they leave the reserves' part of the floor, and with
    /// one they fill what was lent for all, or the floor.
    #[must_use]
    pub fn free_beside_reserves(&self, in_flight: u32) -> u32 {
        let free = self.free(in_flight);
        match &self.lease {
            Some(lease) if lease.live => {
                let others = in_flight.saturating_sub(self.taken());
                let floor = if lease.floor { self.own } else { 0 };
                free.min(lease.common.map_or(u32::MAX, |common| common.max(floor).saturating_sub(others)))
            }
            _ => free.saturating_sub(places_left(self.own, self.reserved.iter().map(Reserved::part))),
        }
    }

    /// What they will fill of their reserves, going by the last periods and with so many more that wait.
    fn soon(&self, limit: u32, waiting: u32) -> u32 {
        let soon = |one: &Reserved| {
            let wants = one.wants.most().saturating_add(waiting);
            wants.min(places_left(limit, [(one.reserve.nanos, 0)])).max(one.in_flight)
        };
        self.reserved.iter().map(soon).fold(0, u32::saturating_add)
    }

    /// Of the requests in flight those of workloads with a reserve.
    fn taken(&self) -> u32 {
        self.reserved.iter().map(|one| one.in_flight).fold(0, u32::saturating_add)
    }

    /// Notes how many are in flight with a request that was admitted, whose workload may have a reserve.
    pub fn enter(&mut self, in_flight: u32, reserve: Option<usize>) {
        self.lease.iter_mut().for_each(|lease| lease.wants.filled(in_flight));
        if let Some(one) = reserve.and_then(|at| self.reserved.get_mut(at)) {
            one.in_flight = one.in_flight.saturating_add(1);
            one.wants.filled(one.in_flight);
        }
    }

    /// Such a request has ended.
    pub fn leave(&mut self, reserve: Option<usize>) {
        if let Some(one) = reserve.and_then(|at| self.reserved.get_mut(at)) {
            one.in_flight = one.in_flight.saturating_sub(1);
        }
    }

    /// Notes how many would be in flight with a request that found no room, of whatever: who has no place when amounts come
    /// has to wait for the next report.
    pub fn turned_away(&mut self, in_flight: u32, reserve: Option<usize>) {
        self.lease.iter_mut().for_each(|lease| lease.wants.filled(in_flight));
        if let Some(one) = reserve.and_then(|at| self.reserved.get_mut(at)) {
            one.wants.filled(one.in_flight.saturating_add(1));
        }
    }

    /// Notes that a request found no place.
    pub fn lack(&mut self, reserve: Option<usize>) {
        let one = reserve.and_then(|at| self.reserved.get_mut(at)).map(|one| &mut one.wants);
        for wants in self.lease.iter_mut().map(|lease| &mut lease.wants).chain(one) {
            wants.lacked = wants.lacked.saturating_add(1);
        }
    }

    /// Gives up its floor.
    pub fn drain(&mut self) {
        if let Some(lease) = &mut self.lease {
            (lease.draining, lease.floor) = (true, false);
        }
    }

    /// As [`Holding::claim`](super::Holding::claim), with the requests in flight.
    #[must_use]
    pub fn claim(
        &mut self,
        key: &Key,
        (report, answered): (u64, u64),
        (in_flight, waiting): (u32, Waiting),
        now: Instant,
    ) -> Option<Claim> {
        self.fill(now);
        let lease = self.lease.as_mut()?;
        lease.wants.filled(in_flight);
        let wanted = lease.wants.most().saturating_add(waiting.all);
        let (limit, over) = (lease.limit, now.saturating_duration_since(lease.period) >= MEASURE);
        if over {
            lease.wants.next(in_flight);
            lease.period = now;
        }
        let urgent = self.soon(limit, waiting.urgent).min(wanted);
        if over {
            self.reserved.iter_mut().for_each(|one| one.wants.next(one.in_flight));
        }
        let reserved = self.reserved.iter().map(|one| (one.reserve.workload.clone(), one.in_flight.into())).collect();
        let lease = self.lease.as_mut()?;
        let claim = Claim {
            wanted: wanted.into(),
            urgent: urgent.into(),
            reserved,
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
            (lease.places, lease.common, lease.ledger) = (grant.places, grant.common, grant.ledger);
        }
        if lease.ledger != 0 {
            lease.until = lease.until.max(Some(terms.until));
        }
        let taken = lease.places < before;
        self.fill(now);
        taken.then_some(GAVE_BACK)
    }
}
