//! The operator's side of one limit of requests at a time: which router holds how many places.
//!
//! A router counts for the most that it may have in flight: what it says, its floor, and every lease that it may still be
//! living on. A lease is over when the router has said that it knows a later one, or when it wrote a report after the
//! lease's end by its own clock. A router that says nothing any more counts until its requests must have ended. For each
//! router that may be there and does not say that it has a floor, a floor is kept.
//!
//! What is left of reserves is handed out to nobody but workloads that have one. So it is free when they come, and no
//! request of others has to end first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::reserve::{OfPolicy, places_left};
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

/// What a router gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub places: u32,
    /// The part of them that requests of Low risk may fill too, where there are reserves.
    pub common: Option<u32>,
    /// Part of the limit that is free, in percent.
    pub free: u8,
}

/// A router's fair part.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// For workloads with a reserve.
    first: u32,
    /// For all.
    common: u32,
    /// What of the rest is for other routers' workloads with a reserve.
    kept: u32,
}

/// A limit of requests at a time.
#[derive(Debug)]
pub(super) struct Places {
    limit: u32,
    most: u32,
    floor: u32,
    begin: Instant,
    holders: BTreeMap<u32, Holder>,
    reserves: Vec<OfPolicy>,
}

#[derive(Debug, Default)]
struct Holder {
    /// Leases that may be in force.
    leases: Vec<Lease>,
    in_flight: u32,
    wanted: u32,
    /// The part of that for workloads with a reserve.
    first: u32,
    /// Their requests in flight, in the order of the reserves.
    reserved: Vec<u32>,
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

    /// Places that it would fill.
    fn wants(&self, floor: u32) -> u64 {
        self.wanted.max(self.in_flight).max(floor).into()
    }

    /// The part of them for workloads with a reserve.
    fn wants_first(&self) -> u64 {
        self.first.max(self.holds_first()).into()
    }

    /// What of that is filled.
    fn holds_first(&self) -> u32 {
        self.reserved.iter().copied().fold(0, u32::saturating_add)
    }

    /// Requests of others in flight.
    fn others(&self) -> u32 {
        self.in_flight.saturating_sub(self.holds_first())
    }
}

impl Places {
    pub(super) fn new(limit: u32, most: u32, reserves: Vec<OfPolicy>, now: Instant) -> Self {
        let holders = BTreeMap::new();
        let mut new = Self { limit, most, floor: 0, begin: now, holders, reserves: Vec::new() };
        new.resize(limit, most, reserves);
        new
    }

    /// A changed limit, or other reserves: whoever holds more than its part is told so.
    pub(super) fn resize(&mut self, limit: u32, most: u32, reserves: Vec<OfPolicy>) {
        let floor = u32::try_from(floor(limit.into(), most)).unwrap_or(u32::MAX);
        if self.reserves != reserves {
            // Until they are told anew.
            self.holders.values_mut().for_each(|holder| holder.reserved.clear());
        }
        (self.limit, self.most, self.floor, self.reserves) = (limit, most, floor, reserves);
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

    /// Takes in what a router of a policy says of this limit.
    pub(super) fn hear(&mut self, (router, policy): (u32, &str), claim: &Claim, exchange: Exchange) {
        let reserved = self.reserves.iter().map(|(of, reserve)| {
            let said = claim.reserved.get(&reserve.workload).filter(|_| of == policy);
            said.map_or(0, |said| u32::try_from(*said).unwrap_or_default())
        });
        let wanted = u32::try_from(claim.wanted).unwrap_or(u32::MAX).min(self.limit);
        let holder = self.holders.entry(router).or_default();
        (holder.in_flight, holder.wanted, holder.heard) = (claim.in_flight, wanted, true);
        holder.first = u32::try_from(claim.urgent).unwrap_or(u32::MAX).min(wanted);
        holder.reserved = reserved.collect();
        (holder.draining, holder.floor) = (exchange.draining, claim.floor && !exchange.draining);
        let over =
            |lease: &Lease| lease.number < exchange.seen || exchange.stamp_ms >= lease.stamp_ms.saturating_add(5_000);
        holder.leases.retain(|lease| !over(lease));
        // A lease of a leader before this one.
        if holder.leases.is_empty() && claim.places > 0 {
            holder.leases.push(Lease { number: exchange.seen, places: claim.places, stamp_ms: exchange.stamp_ms });
        }
    }

    /// What it gets now. In quiet times no more than it `holds`.
    pub(super) fn give(&mut self, router: u32, exchange: Exchange, holds: Option<u32>, now: Instant) -> Option<Given> {
        let part = self.part(router, now);
        let others = self.holders.iter().filter(|(other, _)| **other != router);
        let held = others.fold(0_u32, |sum, (_, holder)| sum.saturating_add(holder.most(self.floor)));
        let left = self.limit.saturating_sub(self.absent()).saturating_sub(held).min(holds.unwrap_or(u32::MAX));
        let first = part.first.min(left);
        let common = part.common.min((left - first).saturating_sub(part.kept));
        let used = self.holders.values().fold(0_u32, |sum, holder| sum.saturating_add(holder.in_flight));
        let free = u64::from(self.limit.saturating_sub(used)) * 100 / u64::from(self.limit.max(1));
        let holder = self.holders.get_mut(&router)?;
        // Whoever has more than its part already must not be in the way of those who come first.
        let others = if first > 0 { common.max(holder.others()) } else { common };
        let places = first.saturating_add(others).min(left);
        let lease = Lease { number: exchange.number, places, stamp_ms: exchange.stamp_ms };
        // Of leases of one size the latest ends last.
        holder.leases.retain(|other| other.places > places || other.number < exchange.seen);
        holder.leases.push(lease);
        let common = (!self.reserves.is_empty()).then_some(common);
        Some(Given { places, common, free: u8::try_from(free / 10 * 10).unwrap_or(100) })
    }

    /// Floors of routers that may be there without having been heard. One that is lost counts with its floor already, and who
    /// replaces it has none until the lost one's requests must have ended.
    fn absent(&self) -> u32 {
        let known = self.holders.values().filter(|holder| holder.floor).count();
        self.floor.saturating_mul(self.most.saturating_sub(u32::try_from(known).unwrap_or(u32::MAX)))
    }

    /// What is left of the reserves.
    fn reserved(&self) -> u64 {
        let taken = |at: usize| {
            let of = self.holders.values().filter_map(|holder| holder.reserved.get(at));
            of.fold(0_u32, |sum, taken| sum.saturating_add(*taken))
        };
        let left = self.reserves.iter().enumerate().map(|(at, (_, reserve))| (reserve.nanos, taken(at)));
        // Of several policies, each of which leaves something, they may come to more.
        places_left(self.limit, left).min(self.limit.saturating_sub(1)).into()
    }

    /// Its fair part of what the routers that are heard can share.
    fn part(&self, router: u32, now: Instant) -> Part {
        let away = self.holders.values().filter(|holder| !holder.shares());
        let away = away.fold(0_u32, |sum, holder| sum.saturating_add(holder.most(self.floor)));
        let shared = u64::from(self.limit.saturating_sub(self.absent()).saturating_sub(away));
        let sharing = self.holders.iter().filter(|(_, holder)| holder.shares());
        let Some(me) = self.holders.get(&router).filter(|holder| holder.shares()) else {
            // Who is about to stop keeps what it needs.
            let keeps = self.holders.get(&router).map_or(0, |holder| holder.in_flight.max(holder.wanted));
            return Part { common: keeps, ..Part::default() };
        };
        let firsts = sharing.clone().map(|(_, holder)| holder.wants_first());
        let first = share::level(shared, firsts);
        let has_first = |holder: &Holder| holder.wants_first().min(first);
        let given = sharing.clone().map(|(_, holder)| has_first(holder)).sum::<u64>();
        let coming = |holder: &Holder| has_first(holder).saturating_sub(holder.holds_first().into());
        let kept = self.reserved().saturating_sub(sharing.clone().map(|(_, holder)| coming(holder)).sum());
        let common = shared.saturating_sub(given).saturating_sub(kept);
        let more = |holder: &Holder| holder.wants(self.floor).saturating_sub(has_first(holder));
        let asks = sharing.clone().map(|(_, holder)| more(holder));
        let level = share::level(common, asks.clone());
        let rest = common.saturating_sub(asks.map(|ask| ask.min(level)).sum());
        let (mut before, mut takers) = (0_u64, 0_u64);
        for (other, holder) in sharing {
            if level == u64::MAX || more(holder) > level {
                takers += 1;
                before += u64::from(*other < router);
            }
        }
        let turn = if level == u64::MAX {
            // Nobody asks for them.
            rest / takers.max(1) + u64::from(before < rest % takers.max(1))
        } else if more(me) > level {
            let turn = now.saturating_duration_since(self.begin).as_secs() / TURN.as_secs();
            u64::from((before + turn) % takers.max(1) < rest)
        } else {
            0
        };
        // What others were not told of yet.
        let untold = |holder: &Holder| {
            let needs = u64::from(holder.in_flight) + coming(holder);
            needs.saturating_sub(holder.most(self.floor).into())
        };
        let others = self.holders.iter().filter(|(other, holder)| **other != router && holder.shares());
        let kept = kept + others.map(|(_, holder)| untold(holder)).sum::<u64>();
        let few = |places: u64| u32::try_from(places).unwrap_or(u32::MAX);
        Part { first: few(has_first(me)), common: few(more(me).min(level) + turn), kept: few(kept) }
    }
}
