//! Replies: their bodies, whole or in pieces, and the names of our headers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::answer::{Strip, frames_from_completion, strip_completion, strip_frames};
use super::body::Peek;
use super::call::Body;
use super::cascade::Served;
use super::errors::Problem;
use super::live::Live;
use super::sse::{DONE, encode};

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
pub(super) struct Flow {
    pub(super) live: Box<Live>,
    pub(super) strip: Strip,
    pub(super) client: mpsc::Sender<Bytes>,
    /// The request, where its path takes up streams that break.
    pub(super) body: Option<Bytes>,
}

/// Pieces of a committed stream that wait for a slow client.
const PIECES: usize = 16;

/// Names of headers, made once: making one looks at each of its letters.
pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) static STEPS: HeaderName = HeaderName::from_static("x-smallfirst-steps");
pub(super) static COST: HeaderName = HeaderName::from_static("x-smallfirst-cost");
pub(super) static WORKLOAD: HeaderName = HeaderName::from_static("x-smallfirst-workload");
pub(super) static TIER: HeaderName = HeaderName::from_static("x-smallfirst-tier");
pub(super) static OUTCOME: HeaderName = HeaderName::from_static("x-smallfirst-outcome");

pub(super) fn set(headers: &mut HeaderMap, name: &'static HeaderName, value: impl TryInto<HeaderValue>) {
    if let Ok(value) = value.try_into() {
        headers.insert(name, value);
    }
}

/// The reply to what is wrong.
pub(super) fn refused(problem: &Problem) -> Reply {
    problem.response().map(Either::Left)
}

/// A body that is there as a whole.
pub(super) fn whole(body: Bytes, kind: &'static str) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(body)));
    // Ours, and those that hyper adds.
    reply.headers_mut().reserve(10);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// The answer as the client asked for it, without what the router injected.
pub(super) fn reply(served: Served<'_>, peek: &Peek<'_>) -> Result<(Reply, Option<Flow>), Problem> {
    let broken = |_| {
        let message = "the answer could not be written as a stream";
        Problem::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_unavailable", message)
    };
    let mut flow = None;
    let mut reply = match (served.body, peek.stream) {
        (Body::Plain(body), false) => {
            whole(strip_completion(&body, served.strip, &served.logprobs), "application/json")
        }
        (Body::Plain(body), true) => {
            let stripped = strip_completion(&body, served.strip, &served.logprobs);
            let frames = frames_from_completion(&stripped, peek.include_usage).map_err(broken)?;
            whole(encode(&frames), "text/event-stream")
        }
        (Body::Stream(events), _) => {
            let mut frames = strip_frames(&events, served.strip);
            if frames.last().is_none_or(|last| last.as_ref() != DONE) {
                frames.push(Bytes::from_static(DONE));
            }
            whole(encode(&frames), "text/event-stream")
        }
        (Body::Live(live), _) => {
            let (client, pieces) = mpsc::channel(PIECES);
            flow = Some(Flow { live, strip: served.strip, client, body: None });
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
