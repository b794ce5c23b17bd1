//! The controller against the fake API server: faults that a real one shows too seldom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Controller;
use crate::operator::plan::Settings;
use crate::runtime::leader::{self, Election, Leader};
use crate::testkit::apiserver::{FakeApiServer, Fault, FaultKind, Write};

const TIERS: &str = "/apis/smallfirst.dev/v1alpha1/namespaces/ns/modeltiers";
const POLICIES: &str = "/apis/smallfirst.dev/v1alpha1/namespaces/ns/routingpolicies";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/ns/deployments";
const SERVICES: &str = "/api/v1/namespaces/ns/services";

fn tier() -> Value {
    json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {},
        "spec": {
            "class": "Small", "owner": "team", "exposure": "Public", "model": {"name": "m", "contextTokens": 2048},
            "pool": {"engine": "LlamaCpp", "image": "registry.example/engine:1", "modelFrom": {"path": "/m.gguf"}},
        },
    })
}

fn policy(tier: &str) -> Value {
    json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {},
        "spec": {
            "anonymous": {}, "default": {"workload": "chat"},
            "workloads": [{"name": "chat", "owner": "team", "risk": "Low", "tierRef": {"name": tier}}],
        },
    })
}

struct Running {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(server: &FakeApiServer, leader: Leader) -> Self {
        let settings = Settings { router_image: "registry.example/smallfirst:1".into(), ..Settings::default() };
        let controller = Controller::new(server.client(), None, settings, leader, None);
        let world = Arc::clone(&controller.world);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(controller.run(stopped));
        until("the caches", || world.awaited().is_empty()).await;
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send(true).expect("it runs");
        self.task.await.expect("it ends");
    }
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn condition(server: &FakeApiServer, path: &str, type_: &str) -> Option<Value> {
    let object = server.get(path)?;
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_).cloned()
}

fn is(server: &FakeApiServer, path: &str, type_: &str, field: &str, value: &str) -> bool {
    condition(server, path, type_).is_some_and(|c| c[field] == value)
}

fn statuses(writes: &[Write]) -> usize {
    writes.iter().filter(|w| w.path.ends_with("/status")).count()
}

/// What the deployment controller would say when so many pods are ready.
fn roll_out(server: &FakeApiServer, path: &str, ready: i32) {
    let mut deployment = server.get(path).expect("a deployment");
    let (generation, replicas) = (deployment["metadata"]["generation"].clone(), deployment["spec"]["replicas"].clone());
    deployment["status"] = json!({
        "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": ready, "availableReplicas": ready,
    });
    server.put(path, deployment);
}

#[tokio::test]
async fn a_tier_costs_its_children_and_two_statuses_then_nothing() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let (path, pool) = (format!("{TIERS}/small"), format!("{DEPLOYMENTS}/small-pool"));
    server.put(&path, tier());
    until("accepted", || is(&server, &path, "Accepted", "status", "True")).await;
    roll_out(&server, &pool, 1);
    until("ready", || is(&server, &path, "Ready", "reason", "RolledOut")).await;
    let writes = server.take_writes();
    assert_eq!((statuses(&writes), writes.len()), (2, 8), "{writes:#?}");
    pause(300).await;
    running.stop().await;
    let again = Running::start(&server, Leader::default()).await;
    server.expire_watches();
    pause(1500).await;
    assert_eq!(server.take_writes(), [], "neither silence, nor a restart, nor a new list");

    // A child that is deleted comes back.
    server.remove(&format!("{SERVICES}/small-pool"));
    until("the service", || server.get(&format!("{SERVICES}/small-pool")).is_some()).await;
    again.stop().await;
}

#[tokio::test]
async fn replicas_that_are_ready_one_after_another_cost_two_statuses() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let (path, pool) = (format!("{TIERS}/small"), format!("{DEPLOYMENTS}/small-pool"));
    let mut three = tier();
    three["spec"]["pool"]["replicas"] = json!(3);
    server.put(&path, three);
    until("accepted", || is(&server, &path, "Accepted", "status", "True")).await;
    for ready in 0..=3 {
        roll_out(&server, &pool, ready);
        pause(200).await;
    }
    until("ready", || is(&server, &path, "Ready", "reason", "RolledOut")).await;
    let writes = server.take_writes();
    assert_eq!((statuses(&writes), writes.len()), (2, 8), "{writes:#?}");
    assert_eq!(server.get(&path).expect("the tier")["status"]["readyReplicas"], 3);
    // One that is lost and replaced is not told; the last one that is lost is, at once.
    for ready in [2, 3, 0] {
        roll_out(&server, &pool, ready);
        pause(200).await;
    }
    until("unavailable", || is(&server, &path, "Available", "status", "False")).await;
    assert_eq!(statuses(&server.take_writes()), 1);
    running.stop().await;
}

#[tokio::test]
async fn an_object_that_changes_while_its_status_is_written_costs_no_second_write() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let kind = FaultKind::Late(Duration::from_millis(1500));
    server.fail(Fault { method: Method::PATCH, path: "small/status".into(), times: Some(1), kind });
    let (path, pool) = (format!("{TIERS}/small"), format!("{DEPLOYMENTS}/small-pool"));
    server.put(&path, tier());
    until("the pool", || server.get(&pool).is_some()).await;
    // Times in statuses are whole seconds.
    pause(1100).await;
    roll_out(&server, &pool, 0);
    until("the status", || is(&server, &path, "Accepted", "status", "True")).await;
    pause(500).await;
    assert_eq!(statuses(&server.take_writes()), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_left_alone() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    server.fail(Fault { method: Method::PATCH, path: "small-pool".into(), times: None, kind: FaultKind::Terminating });
    server.put(&format!("{TIERS}/small"), tier());
    pause(3000).await;
    let writes = server.take_writes();
    assert!((1..=5).contains(&writes.len()), "one attempt, no Deployment: {writes:#?}");
    assert!(!writes.iter().any(|w| w.path.contains("deployments")), "{writes:#?}");
    running.stop().await;
}

#[tokio::test]
async fn a_failing_server_is_asked_again_later_and_slows_no_other() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let broken =
        Fault { method: Method::PATCH, path: "services/bad-pool".into(), times: None, kind: FaultKind::Code(500) };
    server.fail(broken);
    server.fail(Fault { method: Method::PATCH, path: "slow-pool".into(), times: Some(1), kind: FaultKind::Code(429) });
    for name in ["bad", "good", "slow"] {
        server.put(&format!("{TIERS}/{name}"), tier());
    }
    let bad = format!("{TIERS}/bad");
    until("the good one", || server.get(&format!("{DEPLOYMENTS}/good-pool")).is_some()).await;
    until("the reason", || is(&server, &bad, "Ready", "reason", "ApplyFailed")).await;
    pause(1500).await;
    let tries = server.take_writes().iter().filter(|w| w.path.contains("services/bad-pool")).count();
    assert!((2..=4).contains(&tries), "{tries} tries");
    server.heal();
    until("recovery", || is(&server, &bad, "Ready", "reason", "Progressing")).await;
    until("the slow one", || server.count("slow-pool") == 6).await;
    running.stop().await;
}

#[tokio::test]
async fn models_do_not_run_from_a_template_that_could_not_be_stored() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let fault =
        Fault { method: Method::PATCH, path: "controllerrevisions".into(), times: None, kind: FaultKind::Code(500) };
    server.fail(fault);
    let (path, pool) = (format!("{TIERS}/small"), format!("{DEPLOYMENTS}/small-pool"));
    server.put(&path, tier());
    until("the reason", || is(&server, &path, "Ready", "reason", "ApplyFailed")).await;
    assert_eq!(server.get(&pool), None);
    server.heal();
    until("the pool", || server.get(&pool).is_some()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_conflict_is_a_condition_that_names_the_other_manager() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let kind = FaultKind::Conflict("kubectl".into(), ".spec.replicas".into());
    server.fail(Fault { method: Method::PATCH, path: "deployments/small-pool".into(), times: None, kind });
    let path = format!("{TIERS}/small");
    server.put(&path, tier());
    until("the conflict", || is(&server, &path, "Ready", "reason", "Conflict")).await;
    let message = condition(&server, &path, "Ready").expect("a condition")["message"].to_string();
    assert!(message.contains("kubectl") && message.contains(".spec.replicas"), "{message}");
    pause(2500).await;
    let writes = server.take_writes();
    assert_eq!(statuses(&writes), 1, "one status however often it is tried: {writes:#?}");
    running.stop().await;
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_adopted() {
    let server = FakeApiServer::default();
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "Thing", "name": "mine", "uid": "u", "controller": true}]}, "spec": {}});
    let at = format!("{SERVICES}/small-pool");
    server.put(&at, theirs);
    let before = server.get(&at);
    let running = Running::start(&server, Leader::default()).await;
    let path = format!("{TIERS}/small");
    server.put(&path, tier());
    until("the conflict", || is(&server, &path, "Ready", "reason", "Conflict")).await;
    let message = condition(&server, &path, "Ready").expect("a condition")["message"].to_string();
    assert!(message.contains("Thing mine"), "{message}");
    assert_eq!(server.get(&at), before);
    running.stop().await;
}

#[tokio::test]
async fn a_malformed_object_stops_nothing() {
    let server = FakeApiServer::default();
    server.put(&format!("{TIERS}/broken"), json!({"kind": "ModelTier", "metadata": {}, "spec": {"class": 7}}));
    let running = Running::start(&server, Leader::default()).await;
    server.put(&format!("{TIERS}/worse"), json!({"kind": "ModelTier", "metadata": {}, "spec": "text"}));
    server.put(&format!("{TIERS}/good"), tier());
    until("the good one", || server.get(&format!("{DEPLOYMENTS}/good-pool")).is_some()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_malformed_object_is_told_once_on_the_object_with_the_field() {
    const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/ns/events";
    let server = FakeApiServer::default();
    let broken =
        |note: &str| json!({"kind": "ModelTier", "metadata": {"annotations": {"note": note}}, "spec": {"class": 7}});
    let path = format!("{TIERS}/broken");
    server.put(&path, broken("one"));
    server.fail(Fault { method: Method::POST, path: EVENTS.into(), times: Some(1), kind: FaultKind::Code(500) });
    let running = Running::start(&server, Leader::default()).await;
    until("the event", || server.count(EVENTS) == 1).await;
    let written = server.take_writes();
    let event = server.find(EVENTS).expect("an event");
    let note = event["note"].to_string();
    assert!(note.contains("spec.class: "), "{note}");
    assert_eq!((&event["regarding"]["name"], &event["type"]), (&json!("broken"), &json!("Warning")));
    assert_eq!(event["regarding"]["uid"], server.get(&path).expect("the tier")["metadata"]["uid"]);
    assert!(written.iter().all(|w| w.path == EVENTS), "{written:#?}");
    // A change that mends nothing is no news, neither to this process nor to the next.
    server.put(&path, broken("two"));
    pause(300).await;
    assert_eq!(server.take_writes(), []);
    running.stop().await;
    let again = Running::start(&server, Leader::default()).await;
    pause(300).await;
    assert_eq!(server.count(EVENTS), 1);
    // What becomes readable is reconciled.
    server.put(&path, tier());
    until("the pool", || server.get(&format!("{DEPLOYMENTS}/broken-pool")).is_some()).await;
    again.stop().await;
}

#[tokio::test]
async fn a_policy_that_becomes_invalid_keeps_its_table() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    server.put(&format!("{TIERS}/small"), tier());
    let (path, table) = (format!("{POLICIES}/front"), "/api/v1/namespaces/ns/configmaps/front-table");
    server.put(&path, policy("small"));
    until("the table", || server.get(table).is_some()).await;
    until("in force", || is(&server, &path, "ResolvedRefs", "status", "True")).await;
    let before = server.get(table);
    let mut invalid = server.get(&path).expect("a policy");
    invalid["spec"]["default"] = json!({"workload": "none-such"});
    server.put(&path, invalid);
    until("refused", || is(&server, &path, "Accepted", "status", "False")).await;
    pause(200).await;
    assert_eq!(server.get(table), before);
    running.stop().await;
}

#[tokio::test]
async fn a_tier_that_comes_later_completes_the_policies_that_name_it() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let path = format!("{POLICIES}/front");
    server.put(&path, policy("small"));
    until("unresolved", || is(&server, &path, "ResolvedRefs", "status", "False")).await;
    server.put(&format!("{TIERS}/small"), tier());
    until("resolved", || is(&server, &path, "ResolvedRefs", "status", "True")).await;
    running.stop().await;
}

#[tokio::test]
async fn a_port_of_a_service_is_known_to_routers_by_its_name() {
    let server = FakeApiServer::default();
    let running = Running::start(&server, Leader::default()).await;
    let mut served = tier();
    served["spec"]["pool"].take();
    served["spec"]["service"] = json!({"serviceRef": {"name": "theirs", "port": 80}});
    server.put(&format!("{TIERS}/served"), served);
    server.put(&format!("{POLICIES}/front"), policy("served"));
    let port_name = || {
        let table = server.get("/api/v1/namespaces/ns/configmaps/front-table")?;
        let table: Value = serde_json::from_str(table["data"]["table.json"].as_str()?).ok()?;
        Some(table["tiers"]["served"]["backend"]["service"]["portName"].clone())
    };
    until("a table", || port_name() == Some(Value::Null)).await;
    let service = |name: &str| {
        let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": 8000, "protocol": "TCP"});
        json!({"metadata": {}, "spec": {"ports": [port("metrics", 8000), port(name, 80)]}})
    };
    for name in ["api", "chat"] {
        server.put(&format!("{SERVICES}/theirs"), service(name));
        until("the name", || port_name() == Some(json!(name))).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn only_the_leader_writes_and_a_deposed_one_stops() {
    let server = FakeApiServer::default();
    let settings =
        |identity: &str| leader::Settings { namespace: "ns".into(), name: "lease".into(), identity: identity.into() };
    let first = Election::start(server.client(), settings("first"));
    until("a leader", || first.leader.leads(tokio::time::Instant::now())).await;
    let second = Election::start(server.client(), settings("second"));
    let (one, two) =
        (Running::start(&server, first.leader.clone()).await, Running::start(&server, second.leader.clone()).await);
    assert!(!second.leader.leads(tokio::time::Instant::now()));
    server.put(&format!("{TIERS}/small"), tier());
    until("the pool", || server.get(&format!("{DEPLOYMENTS}/small-pool")).is_some()).await;
    let leader = first.leader.clone();
    one.stop().await;
    first.release().await;
    assert!(!leader.leads(tokio::time::Instant::now()));
    until("a successor", || second.leader.leads(tokio::time::Instant::now())).await;
    // Nobody renews: the leader stops by itself.
    let lease = Fault { method: Method::PUT, path: "leases".into(), times: None, kind: FaultKind::Hang };
    server.fail(lease);
    let leader = second.leader.clone();
    until("the deposed to notice", || !leader.leads(tokio::time::Instant::now())).await;
    let _ = server.take_writes();
    server.put(&format!("{TIERS}/late"), tier());
    pause(500).await;
    let writes: Vec<Write> = server.take_writes().into_iter().filter(|w| !w.path.contains("leases")).collect();
    assert_eq!(writes, []);
    two.stop().await;
}
