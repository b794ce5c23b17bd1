//! The watches: they fill the caches and say which objects to look at again.
//!
//! Lists are streamed where the server can (it then never holds a whole list in memory for us); one question at
//! the start finds out. Children are watched by label. A watch that fails is tried again with back-off by itself:
//! what was seen stays in force, and a new list wakes up only what differs from it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DynamicObject, WatchParams};
use kube::core::{ApiResource, NamespaceResourceScope, Resource};
use kube::runtime::watcher::{self, Config, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::guard::Guard;
use super::optional::Optional;
use super::world::World;
use crate::api::ModelTier;
use crate::operator::controller::{Queue, triggers};
use crate::operator::metrics::Metrics;
use crate::operator::plan::{COMPONENT, MANAGED_BY, inference_pool};

/// What the watches share.
#[derive(Clone)]
pub struct Watches {
    /// Talks to the API server.
    pub client: Client,
    /// `None`: all namespaces.
    pub namespace: Option<String>,
    /// What they fill.
    pub world: Arc<World>,
    /// Whom they tell.
    pub queue: Arc<Queue>,
    /// Errors are counted here.
    pub metrics: Arc<Metrics>,
    /// How often the cluster is asked for kinds that it may not have.
    pub ask_every: Duration,
}

impl Watches {
    /// Starts all watches. They run until the set is dropped.
    pub async fn start(&self) -> JoinSet<()> {
        let config = if self.streams().await { Config::default().streaming_lists() } else { Config::default() };
        let mut tasks = JoinSet::new();
        let Self { world, queue, .. } = self;

        let (w, q) = (Arc::clone(world), Arc::clone(queue));
        self.kind(&mut tasks, config.clone(), move |event| {
            for change in w.tiers.watched(event) {
                q.add_all(triggers::tier(&w, &change));
            }
        });
        let (w, q) = (Arc::clone(world), Arc::clone(queue));
        self.kind(&mut tasks, config.clone(), move |event| {
            for change in w.paths.watched(event) {
                q.add_all(triggers::path(&w, &change));
            }
        });
        let (w, q) = (Arc::clone(world), Arc::clone(queue));
        self.kind(&mut tasks, config.clone(), move |event| {
            for change in w.policies.watched(event) {
                q.add_all(triggers::policy(&w, &change));
            }
        });
        let api: Api<Service> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (w, q) = (Arc::clone(world), Arc::clone(queue));
        tasks.spawn(drive(api, config.clone(), "Service".to_owned(), Arc::clone(&self.metrics), move |event| {
            for change in w.services.watched(event.modify(only_ports)) {
                q.add_all(triggers::service(&w, &change));
            }
        }));
        let api: Api<EndpointSlice> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (w, q) = (Arc::clone(world), Arc::clone(queue));
        // Kubernetes copies a Service's labels to its slices.
        let routers = config.clone().labels(&format!("{COMPONENT}=router"));
        let metrics = Arc::clone(&self.metrics);
        tasks.spawn(drive(api, routers, "EndpointSlice".to_owned(), metrics, move |event| {
            for change in w.slices.watched(event.modify(only_pods)) {
                q.add_all(triggers::slice(&change));
            }
        }));
        let api: Api<HorizontalPodAutoscaler> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (w, q) = (Arc::clone(world), Arc::clone(queue));
        let (kind, metrics) = ("HorizontalPodAutoscaler".to_owned(), Arc::clone(&self.metrics));
        tasks.spawn(drive(api, config.clone(), kind, metrics, move |event| {
            for change in w.autoscalers.watched(event.modify(only_target)) {
                q.add_all(triggers::autoscaler(&change));
            }
        }));
        for (index, resource) in world.children.kinds().iter().enumerate() {
            let watch = self.children(index, resource, config.clone());
            if world.children.is_present(index) {
                tasks.spawn(watch());
                continue;
            }
            let (w, q) = (Arc::clone(world), Arc::clone(queue));
            let kind = resource.clone();
            let optional = Optional {
                resource: resource.clone(),
                watch: Box::new(move || tokio::spawn(watch())),
                tell: Arc::new(move |present| {
                    w.children.set_present(index, present);
                    q.add_all(triggers::kind(&w, &kind));
                }),
            };
            tasks.spawn(optional.start(self.client.clone(), self.ask_every).await);
        }
        tasks.spawn(self.inference_pools(config).start(self.client.clone(), self.ask_every).await);
        tasks
    }

    /// The watch of one kind of children, to be started.
    fn children(
        &self,
        index: usize,
        resource: &ApiResource,
        config: Config,
    ) -> impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static {
        let config = config.labels(&format!("{MANAGED_BY}=smallfirst"));
        let (api, kind, watches) = (self.dynamic(resource), resource.kind.clone(), self.clone());
        move || {
            let (w, q) = (Arc::clone(&watches.world), Arc::clone(&watches.queue));
            let metrics = Arc::clone(&watches.metrics);
            let take = move |event| {
                for change in w.children.watched(index, event) {
                    q.add_all(triggers::child(&change));
                }
            };
            drive(api.clone(), config.clone(), kind.clone(), metrics, take).boxed()
        }
    }

    /// The watch of InferencePools, where there are any.
    fn inference_pools(&self, config: Config) -> Optional {
        let resource = inference_pool::resource();
        let (api, watches) = (self.dynamic(&resource), self.clone());
        let kind = resource.kind.clone();
        let (world, queue) = (Arc::clone(&self.world), Arc::clone(&self.queue));
        let watch = move || {
            let (w, q) = (Arc::clone(&watches.world), Arc::clone(&watches.queue));
            let take = move |event: Event<DynamicObject>| {
                for change in w.inference_pools.watched(event) {
                    q.add_all(triggers::inference_pool(&w, &change));
                }
            };
            tokio::spawn(drive(api.clone(), config.clone(), kind.clone(), Arc::clone(&watches.metrics), take))
        };
        Optional {
            resource,
            watch: Box::new(watch),
            tell: Arc::new(move |present| {
                world.has_inference_pools.store(present, Ordering::Relaxed);
                queue.add_all(triggers::inference_pools(&world));
            }),
        }
    }

    fn dynamic(&self, resource: &ApiResource) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    fn kind<K>(&self, tasks: &mut JoinSet<()>, config: Config, take: impl Fn(Event<Guard<K>>) + Send + 'static)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let api: Api<Guard<K>> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        tasks.spawn(drive(api, config, K::kind(&()).into_owned(), Arc::clone(&self.metrics), take));
    }

    /// Whether the server streams lists. A server that does not answers the question with an error.
    async fn streams(&self) -> bool {
        let api: Api<ModelTier> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let params = WatchParams::default().initial_events().timeout(1).fields("metadata.name=-");
        let asked = tokio::time::timeout(Duration::from_secs(3), api.watch(&params, "0")).await;
        let streams = matches!(asked, Ok(Ok(_)));
        tracing::debug!(streams, "asked whether the server streams lists");
        streams
    }
}

/// Of a Service, nothing but its ports is kept.
fn only_ports(service: &mut Service) {
    let ObjectMeta { name, namespace, uid, resource_version, .. } = std::mem::take(&mut service.metadata);
    service.metadata = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
    let ports = service.spec.take().and_then(|spec| spec.ports);
    service.spec = Some(ServiceSpec { ports, ..ServiceSpec::default() });
    service.status = None;
}

/// Of a HorizontalPodAutoscaler, nothing but what it scales and whose it is is kept.
fn only_target(autoscaler: &mut HorizontalPodAutoscaler) {
    let ObjectMeta { name, namespace, uid, resource_version, owner_references, .. } =
        std::mem::take(&mut autoscaler.metadata);
    autoscaler.metadata =
        ObjectMeta { name, namespace, uid, resource_version, owner_references, ..ObjectMeta::default() };
    let spec = autoscaler.spec.take().unwrap_or_default();
    autoscaler.spec =
        Some(HorizontalPodAutoscalerSpec { scale_target_ref: spec.scale_target_ref, ..Default::default() });
    autoscaler.status = None;
}

/// Of an EndpointSlice, nothing but which pods are ready is kept.
fn only_pods(slice: &mut EndpointSlice) {
    let ObjectMeta { name, namespace, uid, resource_version, labels, .. } = std::mem::take(&mut slice.metadata);
    slice.metadata = ObjectMeta { name, namespace, uid, resource_version, labels, ..ObjectMeta::default() };
    slice.ports = None;
    for endpoint in &mut slice.endpoints {
        let Endpoint { conditions, target_ref, .. } = std::mem::take(endpoint);
        let pod = |of: ObjectReference| ObjectReference { kind: of.kind, name: of.name, ..ObjectReference::default() };
        *endpoint = Endpoint { conditions, target_ref: target_ref.map(pod), ..Endpoint::default() };
    }
}

/// Runs one watch for ever.
async fn drive<K>(
    api: Api<K>,
    config: Config,
    kind: String,
    metrics: Arc<Metrics>,
    take: impl Fn(Event<K>) + Send + 'static,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watch(api, config).default_backoff().modify(|object| {
        // Half of an object's bytes, and nothing here reads it.
        object.meta_mut().managed_fields = None;
    });
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => take(event),
            Err(error) => {
                metrics.watch_errors(&kind);
                report(&kind, &error);
            }
        }
    }
}

fn report(kind: &str, error: &watcher::Error) {
    // A version that is too old is how every long watch ends: it lists again.
    match error {
        watcher::Error::WatchError(status) if status.code == 410 => tracing::debug!(kind, "the watch starts over"),
        error => tracing::warn!(kind, %error, "the watch failed and is tried again"),
    }
}
