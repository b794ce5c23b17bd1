//! Who waits for an account, in which order, and how long at most.
//!
//! High risk goes first, then Medium, then Low; but who can go to a pool instead comes after all who can't, so that nobody is
//! refused while somebody could be moved. Within a rank whoever came first. Low waits no longer than it takes to ask for what
//! others don't need: its answer from a smaller tier is good enough, and each place in the queue holds a request in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::api::types::Risk;

/// What requests of a risk may wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Longest wait, if the path's deadline leaves as much.
    pub time: Duration,
    /// Requests of this risk that may wait for one account.
    pub length: usize,
}

/// What requests of a risk may wait.
#[must_use]
pub const fn patience(risk: Risk) -> Patience {
    match risk {
        Risk::High => Patience { time: Duration::from_secs(10), length: 128 },
        Risk::Medium => Patience { time: Duration::from_secs(2), length: 64 },
        Risk::Low => Patience { time: Duration::ZERO, length: 32 },
    }
}

/// Who goes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Of High risk.
    High,
    /// Of Medium risk, with nowhere else to go.
    Medium,
    /// Of Low risk, with nowhere else to go.
    Low,
    /// Of Medium risk; goes to a pool where there is no room.
    MovableMedium,
    /// Of Low risk; goes to a pool where there is no room.
    MovableLow,
}

impl Rank {
    /// Of a risk, where a request of it can go to a pool instead or not.
    #[must_use]
    pub const fn of(risk: Risk, movable: bool) -> Self {
        match (risk, movable) {
            (Risk::High, _) => Self::High,
            (Risk::Medium, false) => Self::Medium,
            (Risk::Low, false) => Self::Low,
            (Risk::Medium, true) => Self::MovableMedium,
            (Risk::Low, true) => Self::MovableLow,
        }
    }

    const fn risk(self) -> Risk {
        match self {
            Self::High => Risk::High,
            Self::Medium | Self::MovableMedium => Risk::Medium,
            Self::Low | Self::MovableLow => Risk::Low,
        }
    }
}

/// A place in the queue, and the bell that is rung when it may be its turn.
#[derive(Clone, Debug)]
pub struct Ticket {
    number: u64,
    rank: Rank,
    bell: Arc<Notify>,
}

impl Ticket {
    /// Waits for the bell. One that was rung before counts.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

/// Those who wait, by rank and then by number.
#[derive(Debug, Default)]
pub struct Queue {
    next: u64,
    waiting: BTreeMap<(Rank, u64), Arc<Notify>>,
}

impl Queue {
    /// Whether a newcomer of a rank has anybody before it.
    #[must_use]
    pub fn has_before(&self, rank: Rank) -> bool {
        self.head().is_some_and(|((first, _), _)| *first <= rank)
    }

    fn of(&self, rank: Rank) -> usize {
        self.waiting.range((rank, 0)..=(rank, u64::MAX)).count()
    }

    /// Number of those of High risk who wait.
    #[must_use]
    pub fn urgent(&self) -> usize {
        self.of(Rank::High)
    }

    /// Number of those who wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Joins the end of a rank's queue, if it is not full.
    pub fn join(&mut self, rank: Rank) -> Option<Ticket> {
        if self.of(rank) >= patience(rank.risk()).length {
            return None;
        }
        let ticket = Ticket { number: self.next, rank, bell: Arc::default() };
        self.next += 1;
        self.waiting.insert((rank, ticket.number), ticket.bell.clone());
        Some(ticket)
    }

    fn head(&self) -> Option<(&(Rank, u64), &Arc<Notify>)> {
        self.waiting.first_key_value()
    }

    /// Whether it is this one's turn.
    #[must_use]
    pub fn is_first(&self, ticket: &Ticket) -> bool {
        self.head().is_some_and(|((_, number), _)| *number == ticket.number)
    }

    /// Leaves the queue, served or not.
    pub fn leave(&mut self, ticket: &Ticket) {
        self.waiting.remove(&(ticket.rank, ticket.number));
        self.ring();
    }

    /// Tells whoever is first to look again.
    pub fn ring(&self) {
        if let Some((_, bell)) = self.head() {
            bell.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_risk_goes_first_and_who_can_move_last_then_whoever_came_first() {
        let mut queue = Queue::default();
        let [moves, low] = [Rank::of(Risk::Medium, true), Rank::Low].map(|rank| queue.join(rank).unwrap());
        let [first, second] = [Rank::Medium; 2].map(|rank| queue.join(rank).unwrap());
        assert!(queue.has_before(Rank::Medium) && !queue.has_before(Rank::High));
        let high = queue.join(Rank::of(Risk::High, true)).unwrap();
        assert!(queue.has_before(Rank::High) && queue.urgent() == 1 && queue.len() == 5);
        for next in [&high, &first, &second, &low, &moves] {
            assert!(queue.is_first(next));
            queue.leave(next);
        }
        assert!(queue.is_empty() && !queue.has_before(Rank::MovableLow));
    }

    #[test]
    fn the_queue_is_bounded_and_low_waits_least() {
        let mut queue = Queue::default();
        for risk in [Risk::High, Risk::Medium, Risk::Low] {
            let places = (0..1000).filter(|_| queue.join(Rank::of(risk, false)).is_some()).count();
            assert_eq!(places, patience(risk).length);
        }
        let [low, medium, high] = [Risk::Low, Risk::Medium, Risk::High].map(|risk| patience(risk).time);
        assert!(low.is_zero() && low < medium && medium < high);
    }
}
