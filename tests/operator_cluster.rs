//! The operator's controller against a real API server: what it writes, and what it leaves alone.
//!
//! Its requests are counted on the wire, so that a write that changes nothing counts too.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "operator_cluster/autoscalers.rs"]
mod autoscalers;
#[path = "operator_cluster/budgets.rs"]
mod budgets;
#[path = "operator_cluster/demand.rs"]
mod demand;
#[path = "operator_cluster/gitops.rs"]
mod gitops;
#[path = "operator_cluster/lent.rs"]
mod lent;
#[path = "operator_cluster/metrics_api.rs"]
mod metrics_api;
#[path = "operator_cluster/optional.rs"]
mod optional;
#[path = "operator_cluster/pinned.rs"]
mod pinned;
#[path = "operator_cluster/pressure.rs"]
mod pressure;
#[path = "operator_cluster/rbac.rs"]
mod rbac;
#[path = "operator_cluster/reserves.rs"]
mod reserves;
#[path = "operator_cluster/routers.rs"]
mod routers;
#[path = "operator_cluster/scale.rs"]
mod scale;
#[path = "operator_cluster/scaler.rs"]
mod scaler;
#[path = "operator_cluster/scaling.rs"]
mod scaling;
mod server;
#[path = "operator_cluster/sync.rs"]
mod sync;
#[path = "operator_cluster/turns.rs"]
mod turns;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use smallfirst::api::{EscalationPath, ModelTier, RoutingPolicy};
use smallfirst::operator::controller::Controller;
use smallfirst::operator::plan::{self, Seen, Settings};
use smallfirst::runtime::leader::Leader;
use tokio::sync::watch;

use turns::{alone, beside_others};

/// Writes that the operator sent, as method and path.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<String>>>);

impl Wire {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    async fn client(&self) -> Client {
        let path = std::env::var_os("SMALLFIRST_TEST_KUBECONFIG").unwrap();
        let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await.unwrap();
        config.default_retry = false;
        let seen = Arc::clone(&self.0);
        let layer = tower::util::MapRequestLayer::new(move |request: http::Request<Body>| {
            if request.method() != http::Method::GET {
                seen.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
            }
            request
        });
        ClientBuilder::try_from(config).unwrap().with_layer(&layer).build()
    }
}

fn settings() -> Settings {
    Settings {
        router_image: "registry.example/smallfirst:test".to_owned(),
        scaler_address: Some("scaler.test:9444".to_owned()),
        ..Settings::default()
    }
}

/// A controller that runs.
struct Running {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(wire: &Wire, namespace: &str) -> Self {
        Self::start_as(wire.client().await, Some(namespace.to_owned()), Leader::default()).await
    }

    async fn start_as(client: Client, namespace: Option<String>, leader: Leader) -> Self {
        Self::start_with(client, namespace, leader, settings()).await
    }

    async fn start_with(client: Client, namespace: Option<String>, leader: Leader, settings: Settings) -> Self {
        Self::run(Controller::new(client, namespace, settings, leader, None)).await
    }

    async fn run(controller: Controller) -> Self {
        let (stop, stopped) = watch::channel(false);
        let world = Arc::clone(&controller.world);
        let task = tokio::spawn(controller.run(stopped));
        until("the caches", || async { world.awaited().is_empty().then_some(()) }).await;
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// A fresh namespace, deleted at the end by the cluster's owner or the next `wipe`.
async fn namespace(client: &Client, name: &str) -> String {
    let unique = format!("{name}-{:x}", jiff::Timestamp::now().as_microsecond());
    let object: Namespace = serde_json::from_value(json!({"metadata": {"name": unique}})).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
    unique
}

fn tier(namespace: &str, name: &str) -> ModelTier {
    serde_json::from_value(json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "class": "Small", "owner": "team", "exposure": "Public",
            "model": {"name": "m", "contextTokens": 2048, "capabilities": ["Chat", "Logprobs"]},
            "prices": [{"inputPerMillion": "0.1", "outputPerMillion": "0.2"}],
            "pool": {
                "engine": "LlamaCpp", "image": "registry.example/engine:1", "modelFrom": {"path": "/models/m.gguf"},
                "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}}, "replicas": 1, "args": ["--flag"],
            },
        },
    }))
    .unwrap()
}

fn route(namespace: &str, tier: &str) -> (EscalationPath, RoutingPolicy) {
    let path = json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "EscalationPath",
        "metadata": {"name": "way", "namespace": namespace},
        "spec": {"owner": "team", "steps": [{"name": "first", "tierRef": {"name": tier}}]},
    });
    let policy = json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy",
        "metadata": {"name": "front", "namespace": namespace},
        "spec": {
            "anonymous": {}, "default": {"workload": "chat"},
            "workloads": [{"name": "chat", "owner": "team", "risk": "Low", "pathRef": {"name": "way"}}],
        },
    });
    (serde_json::from_value(path).unwrap(), serde_json::from_value(policy).unwrap())
}

fn condition(object: &impl serde::Serialize, type_: &str) -> Option<Value> {
    let value = serde_json::to_value(object).unwrap();
    value["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_).cloned()
}

async fn create<K>(client: &Client, namespace: &str, object: &K)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    Api::<K>::namespaced(client.clone(), namespace).create(&PostParams::default(), object).await.unwrap();
}

#[test]
fn a_tier_costs_its_children_and_two_statuses_and_silence_costs_nothing() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "cost").await;
        let wire = Wire::default();
        let running = Running::start(&wire, &ns).await;
        create(&client, &ns, &tier(&ns, "small")).await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        until("the pool", || async { deployments.get_opt("small-pool").await.unwrap() }).await;
        until("the status", || async { condition(&tiers.get("small").await.unwrap(), "Accepted") }).await;
        pause(3000).await;
        let writes = wire.take();
        let statuses = writes.iter().filter(|w| w.ends_with("/status")).count();
        assert_eq!(writes.len() - statuses, 6, "{writes:#?}");
        assert_eq!(statuses, 1, "no pod is ready yet: {writes:#?}");

        let (path, policy) = route(&ns, "small");
        create(&client, &ns, &policy).await;
        create(&client, &ns, &path).await;
        let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), &ns);
        let resolved = || async {
            let found = condition(&policies.get("front").await.unwrap(), "ResolvedRefs")?;
            (found["status"] == "True").then_some(())
        };
        until("the policy", resolved).await;
        pause(3000).await;
        println!("a policy and a path: {:#?}", wire.take());

        pause(5000).await;
        assert_eq!(wire.take(), Vec::<String>::new(), "an idle cluster");
        running.stop().await;
        let again = Running::start(&wire, &ns).await;
        pause(5000).await;
        assert_eq!(wire.take(), Vec::<String>::new(), "a restart");

        // A field that is no longer wanted goes.
        let patch = json!({"spec": {"pool": {"args": null}}});
        tiers.patch("small", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        until("the flag to go", || async {
            let deployment = serde_json::to_value(deployments.get("small-pool").await.unwrap()).unwrap();
            (!deployment.to_string().contains("--flag")).then_some(())
        })
        .await;
        // A child that was deleted comes back, and one that is no longer wanted goes.
        let services: Api<Service> = Api::namespaced(client.clone(), &ns);
        services.delete("small-pool", &DeleteParams::default()).await.unwrap();
        until("the service", || async { services.get_opt("small-pool").await.unwrap() }).await;
        let patch = json!({"spec": {"pool": null, "service": {"serviceRef": {"name": "other", "port": 80}}}});
        tiers.patch("small", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        until("the pool to go", || async { services.get_opt("small-pool").await.unwrap().is_none().then_some(()) })
            .await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &ns);
        until("the account to go", || async { accounts.get_opt("small-pool").await.unwrap().is_none().then_some(()) })
            .await;
        again.stop().await;
    });
}

#[test]
fn others_keep_what_is_theirs_and_are_named() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "conflict").await;
        let wire = Wire::default();
        // Somebody else's Service has the name of a child.
        let foreign: Service = serde_json::from_value(json!({
            "metadata": {"name": "taken-pool", "namespace": ns}, "spec": {"ports": [{"port": 1}]},
        }))
        .unwrap();
        create(&client, &ns, &foreign).await;
        let running = Running::start(&wire, &ns).await;
        create(&client, &ns, &tier(&ns, "taken")).await;
        create(&client, &ns, &tier(&ns, "edited")).await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let ready = |name: &'static str| {
            let tiers = tiers.clone();
            async move {
                let found = condition(&tiers.get(name).await.unwrap(), "Ready")?;
                (found["reason"] == "Conflict").then(|| found["message"].as_str().unwrap().to_owned())
            }
        };
        let message = until("the foreign service", || ready("taken")).await;
        assert!(message.contains("Service taken-pool"), "{message}");
        let services: Api<Service> = Api::namespaced(client.clone(), &ns);
        let kept = services.get("taken-pool").await.unwrap();
        assert!(kept.metadata.owner_references.is_none() && kept.metadata.labels.is_none(), "{kept:?}");

        // Somebody takes a field of a child.
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        until("the pool", || async { deployments.get_opt("edited-pool").await.unwrap() }).await;
        let params = PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
        deployments.patch("edited-pool", &params, &patch).await.unwrap();
        let message = until("the conflict", || ready("edited")).await;
        assert!(message.contains("somebody") && message.contains("replicas"), "{message}");
        println!("{message}");
        let seen = deployments.get("edited-pool").await.unwrap();
        assert_eq!(seen.spec.unwrap().replicas, Some(4), "no fight");
        running.stop().await;
    });
}

#[test]
fn replicas_that_are_ready_one_after_another_cost_two_statuses() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "three").await;
        let wire = Wire::default();
        let running = Running::start(&wire, &ns).await;
        let mut three = tier(&ns, "small");
        three.spec.pool.as_mut().unwrap().replicas = 3;
        create(&client, &ns, &three).await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let pods: Api<Pod> = Api::namespaced(client.clone(), &ns);
        let labels = ListParams::default().labels("app.kubernetes.io/managed-by=smallfirst");
        let made = until("the pods", || async {
            let made = pods.list_metadata(&labels).await.unwrap().items;
            (made.len() == 3).then_some(made)
        })
        .await;
        until("the status", || async { condition(&tiers.get("small").await.unwrap(), "Accepted") }).await;
        // What a kubelet would say; there is none.
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for pod in made {
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&ready)).await.unwrap();
            pause(1500).await;
        }
        let rolled_out = || async {
            (condition(&tiers.get("small").await.unwrap(), "Ready")?["reason"] == "RolledOut").then_some(())
        };
        until("ready", rolled_out).await;
        let status = tiers.get("small").await.unwrap().status.unwrap();
        assert_eq!(status.ready_replicas, Some(3));
        let writes = wire.take();
        let statuses = writes.iter().filter(|w| w.ends_with("/status")).count();
        assert_eq!((statuses, writes.len() - statuses), (2, 6), "{writes:#?}");
        running.stop().await;
    });
}

/// Children of all tiers, as a client without any care writes them: 8 workers, server-side apply.
async fn plain(client: &Client, namespace: &str, tiers: Vec<ModelTier>) -> Duration {
    let settings = Settings::default();
    // Without UID they have no owner: the garbage collector would delete children of an owner that never was.
    let objects: Vec<_> =
        tiers.iter().flat_map(|tier| plan::tier(tier, &Seen::default(), &settings).unwrap().objects()).collect();
    let began = Instant::now();
    futures::StreamExt::for_each_concurrent(futures::stream::iter(objects), 8, |desired| async move {
        let api: Api<kube::core::DynamicObject> = Api::namespaced_with(client.clone(), namespace, &desired.resource);
        api.patch(&desired.name, &PatchParams::apply("plain"), &Patch::Apply(&desired.body)).await.unwrap();
    })
    .await;
    began.elapsed()
}

async fn count_children(client: &Client, namespace: &str) -> usize {
    let params = ListParams::default().labels("app.kubernetes.io/managed-by=smallfirst");
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    api.list_metadata(&params).await.unwrap().items.len()
}

/// How many times as long as a plain client it may take.
const GOOD: f64 = 1.5;

/// Three hundred tiers: the time until all children exist, against that of a plain client that applies the same.
async fn three_hundred(client: &Client) -> f64 {
    const TIERS: usize = 300;
    let ns = namespace(client, "many").await;
    let wire = Wire::default();
    let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
    let running = Running::start(&wire, &ns).await;
    // From the first tier that is applied to the last child that exists.
    let began = Instant::now();
    futures::StreamExt::for_each_concurrent(futures::stream::iter(0..TIERS), 8, |i| {
        let (tiers, ns) = (tiers.clone(), ns.clone());
        async move {
            tiers.create(&PostParams::default(), &tier(&ns, &format!("t{i}"))).await.unwrap();
        }
    })
    .await;
    until("all children", || async {
        pause(200).await;
        (count_children(client, &ns).await == TIERS).then_some(())
    })
    .await;
    let ours = began.elapsed();
    until("all statuses", || async {
        pause(500).await;
        let list = tiers.list(&ListParams::default()).await.unwrap();
        list.items.iter().all(|tier| condition(tier, "Accepted").is_some()).then_some(())
    })
    .await;
    pause(3000).await;
    let writes = wire.take();
    let statuses = writes.iter().filter(|w| w.ends_with("/status")).count();
    running.stop().await;

    let other = namespace(client, "plain").await;
    let objects = (0..TIERS).map(|i| tier(&other, &format!("t{i}"))).collect();
    let theirs = plain(client, &other, objects).await;
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("300 tiers: {ours:.2?}, a plain client {theirs:.2?}, ratio {ratio:.2}; {statuses} status writes");
    assert_eq!(writes.len() - statuses, TIERS * 6, "one write a child");
    assert!(statuses <= TIERS * 2, "{statuses} status writes");
    if ratio <= GOOD {
        return ratio;
    }
    // Room for another try: their Services take addresses, of which a cluster has only so many.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [&ns, &other] {
        namespaces.delete(name, &DeleteParams::default()).await.unwrap();
    }
    until("the namespaces are gone", || async {
        pause(500).await;
        let left = (namespaces.get_opt(&ns).await.unwrap(), namespaces.get_opt(&other).await.unwrap());
        (left == (None, None)).then_some(())
    })
    .await;
    ratio
}

#[test]
fn three_hundred_tiers_take_about_as_long_as_a_plain_client() {
    let _alone = alone();
    server::with_server(|client| async move {
        // What else the machine does can only make it look worse.
        let mut ratios = Vec::new();
        while ratios.len() < 3 && !ratios.iter().any(|ratio| *ratio <= GOOD) {
            ratios.push(three_hundred(&client).await);
        }
        assert!(ratios.iter().any(|ratio| *ratio <= GOOD), "{ratios:.2?} times a plain client");
    });
}
