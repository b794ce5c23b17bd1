//! One call of one endpoint: send, read to the end, and say what it was.
//!
//! A reply is read whole before anything is judged, so that nothing has been promised to the client when a tier turns out
//! to be no good. A stream that may be judged by its beginning is read so far, and is then [`Live`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::answer::{Answer, AnswerError};
use super::degraded::SHARES;
use super::endpoints::{Endpoint, Occupied};
use super::errors::Problem;
use super::live::Live;
use super::pool::{Connection, Failed, Pool};
use super::rate_limits;
use super::snapshot::Upstream;
use crate::api::escalation_path::FailoverReason;
use crate::routing::table::Backend;

/// Largest reply that is read, in bytes: an endless one must not fill the memory.
pub(super) const MOST: usize = 32 << 20;

/// The body of a reply.
#[derive(Debug)]
pub enum Body {
    /// A completion.
    Plain(Bytes),
    /// Payloads of a stream.
    Stream(Vec<Bytes>),
    /// The beginning of a stream that goes on.
    Live(Box<Live>),
}

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct CallError {
    /// As `failover.reasons` has it; `None` when the request itself was refused (4xx): no other tier is asked for that.
    pub reason: Option<FailoverReason>,
    /// Status to pass on for a refusal.
    pub status: Option<StatusCode>,
    /// For logs and metrics.
    pub detail: &'static str,
    /// How long the upstream asked to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether it speaks against whoever was asked: such failures open circuits.
    pub counts: bool,
    /// Nobody was asked, because a budget has not enough for it.
    pub over_budget: Option<Box<Problem>>,
    /// Nobody was asked, because the tier is scaled to zero.
    pub cold: bool,
}

impl CallError {
    /// An error that sends the request on.
    #[must_use]
    pub const fn of(reason: FailoverReason, detail: &'static str) -> Self {
        use FailoverReason::{ServerError, Timeout, Unreachable};
        let counts = matches!(reason, Unreachable | Timeout | ServerError);
        Self { reason: Some(reason), status: None, detail, retry_after: None, counts, over_budget: None, cold: false }
    }

    /// An error that no endpoint is to blame for.
    #[must_use]
    pub fn blameless(reason: FailoverReason, detail: &'static str) -> Self {
        Self { counts: false, ..Self::of(reason, detail) }
    }
}

/// How an answer is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Tokens of content after which a stream may be judged.
    pub commit_after: Option<u32>,
    /// Whether a gate looks at the alternatives to a token.
    pub alternatives: bool,
}

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What an endpoint answered.
#[derive(Debug)]
pub struct Answered {
    /// What it says.
    pub answer: Answer,
    /// How it says it.
    pub body: Body,
    /// Time from the call to the first event of a stream, or to the head of any other reply.
    pub began: Duration,
}

/// Calls an endpoint and reads its answer. A stream that goes on is counted at its end, any other answer here.
///
/// # Errors
/// When there is no answer, with what that means for the path.
pub async fn call(
    pool: &Pool,
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
    request_id: &HeaderValue,
    wants: Wants,
) -> Result<Answered, CallError> {
    let begin = Instant::now();
    let (response, connection, occupied) = send(pool, upstream, endpoint, body, request_id).await?;
    let mut began = begin.elapsed();
    let streams = is_stream(&response);
    if streams && !wants.stream {
        return Err(CallError::of(FailoverReason::ServerError, "a stream that nobody asked for"));
    }
    let (answer, body, occupied) = if streams {
        let mut live = Live::new(response.into_body(), connection, occupied);
        let enough = wants.commit_after.map_or(usize::MAX, |tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
        let prefix = live.begin(enough).await?;
        began = live.began().map_or(began, |at| at - begin);
        if let Some(answer) = prefix {
            return Ok(Answered { answer, body: Body::Live(Box::new(live)), began });
        }
        let Live { mut events, reader, connection, occupied, .. } = live;
        pool.put(endpoint, connection);
        reader.unify(&mut events);
        (reader.finish(), Body::Stream(events), occupied)
    } else {
        let body = read(response.into_body()).await?;
        pool.put(endpoint, connection);
        (Answer::from_completion(&body, wants.alternatives), Body::Plain(body), occupied)
    };
    let answer = answer.map_err(broken)?;
    if let Some(usage) = answer.usage {
        occupied.answered(&upstream.tally, usage);
    }
    Ok(Answered { answer, body, began })
}

/// Calls an endpoint for a stream, of which nothing is read.
///
/// # Errors
/// As for [`call`], and when the answer is no stream.
pub(super) async fn open(
    pool: &Pool,
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
    request_id: &HeaderValue,
) -> Result<Live, CallError> {
    let (response, connection, occupied) = send(pool, upstream, endpoint, body, request_id).await?;
    if !is_stream(&response) {
        return Err(CallError::of(FailoverReason::ServerError, "no stream"));
    }
    Ok(Live::new(response.into_body(), connection, occupied))
}

/// Sends a request, until there is the head of a 200.
async fn send(
    pool: &Pool,
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
    request_id: &HeaderValue,
) -> Result<(Response<Incoming>, Connection, Occupied), CallError> {
    use FailoverReason::{ServerError, Unreachable};
    let occupied = endpoint.occupy();
    let authorization = upstream.authorization.as_ref().map_err(|_| CallError::of(Unreachable, "SecretMissing"))?;
    let make = || {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = upstream.chat.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, endpoint.host.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(&X_REQUEST_ID, request_id.clone());
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    };
    let (response, connection) = pool.send(endpoint, make).await.map_err(|failed| match failed {
        Failed::Connect => CallError::of(Unreachable, "no connection"),
        Failed::Broken => CallError::of(ServerError, "connection broke before a reply"),
    })?;
    endpoint.heard();
    if response.status() != StatusCode::OK {
        return Err(refusal(pool, endpoint, response, connection).await);
    }
    // Only providers say what is left. With nothing left the next request would be refused.
    if matches!(upstream.tier.backend, Backend::Url { .. }) {
        let left = rate_limits::left(response.headers(), SHARES, SystemTime::now());
        let now = Instant::now();
        upstream.scarce.note(left.shortages, now);
        if let Some(pause) = left.pause {
            upstream.circuit().limit(now, pause);
        }
    }
    Ok((response, connection, occupied))
}

/// What an answer that is none means for the path.
pub(super) fn broken(error: AnswerError) -> CallError {
    let detail = match error {
        AnswerError::UpstreamError => "200 with an error",
        AnswerError::Malformed(what) => what,
    };
    CallError::of(FailoverReason::ServerError, detail)
}

async fn read(mut incoming: Incoming) -> Result<Bytes, CallError> {
    let broken = |_| CallError::of(FailoverReason::ServerError, "reply broke");
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        // Most replies are one frame: no copy then.
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            None => whole.extend_from_slice(&data),
            Some(one) => {
                whole.extend_from_slice(&one);
                whole.extend_from_slice(&data);
            }
        }
        if whole.len() > MOST || first.as_ref().is_some_and(|f| f.len() > MOST) {
            return Err(CallError::of(FailoverReason::ServerError, "reply too large"));
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

fn is_stream(response: &Response<Incoming>) -> bool {
    const KIND: &str = "text/event-stream";
    let value = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.get(..KIND.len()).is_some_and(|start| start.eq_ignore_ascii_case(KIND))
}

/// Whether an error says that the request does not fit, in the words of OpenAI and vLLM or of llama.cpp.
fn too_long(body: &[u8]) -> bool {
    ["context_length_exceeded", "maximum context length", "exceed_context_size"]
        .iter()
        .any(|words| memchr::memmem::find(body, words.as_bytes()).is_some())
}

/// What a status other than 200 means. The body is read (to keep the connection) and dropped: it may echo prompts and keys.
async fn refusal(
    pool: &Pool,
    endpoint: &Arc<Endpoint>,
    response: Response<Incoming>,
    connection: Connection,
) -> CallError {
    use FailoverReason::{ContextOverflow, RateLimited, ServerError, Timeout};
    let status = response.status();
    let says = matches!(status.as_u16(), 429 | 503);
    let retry_after = says.then(|| rate_limits::after_refusal(response.headers(), SystemTime::now())).flatten();
    let body = tokio::time::timeout(Duration::from_millis(200), read(response.into_body())).await;
    let body = body.ok().and_then(Result::ok);
    if body.is_some() {
        pool.put(endpoint, connection);
    }
    let (reason, detail) = match status.as_u16() {
        429 => (Some(RateLimited), "429"),
        408 => (Some(Timeout), "408"),
        // The tier's own credential is wrong: not the caller's fault.
        401 | 403 => (Some(ServerError), "credential refused"),
        404 => (Some(ServerError), "404"),
        // Our estimate let it through, but the tier counts exactly: a tier with a larger context can take it.
        400 | 413 | 422 if body.as_deref().is_some_and(too_long) => (Some(ContextOverflow), "context overflow"),
        400..=499 => (None, "request refused"),
        503 => (Some(ServerError), "503"),
        _ => (Some(ServerError), "server error"),
    };
    let counts = matches!(reason, Some(Timeout | ServerError));
    CallError { reason, status: Some(status), detail, retry_after, counts, over_budget: None, cold: false }
}
