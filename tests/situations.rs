//! Objects as GitOps tools meet them: `tests/gitops/situations/NAME.json`, what `kubectl get -o json` shows in each
//! situation beside the spec, with statuses of our own code. `tests/gitops` asks kstatus and Argo CD's Lua what they make of them.
//!
//! `UPDATE_GOLDEN=1 cargo test --test situations` writes them anew; read the difference before you commit it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod edits;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use edits::put;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use smallfirst::api::conditions::{REASON_APPLY_FAILED, REASON_CONFLICT};
use smallfirst::api::{EscalationPath, ModelTier, RoutingPolicy, crd};
use smallfirst::operator::observe::{Availability, DeploymentState, Observed, Reported, Reports};
use smallfirst::operator::plan::scaling::{Other, Scalers, Scales};
use smallfirst::operator::plan::{self, Seen, Settings};
use smallfirst::operator::status::{self, ApplyProblem, Outcome};
use smallfirst::operator::validate;
use smallfirst::routing::report::RefusedTable;
use smallfirst::routing::table::FORMAT_VERSION;
use smallfirst::yaml;

const QUICKSTART: &str = include_str!("../deploy/samples/quickstart.yaml");

/// The quickstart, edited: object, JSON pointer (empty: it is missing), new value.
fn quickstart(edits: &[(&str, &str, Value)]) -> Observed {
    let mut observed = Observed { namespace: "ai".into(), ..Observed::default() };
    for mut document in yaml::documents(QUICKSTART).unwrap() {
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let key = format!("{}/{name}", document["kind"].as_str().unwrap());
        let metadata = json!({"name": name, "namespace": "ai", "generation": 1, "uid": format!("uid-of-{name}")});
        document["metadata"] = metadata;
        let mut missing = false;
        for (_, pointer, value) in edits.iter().filter(|edit| edit.0 == key) {
            missing |= pointer.is_empty();
            if !missing {
                put(&mut document, pointer, value.clone());
            }
        }
        match document["kind"].as_str().unwrap() {
            _ if missing => {}
            "ModelTier" => {
                observed.tiers.insert(name, Arc::new(serde_json::from_value(document).unwrap()));
            }
            "EscalationPath" => {
                observed.paths.insert(name, Arc::new(serde_json::from_value(document).unwrap()));
            }
            _ => {
                observed.policies.insert(name, Arc::new(serde_json::from_value(document).unwrap()));
            }
        }
    }
    observed
}

/// A Deployment of so many pods, of which these are ready.
fn deployment(desired: i32, ready: i32) -> DeploymentState {
    DeploymentState {
        generation: 1,
        observed_generation: 1,
        desired,
        replicas: desired,
        updated: desired,
        ready,
        available: ready,
        ..DeploymentState::default()
    }
}

/// The same, where an autoscaler asks for them.
fn autoscaled(desired: i32) -> DeploymentState {
    DeploymentState { autoscaled: true, ..deployment(desired, desired) }
}

/// What a plan says of who scales, where these do beside the operator and the metrics API is so.
fn scaled(others: Vec<Other>, metrics_api: Availability) -> Outcome {
    let observed = quickstart(&[("ModelTier/compact", "/spec/pool/scaling", json!({"max": 3}))]);
    let seen = Seen { scalers: Scalers { others, ..Scalers::default() }, ..Seen::default() };
    let plan = plan::tier(&observed.tiers["compact"], &seen, &Settings::default()).unwrap();
    let scaled = plan.pool.unwrap().scaled;
    let metrics_api = scaled.reads_metrics_api().then_some(metrics_api);
    Outcome { unresolved: scaled.problem, metrics_api, ..template() }
}

fn two_autoscalers() -> Outcome {
    let other = Other { name: "mine".to_owned(), of: None, scales: Scales::Deployment };
    scaled(vec![other], Availability::Available)
}

/// Every tier with a pool has a template.
fn template() -> Outcome {
    Outcome { current_revision: Some("compact-pool-ad07408675f10e2f".to_owned()), ..Outcome::default() }
}

fn refused_by_server(reason: &'static str, message: &str) -> Outcome {
    Outcome { apply: Some(ApplyProblem { reason, message: message.to_owned() }), ..Outcome::default() }
}

/// As long after 1970 as the object has seen looks of the operator.
fn at(look: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(look)
}

/// Without its spec, which no tool looks at for health.
fn shown(object: &impl Serialize) -> Value {
    let mut object = serde_json::to_value(object).unwrap();
    object.as_object_mut().unwrap().remove("spec");
    object
}

/// A tier after the operator looked at it: once for each state of its pool.
fn tier(edits: &[(&str, &str, Value)], name: &str, looks: &[(Outcome, Option<DeploymentState>)]) -> Value {
    let mut observed = quickstart(edits);
    let mut object = ModelTier::clone(&observed.tiers[name]);
    for (look, (outcome, pool)) in (1..).zip(looks) {
        observed.deployments = pool.iter().map(|pool| (format!("{name}-pool"), pool.clone())).collect();
        let mut outcome = outcome.clone();
        outcome.invalid = validate::tier(&object).err();
        object.status = Some(status::tier(&object, &observed, &outcome, at(look)));
    }
    shown(&object)
}

fn path(edits: &[(&str, &str, Value)]) -> Value {
    let observed = quickstart(edits);
    let mut object = EscalationPath::clone(&observed.paths["small-first"]);
    let outcome = match validate::path(&object, &observed) {
        Ok(valid) => Outcome { unresolved: valid.unresolved, ..Outcome::default() },
        Err(invalid) => Outcome { invalid: Some(invalid), ..Outcome::default() },
    };
    object.status = Some(status::path(&object, &outcome, at(1)));
    shown(&object)
}

/// A router that reported a table, and may refuse another.
fn reports(serves: &str, refuses: Option<&str>) -> Reports {
    let refused = refuses.map(|hash| RefusedTable { hash: hash.to_owned(), message: "unknown gate".to_owned() });
    let table_hash = Some(serves.to_owned());
    let reported = Reported { table_hash, refused, table_format: FORMAT_VERSION, ..Reported::default() };
    Reports { pods: [("pod".to_owned(), reported)].into(), ready: ["pod".to_owned()].into(), patient: false }
}

fn policy(edits: &[(&str, &str, Value)], routers: DeploymentState) -> Value {
    reported(edits, routers, reports("1f0e", None))
}

fn reported(edits: &[(&str, &str, Value)], routers: DeploymentState, reports: Reports) -> Value {
    let mut observed = quickstart(edits);
    observed.reports = Some(reports);
    observed.deployments.insert("assistants-router".to_owned(), routers);
    let mut object = RoutingPolicy::clone(&observed.policies["assistants"]);
    let outcome = match validate::policy(&object, &observed) {
        Ok(valid) => {
            let table_hash = Some("1f0e".to_owned());
            Outcome { unresolved: valid.unresolved, table_hash, ..Outcome::default() }
        }
        Err(invalid) => Outcome { invalid: Some(invalid), ..Outcome::default() },
    };
    object.status = Some(status::policy(&object, &observed, &outcome, at(1)).0);
    shown(&object)
}

/// What the API server makes of an object before the operator has seen it: the schema's default status.
fn fresh(mut object: Value) -> Value {
    let kind = object["kind"].clone();
    let crd = crd::all().into_iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
    object["status"] =
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default").unwrap().clone();
    object
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    put(&mut object, pointer, value);
    object
}

fn situations() -> BTreeMap<&'static str, Value> {
    let fine = Outcome::default;
    let ready = || tier(&[], "compact", &[(fine(), Some(deployment(1, 1)))]);
    let stuck = DeploymentState {
        deadline_exceeded: Some("ReplicaSet \"compact-pool-5d9f\" has timed out progressing.".to_owned()),
        ..deployment(1, 0)
    };
    let one = |outcome, pool| tier(&[], "compact", &[(outcome, Some(pool))]);
    let none = ("ModelTier/compact", "/spec/pool/replicas", json!(0));
    let scales = ("ModelTier/compact", "/spec/pool/scaling", json!({"min": 0, "max": 3}));
    let wrong = ("ModelTier/compact", "/spec/pool/perReplica/concurrency", json!(0));
    let no_tier = ("ModelTier/compact", "", Value::Null);
    let wrong_gate = ("EscalationPath/small-first", "/spec/steps/0/timeout", json!("soon"));
    let unknown_path = ("RoutingPolicy/assistants", "/spec/workloads/0/pathRef/name", json!("nowhere"));
    let wrong_default = ("RoutingPolicy/assistants", "/spec/default/workload", json!("nobody"));
    BTreeMap::from([
        ("tier-fresh", fresh(ready())),
        ("tier-making", tier(&[], "compact", &[(fine(), None)])),
        ("tier-rolling", one(fine(), deployment(1, 0))),
        ("tier-ready", ready()),
        ("tier-edited", with(ready(), "/metadata/generation", json!(2))),
        ("tier-failed", one(fine(), stuck.clone())),
        ("tier-mended", tier(&[], "compact", &[(fine(), Some(stuck)), (fine(), Some(deployment(1, 1)))])),
        ("tier-scaled-to-zero", tier(&[none], "compact", &[(fine(), Some(deployment(0, 0)))])),
        ("tier-idle", tier(std::slice::from_ref(&scales), "compact", &[(template(), Some(autoscaled(0)))])),
        (
            "tier-scaling",
            tier(
                std::slice::from_ref(&scales),
                "compact",
                &[
                    (template(), Some(autoscaled(1))),
                    (template(), Some(DeploymentState { replicas: 1, ready: 1, available: 1, ..autoscaled(3) })),
                ],
            ),
        ),
        (
            "tier-metrics-api-unavailable",
            tier(
                std::slice::from_ref(&scales),
                "compact",
                &[(scaled(Vec::new(), Availability::Off), Some(autoscaled(1)))],
            ),
        ),
        (
            "tier-two-autoscalers",
            tier(std::slice::from_ref(&scales), "compact", &[(two_autoscalers(), Some(autoscaled(1)))]),
        ),
        (
            "tier-lost-its-replica",
            tier(&[], "compact", &[(fine(), Some(deployment(1, 1))), (fine(), Some(deployment(1, 0)))]),
        ),
        ("tier-invalid", tier(&[wrong], "compact", &[(fine(), Some(deployment(1, 1)))])),
        (
            "tier-conflict",
            one(
                refused_by_server(REASON_CONFLICT, "Deployment compact-pool: \"somebody\" owns .spec.replicas"),
                deployment(1, 1),
            ),
        ),
        (
            "tier-not-applied",
            one(refused_by_server(REASON_APPLY_FAILED, "Service compact-pool: 503 try later"), deployment(1, 1)),
        ),
        // Routers measure whether a provider answers: an outage changes nothing that GitOps waits for.
        ("tier-provider-down", tier(&[], "frontier", &[(fine(), None)])),
        (
            "tier-deleted",
            with(
                with(ready(), "/metadata/deletionTimestamp", json!("1970-01-01T02:00:00Z")),
                "/metadata/finalizers",
                json!(["foregroundDeletion"]),
            ),
        ),
        ("path-fresh", fresh(path(&[]))),
        ("path-ready", path(&[])),
        ("path-missing-reference", path(std::slice::from_ref(&no_tier))),
        ("path-invalid", path(&[wrong_gate])),
        ("policy-fresh", fresh(policy(&[], deployment(2, 2)))),
        ("policy-ready", policy(&[], deployment(2, 2))),
        ("policy-routers-rolling", policy(&[], deployment(2, 1))),
        ("policy-propagating", reported(&[], deployment(2, 2), reports("0a1b", None))),
        ("policy-table-refused", reported(&[], deployment(2, 2), reports("0a1b", Some("1f0e")))),
        ("policy-missing-reference", policy(&[no_tier], deployment(2, 2))),
        ("policy-keeps-its-table-until-a-path-comes", policy(&[unknown_path], deployment(2, 2))),
        ("policy-invalid", policy(&[wrong_default], deployment(2, 2))),
    ])
}

#[test]
fn they_are_what_our_code_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gitops/situations");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let wanted = situations();
    for (name, object) in &wanted {
        let file = folder.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(object).unwrap() + "\n";
        if update {
            fs::write(&file, &text).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(kept, text, "{name}.json is stale: run 'UPDATE_GOLDEN=1 cargo test --test situations' and commit");
    }
    for file in fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(wanted.contains_key(name.trim_end_matches(".json")), "{name} is no situation");
    }
}
