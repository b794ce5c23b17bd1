//! What an account can still take, who waits for it, and who is next.
//!
//! Pure: the caller brings the time, and waits. [`Account`](super::account::Account) does so for requests, and the
//! simulator in virtual time.

use std::time::{Duration, Instant};

use super::limiter::{Demand, Kind, UNTIL_A_SLOT};
use super::queue::{Queue, Rank, Ticket, patience};
use super::share::Share;
use crate::api::types::Risk;
use crate::lease::holding::{Holding, Places, Taken};
use crate::lease::reserve::Reserve;
use crate::lease::{self, Count, Scope};
use crate::routing::table::Quota;

/// One of what is counted a minute.
pub(super) struct Counted {
    pub(super) kind: Kind,
    /// The same, as the operator knows it.
    pub(super) lent: lease::Kind,
    /// The limit that a quota sets.
    pub(super) limit: fn(&Quota) -> Option<u64>,
}

/// What is counted a minute, in the order in which it is kept.
pub(super) const COUNTED: [Counted; 4] = [
    Counted { kind: Kind::Requests, lent: lease::Kind::Requests, limit: |quota| quota.requests_per_minute },
    Counted { kind: Kind::Tokens, lent: lease::Kind::Tokens, limit: |quota| quota.tokens_per_minute },
    Counted { kind: Kind::InputTokens, lent: lease::Kind::InputTokens, limit: |quota| quota.input_tokens_per_minute },
    Counted {
        kind: Kind::OutputTokens,
        lent: lease::Kind::OutputTokens,
        limit: |quota| quota.output_tokens_per_minute,
    },
];

/// What a request takes of each of the four: requests, tokens, tokens of input, tokens of output.
pub type Amounts = [u64; 4];

/// How long whoever is impatient waits for what an operator may lend: an exchange with it, and another where it has to be given
/// back first.
const TO_BORROW: Duration = Duration::from_millis(500);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Risk of its workload.
    pub risk: Risk,
    /// Whether it goes to a pool where there is no room.
    pub movable: bool,
    /// Its workload's reserve, by its place among those of the account.
    pub reserve: Option<usize>,
}

impl Asker {
    pub(super) const fn rank(&self) -> Rank {
        Rank::of(self.risk, self.movable)
    }
}

/// What a request takes of an account.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Tokens of its input, as estimated.
    pub input: u64,
    /// Tokens of its output, at most or as assumed.
    pub output: Demand,
}

impl Order {
    /// What it takes of each kind, where so many tokens, and tokens of output, are the most that there can be. What is only
    /// assumed never makes it too large.
    pub(super) fn amounts(self, most: [u64; 2]) -> Amounts {
        let both = Demand { stated: self.input.saturating_add(self.output.stated), ..self.output };
        [1, both.of(most[0]), self.input, self.output.of(most[1])]
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug)]
pub struct Lack {
    /// Which limit.
    pub kind: Kind,
    /// Time until there is room, if nothing is given back before; `None`: never.
    pub wait: Option<Duration>,
}

/// There may be room, but others have waited for it.
pub(super) const LATER: Lack = Lack { kind: Kind::Queue, wait: Some(UNTIL_A_SLOT) };

/// What becomes of a request that comes.
#[derive(Debug)]
pub enum Entry {
    /// It has what it needs, taken from there.
    In([Taken; 4]),
    /// It waits, until then at most. [`Room::again`] tells what becomes of it, and [`Queue::leave`] ends its wait.
    Waits(Ticket, Instant),
    /// There is no room.
    Refused(Lack),
}

/// What becomes of a request that waits.
#[derive(Debug)]
pub enum Again {
    /// It has what it needs, taken from there.
    In([Taken; 4]),
    /// It waits: look again then, or when its bell rings.
    Waits(Instant),
    /// It has waited long enough.
    GivenUp(Lack),
}

/// The state of an account.
#[derive(Default)]
pub struct Room {
    pub(super) amounts: [Option<Holding>; 4],
    pub(super) places: Option<Places>,
    pub(super) in_flight: u32,
    /// Who waits.
    pub queue: Queue,
}

impl Room {
    /// Puts a quota and reserves in force. What is lent outlives every change.
    pub fn set(&mut self, quota: &Quota, share: Share, reserves: &[Reserve], now: Instant) {
        for (held, counted) in self.amounts.iter_mut().zip(COUNTED) {
            share.amount((counted.limit)(quota), Count::of(Scope::Account, counted.lent), held, now);
            held.iter_mut().for_each(|held| held.reserve(reserves, now));
        }
        share.places(quota.max_concurrent, &mut self.places, now);
        self.places.iter_mut().for_each(|places| places.reserve(reserves));
    }

    /// What a request takes of each. What is only assumed never makes it too large.
    pub fn amounts(&mut self, order: Order, Asker { risk, reserve, .. }: Asker) -> Amounts {
        let most = if risk == Risk::Low { Holding::most_beside_reserves } else { Holding::most };
        let most = |at: usize| self.amounts.get(at).and_then(Option::as_ref).map_or(u64::MAX, most);
        let amounts = order.amounts([most(1), most(3)]);
        for (held, amount) in self.amounts.iter_mut().zip(amounts) {
            held.iter_mut().for_each(|held| held.ask(amount, risk == Risk::High, reserve));
        }
        amounts
    }

    /// What becomes of a request that comes now and must be answered by a deadline.
    pub fn enter(&mut self, amounts: Amounts, asker: Asker, now: Instant, deadline: Instant) -> Entry {
        let lack = match self.lack(asker, amounts, now) {
            None if !self.queue.has_before(asker.rank()) => {
                return Entry::In(self.take(asker.reserve, amounts));
            }
            None => LATER,
            Some(lack) => lack,
        };
        let borrows = self.amounts.iter().flatten().any(Holding::has_lease);
        let patience = patience(asker.risk).time.max(if borrows { TO_BORROW } else { Duration::ZERO });
        // Half of what is left of the deadline is for whoever is asked then, here or at the next step.
        let give_up = now + patience.min(deadline.saturating_duration_since(now) / 2);
        // Requests are not given back: nothing can make the wait for one shorter.
        let requests = self.amounts[0].as_ref().and_then(|held| held.wait(1)).unwrap_or_default();
        if lack.wait.is_none() || give_up <= now || now + requests > give_up {
            return Entry::Refused(lack);
        }
        self.queue.join(asker.rank()).map_or(Entry::Refused(LATER), |ticket| Entry::Waits(ticket, give_up))
    }

    /// What becomes of a request that waits until `give_up` at most.
    pub fn again(&mut self, ticket: &Ticket, give_up: Instant, amounts: Amounts, asker: Asker, now: Instant) -> Again {
        let first = self.queue.is_first(ticket);
        let (lack, look_again) = match self.lack(asker, amounts, now) {
            None if first => {
                return Again::In(self.take(asker.reserve, amounts));
            }
            None => (LATER, give_up),
            Some(lack) => {
                let fills = lack.wait.filter(|_| first && lack.kind != Kind::Concurrency);
                (lack, fills.map_or(give_up, |wait| give_up.min(now + wait)))
            }
        };
        if now >= give_up { Again::GivenUp(lack) } else { Again::Waits(look_again) }
    }

    pub(super) fn lack(&mut self, asker: Asker, asked: Amounts, now: Instant) -> Option<Lack> {
        let Self { amounts, places, in_flight, .. } = self;
        let Asker { risk, reserve, .. } = asker;
        // Only Low has to leave what is reserved.
        let leaves = risk == Risk::Low;
        let mut found: Option<Lack> = None;
        if let Some(places) = places {
            places.fill(now);
            let free = places.free(*in_flight);
            if free == 0 || leaves && places.free_beside_reserves(*in_flight) == 0 {
                let kind = if free > 0 { Kind::Reserve } else { Kind::Concurrency };
                places.lack(reserve);
                found = Some(Lack { kind, wait: Some(UNTIL_A_SLOT) });
            }
        }
        for ((holding, amount), Counted { kind, .. }) in amounts.iter_mut().zip(asked).zip(COUNTED) {
            let Some(holding) = holding else { continue };
            holding.fill(now);
            let wait = if leaves { holding.wait_beside_reserves(amount) } else { holding.wait(amount) };
            if wait == Some(Duration::ZERO) {
                continue;
            }
            // Nobody could lend what it never holds.
            wait.into_iter().for_each(|_| holding.lack(amount));
            let kind = if holding.wait(amount) == Some(Duration::ZERO) { Kind::Reserve } else { kind };
            if found.as_ref().is_none_or(|old| wait.is_none() || old.wait.is_some() && wait > old.wait) {
                found = Some(Lack { kind, wait });
            }
        }
        if found.is_some() {
            places.iter_mut().for_each(|held| held.turned_away(in_flight.saturating_add(1), reserve));
        }
        found
    }

    pub(super) fn take(&mut self, reserve: Option<usize>, amounts: Amounts) -> [Taken; 4] {
        self.in_flight += 1;
        let mut taken = [Taken::default(); 4];
        for ((held, amount), taken) in self.amounts.iter_mut().zip(amounts).zip(&mut taken) {
            *taken = held.as_mut().map_or_else(Taken::default, |held| held.take_as(amount, reserve));
        }
        let in_flight = self.in_flight;
        self.places.iter_mut().for_each(|held| held.enter(in_flight, reserve));
        taken
    }

    /// Takes as much of these amounts as there is, for a request that is admitted elsewhere: what is lent here is then as
    /// used, and as asked for, as if it had been admitted by it. Returns what was taken.
    pub(super) fn follow(&mut self, reserve: Option<usize>, asked: Amounts, now: Instant) -> Amounts {
        let mut there = asked;
        for (held, there) in self.amounts.iter_mut().zip(&mut there) {
            let Some(held) = held else { continue };
            held.fill(now);
            *there = held.left().min(*there);
        }
        self.take(reserve, there);
        there
    }

    /// A request ended that took `reserved` and used `used`. Whoever is first in the queue is told.
    pub fn close(&mut self, reserve: Option<usize>, reserved: Amounts, used: Amounts) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.places.iter_mut().for_each(|held| held.leave(reserve));
        for ((held, reserved), used) in self.amounts.iter_mut().zip(reserved).zip(used) {
            held.iter_mut().for_each(|held| held.settle_as(reserved, used, reserve));
        }
        self.queue.ring();
    }
}
