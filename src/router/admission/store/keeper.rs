//! Keeps a store connected, and tells it what requests do not wait for.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisResult, TlsCertificates};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::book::{Book, Message};
use super::{Reach, Terms, scripts};

/// Time after which a store that is away is tried again, first and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// A connection that lasted so long was a good one: the next is tried soon.
const GOOD: Duration = Duration::from_secs(10);
/// Longest time to connect, and for an answer that no request waits for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the store is told of all requests that go on.
const RENEW: Duration = Duration::from_secs(5);
/// Messages that are told together.
const BATCH: usize = 256;

/// Why a connection is no longer used.
enum Ended {
    /// Nobody needs it.
    Closed,
    /// It does not answer.
    Lost(String),
    /// A request was not answered, which has been logged.
    Unanswered,
}

/// Keeps it until nobody needs it any more.
pub(super) async fn keep(reach: Arc<Reach>, mut messages: UnboundedReceiver<Message>) {
    let mut book = Book::new(reach.limits.reserves(), std::time::Instant::now());
    let mut pause = PAUSE[0];
    // Once each time it goes.
    let mut logged = false;
    loop {
        let begin = Instant::now();
        let ended = match connect(&reach, &mut book).await {
            Err(error) => Ended::Lost(error.to_string()),
            Ok(connection) => {
                reach.connection.store(Some(Arc::new(connection.clone())));
                reach.metrics.up.inc();
                tracing::info!(account = reach.account, url = reach.terms.url, "the quota's store is in use");
                logged = false;
                serve(&reach, &mut messages, &mut book, &connection).await
            }
        };
        if reach.connection.swap(None).is_some() {
            reach.metrics.up.dec();
        }
        match ended {
            Ended::Closed => return,
            Ended::Lost(why) if !logged => reach.is_away(&why),
            Ended::Lost(_) | Ended::Unanswered => {}
        }
        logged = true;
        pause = if begin.elapsed() > GOOD { PAUSE[0] } else { pause };
        let until = Instant::now() + pause;
        pause = (pause * 2).min(PAUSE[1]);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => book.note(&message),
                    None => return,
                },
                () = sleep_until(until) => break,
            }
        }
    }
}

/// Connects, and tells what the store does not know.
async fn connect(reach: &Reach, book: &mut Book) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    let connection = client(&reach.terms)?.get_multiplexed_async_connection_with_config(&config).await?;
    scripts::load(&connection).await?;
    let nothing: Vec<_> = (0..=reach.limits.reserves()).map(|_| super::book::News::default()).collect();
    let memory = scripts::tell(&reach.limits, &nothing, |id| reach.id(id), &connection).await?;
    let forgotten = !book.is_remembered(&memory);
    tell(reach, book, &connection, true, forgotten).await?;
    Ok(connection)
}

fn client(terms: &Terms) -> RedisResult<Client> {
    let info: ConnectionInfo = terms.url.as_str().into_connection_info()?;
    let mut login = info.redis_settings().clone();
    if let Some(username) = &terms.username {
        login = login.set_username(username);
    }
    if let Some(password) = terms.password.as_deref().and_then(|password| std::str::from_utf8(password).ok()) {
        // A key that was written with an editor ends with a line feed.
        login = login.set_password(password.trim_end_matches(['\r', '\n']));
    }
    let info = info.set_redis_settings(login);
    match &terms.ca {
        None => Client::open(info),
        Some(ca) => Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) }),
    }
}

async fn tell(
    reach: &Reach,
    book: &mut Book,
    connection: &MultiplexedConnection,
    all_at_work: bool,
    forgotten: bool,
) -> RedisResult<()> {
    let news = book.news(all_at_work, forgotten, std::time::Instant::now());
    let told = scripts::tell(&reach.limits, &news, |id| reach.id(id), connection).await;
    match told {
        Ok(memory) => book.told(memory),
        Err(error) => {
            book.unsure();
            return Err(error);
        }
    }
    Ok(())
}

/// Tells what becomes of requests, as long as the store answers.
async fn serve(
    reach: &Reach,
    messages: &mut UnboundedReceiver<Message>,
    book: &mut Book,
    connection: &MultiplexedConnection,
) -> Ended {
    // A request that goes on for longer than any should is at work all the same. And where nobody asks for long, it is seen
    // here that the store is gone, and not by the next request.
    let renew = RENEW.min(reach.terms.longest / 3);
    let mut renews = Instant::now() + renew;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let all_at_work = tokio::select! {
            count = messages.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return Ended::Closed;
                }
                false
            }
            () = sleep_until(renews) => {
                renews = Instant::now() + renew;
                true
            }
            // Of an earlier connection, where this one is in use.
            () = reach.lost.notified() => match reach.connection.load().is_some() {
                true => continue,
                false => return Ended::Unanswered,
            },
        };
        batch.drain(..).for_each(|message| book.note(&message));
        if (all_at_work || book.has_news())
            && let Err(error) = tell(reach, book, connection, all_at_work, false).await
        {
            return Ended::Lost(error.to_string());
        }
    }
}
