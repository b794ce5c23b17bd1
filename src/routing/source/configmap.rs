//! The table from its ConfigMap, watched. Retries for ever: a router serves its last table while the API server is away.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::routing::packed::unpack;

/// Follows a ConfigMap until the receivers are gone. Starts with `first`. A deleted ConfigMap leaves the last table.
#[must_use]
pub fn follow(
    client: Client,
    namespace: &str,
    name: &str,
    first: Option<Arc<str>>,
) -> watch::Receiver<Option<Arc<str>>> {
    let (sender, receiver) = watch::channel(first);
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    tokio::spawn(async move {
        let mut objects = std::pin::pin!(watcher(api, config).default_backoff().applied_objects());
        while let Some(event) = objects.next().await {
            match event {
                Ok(map) => match unpack(map.data.as_ref(), map.binary_data.as_ref()) {
                    None => {}
                    Some(Ok(table)) => {
                        sender.send_if_modified(|known| {
                            let changed = known.as_deref() != Some(table.as_str());
                            *known = Some(Arc::from(table));
                            changed
                        });
                    }
                    Some(Err(error)) => tracing::error!(%error, "the routing table can't be unpacked"),
                },
                Err(error) => tracing::warn!(%error, "the watch of the routing table broke; it is tried again"),
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}
