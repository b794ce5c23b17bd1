//! A stream that is judged by its beginning: read so far, then passed on as it comes.
//!
//! ```text
//! upstream --begin--> events held --gates--> committed --pass_on--> client
//!                                       \--> dropped: the connection closes, and the engine stops
//! ```
//! After commitment nothing can be taken back. A stream that breaks then is taken up where it ended
//! ([`resume`](super::resume)), or ends with an error event, without `[DONE]`, so that no client takes it for whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::admission::account::Permit;
use super::admission::budget::Spend;
use super::answer::{Answer, Reader, Strip, Usage, strip_frames};
use super::call::{CallError, MOST, broken};
use super::continuation::Seam;
use super::endpoints::{Endpoint, Occupied};
use super::errors::Problem;
use super::frozen::frozen;
use super::pool::{Connection, Pool};
use super::sse::{DONE, Parser, encode};
use crate::api::escalation_path::FailoverReason;

/// Time for a body to end whose last event has come: its connection can be kept then.
const END: Duration = Duration::from_millis(50);

/// A stream that is being read.
#[derive(Debug)]
pub struct Live {
    incoming: Incoming,
    parser: Parser,
    read: usize,
    /// The event that it began with, and when it came.
    first: Option<(Bytes, Instant)>,
    /// Where it is joined to the stream that it continues.
    pub seam: Option<Seam>,
    /// The event that ends the stream has come: what follows is none of it.
    done: bool,
    /// Tokens of content that a prefix has.
    enough: usize,
    /// What the first chunks with so many say.
    prefix: Option<Answer>,
    /// What came and was not sent on, in order.
    pub events: Vec<Bytes>,
    /// What was read of it.
    pub reader: Reader,
    /// Ready for another request once the stream has ended.
    pub connection: Connection,
    /// When it was committed, or begun.
    pub since: Instant,
    /// What it takes of an account's quota until it ends.
    pub permit: Option<Permit>,
    /// What it takes of budgets until it ends.
    pub spend: Option<Spend>,
    /// Its place at the endpoint.
    pub occupied: Occupied,
}

/// How a committed stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whole.
    Done,
    /// The upstream broke off.
    Broken,
    /// The client left.
    ClientGone,
}

impl Live {
    /// A stream of which nothing was read.
    #[must_use]
    pub fn new(incoming: Incoming, connection: Connection, occupied: Occupied) -> Self {
        Self {
            incoming,
            parser: Parser::new(MOST),
            read: 0,
            done: false,
            enough: usize::MAX,
            prefix: None,
            first: None,
            seam: None,
            events: Vec::new(),
            reader: Reader::default(),
            connection,
            since: Instant::now(),
            permit: None,
            spend: None,
            occupied,
        }
    }

    /// Reads until there are so many tokens of content, and gives what the chunks up to there say: that does not depend on
    /// how they were cut and came. `None`: the stream ended before, and was read to its end.
    ///
    /// # Errors
    /// The stream broke, is too large, or holds an error.
    pub async fn begin(&mut self, tokens: usize) -> Result<Option<Answer>, CallError> {
        self.enough = tokens;
        while self.more().await? {
            if let Some(prefix) = self.prefix.take() {
                self.enough = usize::MAX;
                self.since = Instant::now();
                return Ok(Some(prefix));
            }
        }
        Ok(None)
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> Result<bool, CallError> {
        let error = |what| CallError::of(FailoverReason::ServerError, what);
        if self.done {
            let end = async { while let Some(Ok(_)) = self.incoming.frame().await {} };
            // Ended or not: the stream has.
            let _ = tokio::time::timeout(END, end).await;
            return Ok(false);
        }
        let Some(frame) = self.incoming.frame().await else { return Ok(false) };
        let frame = frame.map_err(|_| error("stream broke"))?;
        self.endpoint().heard();
        let Some(data) = frame.data_ref() else { return Ok(true) };
        self.read += data.len();
        if self.read > MOST {
            return Err(error("reply too large"));
        }
        let new = self.events.len();
        self.parser.push(data, &mut self.events).map_err(|_| error("event too large"))?;
        let mut end = new;
        while let Some(event) = self.events.get(end).filter(|event| event.as_ref() != DONE) {
            if let Err(error) = self.reader.chunk(event) {
                // What came before it is sound.
                self.events.truncate(end);
                return Err(broken(error));
            }
            if self.prefix.is_none() && self.reader.content_tokens() >= self.enough {
                self.prefix = Some(self.reader.prefix(self.enough).map_err(broken)?);
            }
            end += 1;
        }
        if end < self.events.len() {
            self.done = true;
            self.events.truncate(end);
        }
        if self.first.is_none() {
            self.first = self.events.first().map(|event| (event.clone(), Instant::now()));
        }
        Ok(true)
    }

    /// The event that it began with.
    #[must_use]
    pub fn first(&self) -> Option<&Bytes> {
        self.first.as_ref().map(|(event, _)| event)
    }

    /// When its first event came, if one has.
    #[must_use]
    pub fn began(&self) -> Option<Instant> {
        self.first.as_ref().map(|(_, at)| *at)
    }

    /// Tokens of content so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        u64::try_from(self.reader.content_tokens()).unwrap_or_default()
    }

    /// Usage as the upstream said it, else so much as was read.
    #[must_use]
    pub fn usage(&self, committed: Usage) -> Usage {
        self.reader.usage().unwrap_or(Usage { completion: self.tokens(), ..committed })
    }

    /// Where it comes from.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        self.occupied.endpoint()
    }

    /// Keeps the connection of a stream that has ended. Any other is closed, so that the engine stops.
    pub fn release(self, pool: &Pool, end: End) {
        if end == End::Done {
            pool.put(self.occupied.endpoint(), self.connection);
        }
    }

    /// Sends on what is held and all that follows, until the end. An endpoint that answers its `health` path no more
    /// while it is silent has broken off. `idle` is the longest silence of either side: of the upstream, and of a client
    /// that takes nothing.
    pub async fn pass_on(
        &mut self,
        strip: Strip,
        client: &mpsc::Sender<Bytes>,
        pool: &Pool,
        health: Option<&Uri>,
        idle: Duration,
    ) -> End {
        let endpoint = self.endpoint().clone();
        let mut more = Ok(true);
        loop {
            self.reader.unify(&mut self.events);
            let mut frames = strip_frames(&self.events, strip);
            self.events.clear();
            if let Some(seam) = &mut self.seam {
                frames = seam.join(frames);
            }
            if !frames.is_empty() && client.send_timeout(encode(&frames), idle).await.is_err() {
                return End::ClientGone;
            }
            match more {
                Ok(true) => {}
                // A choice without its end was cut off.
                Ok(false) if self.reader.is_whole() => {
                    let sent = client.send(encode([&Bytes::from_static(DONE)])).await;
                    return if sent.is_ok() { End::Done } else { End::ClientGone };
                }
                _ => return End::Broken,
            }
            more = tokio::select! {
                biased;
                more = self.more() => more.map_err(drop),
                () = client.closed() => return End::ClientGone,
                () = sleep(idle) => Err(()),
                () = silence(pool, &endpoint, health) => Err(()),
            };
        }
    }
}

/// Waits until an endpoint turns out to be frozen, which may be never.
async fn silence(pool: &Pool, endpoint: &Arc<Endpoint>, health: Option<&Uri>) {
    match health {
        Some(health) => frozen(pool, endpoint, health).await,
        None => std::future::pending().await,
    }
}

/// The event that ends a stream which is not whole.
#[must_use]
pub fn broken_off() -> Bytes {
    let message = "the model's stream broke off; what came before is not the whole answer";
    encode([&Problem::new(StatusCode::BAD_GATEWAY, "server_error", "stream_broken", message).body()])
}
