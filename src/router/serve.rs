//! The paths of the traffic port, and who may ask.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::Shared;
use super::errors::Problem;
use super::exchange::Exchange;
use super::pool::Pool;
use super::receive::discard;
use super::reply::{Reply, X_REQUEST_ID, refused, whole};
use super::snapshot::Snapshot;
use crate::routing::decide;

/// What a thread of the router serves with. Requests hold it by a count of this thread: one that all threads change
/// would be fetched from another core every time.
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The connections of this one.
    pub pool: Pool,
}

/// Answers a request. Never fails: what is wrong is in the reply.
pub async fn serve(worker: &Rc<Worker>, request: Request<Incoming>) -> Reply {
    let begin = Instant::now();
    let shared = &worker.shared;
    let Some(snapshot) = shared.snapshot.load_full() else {
        let message = "the router has no routing table yet";
        return refused(&Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_table", message));
    };
    let id = request_id(shared, request.headers());
    let mut reply = match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/chat/completions") => chat(worker, snapshot, &id, begin, request).await,
        (&Method::GET, "/v1/models") => models(&snapshot, request.headers()),
        (method, "/v1/chat/completions" | "/v1/models") => {
            let message = format!("method {method} is not allowed here");
            discard(request.into_body(), shared.limits.body_timeout).await;
            refused(&Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "method_not_allowed",
                message,
            ))
        }
        _ => {
            discard(request.into_body(), shared.limits.body_timeout).await;
            let message = "this path is not served; served are POST /v1/chat/completions and GET /v1/models";
            refused(&Problem::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message))
        }
    };
    reply.headers_mut().insert(&X_REQUEST_ID, id);
    reply
}

/// A request is answered by the connection's own task, and a client that leaves drops it. What is left of a stream once its
/// head was handed over is the work of a task of its own.
async fn chat(
    worker: &Rc<Worker>,
    snapshot: Arc<Snapshot>,
    id: &HeaderValue,
    begin: Instant,
    request: Request<Incoming>,
) -> Reply {
    let (worker, id) = (worker.clone(), id.clone());
    let (head, mut reply) = oneshot::channel();
    // In a box: a future of several KiB that is copied from hand to hand costs more than the box.
    let mut answering = Box::pin(async move {
        let Worker { shared, pool } = &*worker;
        let exchange = Exchange { shared, pool, snapshot: &snapshot, id: &id, begin };
        exchange.answer(request, head).await;
    });
    let reply = tokio::select! {
        biased;
        () = &mut answering => reply.try_recv().ok(),
        head = &mut reply => {
            tokio::task::spawn_local(answering);
            head.ok()
        }
    };
    reply.unwrap_or_else(|| {
        let message = "the request was dropped";
        refused(&Problem::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_unavailable", message))
    })
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
pub(super) fn authenticate(snapshot: &Snapshot, headers: &HeaderMap) -> Result<Option<usize>, Problem> {
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
        Err(problem) => return refused(&problem),
    };
    let names = decide::names(&snapshot.table, client);
    let data: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({"id": name, "object": "model", "created": 0, "owned_by": "smallfirst"}))
        .collect();
    let body = serde_json::json!({"object": "list", "data": data}).to_string();
    whole(Bytes::from(body), "application/json")
}
