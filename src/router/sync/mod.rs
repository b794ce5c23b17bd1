//! The router reports to the operators: a task for each operator pod, so that one that is slow or gone delays no other,
//! and none a request.
//!
//! Where operators are says the table in force. Their pods are the addresses of one host name, which is looked up again
//! every second.

mod lending;
mod peer;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Shared;
use super::control::Standing;
use super::gives_way::Told;
use crate::routing::report::{FORMAT_VERSION, GivesWay, Reply, Report};
use crate::routing::table::{self, SyncAddress};
use lending::Lending;

/// How often the host name is looked up.
const LOOK_UP: Duration = Duration::from_secs(1);
/// Longest time for that.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// As whom a router reports.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of its pod.
    pub pod: String,
    /// File with its token, which is read anew for each report: the kubelet replaces it.
    pub token: PathBuf,
}

/// Where an operator is, and what it must show.
struct Target {
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

/// What all reports are made from.
struct Reporter {
    identity: Identity,
    incarnation: u64,
    began: Instant,
    sequence: AtomicU64,
    standing: watch::Receiver<Standing>,
    stopping: watch::Receiver<bool>,
    shared: Arc<Shared>,
    lending: Lending,
    told: Mutex<Told>,
}

impl Reporter {
    /// Sets what gives way by what the leader says, or by what it said last.
    fn give_way(&self, reply: Option<&Reply>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(Reply { lowered: Some(lowered), moved, .. }) = reply.filter(|reply| reply.leader) {
            told.hear(GivesWay { lowered: lowered.clone(), moved: moved.clone() }, now);
        }
        if let Some(snapshot) = self.shared.snapshot.load().as_ref() {
            told.apply(snapshot.routes.all(), now);
        }
    }

    fn report(&self, to: SocketAddr) -> Report {
        let Standing { hash, refused, problems, sync: _ } = self.standing.borrow().clone();
        let in_flight = u64::try_from(self.shared.metrics.in_flight.get()).unwrap_or_default();
        let draining = *self.stopping.borrow();
        let budgets = &self.shared.budgets;
        let now = Instant::now();
        let snapshot = self.shared.snapshot.load();
        let counts = snapshot.as_ref().map(|snapshot| snapshot.counts(&self.shared.endpoints.load(), now));
        Report {
            format_version: FORMAT_VERSION,
            pod: self.identity.pod.clone(),
            incarnation: self.incarnation,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            stamp_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            table_format: table::FORMAT_VERSION,
            table_hash: hash,
            refused,
            missing: problems.into_iter().map(|problem| problem.message).collect(),
            draining,
            in_flight,
            purses: budgets.id().unwrap_or(self.incarnation),
            budgets: budgets.claims(now),
            leases: self.lending.claims(to, draining, &self.shared),
            counts: counts.unwrap_or_default(),
        }
    }
}

/// Reports until the router ends. `stopping` says when it takes no more requests.
pub async fn run(
    identity: Identity,
    standing: watch::Receiver<Standing>,
    stopping: watch::Receiver<bool>,
    shared: Arc<Shared>,
) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let reporter = Arc::new(Reporter {
        identity,
        incarnation: u64::try_from(since.as_micros()).unwrap_or_default(),
        began: Instant::now(),
        sequence: AtomicU64::new(0),
        standing: standing.clone(),
        stopping,
        shared,
        lending: Lending::new(Instant::now()),
        told: Mutex::default(),
    });
    let mut standing = standing;
    let mut operators = Operators { reporter, sync: None, target: None, peers: HashMap::new() };
    loop {
        let wanted = standing.borrow_and_update().sync.clone();
        operators.follow(wanted);
        operators.look_up().await;
        operators.reporter.give_way(None);
        tokio::select! {
            () = tokio::time::sleep(LOOK_UP) => {}
            changed = standing.changed() => if changed.is_err() { return },
        }
    }
}

/// The operators that are reported to.
struct Operators {
    reporter: Arc<Reporter>,
    sync: Option<SyncAddress>,
    target: Option<Arc<Target>>,
    peers: HashMap<SocketAddr, AbortHandle>,
}

impl Operators {
    /// Goes over to other operators, if these are others.
    fn follow(&mut self, wanted: Option<SyncAddress>) {
        if wanted == self.sync {
            return;
        }
        self.peers.drain().for_each(|(_, task)| task.abort());
        self.target = wanted.as_ref().and_then(|sync| match target(sync) {
            Ok(target) => Some(Arc::new(target)),
            Err(problem) => {
                tracing::error!(address = sync.address, "operators can't be reported to: {problem}");
                None
            }
        });
        self.sync = wanted;
    }

    /// A task for each address of the host name. What can't be looked up stays.
    async fn look_up(&mut self) {
        let (Some(sync), Some(target)) = (&self.sync, &self.target) else { return };
        let found = tokio::time::timeout(LOOK_UP_TIMEOUT, tokio::net::lookup_host(&sync.address)).await;
        let Ok(Ok(found)) = found.inspect_err(|error| tracing::debug!(%error, "operators can't be looked up")) else {
            return;
        };
        let found: Vec<SocketAddr> = found.collect();
        self.peers.retain(|at, task| {
            let stays = found.contains(at);
            if !stays {
                task.abort();
            }
            stays
        });
        for at in found {
            self.peers.entry(at).or_insert_with(|| {
                let (reporter, target) = (Arc::clone(&self.reporter), Arc::clone(target));
                tokio::spawn(peer::run(at, target, reporter)).abort_handle()
            });
        }
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        self.peers.drain().for_each(|(_, task)| task.abort());
    }
}

/// TLS that trusts this authority and nobody else.
fn target(sync: &SyncAddress) -> Result<Target, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(sync.ca.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("sync.ca: {error}"))?;
        roots.add(certificate).map_err(|error| format!("sync.ca: {error}"))?;
    }
    if roots.is_empty() {
        return Err("sync.ca: no certificate in it".to_owned());
    }
    let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let server_name =
        ServerName::try_from(sync.server_name.clone()).map_err(|error| format!("sync.serverName: {error}"))?;
    Ok(Target { server_name, tls: Arc::new(tls) })
}
