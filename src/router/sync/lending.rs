//! What operators lend: claims go to the operator that leads, and its grants are put in force.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lease::lessee::Lessee;
use crate::lease::{Claims, GAVE_BACK};
use crate::router::Shared;
use crate::routing::report::Reply;

/// The exchange with the leader.
pub(super) struct Lending(Mutex<State>);

struct State {
    lessee: Lessee,
    /// The last report whose answer is in force.
    answered: u64,
    /// Who said last that it leads.
    leader: Option<SocketAddr>,
}

impl Lending {
    pub(super) fn new(begin: Instant) -> Self {
        Self(Mutex::new(State { lessee: Lessee::new(begin), answered: 0, leader: None }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a report to an operator says of limits: nothing if another leads.
    pub(super) fn claims(&self, to: SocketAddr, draining: bool, shared: &Shared) -> Option<Claims> {
        let snapshot = shared.snapshot.load_full()?;
        snapshot.table.leases?;
        let mut state = self.state();
        if state.leader.is_some_and(|leader| leader != to) {
            return None;
        }
        if draining {
            state.lessee.drain();
        }
        let now = Instant::now();
        let claims = snapshot.claims((state.lessee.next(), state.answered), now);
        Some(state.lessee.report(claims, now))
    }

    /// Puts an answer in force. Returns in what time another report should follow, if that is to be soon.
    pub(super) fn answered(&self, from: SocketAddr, reply: &Reply, shared: &Shared) -> Option<Duration> {
        let mut state = self.state();
        if !reply.leader {
            state.leader.take_if(|leader| *leader == from);
            return None;
        }
        let new = state.leader.replace(from) != Some(from);
        let Some(grants) = &reply.leases else { return new.then_some(GAVE_BACK) };
        let terms = state.lessee.read(grants)?;
        state.answered = terms.answers;
        shared.snapshot.load().as_ref().and_then(|snapshot| snapshot.apply(&terms, Instant::now()))
    }

    /// An operator did not answer.
    pub(super) fn lost(&self, operator: SocketAddr) {
        self.state().leader.take_if(|leader| *leader == operator);
    }
}
