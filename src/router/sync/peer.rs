//! One operator pod: a connection that is kept, and a report on it every second and whenever there is news.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tokio_rustls::TlsConnector;

use super::{Reporter, Target};
use crate::lease::LACKED;
use crate::routing::report::{EVERY_MS, MAX_BYTES, PATH, Reply};

/// Longest time for a report, connecting included.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds on the time between reports that an operator may ask for.
const BETWEEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Least time between reports that are made because requests meet a tier that is scaled to zero.
const BETWEEN_COLD: Duration = Duration::from_secs(1);
/// Time in which requests that wait for a budget are gathered.
const TOGETHER: Duration = Duration::from_millis(20);

type Connection = SendRequest<Full<Bytes>>;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the token: {0}")]
    Token(String),
    #[error("{0} {1}")]
    Refused(StatusCode, String),
    #[error("the answer: {0}")]
    Answer(String),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Reports for ever.
pub(super) async fn run(at: SocketAddr, target: Arc<Target>, reporter: Arc<Reporter>) {
    let (mut standing, mut stopping) = (reporter.standing.clone(), reporter.stopping.clone());
    let mut short = reporter.shared.budgets.short();
    let mut met_cold = reporter.shared.met_cold.subscribe();
    let mut lacks = reporter.shared.lacks.subscribe();
    let mut connection: Option<Connection> = None;
    let (mut fine, mut woke) = (None, None::<Instant>);
    loop {
        // What changes from here on is news for the report after this one.
        standing.mark_unchanged();
        stopping.mark_unchanged();
        short.mark_unchanged();
        met_cold.mark_unchanged();
        lacks.mark_unchanged();
        let last = tokio::time::Instant::now();
        let mut every = Duration::from_millis(EVERY_MS);
        match report(at, &target, &reporter, connection.take()).await {
            Ok((kept, reply)) => {
                connection = Some(kept);
                reporter.shared.budgets.apply(&reply.budgets, Instant::now());
                reporter.give_way(Some(&reply));
                let soon = reporter.lending.answered(at, &reply, &reporter.shared);
                if reply.next_ms > 0 {
                    every = Duration::from_millis(reply.next_ms).clamp(BETWEEN.0, BETWEEN.1);
                }
                every = soon.map_or(every, |soon| soon.min(every));
                if fine.replace(true) != Some(true) {
                    tracing::info!(operator = %at, leader = reply.leader, "reporting to an operator");
                }
            }
            Err(error) => {
                reporter.lending.lost(at);
                if fine.replace(false) != Some(false) {
                    tracing::warn!(operator = %at, %error, "an operator did not take a report; it is tried again");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            changed = standing.changed() => if changed.is_err() { return },
            changed = stopping.changed() => if changed.is_err() { return },
            // While a tier wakes requests meet it all the time.
            changed = met_cold.changed(), if woke.is_none_or(|at| at.elapsed() >= BETWEEN_COLD) => {
                if changed.is_err() { return }
                woke = Some(Instant::now());
            }
            // Many may wait at once: they are told of together.
            changed = lacks.changed() => if changed.is_ok() { sleep_until(last + LACKED).await } else { return },
            changed = short.changed() => if changed.is_ok() { tokio::time::sleep(TOGETHER).await } else { return },
        }
    }
}

/// One report. A connection that was kept may have ended unseen: then once more on a new one.
async fn report(
    at: SocketAddr,
    target: &Target,
    reporter: &Reporter,
    kept: Option<Connection>,
) -> Result<(Connection, Reply), Failed> {
    let work = async {
        if let Some(kept) = kept.filter(|kept| !kept.is_closed()) {
            match send(kept, at, reporter, target).await {
                Err(Failed::Http(_)) => {}
                done => return done,
            }
        }
        send(connect(at, target).await?, at, reporter, target).await
    };
    tokio::time::timeout(TIMEOUT, work).await.map_err(|_| Failed::Timeout)?
}

async fn connect(at: SocketAddr, target: &Target) -> Result<Connection, Failed> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::clone(&target.tls)).connect(target.server_name.clone(), stream).await?;
    let (connection, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Whoever sends next learns of its end.
        let _ = driver.await;
    });
    Ok(connection)
}

async fn send(
    mut connection: Connection,
    at: SocketAddr,
    reporter: &Reporter,
    target: &Target,
) -> Result<(Connection, Reply), Failed> {
    let path = &reporter.identity.token;
    let token =
        tokio::fs::read_to_string(path).await.map_err(|error| Failed::Token(format!("{}: {error}", path.display())))?;
    connection.ready().await?;
    let body = serde_json::to_vec(&reporter.report(at)).map_err(|error| Failed::Answer(error.to_string()))?;
    let request = Request::post(PATH)
        .header(header::HOST, target.server_name.to_str().as_ref())
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failed::Token(error.to_string()))?;
    let (head, body) = connection.send_request(request).await?.into_parts();
    let body =
        Limited::new(body, MAX_BYTES).collect().await.map_err(|error| Failed::Answer(error.to_string()))?.to_bytes();
    if head.status != StatusCode::OK {
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
        return Err(Failed::Refused(head.status, text));
    }
    let reply = serde_json::from_slice(&body).map_err(|error| Failed::Answer(error.to_string()))?;
    Ok((connection, reply))
}
