//! Reading what a client sends, within bounds of size and time.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};

use super::buffered::Hold;
use super::errors::Problem;

/// Most bytes of an unwanted body that are read before its connection is given up.
const LINGER: usize = 64 << 20;

/// Longest silence of an unwanted body: a client that sends nothing more waits for its answer.
const SILENCE: Duration = Duration::from_secs(1);

/// Why a body is not wanted.
enum Unwanted {
    /// It is larger than a body may be.
    TooLarge,
    /// All bodies together are.
    NoRoom,
}

/// The body, up to a number of bytes; `hold` has them.
///
/// # Errors
/// 413 for a larger one, 408 for a slower one, 400 for one that ends early, 503 for one that has no room.
pub(super) async fn read(
    mut incoming: Incoming,
    most: usize,
    within: Duration,
    hold: &mut Hold<'_>,
) -> Result<Bytes, Problem> {
    let begin = Instant::now();
    let read = tokio::time::timeout(within, collect(&mut incoming, most, hold)).await.map_err(|_| {
        let message = "body: was not received in time";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", message)
    })??;
    let unwanted = match read {
        Ok(body) => return Ok(body),
        Err(unwanted) => unwanted,
    };
    discard(incoming, within.saturating_sub(begin.elapsed())).await;
    Err(match unwanted {
        Unwanted::TooLarge => {
            let message = format!("body: must be at most {most} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "body_too_large", message)
        }
        Unwanted::NoRoom => {
            let message = "body: this router holds as many bytes of requests as it may; try again";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "buffers_full", message);
            problem.after(Duration::from_secs(1))
        }
    })
}

/// Reads and drops a body, or the rest of one, that is not wanted. Most clients read no answer before they have sent
/// everything: a connection that closes on them is an error without words.
pub(super) async fn discard(incoming: Incoming, within: Duration) {
    // In time or not: the answer is the same.
    let _ = tokio::time::timeout(within, drain(incoming)).await;
}

async fn collect(
    incoming: &mut Incoming,
    most: usize,
    hold: &mut Hold<'_>,
) -> Result<Result<Bytes, Unwanted>, Problem> {
    if incoming.size_hint().lower() > most as u64 {
        return Ok(Err(Unwanted::TooLarge));
    }
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| Problem::invalid("body: ended early", None))?;
        let Ok(data) = frame.into_data() else { continue };
        if !hold.grow(data.len()) {
            return Ok(Err(Unwanted::NoRoom));
        }
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            one => {
                whole.extend_from_slice(&one.unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
        if first.as_ref().map_or(whole.len(), Bytes::len) > most {
            return Ok(Err(Unwanted::TooLarge));
        }
    }
    Ok(Ok(first.unwrap_or_else(|| whole.freeze())))
}

async fn drain(mut incoming: Incoming) {
    let mut left = LINGER;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, incoming.frame()).await {
        let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = less;
    }
}
