//! What an operator lends of an account, a client or a workload: claims, and what is answered.

use std::time::{Duration, Instant};

use crate::lease::holding::{Holding, Places, Waiting};
use crate::lease::lessee::Terms;
use crate::lease::{Claim, Grant, Key, Kind, Scope};

/// All limits of one of them that are lent.
pub(super) struct Lent<'s, A> {
    pub(super) scope: Scope,
    pub(super) name: &'s str,
    pub(super) amounts: A,
    pub(super) places: &'s mut Option<Places>,
}

fn key(scope: Scope, name: &str, kind: Kind) -> Key {
    Key { scope, name: name.to_owned(), kind }
}

impl<'s, A: Iterator<Item = (Kind, &'s mut Option<Holding>)>> Lent<'s, A> {
    /// What a report says, with the requests in flight; see [`Holding::claim`].
    pub(super) fn claim(
        self,
        numbers: (u64, u64),
        (in_flight, waiting): (u32, Waiting),
        now: Instant,
        claims: &mut Vec<Claim>,
    ) {
        let Self { scope, name, amounts, places } = self;
        for (kind, held) in amounts {
            claims.extend(held.as_mut().and_then(|held| held.claim(&key(scope, name, kind), numbers, waiting, now)));
        }
        let key = key(scope, name, Kind::Concurrency);
        claims.extend(places.as_mut().and_then(|held| held.claim(&key, numbers, (in_flight, waiting), now)));
    }

    /// Puts what the leader answers in force. Returns in what time to report again, if that is to be soon.
    pub(super) fn apply<'g>(
        self,
        grant: impl Fn(&Key) -> Option<&'g Grant>,
        terms: &Terms<'_>,
        now: Instant,
    ) -> Option<Duration> {
        let Self { scope, name, amounts, places } = self;
        let grant = |kind| grant(&key(scope, name, kind));
        let amounts = amounts.filter_map(|(kind, held)| held.as_mut()?.apply(grant(kind), terms, now)).min();
        let places = places.as_mut().and_then(|held| held.apply(grant(Kind::Concurrency), terms, now));
        amounts.into_iter().chain(places).min()
    }

    /// The router is about to stop: it lives on what it was lent.
    pub(super) fn drain(self) {
        self.amounts.filter_map(|(_, held)| held.as_mut()).for_each(Holding::drain);
        self.places.iter_mut().for_each(Places::drain);
    }
}
