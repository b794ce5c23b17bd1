//! `POST /sync`: TLS with the keeper's certificate, a router's token, a report in, an answer out.
//!
//! Nothing is learned of a caller without a good token. Bad input is a 4xx with its reason; a caller can keep neither a
//! connection nor a task for long.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::books::Books;
use super::keeper::Certificate;
use super::lending::Lending;
use super::tokens::{Denied, Tokens};
use crate::lease::RouterId;
use crate::operator::controller::Queue;
use crate::operator::controller::queue::{Key, Kind};
use crate::operator::observe::world::World;
use crate::routing::report::{EVERY_MS, FORMAT_VERSION, MAX_BYTES, PATH, Reply, Report};
use crate::runtime::leader::Leader;
use crate::runtime::listen;

/// Milliseconds until a router asks again that could not be answered yet.
const SOON_MS: u64 = 200;
/// Connections at a time: a router keeps one.
const CONNECTIONS: usize = 4096;
/// Longest time for TLS to begin, for a report's head, and for its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where routers report.
pub struct Desk {
    /// What is known.
    pub world: Arc<World>,
    /// Whom news concern.
    pub queue: Arc<Queue>,
    /// Who may report.
    pub tokens: Tokens,
    /// Whether this operator leads.
    pub leader: Leader,
    /// What it keeps of policies then.
    pub books: Arc<Books>,
    /// What it lends then.
    pub lending: Lending,
}

/// A refusal.
type Refused = (StatusCode, String);

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match self.take(request).await {
            Ok(reply) => {
                let body = serde_json::to_vec(&reply).unwrap_or_default();
                respond(StatusCode::OK, "application/json", body)
            }
            Err((status, problem)) => respond(status, "text/plain; charset=utf-8", format!("{problem}\n").into()),
        }
    }

    async fn take(&self, request: Request<Incoming>) -> Result<Reply, Refused> {
        if request.uri().path() != PATH {
            return Err((StatusCode::NOT_FOUND, format!("only {PATH} is served here")));
        }
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, format!("{PATH}: POST a report")));
        }
        let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let caller = self.tokens.check(token).await.map_err(|denied| match denied {
            Denied::Unknown(_) => (StatusCode::UNAUTHORIZED, denied.to_string()),
            Denied::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, denied.to_string()),
        })?;
        let body = Limited::new(request.into_body(), MAX_BYTES).collect();
        let body = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, format!("the report: {error}"))),
            Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the report did not come in time".to_owned())),
        };
        let mut report: Report = serde_json::from_slice(&body)
            .map_err(|error| (StatusCode::BAD_REQUEST, format!("the report can't be read: {error}")))?;
        if report.pod.is_empty() || caller.pod.as_ref().is_some_and(|pod| *pod != report.pod) {
            return Err((StatusCode::FORBIDDEN, "pod: must be the one that the token is of".to_owned()));
        }
        // An operator of one namespace does not know the others' policies.
        if self.world.policies.get(&caller.policy).is_none() {
            let (namespace, name) = &caller.policy;
            return Err((StatusCode::NOT_FOUND, format!("RoutingPolicy {namespace}/{name} is not known here")));
        }
        let stamp_ms = report.stamp_ms;
        let now = Instant::now();
        let budgets = self.books.report(&caller.policy, &report, now);
        let leader = self.leader.leads(now);
        let leases = report.leases.as_ref().and_then(|claims| {
            let (namespace, policy) = caller.policy.clone();
            let router = RouterId { namespace, policy, pod: report.pod.clone(), incarnation: report.incarnation };
            self.lending.answer(&router, claims, &self.world, leader)
        });
        let gives_way = leader.then(|| self.world.pressure.told(&caller.policy)).flatten();
        let (lowered, moved) = gives_way.map(|all| (all.lowered, all.moved)).unzip();
        let moved = moved.unwrap_or_default();
        // Its book is read meanwhile.
        let unread = leader && budgets.is_empty() && !report.budgets.is_empty();
        let next_ms = if unread { SOON_MS } else { EVERY_MS };
        let namespace = &caller.policy.0;
        // What is remembered of tiers is bounded by those that there are.
        report.counts.tiers.retain(|tier, _| self.world.tiers.get(&(namespace.clone(), tier.clone())).is_some());
        let woken = self.world.concurrency.report(&caller.policy, &report, now.into_std());
        let news = self.world.routers.take(&caller.policy, report, now.into_std());
        let cold = |tier: &&String| self.world.scales_to_zero(&(namespace.clone(), (*tier).clone()));
        let tiers = news.tiers.iter().chain(woken.iter().filter(cold));
        let tiers = tiers.map(|tier| Key::new(Kind::Tier, namespace, tier));
        let policy = news.policy.then(|| Key { kind: Kind::Policy, id: caller.policy.clone() });
        self.queue.add_all(tiers.chain(policy));
        Ok(Reply { format_version: FORMAT_VERSION, leader, stamp_ms, next_ms, budgets, lowered, moved, leases })
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, certificate: Arc<Certificate>, desk: Arc<Desk>) {
    let mut tls = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let now = std::time::Instant::now();
    desk.world.routers.listen(now);
    desk.world.concurrency.listen(now);
    let connection = |stream| connection(stream, acceptor.clone(), Arc::clone(&desk));
    listen::serve(listener, CONNECTIONS, connection).await;
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, desk: Arc<Desk>) {
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let desk = &desk;
    let service = service_fn(|request| async move { Ok::<_, Infallible>(desk.answer(request).await) });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a router's connection ended");
    }
}
