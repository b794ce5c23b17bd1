//! The server: TLS, who calls, may they, and then the answer. Whoever is not known learns nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::access::Access;
use super::callers::FrontProxy;
use super::documents::{failure, group, groups, resources, values};
use super::request::{Asked, tier};
use super::trust::{Door, Trust};
use super::{GROUP, METRIC};
use crate::operator::observe::world::{World, current};
use crate::operator::reviews::Unavailable;
use crate::runtime::listen;

/// Connections at a time. An API server keeps a few.
const CONNECTIONS: usize = 256;
/// Longest time for TLS to begin and for a request's head.
const PATIENCE: Duration = Duration::from_secs(10);

/// What answers.
pub struct Server {
    /// What is known.
    pub world: Arc<World>,
    /// Who may ask.
    pub access: Access,
    /// Who is let in.
    pub trust: Arc<Trust>,
}

/// A refusal.
struct Refused(StatusCode, String);

impl From<Unavailable> for Refused {
    fn from(problem: Unavailable) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, problem.to_string())
    }
}

impl Server {
    /// Serves until it is dropped.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        listen::serve(listener, CONNECTIONS, |stream| connection(stream, Arc::clone(&self))).await;
    }

    /// `front`: the connection's certificate is the front proxy's.
    async fn answer<B>(&self, request: &Request<B>, front: Option<&FrontProxy>) -> Response<Full<Bytes>> {
        match self.take(request, front).await {
            Ok((kind, document)) => respond(StatusCode::OK, kind, &document),
            Err(Refused(status, message)) => respond(status, "application/json", &failure(status.as_u16(), &message)),
        }
    }

    async fn take<B>(
        &self,
        request: &Request<B>,
        front: Option<&FrontProxy>,
    ) -> Result<(&'static str, Value), Refused> {
        let user = self.user(request.headers(), front).await?;
        let path = request.uri().path();
        let asked = Asked::of(path);
        let name = user.username.clone().unwrap_or_default();
        if !self.access.may(user, asked, path).await? {
            let right = match asked {
                Asked::Values { namespace, metric } => format!("list {metric}.{GROUP} in the namespace {namespace:?}"),
                _ => format!("get {path}"),
            };
            return Err(Refused(StatusCode::FORBIDDEN, format!("User {name:?} cannot {right}")));
        }
        if request.method() != Method::GET {
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here".to_owned()));
        }
        let json = |document| Ok(("application/json", document));
        match asked {
            Asked::Groups => {
                let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
                Ok(groups(accept.unwrap_or_default()))
            }
            Asked::Group => json(group()),
            Asked::Resources => json(resources()),
            Asked::Values { namespace, metric: METRIC } => {
                json(self.values(namespace, request.uri().query().unwrap_or_default())?)
            }
            Asked::Values { metric, .. } => {
                Err(Refused(StatusCode::NOT_FOUND, format!("no metric {metric}: there is {METRIC}")))
            }
            Asked::Other => Err(Refused(StatusCode::NOT_FOUND, format!("{path}: not found"))),
        }
    }

    async fn user(&self, headers: &HeaderMap, front: Option<&FrontProxy>) -> Result<UserInfo, Refused> {
        if let Some(user) = front.and_then(|front| front.user(headers)) {
            return Ok(user);
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let user = self.access.user(token).await?;
        user.ok_or_else(|| Refused(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))
    }

    fn values(&self, namespace: &str, query: &str) -> Result<Value, Refused> {
        let tier = tier(query).map_err(|problem| Refused(StatusCode::BAD_REQUEST, problem))?;
        let id = (namespace.to_owned(), tier);
        // Before the caches are filled nobody knows what there is.
        let requests = self.world.concurrency(&id, Instant::now());
        let requests = requests.map_err(|not_yet| Refused(StatusCode::SERVICE_UNAVAILABLE, not_yet.to_string()))?;
        if current(&self.world.tiers, &id).is_none() {
            return Err(Refused(StatusCode::NOT_FOUND, format!("ModelTier {namespace}/{} is not known here", id.1)));
        }
        Ok(values(&id.1, requests, &Timestamp::now().to_string()))
    }
}

fn respond(status: StatusCode, kind: &'static str, document: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn connection(stream: TcpStream, server: Arc<Server>) {
    let Some(door) = server.trust.door() else { return };
    let Door { front, tls } = &*door;
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await else { return };
    // TLS has verified the chain, if there is one.
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let front = certificate.filter(|certificate| front.is(certificate)).map(|_| front);
    let server = &server;
    let service = service_fn(|request| async move { Ok::<_, Infallible>(server.answer(&request, front).await) });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the metrics API ended");
    }
}
