//! One tier, asked: which of its endpoints, how often, and what each failure says of whom.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout_at;

use super::admission::ASSUMED_TOKENS;
use super::admission::account::{Account, Asker, Order, Permit};
use super::admission::budget::Spend;
use super::answer::{Answer, Usage};
use super::breaker::{Circuit, Fault, jitter};
use super::call::{Answered, Body, CallError, Wants, call};
use super::cascade::{Asked, World, at_most};
use super::cold;
use super::degraded::gives_way;
use super::ejection::{endpoint_failed, tier_failed};
use super::endpoints::choose;
use super::frozen::frozen;
use super::money::Money;
use super::route::Stage;
use super::snapshot::Upstream;
use super::tally::Rejected;
use crate::api::escalation_path::FailoverReason;
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
    /// For whom, as the tier's account knows it.
    pub(super) asker: Asker,
}

/// Calls a tier, once it is there, if its account and its circuit let it, and tells them how it went.
pub(super) async fn call_tier(asking: &Call<'_, '_>, body: &Bytes) -> Result<(Answer, Body), CallError> {
    let Call { world, upstream, .. } = *asking;
    if !upstream.is_cold(world.endpoints) {
        return call_ready(asking, body).await;
    }
    // In a box: what few tiers are must not make the future of every request larger.
    let awake = Box::pin(cold::awake(asking)).await?;
    let world = World { endpoints: &awake, ..*world };
    Box::pin(call_ready(&Call { world: &world, ..*asking }, body)).await
}

async fn call_ready(asking: &Call<'_, '_>, body: &Bytes) -> Result<(Answer, Body), CallError> {
    let Call { world, upstream, .. } = *asking;
    let rules = &upstream.rules;
    if let Some(gives_way) = gives_way(upstream, upstream.endpoints(world.endpoints), asking.asker.risk) {
        upstream.tally.rejected(Rejected::Degraded);
        let error = CallError::blameless(FailoverReason::Degraded, "what is left of the tier is for risk High");
        return Err(CallError { retry_after: gives_way.limited_for, ..error });
    }
    let permit = match &upstream.account {
        Some(account) => reserve(asking, account).await?,
        None => None,
    };
    let now = Instant::now();
    let refused = {
        let mut circuit = upstream.circuit();
        (!circuit.admit(now)).then(|| circuit.limited_for(now))
    };
    if let Some(retry_after) = refused {
        permit.into_iter().for_each(Permit::cancel);
        upstream.tally.rejected(Rejected::Degraded);
        let error = CallError::blameless(FailoverReason::Degraded, "the tier's circuit is open");
        return Err(CallError { retry_after, ..error });
    }
    let guard = Probe { circuit: &upstream.circuit, done: false };
    let spend = match spend(asking).await {
        Ok(spend) => spend,
        Err(error) => {
            permit.into_iter().for_each(Permit::cancel);
            upstream.tally.rejected(Rejected::Budget);
            return Err(error);
        }
    };
    let mut answered = attempts(asking, body).await;
    guard.done();
    if let Err(error) = &answered {
        upstream.tally.unanswered(error);
    }
    spend.into_iter().for_each(|spend| settle_spend(spend, &mut answered, upstream));
    permit.into_iter().for_each(|permit| settle(permit, &mut answered));
    let now = Instant::now();
    // With one endpoint the tier's circuit is the endpoint's. Of several, each has a limit of its own.
    let alone = upstream.endpoints(world.endpoints).len() == 1;
    match &answered {
        Ok(answered) if alone && rules.is_slow(answered.began) => {
            tier_failed(upstream, Fault::Slow, now, jitter(world.random));
        }
        Ok(_) | Err(CallError { reason: None | Some(FailoverReason::ContextOverflow), .. }) => {
            upstream.circuit().success(rules, now);
        }
        Err(error) => {
            let paused = alone && pause(&mut upstream.circuit(), error, now, world);
            if error.counts && !paused {
                tier_failed(upstream, Fault::NoAnswer, now, jitter(world.random));
            } else {
                upstream.circuit().release();
            }
        }
    }
    answered.map(|Answered { answer, body, .. }| (answer, body))
}

/// Opens a circuit for a pause that was asked for, or for a back-off from a limit without one. False: the failure asks for
/// neither.
fn pause(circuit: &mut Circuit, error: &CallError, now: Instant, world: &World<'_>) -> bool {
    use FailoverReason::{RateLimited, ServerError};
    match (error.reason, error.retry_after) {
        (Some(RateLimited), Some(pause)) => circuit.limit(now, pause),
        (Some(ServerError), Some(pause)) => circuit.open(now, pause),
        (Some(RateLimited), None) => circuit.throttled(now, jitter(world.random)),
        _ => return false,
    }
    true
}

/// Takes the request's part of the account's quota, waiting for it if need be.
async fn reserve(asking: &Call<'_, '_>, account: &Arc<Account>) -> Result<Option<Permit>, CallError> {
    let Call { world, upstream, asked, asker, deadline, .. } = *asking;
    // Nobody waits for a tier that is not asked then.
    if !upstream.circuit().would_admit(Instant::now()) {
        return Ok(None);
    }
    if asker.movable && asking.stage.moves.as_ref().is_some_and(|moves| moves.takes(world.random)) {
        upstream.tally.rejected(Rejected::Quota);
        let error = CallError::blameless(FailoverReason::RateLimited, "what is left of the account is for others");
        return Err(error);
    }
    let _queued = upstream.tally.wait();
    // In a box: what few tiers have must not make the future of every request larger.
    let lacks = || world.shared.lacks.send_replace(());
    Box::pin(account.admit(Order::of(asked.peek), asker, deadline, lacks)).await.map(Some).map_err(|pause| {
        upstream.tally.rejected(Rejected::Quota);
        let error = CallError::blameless(FailoverReason::RateLimited, "no room in the account's quota");
        CallError { retry_after: Some(pause), ..error }
    })
}

/// Takes what the call may cost from the budgets that it counts against.
async fn spend(asking: &Call<'_, '_>) -> Result<Option<Spend>, CallError> {
    let Call { upstream, asked, .. } = *asking;
    if asked.purses.is_empty() {
        return Ok(None);
    }
    let most = at_most(asked.peek, &upstream.tier, ASSUMED_TOKENS);
    // What costs nothing needs no budget.
    if most == Money::default() {
        return Ok(None);
    }
    // In a box: what few workloads have must not make the future of every request larger.
    let reserved = Box::pin(asked.purses.reserve(most, upstream.tier.class)).await;
    reserved.map(Some).map_err(|problem| {
        let error = CallError::blameless(FailoverReason::RateLimited, "over budget");
        CallError { over_budget: Some(Box::new(problem)), ..error }
    })
}

/// Corrects what was taken from budgets by what the call cost. A stream that goes on does so at its end.
fn settle_spend(spend: Spend, answered: &mut Result<Answered, CallError>, upstream: &Upstream) {
    match answered {
        Ok(Answered { body: Body::Live(live), .. }) => live.spend = Some(spend),
        Ok(Answered { answer, .. }) => spend.settle(answer.usage.map(|usage| Money::of(usage, &upstream.tier))),
        Err(error) if costs_nothing(error) => spend.settle(Some(Money::default())),
        Err(_) => spend.settle(None),
    }
}

/// Who was not reached or said no has counted no tokens. Who did not come to an end may have.
fn costs_nothing(error: &CallError) -> bool {
    error.status.is_some() || error.reason == Some(FailoverReason::Unreachable)
}

/// Corrects what was reserved by what came of it. A stream that goes on does so at its end.
fn settle(permit: Permit, answered: &mut Result<Answered, CallError>) {
    match answered {
        Ok(Answered { body: Body::Live(live), .. }) => live.permit = Some(permit),
        Ok(Answered { answer, .. }) => permit.settle(answer.usage),
        Err(error) => permit.settle(costs_nothing(error).then(Usage::default)),
    }
}

/// Tries endpoints of one tier. Only a failure after which another endpoint may do better is tried again.
async fn attempts(asking: &Call<'_, '_>, body: &Bytes) -> Result<Answered, CallError> {
    use FailoverReason::{Degraded, RateLimited, ServerError, Timeout, Unreachable};
    let Call { world, step, upstream, asked, deadline, fair, .. } = *asking;
    let endpoints = upstream.endpoints(world.endpoints);
    let mut tried = Vec::new();
    let mut last = if endpoints.is_empty() {
        CallError::blameless(Unreachable, "no ready endpoint")
    } else {
        CallError::blameless(Degraded, "every endpoint's circuit is open")
    };
    let mut replay = false;
    for attempt in 0..step.attempts.max(1) {
        let now = Instant::now();
        // A tier with one endpoint has only the tier's own circuit: two would count the same failures twice.
        let chosen = if let [only] = endpoints {
            if tried.is_empty() || last.reason == Some(Unreachable) { Some(only.clone()) } else { None }
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
                    endpoint.circuit().eject(&upstream.rules, Instant::now(), jitter(world.random));
                    last = CallError::of(ServerError, "frozen");
                    tried.push(endpoint);
                    replay = true;
                    continue;
                }
            },
        };
        let result = result.unwrap_or_else(|_| Err(late(Timeout, "no answer in time")));
        guard.done();
        let (rules, now) = (&upstream.rules, Instant::now());
        match result {
            Ok(answered) => {
                if rules.is_slow(answered.began) {
                    endpoint_failed(upstream, endpoints, &endpoint, Fault::Slow, now, jitter(world.random));
                } else {
                    endpoint.circuit().success(rules, now);
                }
                return Ok(answered);
            }
            Err(error) => {
                let paused = pause(&mut endpoint.circuit(), &error, now, world);
                if error.counts && !paused {
                    endpoint_failed(upstream, endpoints, &endpoint, Fault::NoAnswer, now, jitter(world.random));
                } else {
                    // Nobody may have been asked.
                    endpoint.circuit().release();
                }
                // One replica's limit is not another's. An only endpoint at its limit is not asked again.
                let again = matches!(error.reason, Some(Unreachable | ServerError | RateLimited));
                last = error;
                tried.push(endpoint);
                replay = false;
                if !again || tokio::time::Instant::now() >= deadline {
                    break;
                }
            }
        }
    }
    if tried.is_empty() {
        // What is set aside for a limit can be asked again when that ends.
        last.retry_after = endpoints.iter().filter_map(|each| each.circuit().limited_for(Instant::now())).min();
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
