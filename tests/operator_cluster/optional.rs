//! Kinds of other projects: said when they are missing, used as soon as they are there, without a restart.

use kube::core::{ApiResource, DynamicObject};
use smallfirst::operator::plan::{http_route, inference_pool, scaled_object};

use super::*;

const CRDS: [(&str, &str); 3] = [
    ("httproutes.gateway.networking.k8s.io", include_str!("../data/crds/httproutes.json")),
    ("inferencepools.inference.networking.k8s.io", include_str!("../data/crds/inferencepools.json")),
    ("scaledobjects.keda.sh", include_str!("../data/crds/scaledobjects.json")),
];

fn kinds() -> [ApiResource; 3] {
    [http_route(), inference_pool::resource(), scaled_object()]
}

fn crd(name: &str) -> String {
    format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
}

pub fn objects(client: &Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, resource)
}

/// The real kinds, and a wait until they are served.
pub async fn install(client: &Client, namespace: &str) {
    for (name, text) in CRDS {
        let path = format!("{}?fieldManager=test&force=true", crd(name));
        server::send(client, "PATCH", &path, &serde_json::from_str(text).unwrap()).await.unwrap();
    }
    for resource in kinds() {
        let api = objects(client, namespace, &resource);
        until("the kind", || async { api.list(&ListParams::default()).await.ok() }).await;
    }
}

async fn remove(client: &Client, namespace: &str) {
    for (name, _) in CRDS {
        let gone = server::send(client, "DELETE", &crd(name), &json!({})).await;
        assert!(gone.as_ref().is_ok_and(|_| true) || gone.as_ref().is_err_and(not_found), "{gone:?}");
    }
    for resource in kinds() {
        let api = objects(client, namespace, &resource);
        until("no kind", || async { api.list(&ListParams::default()).await.is_err().then_some(()) }).await;
    }
}

fn not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn inference_pool(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "qwen"}}, "targetPorts": [{"number": port}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    })
}

#[test]
fn what_the_cluster_lacks_is_said_and_used_once_it_is_there() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "optional").await;
        remove(&client, &ns).await;
        let wire = Wire::default();
        let controller = Controller::new(wire.client().await, Some(ns.clone()), settings(), Leader::default(), None);
        let running = Running::run(controller.asking_every(Duration::from_millis(200))).await;
        let mut shared = tier(&ns, "shared");
        shared.spec.pool = None;
        shared.spec.service = serde_json::from_value(json!({"inferencePoolRef": {"name": "qwen"}})).unwrap();
        let (path, mut policy) = route(&ns, "shared");
        policy.spec.router.gateway =
            serde_json::from_value(json!({"parentRefs": [{"name": "web", "namespace": "infra"}]})).unwrap();
        create(&client, &ns, &shared).await;
        create(&client, &ns, &path).await;
        create(&client, &ns, &policy).await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), &ns);
        let tier_says = |reason: &'static str| {
            let tiers = tiers.clone();
            async move {
                let ready = condition(&tiers.get("shared").await.unwrap(), "Ready")?;
                (ready["reason"] == reason).then(|| ready["message"].as_str().unwrap().to_owned())
            }
        };
        let policy_says = |reason: &'static str| {
            let policies = policies.clone();
            async move {
                let ready = condition(&policies.get("front").await.unwrap(), "Ready")?;
                (ready["reason"] == reason).then(|| ready["message"].as_str().unwrap().to_owned())
            }
        };
        let message = until("no InferencePool", || tier_says("Unsupported")).await;
        assert!(
            message.starts_with("spec.service.inferencePoolRef.name: this cluster has no InferencePool"),
            "{message}"
        );
        let message = until("no HTTPRoute", || policy_says("Unsupported")).await;
        assert!(message.starts_with("spec.router.gateway: this cluster has no HTTPRoute"), "{message}");
        assert!(policies.get("front").await.unwrap().status.unwrap().table.is_some(), "the rest is in force");

        install(&client, &ns).await;
        let routes = objects(&client, &ns, &http_route());
        let made = until("the route", || async { routes.get_opt("front-router").await.ok().flatten() }).await;
        assert_eq!(made.data["spec"]["parentRefs"][0]["name"], "web", "{made:?}");
        assert_eq!(made.data["spec"]["rules"][0]["backendRefs"][0]["name"], "front-router", "{made:?}");
        until("no complaint", || policy_says("Progressing")).await;
        until("which pool", || tier_says("RefNotFound")).await;

        let pools = objects(&client, &ns, &inference_pool::resource());
        let pool = serde_json::from_value(inference_pool("qwen", 8000)).unwrap();
        pools.create(&PostParams::default(), &pool).await.unwrap();
        let services: Api<Service> = Api::namespaced(client.clone(), &ns);
        let port = || async {
            let spec = services.get_opt("shared-pods").await.unwrap()?.spec?;
            assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
            Some(spec.ports?.first()?.port)
        };
        until("the endpoints", || async { (port().await == Some(8000)).then_some(()) }).await;
        until("ready", || tier_says("RolledOut")).await;
        let patch = Patch::Merge(json!({"spec": {"targetPorts": [{"number": 9000}]}}));
        pools.patch("qwen", &PatchParams::default(), &patch).await.unwrap();
        until("another port", || async { (port().await == Some(9000)).then_some(()) }).await;

        pause(1000).await;
        wire.take();
        pause(2000).await;
        assert_eq!(wire.take(), Vec::<String>::new(), "silence");
        let patch = Patch::Merge(json!({"spec": {"router": {"gateway": null}}}));
        policies.patch("front", &PatchParams::default(), &patch).await.unwrap();
        until("no route", || async { routes.get_opt("front-router").await.unwrap().is_none().then_some(()) }).await;
        remove(&client, &ns).await;
        until("no InferencePool again", || tier_says("Unsupported")).await;
        running.stop().await;
    });
}
