//! Frozen endpoints: they accept connections and never answer (a stopped process, a dead node whose connections linger).
//!
//! An endpoint that has been silent on *all* its connections while it had work is asked whether it lives. Only if it does
//! not answer that either are its requests sent elsewhere: a slow answer alone never is, because that would double the load
//! exactly when there is too much of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use tokio::time::{sleep, timeout};

use super::endpoints::Endpoint;
use super::pool::Pool;

/// Silence after which an endpoint is asked.
const SILENT: Duration = Duration::from_millis(500);
/// Longest time for an endpoint that lives to say so.
const PROBE: Duration = Duration::from_millis(300);

/// Waits until the endpoint turns out to be frozen, which may be never.
pub async fn frozen(pool: &Pool, endpoint: &Arc<Endpoint>, health: &Uri) {
    let begin = Instant::now();
    loop {
        let silent = endpoint.silence().min(begin.elapsed());
        if silent < SILENT {
            sleep(SILENT - silent).await;
        // In a box: a probe is rare, and would make the future of every request larger.
        } else if Box::pin(lives(pool, endpoint, health)).await {
            endpoint.heard();
        } else {
            return;
        }
    }
}

/// Asks the endpoint, once for all that wait for it.
async fn lives(pool: &Pool, endpoint: &Arc<Endpoint>, health: &Uri) -> bool {
    let mut last = endpoint.probed.lock().await;
    if let Some((at, lived)) = *last
        && at.elapsed() < SILENT
    {
        return lived;
    }
    let make = || {
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = health.clone();
        request.headers_mut().insert(header::HOST, endpoint.host.clone());
        request
    };
    // Whatever it answers, it lives.
    let lived = timeout(PROBE, pool.send(endpoint, make)).await.is_ok_and(|answer| answer.is_ok());
    *last = Some((Instant::now(), lived));
    lived
}
