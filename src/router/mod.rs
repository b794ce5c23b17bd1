//! The data plane: one request in, the first good enough answer out.
//!
//! ```text
//! serve: read -> authenticate -> classify -> admit -> walk the path -> reply -> account
//!                                                       |
//!                       cascade: for each step  ask (endpoints, pool, call) -> judge (gates) -> accept or go on
//! ```
//! A thread a core, each with its own listener (`SO_REUSEPORT`), runtime and connections. What cores share is a snapshot
//! of the table behind an atomic pointer, and counters.

pub mod access_log;
pub mod admission;
pub mod answer;
mod attempts;
pub mod body;
pub mod breaker;
mod buffered;
pub mod call;
pub mod cascade;
mod cold;
pub mod continuation;
pub mod control;
pub mod crowd;
mod degraded;
mod draws;
mod ejection;
pub mod endpoints;
pub mod errors;
mod exchange;
mod explain;
pub mod frozen;
pub mod gates;
pub mod gives_way;
pub mod hedge;
pub(crate) mod json;
pub mod latencies;
pub mod live;
pub mod metrics;
pub mod money;
mod own_stack;
mod patient;
pub mod pool;
pub mod rate_limits;
pub mod receive;
mod reply;
mod resume;
pub mod retry_budget;
pub mod route;
pub mod run;
mod second_opinion;
pub mod secret_problem;
pub mod serve;
pub mod server;
pub mod snapshot;
pub mod sse;
pub mod sticky;
pub mod sync;
pub mod tally;
pub mod trace;
pub mod traffic_tls;
pub mod tries;
pub mod workload_metrics;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use tokio::sync::{Notify, watch};

use access_log::AccessLog;
use admission::budget::Budgets;
use buffered::Buffered;
use endpoints::Endpoints;
use metrics::Metrics;
use snapshot::Snapshot;
use sticky::Sticky;
use tries::Tries;

pub use crate::routing::table::MAX_BODY_BYTES;

/// What a client may take of a router.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Most bytes of request bodies that are held at a time. `None`: no bound.
    pub max_buffered_bytes: Option<usize>,
    /// Longest time to receive the head of a request.
    pub head_timeout: Duration,
    /// Longest time to receive its body.
    pub body_timeout: Duration,
    /// Longest silence of a stream that is passed on, and longest time for which a client takes nothing of a reply.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: MAX_BODY_BYTES,
            max_buffered_bytes: None,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// What all cores share.
pub struct Shared {
    /// The table in force.
    pub snapshot: ArcSwapOption<Snapshot>,
    /// Endpoints in force.
    pub endpoints: ArcSwap<Endpoints>,
    /// Tells whoever waits for an endpoint that others are in force.
    pub endpoints_changed: Notify,
    /// Tells whoever reports that a request met a tier that is scaled to zero.
    pub met_cold: watch::Sender<()>,
    /// Tells whoever reports that a request waits for what an operator may lend of an account.
    pub lacks: watch::Sender<()>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// What a client may take.
    pub limits: Limits,
    /// Bytes of request bodies that are held, where they are bounded.
    buffered: Option<Buffered>,
    /// Where conversations start.
    pub sticky: Sticky,
    /// What was not answered and may be tried again.
    pub tries: Tries,
    /// What may still be spent.
    pub budgets: Budgets,
    /// It reports to the operators, which can lend it limits then.
    pub lent: bool,
    leaving: AtomicBool,
    ids: AtomicU64,
    /// What ids of this router begin with.
    prefix: String,
    seed: u64,
}

impl Shared {
    /// Nothing in force yet. The seed makes ids and draws of two routers differ.
    #[must_use]
    pub fn new(
        metrics: Metrics,
        access_log: AccessLog,
        limits: Limits,
        budgets: Budgets,
        lent: bool,
        seed: u64,
    ) -> Self {
        Self {
            snapshot: ArcSwapOption::empty(),
            endpoints: ArcSwap::from_pointee(Endpoints::default()),
            endpoints_changed: Notify::new(),
            met_cold: watch::Sender::new(()),
            lacks: watch::Sender::new(()),
            metrics,
            access_log,
            limits,
            buffered: limits.max_buffered_bytes.map(Buffered::new),
            sticky: Sticky::default(),
            tries: Tries::default(),
            budgets,
            lent,
            leaving: AtomicBool::new(false),
            ids: AtomicU64::new(0),
            prefix: format!("sf-{seed:016x}-"),
            seed,
        }
    }

    /// The router leaves the Services that it is behind: from now on every reply tells its client to connect anew.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    fn next_id(&self) -> HeaderValue {
        let number = format!("{:x}", self.ids.fetch_add(1, Ordering::Relaxed));
        HeaderValue::try_from([&self.prefix, number.as_str()].concat()).unwrap_or(HeaderValue::from_static("sf-"))
    }

    /// Draws below a bound.
    fn random(&self, bound: usize) -> usize {
        draws::draw(self.seed, bound)
    }
}
