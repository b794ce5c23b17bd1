//! One request, from its head to its reply: read, authenticate, classify, walk, reply, account.
//!
//! A request is answered by the future that hyper drives, and a client that leaves drops it. Only where a path may commit
//! a stream early the answer is the work of a task of its own, which goes on after the reply's head was handed over.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::{Frame, Incoming};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::access_log::Entry;
use super::answer::{Strip, frames_from_completion, strip_completion, strip_frames};
use super::body::{Peek, peek};
use super::call::Body;
use super::cascade::{Asked, Served, World, walk};
use super::errors::Problem;
use super::gates::{CompiledGate, validate_request_schema};
use super::live::{End, Live};
use super::money::Money;
use super::pool::Pool;
use super::receive::{discard, read};
use super::route::Route;
use super::snapshot::Snapshot;
use super::sse::{DONE, encode};
use super::trace::Trace;
use crate::routing::decide::{self, Signals, Unroutable};

/// The reply of every path through here.
pub type Reply = Response<Either<Full<Bytes>, Frames>>;

/// A body that comes in pieces.
#[derive(Debug)]
pub struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A reply whose body is still on its way.
struct Flow {
    live: Box<Live>,
    strip: Strip,
    client: mpsc::Sender<Bytes>,
}

/// Pieces of a committed stream that wait for a slow client.
const PIECES: usize = 16;

/// Who a request is and where it went, for the log.
struct Account<'s> {
    client: &'s str,
    route: Option<&'s Route>,
    outcome: &'static str,
    trace: Trace<'s>,
}

/// Answers a request. Never fails: what is wrong is in the reply.
pub async fn serve(shared: &Arc<Shared>, pool: &Pool, request: Request<Incoming>) -> Reply {
    let begin = Instant::now();
    let Some(snapshot) = shared.snapshot.load_full() else {
        let message = "the router has no routing table yet";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_table", message);
        return problem.response().map(Either::Left);
    };
    let id = request_id(shared, request.headers());
    let mut reply = match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/chat/completions") if snapshot.routes.commits() => {
            let (shared, pool, id) = (shared.clone(), pool.clone(), id.clone());
            let (head, reply) = oneshot::channel();
            tokio::task::spawn_local(async move {
                let exchange = Exchange { shared: &shared, pool: &pool, snapshot: &snapshot, id: &id, begin };
                exchange.flowing(request, head).await;
            });
            reply.await.unwrap_or_else(|_| {
                let message = "the request was dropped";
                let problem = Problem::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_unavailable", message);
                problem.response().map(Either::Left)
            })
        }
        (&Method::POST, "/v1/chat/completions") => {
            Exchange { shared, pool, snapshot: &snapshot, id: &id, begin }.whole(request).await
        }
        (&Method::GET, "/v1/models") => models(&snapshot, request.headers()),
        (method, "/v1/chat/completions" | "/v1/models") => {
            let message = format!("method {method} is not allowed here");
            discard(request.into_body(), shared.limits.body_timeout).await;
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
                .response()
                .map(Either::Left)
        }
        _ => {
            discard(request.into_body(), shared.limits.body_timeout).await;
            let message = "this path is not served; served are POST /v1/chat/completions and GET /v1/models";
            Problem::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
                .response()
                .map(Either::Left)
        }
    };
    reply.headers_mut().insert(&X_REQUEST_ID, id);
    reply
}

/// One chat request and what it is answered with.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    shared: &'a Shared,
    pool: &'a Pool,
    snapshot: &'a Snapshot,
    id: &'a HeaderValue,
    begin: Instant,
}

impl<'a> Exchange<'a> {
    fn open(&self) -> Open<'a> {
        let Self { shared, snapshot, id, begin, .. } = *self;
        let account = Account { client: "-", route: None, outcome: "client_gone", trace: Trace::default() };
        shared.metrics.in_flight.inc();
        Open { shared, snapshot, id, begin, account, status: CLIENT_GONE, _in_flight: InFlight(shared) }
    }

    /// Answers with all of the answer.
    async fn whole(self, request: Request<Incoming>) -> Reply {
        let mut open = self.open();
        let answered = chat(self, request, false, &mut open.account).await;
        self.reply(answered, &mut open).0
    }

    /// Hands over the reply's head as soon as the answer is committed, and passes on the rest.
    async fn flowing(self, request: Request<Incoming>, mut head: oneshot::Sender<Reply>) {
        let mut open = self.open();
        let answered = tokio::select! {
            answered = chat(self, request, true, &mut open.account) => answered,
            () = head.closed() => return,
        };
        let (mut reply, flow) = self.reply(answered, &mut open);
        reply.headers_mut().insert(&X_REQUEST_ID, self.id.clone());
        let sent = head.send(reply).is_ok();
        let Some(Flow { mut live, strip, client }) = flow else { return };
        let end = if sent { live.pass_on(strip, &client).await } else { End::ClientGone };
        match end {
            End::Done => {}
            End::Broken => open.account.outcome = "stream_broken",
            End::ClientGone => (open.account.outcome, open.status) = ("client_gone", CLIENT_GONE),
        }
        if let Some(leg) = open.account.trace.0.last_mut() {
            leg.latency += live.since.elapsed();
            leg.usage = live.usage(leg.usage);
            leg.cost = Money::of(leg.usage, &leg.leg.upstream.tier);
            if end == End::Broken {
                let jitter = f64::from(u8::try_from(self.shared.random(100)).unwrap_or_default()) / 100.0;
                let tier = &leg.leg.upstream.circuit;
                tier.lock().unwrap_or_else(PoisonError::into_inner).failure(Instant::now(), jitter);
                live.endpoint().circuit().failure(Instant::now(), jitter);
            }
        }
        live.release(self.pool, end);
    }

    fn reply(&self, answered: Result<(Reply, Option<Flow>), Problem>, open: &mut Open<'_>) -> (Reply, Option<Flow>) {
        let (mut reply, flow) = answered.unwrap_or_else(|problem| {
            open.account.outcome = problem.code;
            (problem.response().map(Either::Left), None)
        });
        open.status = reply.status().as_u16();
        describe(&open.account, self.snapshot, reply.headers_mut());
        if flow.is_some() {
            // Nobody knows yet what it will come to.
            reply.headers_mut().remove(&COST);
        }
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
const CLIENT_GONE: u16 = 499;

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
        let Account { client, route, outcome, trace } = &self.account;
        let latency = self.begin.elapsed();
        self.shared.metrics.record(*route, outcome, latency.as_secs_f64(), trace);
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
fn describe(account: &Account<'_>, snapshot: &Snapshot, headers: &mut HeaderMap) {
    if !account.trace.0.is_empty() {
        set(headers, &STEPS, account.trace.header());
        let cost = account.trace.cost().to_string();
        set(headers, &COST, [&cost, " ", &snapshot.table.currency].concat());
    }
    if let Some(route) = account.route {
        set(headers, &WORKLOAD, route.workload.as_str());
    }
}

/// Names of headers, made once: making one looks at each of its letters.
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static STEPS: HeaderName = HeaderName::from_static("x-smallfirst-steps");
static COST: HeaderName = HeaderName::from_static("x-smallfirst-cost");
static WORKLOAD: HeaderName = HeaderName::from_static("x-smallfirst-workload");
static TIER: HeaderName = HeaderName::from_static("x-smallfirst-tier");
static OUTCOME: HeaderName = HeaderName::from_static("x-smallfirst-outcome");

fn set(headers: &mut HeaderMap, name: &'static HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

/// The caller's id if it is short and printable, else one of our own.
fn request_id(shared: &Shared, headers: &HeaderMap) -> HeaderValue {
    let fits = |id: &&HeaderValue| {
        let printable = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
        (1..=64).contains(&id.len()) && id.as_bytes().iter().all(printable)
    };
    headers.get(&X_REQUEST_ID).filter(fits).cloned().unwrap_or_else(|| shared.next_id())
}

/// The caller, by its key. `None` is the anonymous one.
fn authenticate(snapshot: &Snapshot, headers: &HeaderMap) -> Result<Option<usize>, Problem> {
    if snapshot.table.clients.is_none() {
        return Ok(None);
    }
    let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let scheme = value.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, key)) = scheme else {
        return Err(Problem::unauthenticated("a key is needed: send it as 'Authorization: Bearer KEY'"));
    };
    match snapshot.client(key.trim()) {
        Some(client) => Ok(Some(client)),
        None => Err(Problem::unauthenticated("the key is not known")),
    }
}

fn models(snapshot: &Snapshot, headers: &HeaderMap) -> Reply {
    let client = match authenticate(snapshot, headers) {
        Ok(client) => client,
        Err(problem) => return problem.response().map(Either::Left),
    };
    let names = decide::names(&snapshot.table, client);
    let data: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({"id": name, "object": "model", "created": 0, "owned_by": "smallfirst"}))
        .collect();
    let body = serde_json::json!({"object": "list", "data": data}).to_string();
    reply_with(Bytes::from(body), "application/json")
}

fn reply_with(body: Bytes, kind: &'static str) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(body)));
    // Ours, and those that hyper adds.
    reply.headers_mut().reserve(10);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

async fn chat<'s>(
    exchange: Exchange<'s>,
    request: Request<Incoming>,
    may_commit: bool,
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
    let body = read(incoming, shared.limits.max_body_bytes, shared.limits.body_timeout).await?;
    let peek = peek(&body).map_err(|e| Problem::invalid(e.to_string(), Some(e.field.into_owned())))?;
    let found = match classify(snapshot, client, &peek, &head.headers)? {
        decide::Route::Tier(name) => snapshot.routes.tier(name),
        decide::Route::Workload(index) => snapshot.routes.workload(index),
    };
    let Some(route) = found else {
        let message = "the workload has no path";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_path", message));
    };
    account.route = Some(route);
    let mut gates = route.stages.iter().flat_map(|stage| stage.gates.iter());
    if gates.any(CompiledGate::needs_request_schema)
        && let Some(schema) = peek.schema
    {
        validate_request_schema(schema.get()).map_err(|e| {
            Problem::invalid(format!("response_format.json_schema.schema: {e}"), Some("response_format".into()))
        })?;
    }
    let endpoints = shared.endpoints.load();
    let world = World { endpoints: &endpoints, pool, may_commit, random: &|bound| shared.random(bound) };
    let asked = Asked { body: &body, peek: &peek, id };
    let served = walk(&world, route, &asked, &mut account.trace).await?;
    account.outcome = served.outcome;
    reply(served, &peek)
}

fn classify<'s>(
    snapshot: &'s Snapshot,
    client: Option<usize>,
    peek: &Peek<'_>,
    headers: &HeaderMap,
) -> Result<decide::Route<'s>, Problem> {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let signals = Signals { client, model: &peek.model, header: &header };
    decide::classify(&snapshot.table, &signals).map_err(|unroutable| match unroutable {
        Unroutable::UnknownModel(known) => Problem::unknown_model(&peek.model, &known),
        Unroutable::NotAllowed(workload) => {
            let message = format!("model: this client may not use workload {workload}");
            Problem::new(StatusCode::FORBIDDEN, "invalid_request_error", "workload_not_allowed", message)
        }
    })
}

/// The answer as the client asked for it, without what the router injected.
fn reply(served: Served<'_>, peek: &Peek<'_>) -> Result<(Reply, Option<Flow>), Problem> {
    let broken = |_| {
        let message = "the answer could not be written as a stream";
        Problem::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_unavailable", message)
    };
    let mut flow = None;
    let mut reply = match (served.body, peek.stream) {
        (Body::Plain(body), false) => {
            reply_with(strip_completion(&body, served.strip, &served.logprobs), "application/json")
        }
        (Body::Plain(body), true) => {
            let stripped = strip_completion(&body, served.strip, &served.logprobs);
            let frames = frames_from_completion(&stripped, peek.include_usage).map_err(broken)?;
            reply_with(encode(&frames), "text/event-stream")
        }
        (Body::Stream(events), _) => {
            let mut frames = strip_frames(&events, served.strip);
            if frames.last().is_none_or(|last| last.as_ref() != DONE) {
                frames.push(Bytes::from_static(DONE));
            }
            reply_with(encode(&frames), "text/event-stream")
        }
        (Body::Live(live), _) => {
            let (client, pieces) = mpsc::channel(PIECES);
            flow = Some(Flow { live, strip: served.strip, client });
            let mut reply = Response::new(Either::Right(Frames(pieces)));
            reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            reply
        }
    };
    let headers = reply.headers_mut();
    set(headers, &TIER, served.tier);
    headers.insert(&OUTCOME, HeaderValue::from_static(served.outcome));
    if peek.stream {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    Ok((reply, flow))
}
