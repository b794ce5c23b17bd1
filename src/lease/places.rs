//! The operator's side of one limit of requests at a time: which router holds how many places.
//!
//! A router counts for the most that it may have in flight: what it says, its floor, and every lease that it may still be
//! living on. A lease is over when the router has said that it knows a later one, or when it wrote a report after the
//! lease's end by its own clock. A router that says nothing any more counts until its requests must have ended. For each
//! router that may be there and does not say that it has a floor, a floor is kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Claim, floor, share};

/// Time in which those take turns whose fair part is less than one place.
const TURN: Duration = Duration::from_secs(3);

/// A report, and the reply to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// Number of the reply.
    pub number: u64,
    /// The last reply that the router knew.
    pub seen: u64,
    /// The router's time of the report, in milliseconds.
    pub stamp_ms: u64,
    /// The router is about to stop, and has no floor.
    pub draining: bool,
}

/// A limit of requests at a time.
#[derive(Debug)]
pub(super) struct Places {
    limit: u32,
    most: u32,
    floor: u32,
    begin: Instant,
    holders: BTreeMap<u32, Holder>,
}

#[derive(Debug, Default)]
struct Holder {
    /// Leases that may be in force.
    leases: Vec<Lease>,
    in_flight: u32,
    wanted: u32,
    /// It has its floor. A router that began lately has none yet: the one whose it was may still count among those that
    /// are heard.
    floor: bool,
    /// It is heard from.
    heard: bool,
    draining: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    number: u64,
    places: u32,
    stamp_ms: u64,
}

impl Holder {
    fn most(&self, floor: u32) -> u32 {
        let leased = self.leases.iter().map(|lease| lease.places).max().unwrap_or_default();
        leased.max(self.in_flight).max(if self.floor { floor } else { 0 })
    }

    const fn shares(&self) -> bool {
        self.heard && !self.draining
    }
}

impl Places {
    pub(super) fn new(limit: u32, most: u32, now: Instant) -> Self {
        let holders = BTreeMap::new();
        let mut new = Self { limit, most, floor: 0, begin: now, holders };
        new.resize(limit, most);
        new
    }

    /// A changed limit: whoever holds more than its part is told so.
    pub(super) fn resize(&mut self, limit: u32, most: u32) {
        let floor = u32::try_from(floor(limit.into(), most)).unwrap_or(u32::MAX);
        (self.limit, self.most, self.floor) = (limit, most, floor);
    }

    /// It is not heard from, but its requests may go on.
    pub(super) fn lose(&mut self, router: u32) {
        if let Some(holder) = self.holders.get_mut(&router) {
            holder.heard = false;
        }
    }

    /// Its requests have ended.
    pub(super) fn forget(&mut self, router: u32) {
        self.holders.remove(&router);
    }

    /// Takes in what a router says of this limit.
    pub(super) fn hear(&mut self, router: u32, claim: &Claim, exchange: Exchange) {
        let wanted = u32::try_from(claim.wanted).unwrap_or(u32::MAX).min(self.limit);
        let holder = self.holders.entry(router).or_default();
        (holder.in_flight, holder.wanted, holder.heard) = (claim.in_flight, wanted, true);
        (holder.draining, holder.floor) = (exchange.draining, claim.floor && !exchange.draining);
        let over =
            |lease: &Lease| lease.number < exchange.seen || exchange.stamp_ms >= lease.stamp_ms.saturating_add(5_000);
        holder.leases.retain(|lease| !over(lease));
        // A lease of a leader before this one.
        if holder.leases.is_empty() && claim.places > 0 {
            holder.leases.push(Lease { number: exchange.seen, places: claim.places, stamp_ms: exchange.stamp_ms });
        }
    }

    /// Places that it gets now; with how many percent are free. In quiet times no more than it `holds`.
    pub(super) fn give(
        &mut self,
        router: u32,
        exchange: Exchange,
        holds: Option<u32>,
        now: Instant,
    ) -> Option<(u32, u8)> {
        let part = self.part(router, now);
        let others = self.holders.iter().filter(|(other, _)| **other != router);
        let held = others.fold(0_u32, |sum, (_, holder)| sum.saturating_add(holder.most(self.floor)));
        let left = self.limit.saturating_sub(self.absent()).saturating_sub(held);
        let places = part.min(left).min(holds.unwrap_or(u32::MAX));
        let used = self.holders.values().fold(0_u32, |sum, holder| sum.saturating_add(holder.in_flight));
        let free = u64::from(self.limit.saturating_sub(used)) * 100 / u64::from(self.limit.max(1));
        let holder = self.holders.get_mut(&router)?;
        let lease = Lease { number: exchange.number, places, stamp_ms: exchange.stamp_ms };
        // Of leases of one size the latest ends last.
        holder.leases.retain(|other| other.places > places || other.number < exchange.seen);
        holder.leases.push(lease);
        Some((places, u8::try_from(free / 10 * 10).unwrap_or(100)))
    }

    /// Floors of routers that may be there without having been heard.
    fn absent(&self) -> u32 {
        let heard = self.holders.values().filter(|holder| holder.heard && holder.floor).count();
        self.floor.saturating_mul(self.most.saturating_sub(u32::try_from(heard).unwrap_or(u32::MAX)))
    }

    /// Its fair part of what the routers that are heard can share.
    fn part(&self, router: u32, now: Instant) -> u32 {
        let away = self.holders.values().filter(|holder| !holder.shares());
        let away = away.fold(0_u32, |sum, holder| sum.saturating_add(holder.most(self.floor)));
        let shared = u64::from(self.limit.saturating_sub(self.absent()).saturating_sub(away));
        let sharing = self.holders.iter().filter(|(_, holder)| holder.shares());
        let wants = |holder: &Holder| u64::from(holder.wanted.max(holder.in_flight).max(self.floor));
        let asks = sharing.clone().map(|(_, holder)| wants(holder));
        let level = share::level(shared, asks.clone());
        let Some(me) = self.holders.get(&router).filter(|holder| holder.shares()) else {
            // Who is about to stop keeps what it needs.
            return self.holders.get(&router).map_or(0, |holder| holder.in_flight.max(holder.wanted));
        };
        let given: u64 = asks.map(|ask| ask.min(level)).sum();
        let rest = shared.saturating_sub(given);
        let mine = wants(me).min(level);
        let (mut before, mut takers) = (0_u64, 0_u64);
        for (other, holder) in sharing {
            if level == u64::MAX || wants(holder) > level {
                takers += 1;
                before += u64::from(*other < router);
            }
        }
        let more = if level == u64::MAX {
            // Nobody asks for them.
            rest / takers.max(1) + u64::from(before < rest % takers.max(1))
        } else if wants(me) > level {
            let turn = now.saturating_duration_since(self.begin).as_secs() / TURN.as_secs();
            u64::from((before + turn) % takers.max(1) < rest)
        } else {
            0
        };
        u32::try_from(mine + more).unwrap_or(u32::MAX)
    }
}
