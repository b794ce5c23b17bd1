//! The use of an account as several clusters count it together, in a Redis or Valkey server that they share.
//!
//! ```text
//! request --take--> counted for all clusters, or refused for want of room
//!             \---> no answer in time: the store is away, and the caller goes by what is lent here
//! keeper: off the request's path: connects, tells what ended, and what was taken while the store was away
//! ```
//! The rules are those of an account that is lent: requests fit into any minute, tokens fill a bucket of a minute's amount,
//! and a request is at work until it has ended, or until it must have if its router died. They are scripts, which the server
//! runs one at a time, by its own clock: common.lua, take.lua and tell.lua.

mod book;
mod keeper;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc};

use super::room::{Amounts, Asker, Lack, Order};
use crate::api::types::SecretKeyRef;
use crate::lease::reserve::Reserve;
use crate::router::metrics::{Metrics, StoreMetrics};
use crate::router::secret_problem::SecretProblem;
use crate::routing::source::secrets::Secrets;
use crate::routing::table::{self, Quota};
use book::Message;
use scripts::{Asks, Limits};

/// Longest time for which a request waits for the store's answer.
const TIMEOUT: Duration = Duration::from_millis(50);
/// How long the free part that the store told last is worth something.
const FRESH: Duration = Duration::from_secs(60);

/// How a store is reached, and what is counted there.
#[derive(Clone, PartialEq, Eq)]
pub struct Terms {
    url: String,
    username: Option<String>,
    password: Option<Bytes>,
    ca: Option<Bytes>,
    key_prefix: String,
    /// Of all clusters.
    quota: Quota,
    /// Longest time that a request goes on after it was admitted.
    longest: Duration,
}

impl Terms {
    /// The store that a table names, with its keys as they are mounted.
    ///
    /// # Errors
    /// When a key is not mounted, or a password is no text.
    pub fn new(
        account: &str,
        store: &table::QuotaStore,
        secrets: &Secrets,
        longest: Duration,
    ) -> Result<Self, SecretProblem> {
        let field = |name: &str| format!("account {account}: spec.provider.quota.store.redis.{name}.secretKeyRef");
        let mounted = |name: &str, secret: &Option<SecretKeyRef>| {
            let Some(secret) = secret else { return Ok(None) };
            let key = secrets.get(secret).filter(|key| !key.is_empty());
            key.map(Some).ok_or_else(|| SecretProblem::absent(&field(name), secret))
        };
        let password = mounted("credential", &store.password)?;
        if let (Some(secret), Some(password)) = (&store.password, &password)
            && std::str::from_utf8(password).is_err()
        {
            return Err(SecretProblem::not_text(&field("credential"), secret));
        }
        Ok(Self {
            url: store.url.clone(),
            username: store.username.clone(),
            password,
            ca: mounted("ca", &store.ca)?,
            key_prefix: store.key_prefix.clone(),
            quota: store.quota,
            longest,
        })
    }
}

/// What becomes of a request.
pub enum Answer {
    /// It is counted.
    Taken(Counted),
    /// There is no room.
    Lacks(Lack),
    /// Nobody answers.
    Away,
}

/// The store of an account. A task keeps it connected until this is dropped.
pub struct Store {
    reach: Arc<Reach>,
    messages: mpsc::UnboundedSender<Message>,
}

/// What requests and the keeper share.
struct Reach {
    account: String,
    terms: Terms,
    limits: Limits,
    /// What ids of this store's requests begin with.
    name: String,
    next: AtomicU64,
    /// `None`: it is away.
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Rung when a request was not answered.
    lost: Notify,
    begin: Instant,
    /// Milliseconds since the beginning, times 256, and the percentage that was free then. 0: not known.
    free: AtomicU64,
    metrics: StoreMetrics,
}

impl Store {
    /// Begins to connect, on the current runtime.
    #[must_use]
    pub fn new(account: &str, terms: Terms, reserves: &[Reserve], metrics: &Metrics) -> Arc<Self> {
        let (messages, received) = mpsc::unbounded_channel();
        let reach = Arc::new(Reach {
            account: account.to_owned(),
            limits: Limits::new(&terms, account, reserves),
            name: scripts::unique(),
            next: AtomicU64::new(1),
            connection: ArcSwapOption::empty(),
            lost: Notify::new(),
            begin: Instant::now(),
            free: AtomicU64::new(0),
            metrics: metrics.store(account),
            terms,
        });
        tokio::spawn(keeper::keep(reach.clone(), received));
        Arc::new(Self { reach, messages })
    }

    /// Whether this is the store of these terms.
    #[must_use]
    pub fn is_of(&self, terms: &Terms) -> bool {
        self.reach.terms == *terms
    }

    /// What a request takes of each kind. What is only assumed never makes it too large.
    #[must_use]
    pub fn amounts(&self, order: Order) -> Amounts {
        let Quota { tokens_per_minute, output_tokens_per_minute, .. } = self.reach.terms.quota;
        order.amounts([tokens_per_minute, output_tokens_per_minute].map(|limit| limit.unwrap_or(u64::MAX)))
    }

    /// The percentage that is free of the limit of which the least is, if that was heard within a minute and the store
    /// answers.
    #[must_use]
    pub fn free(&self) -> Option<u32> {
        let reach = &self.reach;
        let (at, free) = match reach.free.load(Ordering::Relaxed) {
            0 => return None,
            heard => (Duration::from_millis(heard >> 8), heard & 0xff),
        };
        let fresh = reach.begin.elapsed().saturating_sub(at) < FRESH && reach.connection.load().is_some();
        fresh.then(|| u32::try_from(free).unwrap_or(0))
    }

    /// Asks for a request that would wait for so long.
    pub async fn take(self: &Arc<Self>, amounts: Amounts, asker: Asker, patience: Duration) -> Answer {
        let reach = &self.reach;
        let Some(connection) = reach.connection.load_full() else {
            reach.metrics.away.inc();
            return Answer::Away;
        };
        let id = reach.next.fetch_add(1, Ordering::Relaxed);
        // Whoever goes before the answer comes does not know what it is.
        let doubt = Doubt { store: self, id };
        let asks = Asks { id: &reach.id(id), amounts, asker, patience };
        let asking = scripts::take(&reach.limits, &asks, &connection);
        let said = match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => return reach.lose(&connection, &error.to_string()),
            Err(_) => return reach.lose(&connection, "no answer within 50 ms"),
        };
        std::mem::forget(doubt);
        let at = u64::try_from(reach.begin.elapsed().as_millis()).unwrap_or(u64::MAX >> 8);
        reach.free.store(at << 8 | u64::from(said.free), Ordering::Relaxed);
        match said.lack {
            Some(lack) => {
                reach.metrics.refused.inc();
                Answer::Lacks(lack)
            }
            None => {
                reach.metrics.taken.inc();
                Answer::Taken(self.counted(id, amounts, asker.reserve, true))
            }
        }
    }

    /// Notes a request that goes by what is lent here: the store is told when it is there.
    #[must_use]
    pub fn note(self: &Arc<Self>, amounts: Amounts, reserve: Option<usize>) -> Counted {
        let id = self.reach.next.fetch_add(1, Ordering::Relaxed);
        self.counted(id, amounts, reserve, false)
    }

    fn counted(self: &Arc<Self>, id: u64, amounts: Amounts, reserve: Option<usize>, known: bool) -> Counted {
        let at = Instant::now();
        self.tell(Message::Taken { id, reserve, amounts, known, at });
        Counted { store: self.clone(), id, reserve, amounts, at }
    }

    fn tell(&self, message: Message) {
        // The keeper ends with the runtime only.
        let _ = self.messages.send(message);
    }
}

impl Reach {
    fn id(&self, id: u64) -> String {
        format!("{}-{id:x}", self.name)
    }

    /// The store does not answer as it should: nobody else waits for it, and the keeper connects anew.
    fn lose(&self, connection: &Arc<MultiplexedConnection>, why: &str) -> Answer {
        self.metrics.away.inc();
        let before = self.connection.compare_and_swap(connection, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            self.is_away(why);
            self.metrics.up.dec();
            self.lost.notify_one();
        }
        Answer::Away
    }

    fn is_away(&self, why: &str) {
        let Self { account, terms: Terms { url, .. }, .. } = self;
        tracing::warn!(account, url, why, "the quota's store is away: requests go by what is lent here");
    }
}

/// A request that nobody knows of whether it was counted.
struct Doubt<'a> {
    store: &'a Store,
    id: u64,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.store.tell(Message::Doubtful { id: self.id });
    }
}

/// A request that the store counts, or will be told of.
pub struct Counted {
    store: Arc<Store>,
    id: u64,
    reserve: Option<usize>,
    /// What was taken for it.
    pub amounts: Amounts,
    at: Instant,
}

impl Counted {
    /// It ended, and used so much.
    pub fn end(&self, used: Amounts) {
        let mut more = [0; 4];
        for (more, (used, taken)) in more.iter_mut().zip(used.into_iter().zip(self.amounts)) {
            let [used, taken] = [used, taken].map(|amount| i64::try_from(amount).unwrap_or(i64::MAX));
            *more = used.saturating_sub(taken);
        }
        let Self { id, reserve, at, .. } = *self;
        self.store.tell(Message::Ended { id, reserve, at, more, now: Instant::now() });
    }
}
