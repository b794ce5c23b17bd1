//! One request, from its head to its reply: read, authenticate, classify, walk, reply, account.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::Shared;
use super::access_log::Entry;
use super::answer::{frames_from_completion, strip_completion, strip_frames};
use super::body::{Peek, peek};
use super::call::Body;
use super::cascade::{Asked, Served, World, walk};
use super::errors::Problem;
use super::gates::{CompiledGate, validate_request_schema};
use super::pool::Pool;
use super::receive::{discard, read};
use super::route::Route;
use super::snapshot::Snapshot;
use super::sse::{DONE, encode};
use super::trace::Trace;
use crate::routing::decide::{self, Signals, Unroutable};

/// The reply of every path through here.
pub type Reply = Response<Full<Bytes>>;

/// Who a request is and where it went, for the log.
struct Account<'s> {
    client: &'s str,
    route: Option<&'s Route>,
    outcome: &'static str,
    trace: Trace<'s>,
}

/// Answers a request. Never fails: what is wrong is in the reply.
pub async fn serve(shared: &Shared, pool: &Pool, request: Request<Incoming>) -> Reply {
    let begin = Instant::now();
    let Some(snapshot) = shared.snapshot.load_full() else {
        let message = "the router has no routing table yet";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_table", message).response();
    };
    let id = request_id(shared, request.headers());
    let mut reply = match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/chat/completions") => {
            shared.metrics.in_flight.inc();
            let _guard = InFlight(shared);
            let account = Account { client: "-", route: None, outcome: "client_gone", trace: Trace::default() };
            let mut open = Open { shared, snapshot: &snapshot, id: &id, begin, account, status: CLIENT_GONE };
            let reply = chat(shared, pool, &snapshot, request, &id, &mut open.account).await;
            let mut reply = reply.unwrap_or_else(|problem| {
                open.account.outcome = problem.code;
                problem.response()
            });
            open.status = reply.status().as_u16();
            describe(&open.account, &snapshot, reply.headers_mut());
            reply
        }
        (&Method::GET, "/v1/models") => models(&snapshot, request.headers()),
        (method, "/v1/chat/completions" | "/v1/models") => {
            let message = format!("method {method} is not allowed here");
            discard(request.into_body(), shared.limits.body_timeout).await;
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
                .response()
        }
        _ => {
            discard(request.into_body(), shared.limits.body_timeout).await;
            let message = "this path is not served; served are POST /v1/chat/completions and GET /v1/models";
            Problem::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message).response()
        }
    };
    reply.headers_mut().insert(&X_REQUEST_ID, id);
    reply
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
        Err(problem) => return problem.response(),
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
    let mut reply = Response::new(Full::new(body));
    // Ours, and those that hyper adds.
    reply.headers_mut().reserve(10);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

async fn chat<'s>(
    shared: &Shared,
    pool: &Pool,
    snapshot: &'s Snapshot,
    request: Request<Incoming>,
    id: &HeaderValue,
    account: &mut Account<'s>,
) -> Result<Reply, Problem> {
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
    let world = World { endpoints: &endpoints, pool, random: &|bound| shared.random(bound) };
    let asked = Asked { body: &body, peek: &peek, id };
    let served = walk(&world, route, &asked, &mut account.trace).await?;
    account.outcome = served.outcome;
    reply(&served, &peek)
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
fn reply(served: &Served<'_>, peek: &Peek<'_>) -> Result<Reply, Problem> {
    let broken = |_| {
        let message = "the answer could not be written as a stream";
        Problem::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_unavailable", message)
    };
    let mut reply = match (&served.body, peek.stream) {
        (Body::Plain(body), false) => reply_with(strip_completion(body, served.strip), "application/json"),
        (Body::Plain(body), true) => {
            let stripped = strip_completion(body, served.strip);
            let frames = frames_from_completion(&stripped, peek.include_usage).map_err(broken)?;
            reply_with(encode(&frames), "text/event-stream")
        }
        (Body::Stream(events), _) => {
            let mut frames = strip_frames(events, served.strip);
            if frames.last().is_none_or(|last| last.as_ref() != DONE) {
                frames.push(Bytes::from_static(DONE));
            }
            reply_with(encode(&frames), "text/event-stream")
        }
    };
    let headers = reply.headers_mut();
    set(headers, &TIER, served.tier);
    headers.insert(&OUTCOME, HeaderValue::from_static(served.outcome));
    if peek.stream {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    Ok(reply)
}
