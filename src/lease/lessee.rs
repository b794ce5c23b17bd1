//! A router's side of the exchange: which report is answered, and what of the answer is to be believed.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Claim, Claims, Grant, Grants, VALID};

/// Reports that an answer may still come to.
const OPEN: usize = 16;

/// What a router knows of the exchange with its leader.
#[derive(Debug)]
pub struct Lessee {
    begin: Instant,
    session: u64,
    seen: u64,
    sequence: u64,
    /// The first report that was written with all in force that is now.
    since: u64,
    /// Reports and when they were written.
    written: VecDeque<(u64, Instant)>,
    draining: bool,
}

/// An answer that is in force from now on.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The leader did not know this router: what it held is void.
    pub void: bool,
    /// It answers a report that was written with all in force: a ledger that was not known then may begin.
    pub fresh: bool,
    /// The report that it answers.
    pub answers: u64,
    /// Until when all is good that the leader gave.
    pub until: Instant,
    /// What is given. What is not named stays as it is.
    pub grants: &'a [Grant],
}

impl Lessee {
    /// Nothing known yet.
    #[must_use]
    pub const fn new(begin: Instant) -> Self {
        Self { begin, session: 0, seen: 0, sequence: 0, since: 0, written: VecDeque::new(), draining: false }
    }

    /// From now on reports say that the router is about to stop.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Number of the next report.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.sequence + 1
    }

    /// Writes a report of what [`claim`](super::holding::Holding::claim) said.
    #[must_use]
    pub fn report(&mut self, claims: Vec<Claim>, now: Instant) -> Claims {
        self.sequence += 1;
        if self.written.len() == OPEN {
            self.written.pop_front();
        }
        self.written.push_back((self.sequence, now));
        let stamp = now.saturating_duration_since(self.begin);
        Claims {
            session: self.session,
            seen: self.seen,
            sequence: self.sequence,
            stamp_ms: u64::try_from(stamp.as_millis()).unwrap_or(u64::MAX),
            draining: self.draining,
            claims,
        }
    }

    /// Reads an answer. `None` if it is nothing to go by: no leader's, or older than what is in force.
    #[must_use]
    pub fn read<'a>(&mut self, grants: &'a Grants) -> Option<Terms<'a>> {
        let &Grants { session, number, sequence, .. } = grants;
        let (_, written) = *self.written.iter().find(|(written, _)| *written == sequence)?;
        let void = session != self.session;
        let fresh = sequence >= self.since;
        if session == 0 || void && !fresh || !void && number <= self.seen {
            return None;
        }
        (self.session, self.seen, self.since) = (session, number, self.sequence + 1);
        let until = written.checked_add(VALID).unwrap_or(written);
        Some(Terms { void, fresh, answers: sequence, until, grants: &grants.grants })
    }
}
