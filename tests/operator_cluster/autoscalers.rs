//! Who scales a pool: one at a time, whoever it is, and what is there stays there when another takes over. The API server's
//! own controllers are real: HorizontalPodAutoscalers keep their bounds here, though nothing measures for them.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{WatchEvent, WatchParams};
use kube::core::{ApiResource, DynamicObject};
use smallfirst::operator::plan::scaled_object;

use super::sync::{Fleet, Listening};
use super::*;

fn scaled(ns: &str, scaling: Value) -> ModelTier {
    let mut tier = tier(ns, "small");
    let pool = tier.spec.pool.as_mut().unwrap();
    pool.per_replica = Some(serde_json::from_value(json!({"concurrency": 4})).unwrap());
    pool.scaling = Some(serde_json::from_value(scaling).unwrap());
    tier
}

/// A pool of a test, and what its operator writes.
struct Pool {
    ns: String,
    tiers: Api<ModelTier>,
    deployments: Api<Deployment>,
    autoscalers: Api<HorizontalPodAutoscaler>,
    objects: Api<DynamicObject>,
    seen: Arc<Mutex<Seen>>,
}

/// What a watch saw: the replicas that the Deployment asked for, and from which revision of the cluster's store to which each
/// autoscaler was there.
#[derive(Default)]
struct Seen {
    replicas: Vec<i64>,
    autoscalers: BTreeMap<String, (u64, Option<u64>)>,
}

impl Pool {
    async fn new(client: &Client, name: &str) -> Self {
        let ns = namespace(client, name).await;
        let pool = Self {
            tiers: Api::namespaced(client.clone(), &ns),
            deployments: Api::namespaced(client.clone(), &ns),
            autoscalers: Api::namespaced(client.clone(), &ns),
            objects: optional::objects(client, &ns, &scaled_object()),
            seen: Arc::default(),
            ns,
        };
        let kinds = [
            ApiResource::erase::<Deployment>(&()),
            ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            scaled_object(),
        ];
        for kind in kinds {
            let seen = Arc::clone(&pool.seen);
            let api = optional::objects(client, &pool.ns, &kind);
            let Ok(events) = api.watch(&WatchParams::default().timeout(290), "0").await else { continue };
            tokio::spawn(async move {
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    seen.lock().unwrap().take(&kind.kind, event);
                }
            });
        }
        pool
    }

    async fn set(&self, pool: Value) {
        let patch = Patch::Merge(json!({"spec": {"pool": pool}}));
        self.tiers.patch("small", &PatchParams::default(), &patch).await.unwrap();
    }

    /// As an autoscaler, or `kubectl scale`, writes it.
    async fn scale(&self, replicas: i32) {
        let params = PatchParams { field_manager: Some("autoscaler".to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.deployments.patch_scale("small-pool", &params, &patch).await.unwrap();
    }

    async fn replicas(&self, wanted: i32) {
        until(&format!("{wanted} replicas"), || async {
            let replicas = self.deployments.get_opt("small-pool").await.unwrap()?.spec?.replicas;
            (replicas == Some(wanted)).then_some(())
        })
        .await;
    }

    async fn ready(&self, reason: &str) -> String {
        until(reason, || async {
            let ready = condition(&self.tiers.get("small").await.unwrap(), "Ready")?;
            (ready["reason"] == reason).then(|| ready["message"].as_str().unwrap().to_owned())
        })
        .await
    }

    /// What the condition ScalingActive says.
    async fn active(&self, status: &str) -> String {
        until("the condition ScalingActive", || async {
            let active = condition(&self.tiers.get("small").await.unwrap(), "ScalingActive")?;
            (active["status"] == status).then(|| active["message"].as_str().unwrap().to_owned())
        })
        .await
    }

    async fn has_autoscaler(&self, is: bool) {
        until(&format!("the autoscaler is there: {is}"), || async {
            (self.autoscalers.get_opt("small-pool").await.unwrap().is_some() == is).then_some(())
        })
        .await;
    }

    /// Somebody's HorizontalPodAutoscaler, by a metric that nobody serves.
    async fn somebody(&self, name: &str, target: (&str, &str, &str), min: i32, owner: Option<Value>) {
        let (api_version, kind, target) = target;
        let metric = json!({"metric": {"name": "nobodys"}, "target": {"type": "AverageValue", "averageValue": "1"}});
        let autoscaler = json!({
            "metadata": {"name": name, "namespace": self.ns, "ownerReferences": owner.into_iter().collect::<Vec<_>>()},
            "spec": {
                "scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": target}, "minReplicas": min,
                "maxReplicas": 9, "metrics": [{"type": "External", "external": metric}],
            },
        });
        self.autoscalers.create(&PostParams::default(), &serde_json::from_value(autoscaler).unwrap()).await.unwrap();
    }
}

const DEPLOYMENT: (&str, &str, &str) = ("apps/v1", "Deployment", "small-pool");
const TIER: (&str, &str, &str) = ("smallfirst.dev/v1alpha1", "ModelTier", "small");

impl Seen {
    fn take(&mut self, kind: &str, event: WatchEvent<DynamicObject>) {
        let (object, gone) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            _ => return,
        };
        if kind == "Deployment" {
            let replicas = object.data["spec"]["replicas"].as_i64().unwrap();
            let is_pool = object.name_any() == "small-pool";
            if is_pool && !gone && self.replicas.last() != Some(&replicas) {
                self.replicas.push(replicas);
            }
            return;
        }
        // KEDA's own is a part of its ScaledObject.
        if object.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "ScaledObject") {
            return;
        }
        let revision = object.metadata.resource_version.as_ref().unwrap().parse().unwrap();
        let key = format!("{kind} {} {}", object.name_any(), object.uid().unwrap());
        let known = self.autoscalers.entry(key).or_insert((revision, None));
        known.1 = known.1.or(gone.then_some(revision));
    }

    /// Each autoscaler began when the one before had gone.
    fn one_at_a_time(&self) -> Vec<String> {
        let mut all: Vec<_> = self.autoscalers.iter().map(|(name, (from, to))| (*from, *to, name)).collect();
        all.sort_unstable();
        for pair in all.windows(2) {
            let ((_, Some(gone), _), (made, ..)) = (pair[0], pair[1]) else { panic!("two at a time: {all:?}") };
            assert!(gone < made, "two at a time: {all:?}");
        }
        all.iter().map(|(_, _, name)| name.split(' ').next().unwrap().to_owned()).collect()
    }
}

#[test]
fn autoscalers_change_hands_one_at_a_time_and_the_replicas_stay() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "kinds").await;
        optional::install(&client, &ns).await;
        let pool = Pool::new(&client, "hands").await;
        let wire = Wire::default();
        let running = Running::start(&wire, &pool.ns).await;
        let scaling = |by: &str| json!({"scaling": {"min": 2, "max": 9, "autoscaler": by}});
        create(&client, &pool.ns, &scaled(&pool.ns, scaling("HorizontalPodAutoscaler")["scaling"].clone())).await;
        pool.has_autoscaler(true).await;
        let made = serde_json::to_value(pool.autoscalers.get("small-pool").await.unwrap()).unwrap();
        let metric = &made["spec"]["metrics"][0]["external"];
        assert_eq!(metric["metric"]["name"], "smallfirst_tier_concurrency", "{made}");
        assert_eq!(metric["metric"]["selector"]["matchLabels"], json!({"smallfirst.dev/tier": "small"}), "{made}");
        assert_eq!(metric["target"]["averageValue"], "2800m", "{made}");
        let active = pool.active("False").await;
        assert!(active.contains("set metricsApi.enabled of the chart"), "this operator does not serve it: {active}");
        // The real one keeps its bounds.
        pool.replicas(2).await;
        pool.scale(5).await;

        pool.set(scaling("KEDA")).await;
        let object = until("the ScaledObject", || async { pool.objects.get_opt("small-pool").await.unwrap() }).await;
        assert_eq!(object.data["spec"]["minReplicaCount"], 2, "{object:?}");
        assert_eq!(object.data["spec"]["triggers"][0]["metadata"]["tier"], "small", "{object:?}");
        until("nothing of the metrics API", || async {
            condition(&pool.tiers.get("small").await.unwrap(), "ScalingActive").is_none().then_some(())
        })
        .await;
        // What KEDA makes of it.
        let owner = json!({
            "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "small-pool", "controller": true,
            "uid": object.metadata.uid.unwrap(),
        });
        pool.somebody("keda-hpa-small-pool", DEPLOYMENT, 2, Some(owner)).await;
        pause(1000).await;
        pool.scale(6).await;

        pool.set(scaling("External")).await;
        until("its number", || async {
            (pool.tiers.get("small").await.unwrap().spec.pool?.replicas == 6).then_some(())
        })
        .await;
        // From now on /scale says it.
        let four = Patch::Merge(json!({"spec": {"replicas": 4}}));
        pool.tiers.patch_scale("small", &PatchParams::default(), &four).await.unwrap();
        pool.replicas(4).await;

        pool.set(scaling("HorizontalPodAutoscaler")).await;
        pool.has_autoscaler(true).await;
        pause(2000).await;
        pool.replicas(4).await;
        pool.set(json!({"scaling": null, "replicas": 3})).await;
        pool.has_autoscaler(false).await;
        pool.replicas(3).await;
        let ready = condition(&pool.tiers.get("small").await.unwrap(), "Ready").unwrap();
        assert_ne!(ready["reason"], "Conflict", "{ready}");

        pause(1000).await;
        assert_eq!(pool.seen.lock().unwrap().replicas, [1, 2, 5, 6, 4, 3], "never reset");
        let kinds = ["HorizontalPodAutoscaler", "ScaledObject", "HorizontalPodAutoscaler"];
        assert_eq!(pool.seen.lock().unwrap().one_at_a_time(), kinds);
        wire.take();
        pause(3000).await;
        assert_eq!(wire.take(), Vec::<String>::new(), "silence");
        running.stop().await;
    });
}

#[test]
fn somebody_who_scales_the_tier_meets_no_resistance_and_two_are_told_apart() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let pool = Pool::new(&client, "somebody").await;
        let wire = Wire::default();
        let running = Running::start(&wire, &pool.ns).await;
        create(&client, &pool.ns, &scaled(&pool.ns, json!({"max": 9, "autoscaler": "External"}))).await;
        pool.replicas(1).await;
        pool.ready("Progressing").await;
        pause(2000).await;
        wire.take();
        // The real controller brings the tier to its least.
        pool.somebody("mine", TIER, 3, None).await;
        pool.replicas(3).await;
        let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
        pool.tiers.patch_scale("small", &PatchParams::default(), &patch).await.unwrap();
        pool.replicas(5).await;
        // Longer than a controller's period: it is not called back.
        pause(20_000).await;
        pool.replicas(5).await;
        let writes = wire.take();
        let of_replicas = writes.iter().filter(|write| write.ends_with("/deployments/small-pool")).count();
        assert_eq!(of_replicas, 2, "{writes:#?}");
        assert!(!writes.iter().any(|write| write.ends_with("/scale")), "{writes:#?}");

        // Another one scales the Deployment itself.
        pool.autoscalers.delete("mine", &DeleteParams::default()).await.unwrap();
        pool.somebody("direct", DEPLOYMENT, 7, None).await;
        let message = pool.ready("Conflict").await;
        assert!(message.contains("HorizontalPodAutoscaler \"direct\" scales Deployment small-pool"), "{message}");
        assert!(message.contains("let it scale ModelTier small"), "{message}");
        pool.replicas(7).await;
        pool.scale(8).await;
        pause(3000).await;
        wire.take();
        pause(5000).await;
        assert_eq!(wire.take(), Vec::<String>::new(), "no fight");
        pool.replicas(8).await;
        // Nor does the operator make one beside it.
        pool.set(json!({"scaling": {"autoscaler": "HorizontalPodAutoscaler"}})).await;
        let message = pool.ready("Conflict").await;
        assert!(message.contains("direct"), "{message}");
        pause(1000).await;
        pool.has_autoscaler(false).await;
        pool.autoscalers.delete("direct", &DeleteParams::default()).await.unwrap();
        pool.has_autoscaler(true).await;
        pool.ready("Progressing").await;
        pool.replicas(8).await;
        assert_eq!(pool.seen.lock().unwrap().one_at_a_time().len(), 3);
        running.stop().await;
    });
}

/// What a kubelet would say of a pool's pods; there is none.
async fn all_ready(client: &Client, ns: &str, wanted: usize) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
    let labels = ListParams::default().labels("smallfirst.dev/tier=small");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let made = until("the pods", || async {
        let made = pods.list_metadata(&labels).await.unwrap().items;
        let made: Vec<_> = made.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        (made.len() == wanted).then_some(made)
    });
    for pod in made.await {
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&ready)).await.unwrap();
    }
}

#[test]
fn a_pool_goes_to_zero_when_nobody_asks_and_comes_back_when_somebody_does() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let release = namespace(&client, "zero-release").await;
        let pool = Pool::new(&client, "zero").await;
        let wire = Wire::default();
        let operator = wire.client().await;
        let listening = Listening::start(operator, &release, Some(pool.ns.clone()), Leader::default()).await;
        create(&client, &pool.ns, &scaled(&pool.ns, json!({"min": 0, "max": 3, "idleAfter": "12s"}))).await;
        let (path, policy) = route(&pool.ns, "small");
        create(&client, &pool.ns, &path).await;
        create(&client, &pool.ns, &policy).await;
        let fleet = Fleet::new(&client, &pool.ns).await;
        let router = fleet.router("front-0").await;
        sync::ready(&client, &pool.ns, &["front-0"]).await;
        all_ready(&client, &pool.ns, 1).await;
        pool.ready("RolledOut").await;

        pool.replicas(0).await;
        pool.ready("ScaledToZero").await;
        assert!(pool.autoscalers.get_opt("small-pool").await.unwrap().is_some(), "it stays, and rests");
        pause(20_000).await;
        pool.replicas(0).await;

        // A request finds nobody, and wakes it.
        let statuses = demand::ask(&router, 1).await;
        assert_eq!(statuses, ["503"]);
        let asked = Instant::now();
        pool.replicas(1).await;
        println!("awake after {:?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(5));
        // It does not sleep before it could serve.
        pause(20_000).await;
        pool.replicas(1).await;
        all_ready(&client, &pool.ns, 1).await;
        for _ in 0..4 {
            demand::ask(&router, 1).await;
            pause(4000).await;
            pool.replicas(1).await;
        }
        // Without its routers nobody knows whether it is asked for.
        drop(router);
        pause(20_000).await;
        pool.replicas(1).await;
        sync::ready(&client, &pool.ns, &[]).await;
        pool.replicas(0).await;
        assert_eq!(pool.seen.lock().unwrap().replicas, [1, 0, 1, 0], "no flapping");
        let scales = wire.take().into_iter().filter(|write| write.ends_with("/deployments/small-pool/scale")).count();
        assert_eq!(scales, 3, "one write a turn");
        listening.stop().await;
    });
}
