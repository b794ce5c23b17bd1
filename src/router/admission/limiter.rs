//! The limits of one client or workload: requests a minute, tokens a minute, requests at a time.
//!
//! One lock holds the three, so that a request is taken by all of them or by none. Tokens are reserved before anything is
//! known of the answer, and settled when its usage is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lent::Lent;
use super::share::Share;
use super::standing::{Level, Standing};
use crate::lease::holding::{Holding, Places, Waiting};
use crate::lease::lessee::Terms;
use crate::lease::{self, Claim, Count, Grant, Key};
use crate::router::metrics::{AdmissionMetrics, LeaseMetrics, Metrics};
use crate::routing::table::Limits;

/// Pause that a client is told when only the end of another request makes room: nobody knows when that is.
pub(super) const UNTIL_A_SLOT: Duration = Duration::from_secs(1);

/// Whose limits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A client's, over all workloads.
    Client,
    /// A workload's, over all clients.
    Workload,
}

impl Scope {
    const fn lent(self) -> lease::Scope {
        match self {
            Self::Client => lease::Scope::Client,
            Self::Workload => lease::Scope::Workload,
        }
    }

    /// As it stands in messages and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Workload => "workload",
        }
    }
}

/// Which limit has no room, in the order in which they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `maxConcurrent`.
    Concurrency,
    /// `requestsPerMinute`.
    Requests,
    /// `tokensPerMinute`.
    Tokens,
    /// `inputTokensPerMinute`.
    InputTokens,
    /// `outputTokensPerMinute`.
    OutputTokens,
    /// There is room, but only what workloads of High risk have reserved.
    Reserve,
    /// There may be room, but others wait for it.
    Queue,
}

impl Kind {
    /// The field of the API, `reserve` or `queue`.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Concurrency => "maxConcurrent",
            Self::Requests => "requestsPerMinute",
            Self::Tokens => "tokensPerMinute",
            Self::InputTokens => "inputTokensPerMinute",
            Self::OutputTokens => "outputTokensPerMinute",
            Self::Reserve => "reserve",
            Self::Queue => "queue",
        }
    }
}

/// What a request asks of a limit on tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Tokens of the input, as estimated, and of the output, as the request allows.
    pub stated: u64,
    /// Tokens of output that are reckoned with where the request states no bound.
    pub assumed: u64,
}

impl Demand {
    /// What is reserved of a bucket that holds so much. What is only assumed never makes a request too large.
    #[must_use]
    pub fn of(self, most: u64) -> u64 {
        self.stated.max(self.stated.saturating_add(self.assumed).min(most))
    }
}

/// A limit that has no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose limit it is.
    pub scope: Scope,
    /// The client or workload.
    pub name: String,
    /// Which limit.
    pub kind: Kind,
    /// The limit, as far as this router holds it.
    pub limit: u64,
    /// What was asked for.
    pub asked: u64,
    /// What there was.
    pub left: u64,
    /// When there is room; `None` if never, because the limit is smaller than the request.
    pub wait: Option<Duration>,
    /// How all limits of this scope stand.
    pub standing: Standing,
}

/// Limits in force.
pub struct Limiter {
    scope: Scope,
    name: String,
    /// This router's part, or all where it is lent.
    limits: Limits,
    share: Share,
    /// Shared with the limiter of the table before, where an operator lends what it holds.
    state: Arc<Mutex<State>>,
    metrics: AdmissionMetrics,
    /// Of what is lent: requests and tokens.
    taken: [Option<LeaseMetrics>; 2],
}

#[derive(Default)]
struct State {
    requests: Option<Holding>,
    tokens: Option<Holding>,
    places: Option<Places>,
    in_flight: u32,
}

impl Limiter {
    /// Full limits, or those of before if they are the same: a new table must not fill what was used. What is lent outlives
    /// every change.
    #[must_use]
    pub fn new(
        scope: Scope,
        name: &str,
        limits: Limits,
        share: Share,
        before: Option<&Arc<Self>>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let Limits { requests_per_minute, tokens_per_minute, max_concurrent } = limits;
        let limits = Limits {
            requests_per_minute: requests_per_minute.map(|limit| share.of(limit)),
            tokens_per_minute: tokens_per_minute.map(|limit| share.of(limit)),
            max_concurrent: max_concurrent.map(|most| share.of_places(most)),
        };
        if let Some(same) = before.filter(|before| before.limits == limits && before.share == share) {
            return same.clone();
        }
        let before = before.filter(|before| share.is_lent() && before.share.is_lent());
        let state = before.map(|before| before.state.clone()).unwrap_or_default();
        {
            let (mut state, now) = (lock(&state), Instant::now());
            share.amount(limits.requests_per_minute, Count::Bucket, &mut state.requests, now);
            share.amount(limits.tokens_per_minute, Count::Bucket, &mut state.tokens, now);
            share.places(limits.max_concurrent, &mut state.places, now);
        }
        let kinds = [Kind::Concurrency, Kind::Requests, Kind::Tokens];
        let lent = |limit: Option<u64>, kind| {
            limit.filter(|_| share.is_lent()).map(|_| metrics.lease(scope.name(), name, kind))
        };
        let taken = [lent(limits.requests_per_minute, Kind::Requests), lent(limits.tokens_per_minute, Kind::Tokens)];
        let metrics = metrics.admission(scope.name(), name, kinds);
        Arc::new(Self { scope, name: name.to_owned(), limits, share, state, metrics, taken })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn lent<'s>(
        &'s self,
        state: &'s mut State,
    ) -> Lent<'s, impl Iterator<Item = (lease::Kind, &'s mut Option<Holding>)>> {
        let State { requests, tokens, places, .. } = state;
        let amounts = [(lease::Kind::Requests, requests), (lease::Kind::Tokens, tokens)];
        Lent { scope: self.scope.lent(), name: &self.name, amounts: amounts.into_iter(), places }
    }

    /// What a report says of what is lent; see [`Holding::claim`].
    pub fn claim(&self, numbers: (u64, u64), now: Instant, claims: &mut Vec<Claim>) {
        if self.share.is_lent() {
            let mut state = self.state();
            let in_flight = state.in_flight;
            self.lent(&mut state).claim(numbers, (in_flight, Waiting::default()), now, claims);
        }
    }

    /// Puts what the leader answers in force. Returns in what time to report again, if that is to be soon.
    pub fn apply<'g>(
        &self,
        grant: impl Fn(&Key) -> Option<&'g Grant>,
        terms: &Terms<'_>,
        now: Instant,
    ) -> Option<Duration> {
        if !self.share.is_lent() {
            return None;
        }
        self.lent(&mut self.state()).apply(grant, terms, now)
    }

    /// The router is about to stop: it lives on what it was lent.
    pub fn drain(&self) {
        self.lent(&mut self.state()).drain();
    }

    /// Takes a request, or says which limit has no room for it.
    ///
    /// # Errors
    /// The limit for which the wait is the longest.
    pub fn admit(self: &Arc<Self>, demand: Demand, now: Instant) -> Result<Permit, Box<Refusal>> {
        let mut state = self.state();
        let State { requests, tokens, places, in_flight } = &mut *state;
        for held in [&mut *requests, &mut *tokens].into_iter().flatten() {
            held.fill(now);
        }
        places.iter_mut().for_each(|held| held.fill(now));
        let amount = demand.of(tokens.as_ref().map_or(u64::MAX, Holding::most));
        requests.iter_mut().for_each(|held| held.ask(1, false, None));
        tokens.iter_mut().for_each(|held| held.ask(amount, false, None));
        let full = places.as_ref().is_some_and(|held| *in_flight >= held.most());
        let refused = self.most_in_the_way(requests.as_ref(), tokens.as_ref(), full, amount);
        match refused.as_ref().map(|refusal| refusal.kind) {
            None => {
                *in_flight += 1;
                for ((held, amount), metrics) in
                    [(&mut *requests, 1), (&mut *tokens, amount)].into_iter().zip(&self.taken)
                {
                    let Some(taken) = held.as_mut().map(|held| held.take(amount)) else { continue };
                    metrics.iter().for_each(|metrics| metrics.taken(taken));
                }
                places.iter_mut().for_each(|held| held.enter(*in_flight, None));
            }
            Some(Kind::Concurrency) => places.iter_mut().for_each(|held| held.lack(None)),
            Some(Kind::Requests) => requests.iter_mut().for_each(|held| held.lack(1)),
            Some(_) => tokens.iter_mut().for_each(|held| held.lack(amount)),
        }
        if refused.is_some() {
            places.iter_mut().for_each(|held| held.turned_away(in_flight.saturating_add(1), None));
        }
        let standing = self.standing(requests.as_ref(), tokens.as_ref());
        drop(state);
        match refused {
            Some(refusal) => {
                self.metrics.refused(refusal.kind);
                Err(Box::new(refusal))
            }
            None => {
                self.metrics.admitted();
                Ok(Permit { limiter: self.clone(), reserved: amount, standing, open: true })
            }
        }
    }

    fn most_in_the_way(
        &self,
        requests: Option<&Holding>,
        tokens: Option<&Holding>,
        full: bool,
        amount: u64,
    ) -> Option<Refusal> {
        let standing = self.standing(requests, tokens);
        let refusal = |kind, limit, asked, left, wait| Refusal {
            scope: self.scope,
            name: self.name.clone(),
            kind,
            limit,
            asked,
            left,
            wait,
            standing,
        };
        let full = self.limits.max_concurrent.filter(|_| full);
        let mut found = full.map(|most| refusal(Kind::Concurrency, most.into(), 1, 0, Some(UNTIL_A_SLOT)));
        let buckets = [
            (Kind::Requests, requests, self.limits.requests_per_minute, 1),
            (Kind::Tokens, tokens, self.limits.tokens_per_minute, amount),
        ];
        for (kind, bucket, limit, amount) in buckets {
            let (Some(bucket), Some(limit)) = (bucket, limit) else { continue };
            let wait = bucket.wait(amount);
            let longer = |old: &Refusal| match (old.wait, wait) {
                (Some(old), Some(new)) => new > old,
                (old, new) => old.is_some() && new.is_none(),
            };
            if wait != Some(Duration::ZERO) && found.as_ref().is_none_or(longer) {
                found = Some(refusal(kind, limit, amount, bucket.left(), wait));
            }
        }
        found
    }

    fn standing(&self, requests: Option<&Holding>, tokens: Option<&Holding>) -> Standing {
        let level = |bucket: Option<&Holding>, limit: Option<u64>| {
            let (bucket, limit) = (bucket?, limit?);
            Some(Level { limit, left: bucket.left(), reset: bucket.until_full() })
        };
        Standing {
            requests: level(requests, self.limits.requests_per_minute),
            tokens: level(tokens, self.limits.tokens_per_minute),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's place within limits. It is one of those in flight until this is dropped.
pub struct Permit {
    limiter: Arc<Limiter>,
    reserved: u64,
    /// How the limits stand with this request.
    pub standing: Standing,
    open: bool,
}

impl Permit {
    /// The request was refused by another limit: as if it had not been taken.
    pub fn cancel(mut self) {
        self.open = false;
        let mut state = self.limiter.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.requests.iter_mut().for_each(|bucket| bucket.put(1));
        state.tokens.iter_mut().for_each(|bucket| bucket.put(self.reserved));
    }

    /// The request ended and used so many tokens. Without a number the reservation is what it used.
    pub fn settle(mut self, used: Option<u64>) {
        self.close(used);
    }

    fn close(&mut self, used: Option<u64>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let mut state = self.limiter.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        if let (Some(used), Some(tokens)) = (used, &mut state.tokens) {
            tokens.settle(self.reserved, used);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.close(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::admission::tests::metrics;

    fn limiter(requests: Option<u64>, tokens: Option<u64>, concurrent: Option<u32>) -> Arc<Limiter> {
        let limits = Limits { requests_per_minute: requests, tokens_per_minute: tokens, max_concurrent: concurrent };
        Limiter::new(Scope::Client, "finance", limits, Share::ALL, None, &metrics())
    }

    fn stated(tokens: u64) -> Demand {
        Demand { stated: tokens, assumed: 0 }
    }

    #[test]
    fn a_refused_request_takes_nothing_of_any_limit() {
        let (limiter, now) = (limiter(Some(2), Some(100), Some(1)), Instant::now());
        let first = limiter.admit(stated(60), now).ok().unwrap();
        let refusal = limiter.admit(stated(60), now).err().unwrap();
        assert_eq!((refusal.kind, refusal.asked, refusal.left), (Kind::Tokens, 60, 40));
        assert_eq!(refusal.wait, Some(Duration::from_secs(12)));
        assert_eq!(refusal.standing.requests.map(|level| level.left), Some(1));
        let refusal = limiter.admit(stated(1), now).err().unwrap();
        assert_eq!((refusal.kind, refusal.wait), (Kind::Concurrency, Some(UNTIL_A_SLOT)));
        first.settle(Some(10));
        let second = limiter.admit(stated(90), now).ok().unwrap();
        assert_eq!(second.standing.tokens.map(|level| level.left), Some(0));
    }

    #[test]
    fn what_can_never_fit_has_no_time_to_wait_for_and_what_is_only_assumed_fits() {
        let (limiter, now) = (limiter(None, Some(100), None), Instant::now());
        let refusal = limiter.admit(stated(101), now).err().unwrap();
        assert_eq!((refusal.kind, refusal.wait), (Kind::Tokens, None));
        let permit = limiter.admit(Demand { stated: 10, assumed: 1024 }, now).ok().unwrap();
        permit.settle(Some(30));
        assert!(limiter.admit(stated(70), now).is_ok());
    }

    #[test]
    fn a_request_that_another_limit_refused_was_never_taken() {
        let (limiter, now) = (limiter(Some(1), Some(100), Some(1)), Instant::now());
        limiter.admit(stated(100), now).ok().unwrap().cancel();
        let permit = limiter.admit(stated(100), now).ok().unwrap();
        // Whoever leaves without saying what was used pays what was reserved.
        drop(permit);
        let refusal = limiter.admit(stated(100), now).err().unwrap();
        assert_eq!((refusal.kind, refusal.left), (Kind::Requests, 0));
    }

    #[test]
    fn the_same_limits_keep_their_state_and_other_ones_begin_anew() {
        let old = limiter(Some(1), None, None);
        let kept = Limiter::new(Scope::Client, "finance", old.limits, Share::ALL, Some(&old), &metrics());
        assert!(Arc::ptr_eq(&old, &kept));
        let other = Limits { requests_per_minute: Some(2), ..old.limits };
        assert!(!Arc::ptr_eq(&old, &Limiter::new(Scope::Client, "finance", other, Share::ALL, Some(&old), &metrics())));
    }
}
