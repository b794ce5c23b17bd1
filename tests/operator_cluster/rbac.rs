//! The operator with nothing but the rights that the chart gives it: cluster-wide, and in one namespace.
//!
//! It runs with a token of its ServiceAccount and an election; the API server's audit log says what it asked for and
//! what it was refused. Every right that it holds must have been used, or granted to routers, or be excused here.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};
use smallfirst::operator::observe::Availability;
use smallfirst::operator::plan::{http_route, scaled_object};
use smallfirst::router::control::Standing;
use smallfirst::runtime::leader::{self, Election};
use smallfirst::yaml;

use super::metrics_api;
use super::routers::client_of;
use super::sync::{Fleet, Listening};
use super::*;

/// A right: API group, resource, verb.
type Right = (String, String, String);

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// What the chart gives the operator, as objects; None, said aloud, where there is no helm.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn identity(release: &str, watched: &str) -> Option<Vec<Value>> {
    let settings = format!("watchNamespace={watched},metricsApi.enabled=true");
    let args = ["template", "smallfirst", "charts/smallfirst", "--namespace", release, "--set", &settings];
    match Command::new("helm").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let objects = yaml::documents(&String::from_utf8(output.stdout).unwrap()).unwrap();
            let kinds = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
            Some(objects.into_iter().filter(|object| kinds.iter().any(|kind| object["kind"] == *kind)).collect())
        }
        Err(error) => {
            eprintln!("skipped, because helm can't be run: {error}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
            None
        }
    }
}

fn path_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, name) = (text("/apiVersion"), text("/metadata/name"));
    let root = if group == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group}") };
    let plural = format!("{}s", text("/kind").to_lowercase());
    match text("/metadata/namespace") {
        "" => format!("{root}/{plural}/{name}"),
        namespace => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
    }
}

/// Requests of a user in the audit log: what it used, and what it was refused.
fn audited(user: &str) -> (BTreeSet<Right>, Vec<String>) {
    let kubeconfig = PathBuf::from(std::env::var_os("SMALLFIRST_TEST_KUBECONFIG").unwrap());
    let log =
        std::fs::read_to_string(kubeconfig.with_file_name("audit.log")).expect("an audit log beside the kubeconfig");
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    let entries = log.lines().filter(|line| line.contains(user)).map(serde_json::from_str::<Value>);
    for entry in entries.map(Result::unwrap).filter(|entry| entry["user"]["username"] == user) {
        if entry["responseStatus"]["code"] == 403 {
            refused.push(format!("{} {}", entry["verb"], entry["requestURI"]));
        }
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let resource = match text("/objectRef/subresource") {
            "" => text("/objectRef/resource").to_owned(),
            part => format!("{}/{part}", text("/objectRef/resource")),
        };
        used.insert(right(text("/objectRef/apiGroup"), &resource, text("/verb")));
    }
    (used, refused)
}

/// Rights that roles give.
fn granted(roles: &[Value]) -> BTreeSet<Right> {
    let rules = roles.iter().filter_map(|role| role["rules"].as_array()).flatten();
    let mut rights = BTreeSet::new();
    for rule in rules {
        let list = |field: &str| rule[field].as_array().unwrap().iter().map(|v| v.as_str().unwrap());
        for group in list("apiGroups") {
            for resource in list("resources") {
                rights.extend(list("verbs").map(|verb| right(group, resource, verb)));
            }
        }
    }
    rights
}

fn object<K: kube::Resource<DynamicType = ()>>(namespace: &str, name: &str, rest: Value) -> (ApiResource, Value) {
    dynamic(&ApiResource::erase::<K>(&()), namespace, name, rest)
}

fn dynamic(resource: &ApiResource, namespace: &str, name: &str, rest: Value) -> (ApiResource, Value) {
    let mut object = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name, "namespace": namespace},
    });
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    (resource.clone(), object)
}

async fn put(client: &Client, namespace: &str, (resource, object): (ApiResource, Value)) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// By the operator's field manager: the API server sees no conflict of fields.
async fn apply(client: &Client, ns: &str, (resource, object): (ApiResource, Value)) {
    let (version, plural, name) = (resource.api_version, resource.plural, object["metadata"]["name"].as_str().unwrap());
    let path = format!("/apis/{version}/namespaces/{ns}/{plural}/{name}?fieldManager=smallfirst");
    server::send(client, "PATCH", &path, &object).await.unwrap();
}

/// Everything that the operator ever does: children made, mended and pruned, conflicts, statuses, Events.
async fn live(client: &Client, ns: &str) {
    let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), ns);
    let tiers: Api<ModelTier> = Api::namespaced(client.clone(), ns);
    // Somebody else's, with the very content of children: the API server sees no conflict of fields.
    let mut taken = tier(ns, "taken");
    taken.spec.pool.as_mut().unwrap().resources = serde_json::from_value(json!({"requests": {"cpu": "1"}})).unwrap();
    // While a pod template can't be stored the Deployment is not asked for: the templates are another tier's.
    let mut stored = taken.clone();
    stored.metadata.name = Some("stored".to_owned());
    let is_template = |desired: &plan::Desired| desired.resource.kind == "ControllerRevision";
    let objects = |tier: &ModelTier| plan::tier(tier, &Seen::default(), &settings()).unwrap().objects().into_iter();
    let others = objects(&taken).filter(|desired| !is_template(desired)).chain(objects(&stored).filter(is_template));
    for desired in others {
        let mut object = desired.body;
        object["metadata"] = json!({"name": desired.name, "namespace": ns});
        if desired.resource.kind == "NetworkPolicy" {
            // The API server writes its defaults into it.
            object["spec"].as_object_mut().unwrap().remove("ingress");
        }
        put(client, ns, (desired.resource, object)).await;
    }
    let role = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    put(client, ns, object::<ConfigMap>(ns, "taken-table", json!({}))).await;
    put(client, ns, object::<Role>(ns, "taken-router", json!({}))).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"});
    let autoscaler = json!({"spec": {"scaleTargetRef": target, "maxReplicas": 1}});
    put(client, ns, object::<RoleBinding>(ns, "taken-router", json!({"roleRef": role("taken-router")}))).await;

    let (path, policy) = route(ns, "small");
    let mut other = policy.clone();
    other.metadata.name = Some("taken".to_owned());
    let parents = json!({"parentRefs": [{"name": "web"}]});
    other.spec.router.gateway = serde_json::from_value(parents.clone()).unwrap();
    apply(client, ns, dynamic(&http_route(), ns, "taken-router", json!({"spec": parents.clone()}))).await;
    apply(client, ns, object::<HorizontalPodAutoscaler>(ns, "taken-router", autoscaler.clone())).await;
    other.spec.router.scaling = serde_json::from_value(json!({"min": 1, "max": 1})).unwrap();
    create(client, ns, &tier(ns, "small")).await;
    create(client, ns, &taken).await;
    create(client, ns, &stored).await;
    create(client, ns, &path).await;
    create(client, ns, &policy).await;
    create(client, ns, &other).await;
    let ready = |name: &'static str| {
        let policies = policies.clone();
        async move { condition(&policies.get(name).await.unwrap(), "Ready")?["reason"].as_str().map(str::to_owned) }
    };
    until("the routers", || async { (ready("front").await? == "Progressing").then_some(()) }).await;
    until("the conflict", || async { (ready("taken").await? == "Conflict").then_some(()) }).await;

    scale(client, ns).await;

    // What another version made and this one does not go.
    let owner = policies.get("front").await.unwrap();
    let old = |mut object: (ApiResource, Value)| {
        object.1["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "smallfirst"});
        object.1["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy", "name": "front", "controller": true,
            "uid": owner.metadata.uid.clone().unwrap(),
        }]);
        object
    };
    put(client, ns, old(object::<ConfigMap>(ns, "front-old", json!({})))).await;
    put(client, ns, old(object::<Role>(ns, "front-old", json!({})))).await;
    put(client, ns, old(dynamic(&http_route(), ns, "front-old", json!({"spec": parents})))).await;
    put(client, ns, old(object::<HorizontalPodAutoscaler>(ns, "front-old", autoscaler))).await;
    put(client, ns, old(object::<RoleBinding>(ns, "front-old", json!({"roleRef": role("front-router")})))).await;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), ns);
    until("the old ones to go", || async { bindings.get_opt("front-old").await.unwrap().is_none().then_some(()) })
        .await;
    let patch = json!({"spec": {"pool": null, "service": {"serviceRef": {"name": "other", "port": 80}}}});
    tiers.patch("small", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), ns);
    until("the pool to go", || async { deployments.get_opt("small-pool").await.unwrap().is_none().then_some(()) })
        .await;

    // The same Event twice.
    let paths: Api<EscalationPath> = Api::namespaced(client.clone(), ns);
    for (regex, accepted) in [("(", "False"), ("a", "True"), ("(", "False")] {
        let steps = json!([{"name": "first", "tierRef": {"name": "small"}, "accept": [{"match": {"regex": regex}}]}]);
        let patch = Patch::Merge(json!({"spec": {"steps": steps}}));
        paths.patch("way", &PatchParams::default(), &patch).await.unwrap();
        until("the verdict", || async {
            (condition(&paths.get("way").await.unwrap(), "Accepted")?["status"] == accepted).then_some(())
        })
        .await;
    }
    pause(1000).await;
}

/// Autoscalers come and go, and one pool is where no HorizontalPodAutoscaler can help it.
async fn scale(client: &Client, ns: &str) {
    let target = json!({"scaleTargetRef": {"name": "x"}, "triggers": []});
    apply(client, ns, dynamic(&scaled_object(), ns, "kedas-pool", json!({"spec": target}))).await;
    let scaling = |by: &str| json!({"min": 2, "max": 3, "autoscaler": by});
    for name in ["kedas", "scaled"] {
        let mut tier = tier(ns, name);
        let pool = tier.spec.pool.as_mut().unwrap();
        pool.per_replica = Some(serde_json::from_value(json!({"concurrency": 4})).unwrap());
        pool.scaling = Some(serde_json::from_value(scaling("KEDA")).unwrap());
        create(client, ns, &tier).await;
    }
    let tiers: Api<ModelTier> = Api::namespaced(client.clone(), ns);
    until("the taken ScaledObject", || async {
        (condition(&tiers.get("kedas").await.unwrap(), "Ready")?["reason"] == "Conflict").then_some(())
    })
    .await;
    let objects = optional::objects(client, ns, &scaled_object());
    until("the ScaledObject", || async { objects.get_opt("scaled-pool").await.unwrap() }).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), ns);
    let is = |replicas| {
        let deployments = deployments.clone();
        async move { (deployments.get("scaled-pool").await.unwrap().spec?.replicas == Some(replicas)).then_some(()) }
    };
    let set = |replicas: i32| {
        let (deployments, patch) = (deployments.clone(), Patch::Merge(json!({"spec": {"replicas": replicas}})));
        async move { deployments.patch_scale("scaled-pool", &PatchParams::default(), &patch).await.unwrap() }
    };
    let by = |autoscaler: &str| {
        let patch = Patch::Merge(json!({"spec": {"pool": {"scaling": scaling(autoscaler)}}}));
        let tiers = tiers.clone();
        async move { tiers.patch("scaled", &PatchParams::default(), &patch).await.unwrap() }
    };
    set(3).await;
    pause(500).await;
    by("External").await;
    until("its number", || async { (tiers.get("scaled").await.unwrap().spec.pool?.replicas == 3).then_some(()) }).await;
    until("the same number", || is(3)).await;
    by("HorizontalPodAutoscaler").await;
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), ns);
    until("the autoscaler", || async { autoscalers.get_opt("scaled-pool").await.unwrap() }).await;
    set(0).await;
    until("its least", || is(2)).await;
}

/// A router reports.
async fn report(client: &Client, ns: &str, listening: &Listening) {
    let sync = listening.sync.borrow().clone();
    let fleet = Fleet::new(client, ns).await;
    let _tell = fleet.scripted("pod", Standing { sync, ..Standing::default() });
    let id = (ns.to_owned(), "front".to_owned());
    until("a report", || async {
        let seen = listening.world.routers.of(&id, Instant::now())?;
        seen.pods.contains_key("pod").then_some(())
    })
    .await;
}

/// Somebody without rights asks for values, and the API server finds the metrics API.
async fn read_metrics(client: &Client, operator: &Client, release: &str, listening: &mut Listening) {
    let address = metrics_api::serve(listening, operator, release).await;
    metrics_api::register(client, release, address.port()).await;
    let available = || async { (listening.world.metrics_api() == Availability::Available).then_some(()) };
    until("the metrics API", available).await;
    let bearer = format!("authorization: Bearer {}\r\n", metrics_api::token(client, release, "default").await);
    let answer = metrics_api::ask_directly(listening, release, address, &bearer, "/secret", None).await;
    assert_eq!(answer.map(|(code, _)| code), Some(403));
    metrics_api::unregister(client).await;
}

/// Rights that do not show in this run's audit log.
fn excused((group, resource, verb): &Right, used: &BTreeSet<Right>) -> bool {
    match verb.as_str() {
        // Servers that don't stream lists are asked for lists.
        "list" => true,
        // An apply that creates needs it, and is audited as a patch.
        "create" => used.contains(&right(group, resource, "patch")),
        _ => false,
    }
}

async fn run(client: Client, scoped: bool) {
    let release = namespace(&client, "release").await;
    let ns = namespace(&client, "watched").await;
    let Some(objects) = identity(&release, if scoped { &ns } else { "" }) else { return };
    for object in &objects {
        let path = format!("{}?fieldManager=test&force=true", path_of(object));
        server::send(&client, "PATCH", &path, object).await.unwrap();
    }
    optional::install(&client, &ns).await;
    let operator = client_of(&client, &release, "smallfirst").await;
    let lease = leader::Settings {
        namespace: release.clone(),
        name: "smallfirst-operator".to_owned(),
        identity: "test".to_owned(),
    };
    let election = Election::start(operator.clone(), lease);
    until("a leader", || async { election.leader.leads(tokio::time::Instant::now()).then_some(()) }).await;
    let watched = scoped.then(|| ns.clone());
    let start = || Listening::start(operator.clone(), &release, watched.clone(), election.leader.clone());
    let mut listening = start().await;
    live(&client, &ns).await;
    report(&client, &ns, &listening).await;
    read_metrics(&client, &operator, &release, &mut listening).await;
    listening.stop().await;
    // The authority's Secret is spoilt: the leader makes another in its place.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &release);
    let spoilt = Patch::Merge(json!({"data": {"ca.key": ""}}));
    secrets.patch("smallfirst-sync-ca", &PatchParams::default(), &spoilt).await.unwrap();
    start().await.stop().await;
    let key = secrets.get("smallfirst-sync-ca").await.unwrap().data.unwrap()["ca.key"].0.clone();
    assert!(!key.is_empty());
    election.release().await;
    for object in
        objects.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.starts_with("Cluster")))
    {
        server::send(&client, "DELETE", &path_of(object), &json!({})).await.unwrap();
    }

    let (used, refused) = audited(&format!("system:serviceaccount:{release}:smallfirst"));
    assert_eq!(refused, Vec::<String>::new(), "refused");
    let roles: Api<Role> = Api::namespaced(client.clone(), &ns);
    let routers = granted(&[serde_json::to_value(roles.get("front-router").await.unwrap()).unwrap()]);
    let idle: Vec<Right> = granted(&objects)
        .into_iter()
        .filter(|r| !used.contains(r) && !routers.contains(r) && !excused(r, &used))
        .collect();
    assert_eq!(idle, [], "held and never used");
}

#[test]
fn the_charts_cluster_role_is_enough_and_no_more() {
    let _alone = alone();
    server::with_server(|client| run(client, false));
}

#[test]
fn the_charts_role_in_one_namespace_is_enough_and_no_more() {
    let _alone = alone();
    server::with_server(|client| run(client, true));
}
