//! Who waits for an account, in which order, and how long at most.
//!
//! High risk goes first, then Medium; within a risk whoever came first. Low does not wait: its answer from a smaller tier
//! is good enough, and each place in the queue holds a request in memory.

use std::collections::VecDeque;
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
        Risk::Low => Patience { time: Duration::ZERO, length: 0 },
    }
}

/// A place in the queue, and the bell that is rung when it may be its turn.
#[derive(Clone, Debug)]
pub struct Ticket {
    number: u64,
    risk: Risk,
    bell: Arc<Notify>,
}

impl Ticket {
    /// Waits for the bell. One that was rung before counts.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

/// Those who wait, by risk.
#[derive(Debug, Default)]
pub struct Queue {
    next: u64,
    high: VecDeque<Ticket>,
    medium: VecDeque<Ticket>,
}

impl Queue {
    const fn of(&mut self, risk: Risk) -> Option<&mut VecDeque<Ticket>> {
        match risk {
            Risk::High => Some(&mut self.high),
            Risk::Medium => Some(&mut self.medium),
            Risk::Low => None,
        }
    }

    /// Whether a newcomer of a risk has anybody before it.
    #[must_use]
    pub fn has_before(&self, risk: Risk) -> bool {
        !self.high.is_empty() || risk != Risk::High && !self.medium.is_empty()
    }

    /// Number of those of High risk who wait.
    #[must_use]
    pub fn urgent(&self) -> usize {
        self.high.len()
    }

    /// Number of those who wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.high.len() + self.medium.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the end of a risk's queue, if it is not full.
    pub fn join(&mut self, risk: Risk) -> Option<Ticket> {
        let ticket = Ticket { number: self.next, risk, bell: Arc::default() };
        self.next += 1;
        let queue = self.of(risk).filter(|queue| queue.len() < patience(risk).length)?;
        queue.push_back(ticket.clone());
        Some(ticket)
    }

    fn head(&self) -> Option<&Ticket> {
        self.high.front().or_else(|| self.medium.front())
    }

    /// Whether it is this one's turn.
    #[must_use]
    pub fn is_first(&self, ticket: &Ticket) -> bool {
        self.head().is_some_and(|head| head.number == ticket.number)
    }

    /// Leaves the queue, served or not.
    pub fn leave(&mut self, ticket: &Ticket) {
        if let Some(queue) = self.of(ticket.risk)
            && let Ok(place) = queue.binary_search_by_key(&ticket.number, |other| other.number)
        {
            queue.remove(place);
        }
        self.ring();
    }

    /// Tells whoever is first to look again.
    pub fn ring(&self) {
        if let Some(head) = self.head() {
            head.bell.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_risk_goes_first_then_whoever_came_first() {
        let mut queue = Queue::default();
        let first = queue.join(Risk::Medium).unwrap();
        let second = queue.join(Risk::Medium).unwrap();
        let high = queue.join(Risk::High).unwrap();
        assert!(queue.join(Risk::Low).is_none() && queue.has_before(Risk::High));
        for next in [&high, &first, &second] {
            assert!(queue.is_first(next));
            queue.leave(next);
        }
        assert!(queue.is_empty() && !queue.has_before(Risk::Low));
    }

    #[test]
    fn the_queue_is_bounded_and_low_waits_least() {
        let mut queue = Queue::default();
        for risk in [Risk::High, Risk::Medium, Risk::Low] {
            let places = (0..1000).filter(|_| queue.join(risk).is_some()).count();
            assert_eq!(places, patience(risk).length);
        }
        let [low, medium, high] = [Risk::Low, Risk::Medium, Risk::High].map(|risk| patience(risk).time);
        assert!(low.is_zero() && low < medium && medium < high);
    }
}
