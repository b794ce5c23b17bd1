//! Kinds of other projects, which a cluster has or has not: asked at the start and every minute.
//!
//! What was seen of a kind is forgotten when the kind goes. An API server that does not answer says nothing about it.

use std::sync::Arc;
use std::time::Duration;

use kube::core::ApiResource;
use kube::{Client, Error};
use tokio::task::JoinHandle;

/// How often the cluster is asked.
pub const EVERY: Duration = Duration::from_secs(60);

/// Whether the cluster has a kind; `None`: it did not say.
pub(super) async fn has(client: &Client, resource: &ApiResource) -> Option<bool> {
    let asked =
        tokio::time::timeout(Duration::from_secs(5), client.list_api_group_resources(&resource.api_version)).await;
    match asked.ok()? {
        Ok(list) => Some(list.resources.iter().any(|known| known.kind == resource.kind)),
        Err(Error::Api(status)) if status.code == 404 => Some(false),
        Err(error) => {
            tracing::debug!(%error, kind = resource.kind, "the API server did not say whether it has the kind");
            None
        }
    }
}

/// What is done about a kind that comes and goes.
pub(super) struct Optional {
    /// The kind.
    pub resource: ApiResource,
    /// Starts its watch.
    pub watch: Box<dyn Fn() -> JoinHandle<()> + Send + Sync>,
    /// Is told whether there is the kind, whenever that changes.
    pub tell: Arc<dyn Fn(bool) + Send + Sync>,
}

/// Aborts a watch when it is dropped.
struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Optional {
    /// Asks once: what the cluster has is known before anything is decided. Then runs for ever.
    pub(super) async fn start(self, client: Client, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let mut watching = None;
        self.look(&client, &mut watching).await;
        async move {
            loop {
                tokio::time::sleep(every).await;
                self.look(&client, &mut watching).await;
            }
        }
    }

    async fn look(&self, client: &Client, watching: &mut Option<Watching>) {
        // One that ended has panicked: it starts anew.
        watching.take_if(|watching| watching.0.is_finished());
        match (has(client, &self.resource).await, watching.is_some()) {
            (Some(true), false) => {
                tracing::info!(kind = self.resource.kind, "the cluster has the kind");
                (self.tell)(true);
                *watching = Some(Watching((self.watch)()));
            }
            (Some(false), true) => {
                tracing::info!(kind = self.resource.kind, "the cluster has the kind no more");
                *watching = None;
                (self.tell)(false);
            }
            _ => {}
        }
    }
}
