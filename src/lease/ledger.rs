//! What the leader knows of every limit and of every router: a report in, grants out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::amounts::{Amounts, Heard};
use super::parts::{Count, Parts};
use super::places::{Exchange, Places};
use super::reserve::OfPolicy;
use super::{Claim, Claims, GONE, Grant, Grants, Key, Kind, RouterId, Scope};

/// A limit, over all routers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its namespace.
    pub namespace: String,
    /// Its policy. `None`: it is an account's, shared by all policies of the namespace.
    pub policy: Option<String>,
    /// Which limit.
    pub key: Key,
    /// Amount a minute, or requests at a time. At least 1.
    pub limit: u64,
    /// The most routers that may admit at a time, those of a rolling update too; of an account, over all policies that use
    /// it. At least 1.
    pub most: u32,
    /// What is kept of it for workloads of policies.
    pub reserves: Vec<OfPolicy>,
}

type Place = (String, Option<String>, Key);

/// Replies whose time is known.
const REPLIES: usize = 8;

/// Limits that one router may speak of.
const MOST: usize = 4_096;

/// Every limit and who holds what of it.
#[derive(Debug)]
pub struct Ledger {
    since: Instant,
    /// Longest time that a request goes on after it was admitted.
    longest: Duration,
    /// Ids of sessions and ledgers: no other leader makes the same.
    next: u64,
    limits: BTreeMap<Place, Pool>,
    routers: BTreeMap<RouterId, Router>,
    next_router: u32,
}

#[derive(Debug)]
enum Pool {
    Amounts(Box<Amounts>),
    Places(Places),
}

#[derive(Debug)]
struct Router {
    index: u32,
    /// 0: not heard from for too long, and none any more.
    session: u64,
    number: u64,
    sequence: u64,
    heard: Instant,
    /// Number and time of the last replies.
    replies: VecDeque<(u64, Instant)>,
    /// The reply that its last report knew.
    seen: u64,
    claims: BTreeMap<Key, Said>,
}

/// What it said last of a limit, and what it was told.
#[derive(Debug)]
struct Said {
    claim: Claim,
    /// What was told, and since which reply.
    told: Option<(Grant, u64)>,
}

impl Ledger {
    /// A new leader's: nothing is known. `epoch` tells its sessions from those of leaders before.
    #[must_use]
    pub const fn new(since: Instant, epoch: u32) -> Self {
        let next = (epoch as u64) << 32;
        Self { since, longest: Duration::ZERO, next, limits: BTreeMap::new(), routers: BTreeMap::new(), next_router: 0 }
    }

    /// The limits in force, and the longest time that a request goes on after it was admitted. Limits that are the same keep
    /// their state, and changed ones what is lent.
    pub fn set_limits(&mut self, limits: impl IntoIterator<Item = Limit>, longest: Duration, now: Instant) {
        self.longest = longest;
        let mut before = std::mem::take(&mut self.limits);
        for Limit { namespace, policy, key, limit, most, reserves } in limits {
            let (limit, most) = (limit.max(1), most.max(1));
            let few = u32::try_from(limit).unwrap_or(u32::MAX);
            let parts = Parts::of(limit, most, Count::of(key.scope, key.kind));
            let place = (namespace, policy, key);
            let pool = match (before.remove(&place), place.2.kind) {
                (Some(Pool::Places(mut places)), _) => {
                    places.resize(few, most, reserves);
                    Pool::Places(places)
                }
                (Some(Pool::Amounts(mut amounts)), _) => {
                    amounts.resize(parts, &reserves, now);
                    Pool::Amounts(amounts)
                }
                (None, Kind::Concurrency) => Pool::Places(Places::new(few, most, reserves, now)),
                (None, _) => Pool::Amounts(Box::new(Amounts::new(parts, &reserves, now))),
            };
            self.limits.insert(place, pool);
        }
    }

    /// Hears a router, and answers it. What it says of limits that do not exist yet waits until they do.
    pub fn report(&mut self, id: &RouterId, claims: &Claims, now: Instant) -> Grants {
        self.forget(now);
        let Self { limits, routers, next, next_router, since, .. } = self;
        let quiet = now.saturating_duration_since(*since) < GONE;
        let mut make = || {
            *next += 1;
            *next
        };
        if !routers.contains_key(id) {
            let router = Router {
                index: *next_router,
                session: 0,
                number: 0,
                sequence: 0,
                heard: now,
                replies: VecDeque::new(),
                seen: 0,
                claims: BTreeMap::new(),
            };
            *next_router += 1;
            routers.insert(id.clone(), router);
        }
        let Some(router) = routers.get_mut(id) else { return Grants::default() };
        if claims.sequence <= router.sequence {
            // Heard late: what it says is known better.
            return Grants::default();
        }
        let before = router.sequence > 0 && router.session != 0;
        let known = router.session != 0 && claims.session == router.session;
        if router.session == 0 {
            router.session = make();
            router.claims.clear();
        }
        // What was written after the last report was written after it knew this reply.
        let since = router.replies.iter().find(|(number, _)| *number == router.seen).map(|(_, at)| *at);
        let since = since.filter(|_| before && known);
        router.seen = if known { claims.seen } else { 0 };
        router.sequence = claims.sequence;
        router.heard = now;
        router.number += 1;
        if router.replies.len() == REPLIES {
            router.replies.pop_front();
        }
        router.replies.push_back((router.number, now));
        let heard = Heard { now, since, stamp_ms: claims.stamp_ms };
        let exchange =
            Exchange { number: router.number, seen: router.seen, stamp_ms: claims.stamp_ms, draining: claims.draining };
        for claim in &claims.claims {
            let claim = if known { claim.clone() } else { Claim { ledger: 0, ..claim.clone() } };
            let room = router.claims.len() < MOST;
            match router.claims.get_mut(&claim.key) {
                Some(said) => said.claim = claim,
                None if room => drop(router.claims.insert(claim.key.clone(), Said { claim, told: None })),
                None => {}
            }
        }
        let mut grants = Vec::new();
        for (key, said) in &mut router.claims {
            let policy = (key.scope != Scope::Account).then(|| id.policy.clone());
            let Some(pool) = limits.get_mut(&(id.namespace.clone(), policy, key.clone())) else { continue };
            let given = match pool {
                Pool::Amounts(amounts) => {
                    amounts.hear((router.index, &id.policy), &said.claim, heard, &mut make);
                    amounts.give(router.index, now, quiet).map(|given| Grant {
                        key: key.clone(),
                        ledger: given.ledger,
                        granted: given.granted,
                        keep: given.keep,
                        places: 0,
                        common: None,
                        free: given.free,
                    })
                }
                Pool::Places(places) => {
                    places.hear((router.index, &id.policy), &said.claim, exchange);
                    let holds = quiet.then_some(said.claim.places);
                    places.give(router.index, exchange, holds, now).map(|given| Grant {
                        key: key.clone(),
                        ledger: router.session,
                        granted: 0,
                        keep: None,
                        places: given.places,
                        common: given.common,
                        free: given.free,
                    })
                }
            };
            let Some(grant) = given else { continue };
            let same = said.told.as_ref().is_some_and(|(told, number)| *told == grant && *number <= router.seen);
            // A router that says another ledger has begun anew.
            if !same || said.claim.ledger != grant.ledger {
                let number = match &said.told {
                    Some((told, number)) if *told == grant => *number,
                    _ => router.number,
                };
                said.told = Some((grant.clone(), number));
                grants.push(grant);
            }
        }
        Grants { session: router.session, number: router.number, sequence: claims.sequence, grants }
    }

    /// Takes back what was lent to routers that are not heard any more.
    fn forget(&mut self, now: Instant) {
        let Self { limits, routers, longest, .. } = self;
        // A router's clock may be slower.
        let gone = GONE + *longest + *longest / 50;
        routers.retain(|_, router| {
            let silent = now.saturating_duration_since(router.heard);
            if silent >= GONE && router.session != 0 {
                router.session = 0;
                router.seen = 0;
                router.replies.clear();
                for pool in limits.values_mut() {
                    match pool {
                        Pool::Amounts(amounts) => amounts.forget(router.index, now),
                        Pool::Places(places) => places.lose(router.index),
                    }
                }
            }
            if silent >= gone {
                for pool in limits.values_mut() {
                    if let Pool::Places(places) = pool {
                        places.forget(router.index);
                    }
                }
                return false;
            }
            true
        });
    }
}
