//! The driver: events -> queue -> at most [`WORKERS`] reconciles at a time -> children, then statuses.
//!
//! ```text
//!   watches --> caches --> triggers --> queue --> tier | path | policy
//!                 ^                                 |  validate, plan (pure)
//!                 |                                 v
//!                 +---------- answers ---------- applier --> statuses --> events
//! ```
//! Nothing is looked at before every cache is filled: an operator that starts knows the whole cluster before its
//! first decision, and finds nothing to write. Only a leader looks; the others keep their caches warm.

mod malformed;
mod path;
mod policy;
pub mod queue;
mod scaling;
mod sizing;
mod statuses;
#[cfg(test)]
mod tests;
mod tier;
pub mod triggers;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use malformed::Malformed;
pub use queue::Queue;
use queue::{Ending, Key, Kind};
use statuses::Statuses;

use super::apply::{Applier, Error};
use super::metrics::Metrics;
use super::observe::optional;
use super::observe::watch::Watches;
use super::observe::world::World;
use super::plan::Settings;
use super::sizing::Planner;
use super::status::ApplyProblem;
use super::sync::SECRET;
use crate::routing::table::SyncAddress;
use crate::runtime::leader::Leader;

/// Reconciles at a time.
pub const WORKERS: usize = 16;
/// Who tells Events.
const REPORTER: &str = "smallfirst.dev/operator";
/// How often the caches are asked whether they are filled, at the start.
const LOOK: Duration = Duration::from_millis(10);

/// What every reconcile needs.
pub struct Context {
    world: Arc<World>,
    applier: Applier,
    statuses: Statuses,
    malformed: Malformed,
    planner: Planner,
    settled: scaling::Settled,
    settings: Settings,
    /// Where routers report, once that is known. `None`: nowhere.
    sync: Option<watch::Receiver<Option<SyncAddress>>>,
}

impl Context {
    /// The settings of this moment.
    fn settings(&self) -> Settings {
        let sync = self.sync.as_ref().and_then(|sync| sync.borrow().clone());
        Settings { sync, ..self.settings.clone() }
    }
}

/// How a reconcile went.
#[derive(Clone, Copy, Debug)]
pub struct Reconciled {
    ending: Ending,
    /// `ok`, `gone`, or a reason: a metric label.
    result: &'static str,
}

impl Reconciled {
    fn ok() -> Self {
        Self { ending: Ending::Done, result: "ok" }
    }

    fn nothing() -> Self {
        Self { ending: Ending::Done, result: "gone" }
    }

    /// Whether the object is gone, or about to be.
    fn is_gone(&self) -> bool {
        self.result == "gone"
    }

    /// The same, but for a status that waits.
    fn after(self, wait: Option<Duration>) -> Self {
        match (self.ending, wait) {
            (Ending::Done, Some(wait)) => Self { ending: Ending::Later(wait), ..self },
            _ => self,
        }
    }
}

/// What an attempt to apply means for the status and the queue.
fn attempt(result: Result<(), Error>) -> (Option<ApplyProblem>, Reconciled) {
    match result {
        Ok(()) => (None, Reconciled::ok()),
        // The owner goes too. Trying again would race the namespace's deletion for as long as it takes.
        Err(Error::Terminating { .. }) => (None, Reconciled::nothing()),
        Err(error) => {
            let reconciled = Reconciled { ending: Ending::Retry, result: error.reason() };
            (Some(ApplyProblem { reason: error.reason(), message: error.to_string() }), reconciled)
        }
    }
}

/// The operator without its process: watches, queue and workers.
pub struct Controller {
    /// What is seen.
    pub world: Arc<World>,
    /// What is due.
    pub queue: Arc<Queue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    context: Arc<Context>,
    leader: Leader,
    watches: Watches,
}

impl Controller {
    /// A controller that has not begun. With `sync` it awaits where routers report before it looks at anything.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: Option<String>,
        settings: Settings,
        leader: Leader,
        sync: Option<watch::Receiver<Option<SyncAddress>>>,
    ) -> Self {
        let world = Arc::new(World::default());
        let queue = Arc::new(Queue::default());
        let metrics = Arc::new(Metrics::default());
        let context = Arc::new(Context {
            world: Arc::clone(&world),
            applier: Applier::new(client.clone(), leader.clone(), Arc::clone(&world), Arc::clone(&metrics)),
            statuses: Statuses::new(client.clone(), leader.clone(), Arc::clone(&world), Arc::clone(&metrics)),
            malformed: Malformed::new(client.clone(), leader.clone(), Arc::clone(&metrics)),
            planner: Planner::default(),
            settled: scaling::Settled::default(),
            settings,
            sync,
        });
        let watches = Watches {
            client,
            namespace,
            world: Arc::clone(&world),
            queue: Arc::clone(&queue),
            metrics: Arc::clone(&metrics),
            ask_every: optional::EVERY,
        };
        Self { world, queue, metrics, context, leader, watches }
    }

    /// The same controller, which asks so often for kinds that the cluster may not have.
    #[must_use]
    pub fn asking_every(mut self, pause: Duration) -> Self {
        self.watches.ask_every = pause;
        self
    }

    /// Runs until `stop` says so; then ends what was begun and writes the statuses that wait.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut watches = self.watches.start().await;
        let ready = async {
            let awaited = self.awaited();
            while !awaited().is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = ready => tracing::info!("every cache is filled"),
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let mut sync = self.context.sync.clone();
        sync.iter_mut().for_each(watch::Receiver::mark_unchanged);
        let statuses = {
            let (context, queue) = (Arc::clone(&self.context), Arc::clone(&self.queue));
            tokio::spawn(async move { context.statuses.run(&context.applier, &queue).await })
        };
        let sizing = {
            let (context, queue) = (Arc::clone(&self.context), Arc::clone(&self.queue));
            tokio::spawn(sizing::run(context, queue, self.leader.clone()))
        };
        let mut workers: JoinSet<()> = JoinSet::new();
        let mut leading = false;
        loop {
            if self.leader.leads(Instant::now()) != leading {
                leading = !leading;
                self.metrics.set_leader(leading);
                self.queue.clear();
                if leading {
                    self.enqueue_everything();
                }
            }
            self.count();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                // The task that watches a kind never ends by itself: a panic in it must not go unnoticed.
                Some(ended) = watches.join_next() => {
                    tracing::error!(?ended, "a watch ended");
                    break;
                }
                () = self.leader.changed() => {}
                () = changed(&mut sync) => self.enqueue_policies(),
                Some(_) = workers.join_next(), if !workers.is_empty() => {}
                key = self.queue.next(), if workers.len() < WORKERS => {
                    if leading {
                        self.begin(&mut workers, key);
                    } else {
                        self.queue.end(key, Ending::Done);
                    }
                }
            }
        }
        while workers.join_next().await.is_some() {}
        sizing.abort();
        statuses.abort();
        let _ = statuses.await;
        self.context.statuses.flush(&self.queue).await;
    }

    fn enqueue_everything(&self) {
        let of = |kind, ids: Vec<(String, String)>| ids.into_iter().map(move |id| Key { kind, id });
        self.queue.add_all(of(Kind::Tier, self.world.tiers.ids()));
        self.queue.add_all(of(Kind::Path, self.world.paths.ids()));
        self.enqueue_policies();
    }

    /// Every table says where routers report.
    fn enqueue_policies(&self) {
        let ids = self.world.policies.ids().into_iter();
        self.queue.add_all(ids.map(|id| Key { kind: Kind::Policy, id }));
    }

    /// What is not known yet; empty when reconciling may begin.
    pub fn awaited(&self) -> impl Fn() -> Vec<String> + Send + Sync + 'static {
        let (world, sync) = (Arc::clone(&self.world), self.context.sync.clone());
        move || {
            let mut awaited = world.awaited();
            let unknown = sync.as_ref().is_some_and(|sync| sync.borrow().is_none());
            awaited.extend(unknown.then(|| format!("Secret {SECRET}")));
            awaited
        }
    }

    fn count(&self) {
        self.metrics.set_depth(self.queue.depth());
    }

    fn begin(&self, workers: &mut JoinSet<()>, key: Key) {
        let (context, queue, metrics) = (Arc::clone(&self.context), Arc::clone(&self.queue), Arc::clone(&self.metrics));
        workers.spawn(async move {
            let began = Instant::now();
            // Ends the key also when the reconcile panics: an object is never stuck as running.
            let mut running = Running { queue: &queue, key: Some(key.clone()), ending: Ending::Retry };
            let reconciled = reconcile(&context, &key).await;
            running.ending = reconciled.ending;
            drop(running);
            tracing::debug!(%key, result = reconciled.result, "looked at");
            metrics.reconcile(key.kind.name(), reconciled.result, began.elapsed());
        });
    }
}

/// Waits until routers report elsewhere. Never returns where they report nowhere.
async fn changed(sync: &mut Option<watch::Receiver<Option<SyncAddress>>>) {
    if let Some(sync) = sync
        && sync.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

struct Running<'a> {
    queue: &'a Queue,
    key: Option<Key>,
    ending: Ending,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.queue.end(key, self.ending);
        }
    }
}

async fn reconcile(context: &Context, key: &Key) -> Reconciled {
    if let Some(object) = malformed::find(&context.world, key) {
        context.statuses.keep(key);
        return context.malformed.say(key, &object).await;
    }
    context.malformed.forget(key);
    match key.kind {
        Kind::Tier => tier::reconcile(context, key).await,
        Kind::Path => path::reconcile(context, key),
        Kind::Policy => policy::reconcile(context, key).await,
    }
}
