//! How many of a workload's requests may escalate, and whose.
//!
//! Every client may escalate its own part: `ratio` of its requests in the window. What clients leave of their parts is
//! lent to those who ask for more, max-min fairly: who asks for little gets it before who asks for much. So a client that
//! asks for no more than its own part is never refused because of another, however much the other sends. What was lent
//! is not called back: while its owner claims it too, the ratio is exceeded by as much, until the window has moved on.
//!
//! ```text
//! granted(client) < ratio * requests(client) + level      level: with it, all that is lent comes to all that others leave
//! ```
//! A request asks at most once, when it is about to go on because of a gate. Failover does not ask. A ratio holds for a
//! part of the traffic as for the whole, so each router keeps it for what it sees, and there are no parts to hand out.
//!
//! Pure: the caller brings the time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::escalation_path::OnExceeded;
use crate::routing::table::EscalationLimit;

/// Parts of a window: it moves on by one at a time.
const SLICES: usize = 12;

/// One escalation, in the unit of ratios.
const ONE: i128 = 1_000_000_000;

/// What one client did.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u32,
    asked: u32,
    granted: u32,
}

impl Counts {
    /// Its own part, in 1e-9 of an escalation.
    fn own(self, ratio: u64) -> i128 {
        i128::from(ratio) * i128::from(self.requests)
    }

    /// What it asked for beyond its own part; below zero what it leaves of it.
    fn beyond(self, ratio: u64) -> i128 {
        i128::from(self.asked) * ONE - self.own(ratio)
    }
}

/// One client's counts over the window: a ring of slices, and their sum.
#[derive(Clone, Debug, Default)]
struct Client {
    slices: [Counts; SLICES],
    total: Counts,
}

impl Client {
    fn forget(&mut self, slice: usize) {
        if let Some(old) = self.slices.get_mut(slice).map(std::mem::take) {
            self.total.requests -= old.requests;
            self.total.asked -= old.asked;
            self.total.granted -= old.granted;
        }
    }

    fn count(&mut self, slice: usize, what: impl Fn(&mut Counts) -> &mut u32) {
        self.change(slice, what, |count| count.checked_add(1));
    }

    fn uncount(&mut self, slice: usize, what: impl Fn(&mut Counts) -> &mut u32) {
        self.change(slice, what, |count| count.checked_sub(1));
    }

    /// Changes a count of a slice and its sum, or neither.
    fn change(&mut self, slice: usize, what: impl Fn(&mut Counts) -> &mut u32, change: impl Fn(u32) -> Option<u32>) {
        if let Some(counts) = self.slices.get_mut(slice)
            && let (Some(new), Some(total)) = (change(*what(counts)), change(*what(&mut self.total)))
        {
            (*what(counts), *what(&mut self.total)) = (new, total);
        }
    }
}

/// The limit of one workload.
#[derive(Debug)]
pub struct Escalations {
    limit: EscalationLimit,
    /// Names of the clients, in the order of the table; none: one anonymous client.
    names: Vec<String>,
    slice: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    clients: Vec<Client>,
    /// The slice that is counted in, and when it began.
    current: usize,
    since: Instant,
    /// Used again at each decision.
    wishes: Vec<i128>,
}

impl Escalations {
    /// Nothing counted, or what was counted before under the same limit.
    #[must_use]
    pub fn new(limit: EscalationLimit, names: Vec<String>, before: Option<&Arc<Self>>, now: Instant) -> Arc<Self> {
        let before = before.filter(|before| before.limit == limit);
        if let Some(same) = before.filter(|before| before.names == names) {
            return same.clone();
        }
        let clients = vec![Client::default(); names.len().max(1)];
        let mut state = State { clients, current: 0, since: now, wishes: Vec::new() };
        if let Some(before) = before {
            let old = before.state();
            (state.current, state.since) = (old.current, old.since);
            for (name, client) in names.iter().zip(&mut state.clients) {
                let known = before.names.iter().position(|other| other == name).and_then(|at| old.clients.get(at));
                known.into_iter().for_each(|known| client.clone_from(known));
            }
        }
        let window = Duration::from_millis(limit.window_ms.max(1));
        let slice = window / u32::try_from(SLICES).unwrap_or(1);
        Arc::new(Self { limit, names, slice, state: Mutex::new(state) })
    }

    /// The limit.
    #[must_use]
    pub const fn limit(&self) -> EscalationLimit {
        self.limit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, brought up to a time.
    fn at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.move_on(self.slice, now);
        state
    }

    /// Time until the window moves on: before that, asking again does no better.
    fn wait(&self, now: Instant) -> Duration {
        let since = self.at(now).since;
        self.slice.saturating_sub(now.saturating_duration_since(since))
    }

    /// Counts a request of a client.
    fn request(&self, client: usize, now: Instant) {
        let mut state = self.at(now);
        let current = state.current;
        if let Some(client) = state.clients.get_mut(client) {
            client.count(current, |counts| &mut counts.requests);
        }
    }

    /// Whether a request of a client may escalate. Asking counts, granted or not.
    fn ask(&self, client: usize, now: Instant) -> bool {
        let mut state = self.at(now);
        state.ask(self.limit.ratio, client)
    }

    /// A request that was granted was not sent on after all: as if it had not asked.
    fn give_back(&self, client: usize, now: Instant) {
        let mut state = self.at(now);
        let current = state.current;
        if let Some(client) = state.clients.get_mut(client) {
            client.uncount(current, |counts| &mut counts.asked);
            client.uncount(current, |counts| &mut counts.granted);
        }
    }

    /// Whether a request of a client would be let escalate. Nothing is counted.
    #[must_use]
    pub fn has_room(&self, client: Option<usize>, now: Instant) -> bool {
        let mut state = self.at(now);
        let (client, current) = (client.unwrap_or(0), state.current);
        let Some(before) = state.clients.get(client).cloned() else { return false };
        // As one request more would find it.
        state.clients.iter_mut().skip(client).take(1).for_each(|c| c.count(current, |counts| &mut counts.requests));
        let room = state.ask(self.limit.ratio, client);
        state.clients.iter_mut().skip(client).take(1).for_each(|c| c.clone_from(&before));
        room
    }
}

impl State {
    fn move_on(&mut self, slice: Duration, now: Instant) {
        let mut passed = 0;
        while now.saturating_duration_since(self.since) >= slice && passed < SLICES {
            self.since += slice;
            self.current = (self.current + 1) % SLICES;
            let current = self.current;
            self.clients.iter_mut().for_each(|client| client.forget(current));
            passed += 1;
        }
        if passed == SLICES {
            self.since = now;
        }
    }

    fn ask(&mut self, ratio: u64, client: usize) -> bool {
        let current = self.current;
        let Some(asking) = self.clients.get_mut(client) else { return false };
        asking.count(current, |counts| &mut counts.asked);
        let (own, granted) = (asking.total.own(ratio), i128::from(asking.total.granted) * ONE);
        let grant = granted < own || self.level(ratio).is_none_or(|level| granted < own + level);
        if grant && let Some(client) = self.clients.get_mut(client) {
            client.count(current, |counts| &mut counts.granted);
        }
        grant
    }

    /// The most that is lent to one client: with it, all that is lent comes to all that others leave (max-min fairness
    /// by filling up). `None` when everybody's wishes can be granted.
    fn level(&mut self, ratio: u64) -> Option<i128> {
        let Self { clients, wishes, .. } = self;
        let mut left = 0;
        wishes.clear();
        for beyond in clients.iter().map(|client| client.total.beyond(ratio)) {
            if beyond > 0 { wishes.push(beyond) } else { left -= beyond }
        }
        wishes.sort_unstable();
        let mut others = i128::try_from(wishes.len()).unwrap_or(i128::MAX);
        for wish in wishes.iter() {
            if wish.saturating_mul(others) >= left {
                return Some(left / others);
            }
            left -= wish;
            others -= 1;
        }
        None
    }
}

/// One request's leave to escalate: it is asked for once, and what was said holds for all of its steps.
#[derive(Debug)]
pub struct Leave<'a> {
    /// The limit and the client; `None` without a limit.
    of: Option<(&'a Escalations, usize)>,
    granted: Option<bool>,
}

impl<'a> Leave<'a> {
    /// Counts a request.
    #[must_use]
    pub fn new(limit: Option<&'a Arc<Escalations>>, client: Option<usize>, now: Instant) -> Self {
        let of = limit.map(|limit| (limit.as_ref(), client.unwrap_or(0)));
        if let Some((limit, client)) = of {
            limit.request(client, now);
        }
        Self { of, granted: None }
    }

    /// Whether the request has leave already.
    #[must_use]
    pub const fn is_granted(&self) -> bool {
        matches!(self.granted, Some(true))
    }

    /// Whether the request may escalate.
    pub fn ask(&mut self, now: Instant) -> bool {
        let Some((limit, client)) = self.of else { return true };
        *self.granted.get_or_insert_with(|| limit.ask(client, now))
    }

    /// The tier that the request was sent on to was not asked: it may ask again for the next one.
    pub fn give_back(&mut self, now: Instant) {
        if let Some((limit, client)) = self.of
            && self.granted.take_if(|granted| *granted).is_some()
        {
            limit.give_back(client, now);
        }
    }

    /// If the request may not escalate: what becomes of it, and the time after which another may do better.
    #[must_use]
    pub fn refused(&self, now: Instant) -> Option<(OnExceeded, Duration)> {
        let (limit, _) = self.of.filter(|_| self.granted == Some(false))?;
        Some((limit.limit.on_exceeded, limit.wait(now)))
    }
}

#[cfg(test)]
mod tests;
