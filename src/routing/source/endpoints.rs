//! Ready addresses of Services, from EndpointSlices, watched.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::router::endpoints::Addresses;

/// Label that names a slice's Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// Follows the EndpointSlices of a namespace until the receivers are gone.
#[must_use]
pub fn follow(client: Client, namespace: &str) -> watch::Receiver<Addresses> {
    let (sender, receiver) = watch::channel(Addresses::new());
    let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().labels(SERVICE);
    tokio::spawn(async move {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff().reflect(writer));
        while let Some(event) = events.next().await {
            match event {
                // In the middle of a list the store still holds what was known before.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => {
                    let slices = store.state();
                    let seen = addresses(slices.iter().map(std::convert::AsRef::as_ref));
                    sender.send_if_modified(|known| {
                        let changed = *known != seen;
                        *known = seen;
                        changed
                    });
                }
                Err(error) => tracing::warn!(%error, "the watch of endpoints broke; it is tried again"),
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}

/// Ready addresses by namespace, Service, and the port's name.
fn addresses<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Addresses {
    let mut all: BTreeMap<(String, String, String), Vec<SocketAddr>> = BTreeMap::new();
    for slice in slices {
        let meta = &slice.metadata;
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE));
        let (Some(namespace), Some(service)) = (&meta.namespace, service) else { continue };
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) else { continue };
            let key = port.name.clone().unwrap_or_default();
            let list = all.entry((namespace.clone(), service.clone(), key)).or_default();
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions.as_ref();
                // Unknown readiness counts as ready, as the API says.
                if conditions.and_then(|c| c.ready).unwrap_or(true) {
                    let ips = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
                    list.extend(ips.map(|ip| SocketAddr::new(ip, number)));
                }
            }
        }
    }
    for list in all.values_mut() {
        list.sort_unstable();
        list.dedup();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_addresses_count_and_ports_go_by_name() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "x", "namespace": "ai", "labels": {SERVICE: "compact-pool"}},
            "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": 9090}, {"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}}
            ]
        }))
        .unwrap();
        let all = addresses([&slice].into_iter());
        let key = ("ai".to_owned(), "compact-pool".to_owned(), "http".to_owned());
        let expected: Vec<SocketAddr> = vec!["10.0.0.1:8080".parse().unwrap(), "10.0.0.2:8080".parse().unwrap()];
        assert_eq!(all.get(&key), Some(&expected));
    }
}
