//! What changes a router while it serves: a table, keys, endpoints. Compiled here, off the request path, then swapped.
//!
//! A table that does not compile is refused: the last good one stays and `/readyz` with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::Shared;
use super::endpoints::{Addresses, Endpoints};
use super::metrics::ReloadLabels;
use super::secret_problem::SecretProblem;
use super::snapshot::Snapshot;
use crate::routing::report::RefusedTable;
use crate::routing::source::secrets::Secrets;
use crate::routing::table::{SyncAddress, hash};

/// What became of the tables and keys that a router was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Hash of the table in force.
    pub hash: Option<String>,
    /// The table that was given last, if it is refused.
    pub refused: Option<RefusedTable>,
    /// What is missing (keys that are not mounted) or cannot be used.
    pub problems: Vec<SecretProblem>,
    /// Where the operators are, by the table in force.
    pub sync: Option<SyncAddress>,
}

/// What a router is fed with.
pub struct Inputs {
    /// The table as JSON text; `None` until there is one.
    pub table: watch::Receiver<Option<Arc<str>>>,
    /// Mounted keys.
    pub secrets: watch::Receiver<Secrets>,
    /// Ready addresses of Services.
    pub addresses: watch::Receiver<Addresses>,
}

/// Addresses where no watch says any: tiers are URLs then.
#[must_use]
pub fn no_services() -> watch::Receiver<Addresses> {
    watch::channel(Addresses::new()).1
}

/// Name of the last good table in the state folder.
const LAST_GOOD: &str = "table.json";

/// The last good table of an earlier run, if there is one: it serves while the API server is away.
#[must_use]
pub fn last_good(state: &Path) -> Option<Arc<str>> {
    std::fs::read_to_string(state.join(LAST_GOOD)).ok().map(Arc::from)
}

/// Writes the last good table, whole or not at all.
fn keep(state: &Path, table: &str) {
    let part = state.join(".table.json.part");
    let written = std::fs::write(&part, table).and_then(|()| std::fs::rename(&part, state.join(LAST_GOOD)));
    if let Err(error) = written {
        tracing::warn!(%error, "the last good table could not be kept on disk");
    }
}

/// Follows the inputs until they end. `standing` is told what becomes of them.
pub async fn follow(
    shared: Arc<Shared>,
    mut inputs: Inputs,
    state: Option<PathBuf>,
    standing: watch::Sender<Standing>,
) {
    load(&shared, &mut inputs, state.as_deref(), &standing);
    endpoints(&shared, &mut inputs);
    loop {
        tokio::select! {
            Ok(()) = inputs.table.changed() => load(&shared, &mut inputs, state.as_deref(), &standing),
            Ok(()) = inputs.secrets.changed() => load(&shared, &mut inputs, None, &standing),
            Ok(()) = inputs.addresses.changed() => endpoints(&shared, &mut inputs),
            // One that has ended takes nothing from the others.
            else => return,
        }
    }
}

fn endpoints(shared: &Shared, inputs: &mut Inputs) {
    let addresses = inputs.addresses.borrow_and_update().clone();
    let new = Endpoints::from_addresses(&addresses, &shared.endpoints.load());
    shared.endpoints.store(Arc::new(new));
    shared.endpoints_changed.notify_waiters();
}

fn load(shared: &Shared, inputs: &mut Inputs, state: Option<&Path>, standing: &watch::Sender<Standing>) {
    let Some(text) = inputs.table.borrow_and_update().clone() else { return };
    let secrets = inputs.secrets.borrow_and_update().clone();
    let before = shared.snapshot.load_full();
    let result =
        match Snapshot::compile(&text, &secrets, &shared.metrics, &shared.budgets, shared.lent, before.as_deref()) {
            Ok(new) => {
                shared.metrics.missing_secrets.set(i64::try_from(new.problems.len()).unwrap_or(i64::MAX));
                if before.as_ref().is_none_or(|b| b.hash != new.hash) {
                    tracing::info!(hash = new.hash, workloads = new.table.workloads.len(), "a table is in force");
                    if let Some(state) = state {
                        keep(state, &text);
                    }
                }
                for problem in &new.problems {
                    tracing::warn!("{problem}");
                }
                let now = Standing {
                    hash: Some(new.hash.clone()),
                    refused: None,
                    problems: new.problems.clone(),
                    sync: new.table.sync.clone(),
                };
                // First in force, then told.
                shared.snapshot.store(Some(Arc::new(new)));
                tell(standing, now);
                "loaded"
            }
            Err(refused) => {
                tracing::error!(error = %refused, "a table is refused; the last good one stays in force");
                let refused = RefusedTable { hash: hash(&text), message: refused.to_string() };
                let now = Standing { refused: Some(refused), ..standing.borrow().clone() };
                tell(standing, now);
                "refused"
            }
        };
    shared.metrics.reloads.get_or_create(&ReloadLabels { result }).inc();
}

fn tell(standing: &watch::Sender<Standing>, now: Standing) {
    standing.send_if_modified(|known| {
        let changed = *known != now;
        *known = now;
        changed
    });
}
