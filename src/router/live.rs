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

use super::answer::{Reader, Strip, Usage, strip_frames};
use super::call::{CallError, MOST, broken};
use super::continuation::Seam;
use super::endpoints::{Endpoint, Occupied};
use super::errors::Problem;
use super::frozen::frozen;
use super::pool::{Connection, Pool};
use super::sse::{DONE, Parser, encode};
use crate::api::escalation_path::FailoverReason;

/// Longest silence of a committed stream.
const IDLE: Duration = Duration::from_secs(30);

/// A stream that is being read.
#[derive(Debug)]
pub struct Live {
    incoming: Incoming,
    parser: Parser,
    read: usize,
    /// The event that it began with.
    first: Option<Bytes>,
    /// Where it is joined to the stream that it continues.
    pub seam: Option<Seam>,
    /// What came and was not sent on, in order.
    pub events: Vec<Bytes>,
    /// What was read of it.
    pub reader: Reader,
    /// Ready for another request once the stream has ended.
    pub connection: Connection,
    /// When it was committed, or begun.
    pub since: Instant,
    occupied: Occupied,
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
        let parser = Parser::new(MOST);
        let (events, reader) = (Vec::new(), Reader::default());
        let (first, seam, since) = (None, None, Instant::now());
        Self { incoming, parser, read: 0, first, seam, events, reader, connection, since, occupied }
    }

    /// Reads until there are so many tokens of content: true; or to the end: false.
    ///
    /// # Errors
    /// The stream broke, is too large, or holds an error.
    pub async fn begin(&mut self, tokens: usize) -> Result<bool, CallError> {
        while self.more().await? {
            if self.reader.content_tokens() >= tokens {
                self.since = Instant::now();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> Result<bool, CallError> {
        let error = |what| CallError::of(FailoverReason::ServerError, what);
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
        for (index, event) in self.events.iter().enumerate().skip(new).filter(|(_, event)| event.as_ref() != DONE) {
            if let Err(error) = self.reader.chunk(event) {
                // What came before it is sound.
                self.events.truncate(index);
                return Err(broken(error));
            }
        }
        if self.first.is_none() {
            self.first = self.events.first().cloned();
        }
        Ok(true)
    }

    /// The event that it began with.
    #[must_use]
    pub const fn first(&self) -> Option<&Bytes> {
        self.first.as_ref()
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
    /// while it is silent has broken off.
    pub async fn pass_on(
        &mut self,
        strip: Strip,
        client: &mpsc::Sender<Bytes>,
        pool: &Pool,
        health: Option<&Uri>,
    ) -> End {
        let endpoint = self.endpoint().clone();
        let mut more = Ok(true);
        loop {
            let mut frames = strip_frames(self.events.iter().filter(|event| event.as_ref() != DONE), strip);
            self.events.clear();
            if let Some(seam) = &mut self.seam {
                frames = seam.join(frames);
            }
            if !frames.is_empty() && client.send(encode(&frames)).await.is_err() {
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
                () = sleep(IDLE) => Err(()),
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
