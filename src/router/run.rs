//! A whole router process: traffic port, admin port, and what feeds them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::access_log::AccessLog;
use super::admission::budget::Budgets;
use super::admission::budget_file::BudgetFile;
use super::control::{Inputs, Standing, follow};
use super::explain;
use super::metrics::Metrics;
use super::server::Server;
use super::traffic_tls::Certificate;
use super::{Limits, Shared, sync};
use crate::runtime::admin;

/// Longest time to wait at the end for whoever reads the access log.
const LOG: Duration = Duration::from_secs(2);

/// Settings of a process.
pub struct Config {
    /// Traffic port.
    pub listen: SocketAddr,
    /// Admin port; `None`: none.
    pub admin: Option<SocketAddr>,
    /// Threads that serve traffic.
    pub threads: usize,
    /// What a client may take.
    pub limits: Limits,
    /// Time between the failing `/readyz` and the closing of the listeners: for endpoints to be taken out of service. Zero: no
    /// endpoint stands for it, and connections that are idle are closed at once.
    pub lame_duck: Duration,
    /// Longest time to wait for what is in flight, and for clients that keep their connection.
    pub drain: Duration,
    /// Folder for the last good table.
    pub state: Option<PathBuf>,
    /// Where the access log goes.
    pub access_log: Box<dyn std::io::Write + Send>,
    /// As whom it reports to the operators that a table names; `None`: it makes no call that no request asks for.
    pub sync: Option<sync::Identity>,
    /// Secret with the certificate of the traffic port; `None`: plain HTTP.
    pub tls_secret: Option<String>,
}

impl Config {
    /// A traffic port on every CPU that this process may use, and the access log on standard output.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            admin: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::default(),
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(30),
            state: None,
            access_log: Box::new(std::io::stdout()),
            sync: None,
            tls_secret: None,
        }
    }
}

/// Name of the file in the state folder with what was spent.
const BUDGETS: &str = "budgets";

/// Time for the last report: what is left in a purse is for others.
const FAREWELL: Duration = Duration::from_millis(300);

/// A running router.
pub struct Running {
    /// Its traffic address.
    pub address: SocketAddr,
    /// Its admin address.
    pub admin: Option<SocketAddr>,
    /// What became of its tables and keys, as it changes.
    pub standing: watch::Receiver<Standing>,
    shared: Arc<Shared>,
    server: Server,
    stopping: watch::Sender<bool>,
    lame_duck: Duration,
}

/// Starts a router on the current runtime.
///
/// # Errors
/// When an address can't be bound, or the state folder can't be used.
pub async fn start(config: Config, inputs: Inputs) -> std::io::Result<Running> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = u64::from(now.subsec_nanos()) ^ now.as_secs().rotate_left(32) ^ u64::from(std::process::id()) << 17;
    let budgets = match &config.state {
        Some(folder) => Budgets::kept_in(BudgetFile::open(&folder.join(BUDGETS), seed)?),
        None => Budgets::default(),
    };
    let shared = Arc::new(Shared::new(
        metrics,
        AccessLog::start(config.access_log),
        config.limits,
        budgets,
        config.sync.is_some(),
        seed,
    ));
    let (tell, standing) = watch::channel(Standing::default());
    let certificate = config.tls_secret.map(|secret| Certificate::follow(secret, inputs.secrets.clone()));
    tokio::spawn(follow(shared.clone(), inputs, config.state, tell));
    let server = Server::start(&shared, config.listen, config.threads, config.drain, certificate.as_ref())?;
    let (stopping, stopped) = watch::channel(false);
    if let Some(identity) = config.sync {
        tokio::spawn(sync::run(identity, standing.clone(), stopped.clone(), shared.clone()));
    }
    let admin = match config.admin {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            let awaits = {
                let (shared, stopped) = (shared.clone(), stopped.clone());
                Arc::new(move || {
                    if *stopped.borrow() {
                        return vec!["the end: stopping".to_owned()];
                    }
                    let table = shared.snapshot.load().is_none().then(|| "a routing table".to_owned());
                    let certificate = certificate.as_ref().filter(|certificate| !certificate.is_there());
                    let certificate = certificate.map(|c| format!("tls.crt and tls.key of Secret {}", c.secret));
                    table.into_iter().chain(certificate).collect()
                })
            };
            let routes = admin::routes(awaits, Arc::new(registry), Arc::new(|| ()))
                .merge(axum::Router::new().route("/table", get(table)).with_state(shared.clone()))
                .merge(explain::routes(shared.clone()));
            tokio::spawn(async move {
                if let Err(error) = admin::serve(listener, routes, std::future::pending()).await {
                    tracing::error!(%error, "the admin port failed");
                }
            });
            Some(address)
        }
    };
    let address = server.address;
    Ok(Running { address, admin, standing, shared, server, stopping, lame_duck: config.lame_duck })
}

/// The table in force and its hash.
async fn table(State(shared): State<Arc<Shared>>) -> Response {
    let Some(snapshot) = shared.snapshot.load_full() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no table yet\n").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (HeaderName::from_static("x-smallfirst-table-hash"), snapshot.hash.clone()),
    ];
    (headers, snapshot.table.to_json()).into_response()
}

impl Running {
    /// Stops: not ready at once, and every reply ends its connection; then the listeners close, then what is in flight ends,
    /// and is logged.
    pub async fn stop(self) {
        if !self.lame_duck.is_zero() {
            self.shared.leave();
        }
        // Without an admin port nobody listens for this.
        let _ = self.stopping.send(true);
        if let Some(snapshot) = self.shared.snapshot.load_full() {
            snapshot.drain();
        }
        tokio::time::sleep(self.lame_duck).await;
        let shared = Arc::clone(&self.shared);
        let stop = move || {
            self.server.stop();
            if !self.shared.access_log.flush(LOG) {
                tracing::error!("the last lines of the access log could not be written");
            }
        };
        let _ = tokio::task::spawn_blocking(stop).await;
        if shared.budgets.close() {
            tokio::time::sleep(FAREWELL).await;
        }
    }
}
