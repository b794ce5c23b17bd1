//! Golden plans: `tests/golden/<case>/in.yaml` -> `plan.yaml`, the whole of what the operator would apply.
//!
//! `UPDATE_GOLDEN=1 cargo test --test plan` writes them anew; read the difference before you commit it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use smallfirst::operator::observe::Observed;
use smallfirst::operator::plan::scaling::Scalers;
use smallfirst::operator::plan::{self, Renderer, Seen, Settings, table};
use smallfirst::operator::validate::{self, Invalid};
use smallfirst::routing::source::manifests::{Source, parse};
use smallfirst::routing::table::SyncAddress;
use smallfirst::yaml;

fn settings() -> Settings {
    // Without the version of this program, which every release changes.
    let renderer = Renderer { version: "test", ..Renderer::default() };
    let sync = SyncAddress {
        address: "smallfirst-sync.smallfirst-system.svc:9443".into(),
        server_name: "smallfirst-sync".into(),
        ca: "(PEM)".into(),
    };
    Settings {
        router_image: "registry.example/smallfirst:1".into(),
        renderer,
        sync: Some(sync),
        scaler_address: Some("smallfirst-scaler.smallfirst-system.svc:9444".into()),
        ..Settings::default()
    }
}

/// The objects of a case; each gets a uid that tells it from the others, as the API server would give it.
fn load(text: &str) -> Observed {
    let source = Source { name: "in.yaml".into(), text: text.into() };
    let mut observed = parse(&[source]).unwrap_or_else(|e| panic!("{e}"));
    for (name, tier) in &mut observed.tiers {
        Arc::make_mut(tier).metadata.uid = Some(format!("uid-of-tier-{name}"));
    }
    for (name, policy) in &mut observed.policies {
        Arc::make_mut(policy).metadata.uid = Some(format!("uid-of-policy-{name}"));
    }
    observed
}

fn refused(invalid: &Invalid) -> Value {
    json!({"condition": invalid.condition, "reason": invalid.reason, "message": invalid.message})
}

/// Everything that the objects of a namespace come to.
fn everything(observed: &Observed) -> Value {
    let mut out = serde_json::Map::new();
    for (name, tier) in &observed.tiers {
        // With KEDA.
        let seen = Seen { scalers: Scalers { has_scaled_objects: true, ..Scalers::default() }, ..Seen::default() };
        let value = match plan::tier(tier, &seen, &settings()) {
            Ok(plan) => plan.objects().into_iter().map(|d| d.body).collect(),
            Err(invalid) => json!({"invalid": refused(&invalid)}),
        };
        out.insert(format!("ModelTier {name}"), value);
    }
    for (name, path) in &observed.paths {
        let value = match validate::path(path, observed) {
            Ok(valid) => json!({
                "path": valid.value,
                "unresolved": valid.unresolved.iter().map(refused).collect::<Value>(),
            }),
            Err(invalid) => json!({"invalid": refused(&invalid)}),
        };
        out.insert(format!("EscalationPath {name}"), value);
    }
    for (name, policy) in &observed.policies {
        let value = match plan::policy(policy, observed, &settings()) {
            Ok(plan) => {
                let unresolved: Value = plan.unresolved.iter().map(refused).collect();
                let objects: Value = plan.objects().into_iter().map(|d| readable(d.body)).collect();
                json!({"unresolved": unresolved, "objects": objects})
            }
            Err(invalid) => json!({"invalid": refused(&invalid)}),
        };
        out.insert(format!("RoutingPolicy {name}"), value);
    }
    Value::Object(out)
}

/// The table as a document instead of a line of JSON, for people who read differences.
fn readable(mut body: Value) -> Value {
    if let Some(text) = body.pointer_mut("/data/table.json") {
        *text = serde_json::from_str(text.as_str().unwrap()).unwrap();
    }
    body
}

#[test]
fn golden_plans() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut cases: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 7, "{cases:?}");
    for case in cases {
        let text = fs::read_to_string(case.join("in.yaml")).unwrap();
        let plan = yaml::to_string(&everything(&load(&text))).unwrap();
        let golden = case.join("plan.yaml");
        if update {
            fs::write(&golden, plan).unwrap();
        } else {
            let wanted = fs::read_to_string(&golden).unwrap_or_default();
            assert!(plan == wanted, "{}\n{}", golden.display(), first_difference(&wanted, &plan));
        }
    }
}

fn first_difference(wanted: &str, got: &str) -> String {
    let pairs = wanted.lines().chain(std::iter::repeat("")).zip(got.lines());
    let different = pairs.enumerate().find(|(_, (wanted, got))| wanted != got);
    different.map_or("the golden plan goes on".into(), |(i, (wanted, got))| {
        format!("line {}:\n- {wanted}\n+ {got}\nUPDATE_GOLDEN=1 writes it anew", i + 1)
    })
}

/// No field is owned without a value, and every child belongs to its owner.
#[test]
fn children_are_whole() {
    fn no_nulls(path: &str, value: &Value) {
        match value {
            Value::Null => panic!("{path} is null"),
            Value::Object(map) => map.iter().for_each(|(k, v)| no_nulls(&format!("{path}.{k}"), v)),
            Value::Array(items) => items.iter().for_each(|v| no_nulls(path, v)),
            _ => {}
        }
    }
    let observed = load(&fs::read_to_string("tests/golden/quickstart/in.yaml").unwrap());
    let mut objects = plan::tier(&observed.tiers["compact"], &Seen::default(), &settings()).unwrap().objects();
    objects.extend(plan::policy(&observed.policies["assistants"], &observed, &settings()).unwrap().objects());
    assert_eq!(objects.len(), 6 + 8);
    for desired in objects {
        let place = format!("{} {}", desired.resource.kind, desired.name);
        no_nulls(&place, &desired.body);
        let metadata = &desired.body["metadata"];
        assert_eq!(metadata["namespace"], "ai", "{place}");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "smallfirst", "{place}");
        assert_eq!(metadata["ownerReferences"][0]["controller"], true, "{place}");
        assert_eq!(desired.body["apiVersion"], desired.resource.api_version, "{place}");
    }
}

/// Routers read a new table; only a new Secret name rolls them.
#[test]
fn a_new_rule_leaves_the_routers_alone() {
    let text = fs::read_to_string("tests/golden/quickstart/in.yaml").unwrap();
    let pods = |text: &str| {
        let observed = load(text);
        let plan = plan::policy(&observed.policies["assistants"], &observed, &settings()).unwrap();
        (plan.table_hash, plan.deployment)
    };
    let (hash, deployment) = pods(&text);
    let (new_hash, same) = pods(&text.replace("-0.40", "-0.20").replace("timeout: 10s", "timeout: 500s"));
    assert_ne!(hash, new_hash);
    assert_eq!(deployment, same);
    let (_, rolled) = pods(&text.replace("name: client-keys", "name: other-keys"));
    assert_ne!(deployment, rolled);
}

/// A tier that was in force and is edited into something wrong keeps serving as it did.
#[test]
fn an_invalid_edit_of_a_tier_changes_nothing_that_serves() {
    let text = fs::read_to_string("tests/golden/quickstart/in.yaml").unwrap();
    let mut observed = load(&text);
    let before = table::compile(&observed, "assistants").unwrap();
    assert_eq!(before.unresolved, None);
    let compact = Arc::make_mut(observed.tiers.get_mut("compact").unwrap());
    let template = json!({"spec": {"volumes": [{"name": "node", "hostPath": {"path": "/"}}]}});
    let Value::Object(template) = template else { unreachable!() };
    compact.spec.pool.as_mut().unwrap().template = Some(smallfirst::api::model_tier::RawTemplate(template));
    compact.spec.model.name = "other".into();

    let fresh = table::compile(&observed, "assistants").unwrap();
    assert!(!fresh.value.tiers.contains_key("compact"), "never in force: its step is left out");
    let unresolved = fresh.unresolved.unwrap().message;
    assert!(unresolved.contains("spec.pool.template.spec.volumes[0].hostPath: refused"), "{unresolved}");

    observed.tables.insert("assistants".into(), Arc::new(before.value.clone()));
    let kept = table::compile(&observed, "assistants").unwrap();
    assert_eq!(kept.value, before.value);
    assert!(kept.unresolved.is_some());
}

/// A path that is edited to name a tier that does not exist keeps serving as it did; a tier that is deleted takes
/// its step with it.
#[test]
fn an_unknown_tier_changes_nothing_that_serves() {
    let text = fs::read_to_string("tests/golden/quickstart/in.yaml").unwrap();
    let good = load(&text);
    let before = table::compile(&good, "assistants").unwrap().value;
    let misspelt = |observed: &mut Observed| {
        let path = Arc::make_mut(observed.paths.get_mut("small-first").unwrap());
        path.spec.steps[0].tier_ref.as_mut().unwrap().name = "compcat".into();
    };

    let mut fresh = load(&text);
    misspelt(&mut fresh);
    let first = table::compile(&fresh, "assistants").unwrap();
    assert!(first.unresolved.is_some(), "without a table before, what there is serves");

    let mut edited = load(&text);
    edited.tables.insert("assistants".into(), Arc::new(before.clone()));
    misspelt(&mut edited);
    let refused = table::compile(&edited, "assistants").unwrap_err();
    assert_eq!((refused.condition, refused.reason), ("ResolvedRefs", "RefNotFound"));
    assert!(refused.message.contains("workload \"ticket-intent\" would lose tier compact"), "{refused}");
    assert!(refused.message.contains("spec.steps[0].tierRef.name: ModelTier \"compcat\" does not exist"), "{refused}");

    // What served then was already without the step: nothing is lost by going on.
    edited.tables.insert("assistants".into(), Arc::new(first.value.clone()));
    assert_eq!(table::compile(&edited, "assistants").unwrap().value, first.value);

    let mut deleted = load(&text);
    deleted.tables.insert("assistants".into(), Arc::new(before));
    deleted.tiers.remove("compact");
    let without = table::compile(&deleted, "assistants").unwrap();
    assert_eq!(without.value.paths["small-first"].steps.len(), 1);
    assert!(without.unresolved.is_some());
}
