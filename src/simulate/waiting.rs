//! Requests that wait for room in an account: as the router's do, by the same rules.

use std::time::Instant;

use super::clock::nanos;
use super::play::{Event, Run};
use super::requests::{Call, Place, Turn};
use super::walk::Asked;
use crate::api::escalation_path::FailoverReason;
use crate::router::admission::queue::Ticket;
use crate::router::admission::room::{Again, Amounts, Asker};
use crate::routing::decide::Outcome;

impl Run<'_> {
    /// The account has no room: as the router says it.
    pub(super) fn no_room(&mut self, place: u32) -> Outcome {
        let now = self.now();
        if let Some(request) = self.requests.get(place) {
            request.full = true;
            request.last = Some(FailoverReason::RateLimited);
            if request.progress.rejected {
                request.leave.give_back(now);
            }
        }
        Outcome::Unavailable(Some(FailoverReason::RateLimited))
    }

    /// A request waits for room, until `give_up` at most.
    pub(super) fn wait(&mut self, place: u32, tier: usize, held: (Asker, Amounts), ticket: Ticket, give_up: Instant) {
        let since = self.clock.now();
        let turn = self.requests.next_turn(place);
        if let Some(account) = self.world.tiers[tier].account {
            self.waiting[account].push((ticket.clone(), turn));
        }
        if let Some(request) = self.requests.get(place) {
            let place = Place::Account(ticket, give_up);
            request.call = Some(Call { tier, since, waited: 0, held: Some(held), place });
        }
        self.clock.at(since, Event::Look(turn));
    }

    /// A request that waits for its account looks whether there is room.
    pub(super) fn look(&mut self, turn: Turn) {
        let now = self.now();
        let Some(request) = self.requests.of_turn(turn) else { return };
        let Some(Call { tier, held: Some((asker, amounts)), place: Place::Account(ticket, give_up), .. }) =
            &request.call
        else {
            return;
        };
        let (tier, asker, amounts, give_up) = (*tier, *asker, *amounts, *give_up);
        let Some(account) = self.world.tiers[tier].account else { return };
        let room = &mut self.rooms[account];
        let again = room.again(ticket, give_up, amounts, asker, now);
        if let Again::Waits(until) = again {
            let at = nanos(until.saturating_duration_since(self.epoch));
            self.clock.at(at, Event::Look(turn));
            return;
        }
        room.queue.leave(ticket);
        request.call = None;
        self.waiting[account].retain(|(_, other)| *other != turn);
        self.ring(account);
        let asked = match again {
            Again::In(_) => self.start(turn.place, tier, Some((asker, amounts))),
            Again::GivenUp(_) | Again::Waits(_) => Asked::Said(self.no_room(turn.place)),
        };
        self.after(turn.place, asked);
    }

    /// Whoever is first in an account's queue looks again.
    pub(super) fn ring(&mut self, account: usize) {
        let queue = &self.rooms[account].queue;
        if let Some((_, turn)) = self.waiting[account].iter().find(|(ticket, _)| queue.is_first(ticket)) {
            self.clock.at(self.clock.now(), Event::Look(*turn));
        }
    }

    /// A call has ended that held part of an account, and used so much of it.
    pub(super) fn settle(&mut self, tier: usize, held: Option<(Asker, Amounts)>, used: Amounts) {
        let (Some((asker, amounts)), Some(account)) = (held, self.world.tiers[tier].account) else { return };
        self.rooms[account].close(asker.reserve, amounts, used);
        self.ring(account);
    }
}
