//! One tier, asked: which of its endpoints, how often, and what each failure says of whom.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout_at;

use super::admission::account::{Account, Order, Permit};
use super::answer::{Answer, Usage};
use super::breaker::{Circuit, jitter};
use super::call::{Body, CallError, Wants, call};
use super::cascade::{Asked, World};
use super::endpoints::choose;
use super::frozen::{SET_ASIDE, frozen};
use super::money::Money;
use super::route::Stage;
use super::snapshot::Upstream;
use crate::api::escalation_path::FailoverReason;
use crate::api::types::Risk;
use crate::routing::table::Step;

/// What one tier is asked.
#[derive(Clone, Copy)]
pub(super) struct Call<'a, 's> {
    pub(super) world: &'a World<'a>,
    pub(super) step: &'s Step,
    pub(super) upstream: &'s Upstream,
    pub(super) stage: &'s Stage,
    pub(super) asked: &'a Asked<'a>,
    pub(super) deadline: tokio::time::Instant,
    /// A timeout after less than this says nothing of who was asked.
    pub(super) fair: Duration,
    pub(super) wants: Wants,
    /// What the path may still spend; `None` without a bound.
    pub(super) left: Option<Money>,
    /// Of the workload.
    pub(super) risk: Risk,
}

/// Calls a tier if its account and its circuit let it, and tells them how it went.
pub(super) async fn call_tier(asking: &Call<'_, '_>, body: &Bytes) -> Result<(Answer, Body), CallError> {
    let Call { world, upstream, .. } = *asking;
    let permit = match &upstream.account {
        Some(account) => reserve(asking, account).await?,
        None => None,
    };
    if !upstream.circuit().admit(Instant::now()) {
        permit.into_iter().for_each(Permit::cancel);
        return Err(CallError::blameless(FailoverReason::Degraded, "the tier's circuit is open"));
    }
    let guard = Probe { circuit: &upstream.circuit, done: false };
    let mut answered = attempts(asking, body).await;
    guard.done();
    permit.into_iter().for_each(|permit| settle(permit, &mut answered));
    let now = Instant::now();
    // With one endpoint the tier's circuit is the endpoint's. Of several, each has a limit of its own.
    let alone = upstream.endpoints(world.endpoints).len() == 1;
    match &answered {
        Ok(_) => upstream.circuit().success(now),
        Err(CallError { reason: None | Some(FailoverReason::ContextOverflow), .. }) => upstream.circuit().success(now),
        Err(error) if alone => blame(&mut upstream.circuit(), error, now, world),
        Err(error) if error.counts => upstream.circuit().failure(now, jitter(world.random)),
        Err(_) => upstream.circuit().release(),
    }
    answered
}

/// Tells a circuit of a failure: a pause that was asked for is obeyed, a limit without one is backed off from.
fn blame(circuit: &mut Circuit, error: &CallError, now: Instant, world: &World<'_>) {
    use FailoverReason::{RateLimited, ServerError};
    match (error.reason, error.retry_after) {
        (Some(RateLimited | ServerError), Some(pause)) => circuit.open(now + pause),
        (Some(RateLimited), None) => circuit.throttled(now, jitter(world.random)),
        _ if error.counts => circuit.failure(now, jitter(world.random)),
        // Nobody may have been asked.
        _ => circuit.release(),
    }
}

/// Takes the request's part of the account's quota, waiting for it if need be.
async fn reserve(asking: &Call<'_, '_>, account: &Arc<Account>) -> Result<Option<Permit>, CallError> {
    let Call { upstream, asked, risk, deadline, .. } = *asking;
    // Nobody waits for a tier that is not asked then.
    if !upstream.circuit().would_admit(Instant::now()) {
        return Ok(None);
    }
    // In a box: what few tiers have must not make the future of every request larger.
    Box::pin(account.admit(Order::of(asked.peek), risk, deadline)).await.map(Some).map_err(|pause| {
        let error = CallError::blameless(FailoverReason::RateLimited, "no room in the account's quota");
        CallError { retry_after: Some(pause), ..error }
    })
}

/// Corrects what was reserved by what came of it. A stream that goes on does so at its end.
fn settle(permit: Permit, answered: &mut Result<(Answer, Body), CallError>) {
    match answered {
        Ok((_, Body::Live(live))) => live.permit = Some(permit),
        Ok((answer, _)) => permit.settle(answer.usage),
        // Who was not reached or said no has counted no tokens. Who did not come to an end may have.
        Err(error) => {
            let nothing = error.status.is_some() || error.reason == Some(FailoverReason::Unreachable);
            permit.settle(nothing.then(Usage::default));
        }
    }
}

/// Tries endpoints of one tier. Only a failure after which another endpoint may do better is tried again.
async fn attempts(asking: &Call<'_, '_>, body: &Bytes) -> Result<(Answer, Body), CallError> {
    let Call { world, step, upstream, asked, deadline, fair, .. } = *asking;
    let endpoints = upstream.endpoints(world.endpoints);
    let mut tried = Vec::new();
    let mut last = if endpoints.is_empty() {
        CallError::blameless(FailoverReason::Unreachable, "no ready endpoint")
    } else {
        CallError::blameless(FailoverReason::Degraded, "every endpoint's circuit is open")
    };
    let mut replay = false;
    for attempt in 0..step.attempts.max(1) {
        let now = Instant::now();
        // A tier with one endpoint has only the tier's own circuit: two would count the same failures twice.
        let chosen = if let [only] = endpoints {
            if tried.is_empty() || last.reason == Some(FailoverReason::Unreachable) { Some(only.clone()) } else { None }
        } else {
            choose(endpoints, &tried, upstream.tier.concurrency, now, world.random)
        };
        let Some(endpoint) = chosen else { break };
        if attempt == 0 {
            upstream.retries.budget.request(now);
        } else if !replay && !upstream.retries.again(now) {
            endpoint.circuit().release();
            break;
        }
        let begin = tokio::time::Instant::now();
        let limit = (begin + Duration::from_millis(step.timeout_ms)).min(deadline);
        // What earlier steps left of the deadline may be too little for anybody.
        let late = if limit - begin < fair { CallError::blameless } else { CallError::of };
        let guard = Probe { circuit: &endpoint.circuit, done: false };
        let called = timeout_at(limit, call(world.pool, upstream, &endpoint, body, asked.id, asking.wants));
        let result = match &upstream.health {
            None => called.await,
            Some(health) => tokio::select! {
                biased;
                result = called => result,
                () = frozen(world.pool, &endpoint, health) => {
                    guard.done();
                    endpoint.circuit().open(Instant::now() + SET_ASIDE);
                    last = CallError::of(FailoverReason::ServerError, "frozen");
                    tried.push(endpoint);
                    replay = true;
                    continue;
                }
            },
        };
        let result = result.unwrap_or_else(|_| Err(late(FailoverReason::Timeout, "no answer in time")));
        guard.done();
        match result {
            Ok(answered) => {
                endpoint.circuit().success(Instant::now());
                return Ok(answered);
            }
            Err(error) => {
                blame(&mut endpoint.circuit(), &error, Instant::now(), world);
                let again = matches!(error.reason, Some(FailoverReason::Unreachable | FailoverReason::ServerError));
                last = error;
                tried.push(endpoint);
                replay = false;
                if !again || tokio::time::Instant::now() >= deadline {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// Frees a probe's place when the client leaves in mid-call.
struct Probe<'a> {
    circuit: &'a Mutex<Circuit>,
    done: bool,
}

impl Probe<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.circuit.lock().unwrap_or_else(PoisonError::into_inner).release();
        }
    }
}
