//! One chat request, from its head to its reply: read, authenticate, classify, walk, reply, account.
//!
//! A request is answered by the future that hyper drives, and a client that leaves drops it: what was done until then counts.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::Shared;
use super::access_log::Entry;
use super::admission::budget::Purses;
use super::admission::standing::Standing;
use super::admission::{Admitted, admit, demand, over};
use super::body::{Peek, peek};
use super::buffered::Hold;
use super::cascade::{Asked, World, walk};
use super::errors::Problem;
use super::gates::validate_request_schema;
use super::live::End;
use super::pool::Pool;
use super::receive::{discard, read};
use super::reply::{COST, Flow, Reply, STEPS, WORKLOAD, refused, reply, set};
use super::resume::to_the_end;
use super::route::Route;
use super::serve::authenticate;
use super::snapshot::Snapshot;
use super::trace::Trace;
use crate::routing::decide::{self, Signals, Unroutable};

/// Who a request is and where it went, for the log.
struct Account<'s> {
    client: &'s str,
    route: Option<&'s Route>,
    outcome: &'static str,
    trace: Trace<'s>,
    /// Its places within limits, where there are any.
    admitted: Option<Admitted>,
    /// How they stand, for the reply.
    standing: Option<Standing>,
    /// Its part of what the router may hold.
    hold: Hold<'s>,
    /// Its client, by its place in the table.
    index: Option<usize>,
    /// Its body, from when it is read until it is answered.
    body: Option<Bytes>,
}

impl Account<'_> {
    /// Tokens that the request used: those of the last tier that answered. `None`: nobody knows.
    fn used(&self, status: u16) -> Option<u64> {
        let mut usages = self.trace.0.iter().rev().map(|step| step.usage.prompt.saturating_add(step.usage.completion));
        match (status, usages.find(|tokens| *tokens > 0)) {
            (CLIENT_GONE, _) | (200, None) => None,
            (_, used) => Some(used.unwrap_or(0)),
        }
    }
}

/// One chat request and what it is answered with.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) shared: &'a Shared,
    pub(super) pool: &'a Pool,
    pub(super) snapshot: &'a Snapshot,
    pub(super) id: &'a HeaderValue,
    pub(super) begin: Instant,
}

impl<'a> Exchange<'a> {
    fn open(&self) -> Open<'a> {
        let Self { shared, snapshot, id, begin, .. } = *self;
        let (outcome, trace) = ("client_gone", Trace::default());
        let hold = Hold::new(shared.buffered.as_ref());
        let (route, admitted, standing, index, body) = (None, None, None, None, None);
        let account = Account { client: "-", route, outcome, trace, admitted, standing, hold, index, body };
        shared.metrics.in_flight.inc();
        Open { shared, snapshot, id, begin, account, status: CLIENT_GONE, _in_flight: InFlight(shared) }
    }

    /// Hands over the reply's head, as soon as the answer is whole or committed, and passes on the rest of a stream.
    pub(super) async fn answer(self, request: Request<Incoming>, head: oneshot::Sender<Reply>) {
        let mut open = self.open();
        let answered = chat(self, request, &mut open.account).await;
        let (reply, flow) = self.reply(answered, &mut open);
        let sent = head.send(reply).is_ok();
        let Some(flow) = flow else { return };
        let end = if sent { to_the_end(&self, flow, &mut open.account.trace).await } else { End::ClientGone };
        match end {
            End::Done => {}
            End::Broken => open.account.outcome = "stream_broken",
            End::ClientGone => (open.account.outcome, open.status) = ("client_gone", CLIENT_GONE),
        }
    }

    fn reply(&self, answered: Result<(Reply, Option<Flow>), Problem>, open: &mut Open<'_>) -> (Reply, Option<Flow>) {
        let (mut reply, flow) = answered.unwrap_or_else(|problem| {
            open.account.outcome = problem.code;
            (refused(&problem), None)
        });
        open.status = reply.status().as_u16();
        // Of a stream that goes on nobody knows yet what it will come to.
        describe(&open.account, self.snapshot, flow.is_none(), reply.headers_mut());
        (reply, flow)
    }
}

struct InFlight<'a>(&'a Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

/// Status in the log of a request whose client left before the reply.
pub(super) const CLIENT_GONE: u16 = 499;

/// An account that is told when it is dropped: a client that leaves drops the future that serves it, and what its
/// steps did and cost counts all the same.
struct Open<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    id: &'a HeaderValue,
    begin: Instant,
    account: Account<'a>,
    status: u16,
    _in_flight: InFlight<'a>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.account.admitted.take() {
            admitted.settle(self.account.used(self.status));
        }
        let Account { client, route, outcome, trace, index, body, .. } = &self.account;
        if let (Some(_), Some(body)) = (route, body) {
            self.shared.tries.unanswered(*index, body);
        }
        let latency = self.begin.elapsed();
        self.shared.metrics.record(*route, outcome, self.status, latency.as_secs_f64(), trace);
        let entry = Entry {
            request_id: self.id.to_str().unwrap_or("-"),
            client,
            workload: route.map_or("-", |route| &route.workload),
            owner: route.map_or("-", |route| &route.owner),
            status: self.status,
            outcome,
            latency,
            cost: trace.cost(),
            currency: &self.snapshot.table.currency,
            trace,
        };
        self.shared.access_log.write(self.snapshot.table.access_log, &entry);
    }
}

/// Says in the reply's headers what was done.
fn describe(account: &Account<'_>, snapshot: &Snapshot, with_cost: bool, headers: &mut HeaderMap) {
    if !account.trace.0.is_empty() {
        set(headers, &STEPS, account.trace.header());
        if with_cost {
            let cost = account.trace.cost().to_string();
            set(headers, &COST, [&cost, " ", &snapshot.table.currency].concat());
        }
    }
    if let Some(route) = account.route {
        set(headers, &WORKLOAD, route.workload.as_str());
    }
    if let Some(standing) = account.standing {
        standing.describe(headers);
    }
}

async fn chat<'s>(
    exchange: Exchange<'s>,
    request: Request<Incoming>,
    account: &mut Account<'s>,
) -> Result<(Reply, Option<Flow>), Problem> {
    let Exchange { shared, pool, snapshot, id, .. } = exchange;
    let (head, incoming) = request.into_parts();
    let client = match authenticate(snapshot, &head.headers) {
        Ok(client) => client,
        Err(problem) => {
            discard(incoming, shared.limits.body_timeout).await;
            return Err(problem);
        }
    };
    account.client = match client.and_then(|index| snapshot.table.clients.as_ref()?.get(index)) {
        Some(client) => &client.name,
        None => "anonymous",
    };
    account.index = client;
    let body = read(incoming, shared.limits.max_body_bytes, shared.limits.body_timeout, &mut account.hold).await?;
    let body = &*account.body.insert(body);
    let peek = peek(body).map_err(|e| Problem::invalid(e.to_string(), Some(e.field.into_owned())))?;
    let route = route(snapshot, client, &peek, &head.headers)?;
    account.route = Some(route);
    route.metrics.came(shared.tries.is_again(&head.headers, client, body));
    let limiters = [snapshot.limiter(client), route.limiter.as_ref()];
    if limiters.iter().any(Option::is_some) {
        let admitted = admit(limiters, demand(&peek), Instant::now()).map_err(|refusal| {
            account.standing = Some(refusal.standing);
            over(&refusal)
        })?;
        account.standing = Some(admitted.standing());
        account.admitted = Some(admitted);
    }
    check_schema(route, &peek)?;
    let purses = Purses([snapshot.budget(client), route.budget.as_ref()]);
    purses.check()?;
    let endpoints = shared.endpoints.load();
    let world = World { shared, endpoints: &endpoints, pool, random: &|bound| shared.random(bound) };
    let turn = shared.sticky.turn(route, client, &peek, &head.headers);
    let asked = Asked { body, peek: &peek, id, client, start: turn.map_or(0, |turn| turn.start), purses };
    let served = walk(&world, route, &asked, &mut account.trace).await?;
    account.outcome = served.outcome;
    if let Some(turn) = turn {
        shared.sticky.answered(route, turn, &account.trace);
    }
    let (reply, mut flow) = reply(served, &peek)?;
    if let Some(flow) = flow.as_mut().filter(|_| route.path.resume) {
        flow.body = Some(body.clone());
    }
    // It has its answer, or the beginning of it: it does not come again.
    account.body = None;
    Ok((reply, flow))
}

/// Where a request goes.
pub(super) fn route<'s>(
    snapshot: &'s Snapshot,
    client: Option<usize>,
    peek: &Peek<'_>,
    headers: &HeaderMap,
) -> Result<&'s Route, Problem> {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let signals = Signals { client, model: &peek.model, header: &header };
    let found = decide::classify(&snapshot.table, &signals).map_err(|unroutable| match unroutable {
        Unroutable::UnknownModel(known) => Problem::unknown_model(&peek.model, &known),
        Unroutable::NotAllowed(workload) => {
            let message = format!("model: this client may not use workload {workload}");
            Problem::new(StatusCode::FORBIDDEN, "invalid_request_error", "workload_not_allowed", message)
        }
    })?;
    let route = match found {
        decide::Route::Tier(name) => snapshot.routes.tier(name),
        decide::Route::Workload(index) => snapshot.routes.workload(index),
    };
    route.ok_or_else(|| {
        let message = "the workload has no path";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_path", message)
    })
}

/// A schema of the request that a gate of its path judges by must be one.
pub(super) fn check_schema(route: &Route, peek: &Peek<'_>) -> Result<(), Problem> {
    let Some(schema) = peek.schema.filter(|_| route.needs_request_schema) else { return Ok(()) };
    validate_request_schema(schema.get()).map_err(|e| {
        Problem::invalid(format!("response_format.json_schema.schema: {e}"), Some("response_format".into()))
    })
}
