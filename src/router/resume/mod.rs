//! A committed stream, to its end: one that breaks off is taken up by the same tier where it ended.
//!
//! ```text
//! pass_on --broken--> does the engine continue? --request for the rest--> pass_on, joined by a seam
//!                                             \--no, or in vain--> an error event
//! ```
//! Bounded: so many times a stream, each for so long.

mod probe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::admission::budget::Spend;
use super::answer::Usage;
use super::body::peek;
use super::breaker::{Fault, jitter};
use super::call::open;
use super::continuation::{Rest, Seam, rest};
use super::ejection::{endpoint_failed, tier_failed};
use super::endpoints::{Endpoint, choose};
use super::exchange::Exchange;
use super::live::{End, Live, broken_off};
use super::money::Money;
use super::reply::Flow;
use super::snapshot::Upstream;
use super::sse::{DONE, encode};
use super::trace::{Ending, StepTrace, Trace};
use crate::routing::table::{Backend, Continuation};

/// Times that one stream is taken up.
const TIMES: usize = 3;
/// Longest time to take a stream up: an engine that was killed may come back.
const WITHIN: Duration = Duration::from_secs(20);
/// Pause when every endpoint has failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Passes a stream on to its end. What each of its engines did is in the trace.
pub(super) async fn to_the_end(exchange: &Exchange<'_>, flow: Flow, trace: &mut Trace<'_>) -> End {
    let Flow { mut live, strip, client, body } = flow;
    let Some(upstream) = trace.0.last().map(|step| step.leg.upstream.clone()) else { return End::Broken };
    let mut times = 0;
    loop {
        let idle = exchange.shared.limits.idle_timeout;
        let end = live.pass_on(strip, &client, exchange.pool, upstream.health.as_ref(), idle).await;
        let rest_of_budget = live.spend.as_ref().map(Spend::rest);
        settle(trace, &mut live, &upstream, end, exchange);
        if end != End::Broken {
            live.release(exchange.pool, end);
            return end;
        }
        let again = async {
            match &body {
                Some(body) if times < TIMES => again(exchange, &upstream, body, &live).await,
                _ => None,
            }
        };
        let next = tokio::select! {
            next = again => next,
            () = client.closed() => return End::ClientGone,
        };
        match next {
            Some(Next::Stream(next)) => {
                taken_up(trace);
                times += 1;
                live = next;
                live.spend = rest_of_budget;
            }
            Some(Next::Spent(last)) => {
                let last = encode([&last, &Bytes::from_static(DONE)]);
                return if client.send(last).await.is_ok() { End::Done } else { End::ClientGone };
            }
            None => return if client.send(broken_off()).await.is_ok() { End::Broken } else { End::ClientGone },
        }
    }
}

/// What comes after a break.
enum Next {
    /// The rest.
    Stream(Box<Live>),
    /// Only the chunk that ends the answer.
    Spent(Bytes),
}

/// Notes what the stream came to so far.
fn settle(trace: &mut Trace<'_>, live: &mut Live, upstream: &Upstream, end: End, exchange: &Exchange<'_>) {
    if let Some(step) = trace.0.last_mut() {
        step.latency += live.since.elapsed();
        step.usage = live.usage(step.usage);
        step.cost = Money::of(step.usage, &upstream.tier);
        // The rest of one that broke says nothing of how long a whole one takes.
        if end == End::Done && live.seam.is_none() {
            live.occupied.answered(&upstream.tally, step.usage);
        }
        if let Some(permit) = live.permit.take() {
            permit.settle(Some(step.usage));
        }
        if let Some(spend) = live.spend.take() {
            spend.settle(Some(step.cost));
        }
    }
    if end == End::Broken {
        let jitter = jitter(|bound| exchange.shared.random(bound));
        let (now, endpoints) = (Instant::now(), exchange.shared.endpoints.load());
        tier_failed(upstream, Fault::NoAnswer, now, jitter);
        endpoint_failed(upstream, upstream.endpoints(&endpoints), live.endpoint(), Fault::NoAnswer, now, jitter);
    }
}

/// The broken part and the rest are two legs of the same step.
fn taken_up(trace: &mut Trace<'_>) {
    let Some(broken) = trace.0.last_mut() else { return };
    let ending = std::mem::replace(&mut broken.ending, Ending::Failed("StreamBroken"));
    let prompt = broken.usage.prompt.saturating_add(broken.usage.completion);
    let rest = StepTrace {
        ending,
        verdicts: broken.verdicts.clone(),
        missed: broken.missed,
        usage: Usage { prompt, ..Usage::default() },
        ..StepTrace::new(broken.leg)
    };
    trace.0.push(rest);
}

/// How the tier's engine is asked to go on with an answer.
const fn how(upstream: &Upstream) -> Option<Continuation> {
    match upstream.tier.backend {
        Backend::Service { continuation, .. } => continuation,
        Backend::Url { .. } => None,
    }
}

async fn again(exchange: &Exchange<'_>, upstream: &Upstream, body: &Bytes, live: &Live) -> Option<Next> {
    let how = how(upstream)?;
    let text = live.reader.only_text()?;
    let seam = match live.seam.clone() {
        Some(seam) => seam.again(live.tokens()),
        None => Seam::new(live.first()?, text, live.tokens())?,
    };
    let source = std::str::from_utf8(body).ok()?;
    let request = match rest(source, &peek(body).ok()?, &upstream.tier.model, how, seam.text(), seam.tokens()) {
        Ok(Rest::Request(request)) => request,
        Ok(Rest::Nothing) => return Some(Next::Spent(seam.spent())),
        Err(unfit) => {
            tracing::debug!(tier = upstream.name, why = unfit.0, "a broken stream is not continued");
            return None;
        }
    };
    let mut next = timeout(WITHIN, anywhere(exchange, upstream, how, &request, live.endpoint())).await.ok()??;
    next.seam = Some(seam);
    Some(Next::Stream(Box::new(next)))
}

/// A stream of the rest, from whichever endpoint gives one: first from others than the one that broke.
async fn anywhere(
    exchange: &Exchange<'_>,
    upstream: &Upstream,
    how: Continuation,
    request: &Bytes,
    broken: &Arc<Endpoint>,
) -> Option<Live> {
    let mut tried = vec![broken.clone()];
    loop {
        let endpoints = exchange.shared.endpoints.load();
        let random = |bound| exchange.shared.random(bound);
        let now = Instant::now();
        let Some(endpoint) = choose(upstream.endpoints(&endpoints), &tried, upstream.tier.concurrency, now, random)
        else {
            // Others may have come, and those that failed may have come back.
            tried.clear();
            sleep(PAUSE).await;
            continue;
        };
        let opened = match probe::continues(exchange, upstream, how, &endpoint).await {
            Ok(true) => open(exchange.pool, upstream, &endpoint, request, exchange.id).await.map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        match opened {
            Ok(stream) => {
                endpoint.circuit().success(&upstream.rules, Instant::now());
                return stream;
            }
            Err(error) if error.reason.is_none() => {
                endpoint.circuit().success(&upstream.rules, Instant::now());
                return None;
            }
            Err(error) => {
                if error.counts {
                    let all = upstream.endpoints(&endpoints);
                    endpoint_failed(upstream, all, &endpoint, Fault::NoAnswer, Instant::now(), jitter(random));
                } else {
                    endpoint.circuit().release();
                }
                tried.push(endpoint);
            }
        }
    }
}
