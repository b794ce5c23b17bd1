//! Requests on their way, and where each of them is.

use super::arrivals::Arrival;
use super::clock::Nanos;
use super::kinds::Kind;
use super::pool::ReplicaId;
use super::trace::Details;
use crate::api::escalation_path::FailoverReason;
use crate::api::types::ModelClass;
use crate::router::admission::Admitted;
use crate::router::admission::escalations::Leave;
use crate::router::admission::queue::Ticket;
use crate::router::admission::room::{Amounts, Asker};
use crate::router::money::Money;
use crate::routing::decide::Progress;

/// A request.
pub struct Request<'w> {
    /// Its draws.
    pub arrival: Arrival,
    /// When it came.
    pub at: Nanos,
    /// When it must be answered.
    pub deadline: Nanos,
    /// What it is.
    pub kind: &'w Kind,
    /// What its row says besides.
    pub says: Option<&'w Details>,
    /// Tokens of input.
    pub input: u32,
    /// Tokens of output that a model makes for it.
    pub output: u32,
    /// Most that it allows.
    pub max_tokens: Option<u32>,
    /// Its step, by its place in the path,
    pub step: usize,
    /// and the tier of the step.
    pub leg: usize,
    /// What it has met.
    pub progress: Progress,
    /// Its leave to escalate.
    pub leave: Leave<'w>,
    /// Its places within limits.
    pub admitted: Option<Admitted>,
    /// The best answer that did not pass.
    pub best: Option<Best>,
    /// The last tier that gave no answer said why.
    pub last: Option<FailoverReason>,
    /// A tier was at its limit.
    pub full: bool,
    /// What its calls have cost.
    pub cost: Money,
    /// Tokens that its calls have used.
    pub used: u64,
    /// Where it is asked now.
    pub call: Option<Call>,
    /// The outage in which it came straight to the tier that was lost.
    pub failed_over: Option<usize>,
}

/// An answer that is returned if none better comes.
#[derive(Clone, Copy, Debug)]
pub struct Best {
    /// Class of its tier.
    pub class: ModelClass,
    /// Its tier, by its place.
    pub tier: usize,
}

/// A call of a tier.
pub struct Call {
    /// The tier, by its place.
    pub tier: usize,
    /// When it began.
    pub since: Nanos,
    /// How long it waited for a slot.
    pub waited: Nanos,
    /// What it holds of the router's account.
    pub held: Option<(Asker, Amounts)>,
    /// Where it is.
    pub place: Place,
}

/// Where a call is.
pub enum Place {
    /// It waits for the account, until then.
    Account(Ticket, std::time::Instant),
    /// At a replica.
    Replica(ReplicaId),
    /// At a provider.
    Provider,
    /// Nowhere: nobody will answer.
    Lost,
}

/// A request and its turn: after it has moved on, what was scheduled for it before is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Its place.
    pub place: u32,
    /// Its turn there.
    turn: u32,
}

impl Turn {
    /// As one number.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.turn)
    }

    /// Of such a number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub const fn of(number: u64) -> Self {
        Self { place: (number >> 32) as u32, turn: number as u32 }
    }
}

/// Requests on their way. Places are used again.
#[derive(Default)]
pub struct Requests<'w> {
    places: Vec<(u32, Option<Box<Request<'w>>>)>,
    free: Vec<u32>,
}

impl<'w> Requests<'w> {
    /// Takes in a request; returns its place.
    pub fn add(&mut self, request: Request<'w>) -> u32 {
        let request = Some(Box::new(request));
        if let Some(place) = self.free.pop() {
            if let Some((_, free)) = self.at(place) {
                *free = request;
            }
            return place;
        }
        self.places.push((0, request));
        u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    fn at(&mut self, place: u32) -> Option<&mut (u32, Option<Box<Request<'w>>>)> {
        self.places.get_mut(usize::try_from(place).ok()?)
    }

    /// A request by its place.
    pub fn get(&mut self, place: u32) -> Option<&mut Request<'w>> {
        self.at(place)?.1.as_deref_mut()
    }

    /// The request's next turn begins: what was scheduled for it is void.
    pub fn next_turn(&mut self, place: u32) -> Turn {
        let turn = self.at(place).map_or(0, |(turn, _)| {
            *turn = turn.wrapping_add(1);
            *turn
        });
        Turn { place, turn }
    }

    /// The request, if it is still this turn's.
    pub fn of_turn(&mut self, turn: Turn) -> Option<&mut Request<'w>> {
        let (current, request) = self.at(turn.place)?;
        request.as_deref_mut().filter(|_| *current == turn.turn)
    }

    /// Takes a request out.
    pub fn remove(&mut self, place: u32) -> Option<Box<Request<'w>>> {
        let (turn, request) = self.at(place)?;
        *turn = turn.wrapping_add(1);
        let request = request.take()?;
        self.free.push(place);
        Some(request)
    }

    /// Requests with a call at a tier, each with its turn, in the order of their places.
    pub fn calling(&self, tier: usize) -> Vec<Turn> {
        let all = (0..).zip(&self.places).filter_map(|(place, (turn, request))| {
            let call = request.as_ref()?.call.as_ref()?;
            let asked = call.tier == tier && !matches!(call.place, Place::Account(..));
            asked.then_some(Turn { place, turn: *turn })
        });
        all.collect()
    }
}
