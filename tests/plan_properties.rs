//! Properties of validate, plan and status: no input makes them panic, the order of objects does not matter, and
//! the same input gives the same bytes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};
use smallfirst::api::{EscalationPath, ModelTier, RoutingPolicy};
use smallfirst::operator::observe::Observed;
use smallfirst::operator::plan::{self, Seen, Settings};
use smallfirst::operator::status::{self, Outcome};
use smallfirst::operator::validate;
use smallfirst::routing::source::manifests::{Source, admission, parse};
use smallfirst::yaml;

fn documents() -> Vec<Value> {
    let texts = [
        include_str!("golden/quickstart/in.yaml"),
        include_str!("golden/template-merge/in.yaml"),
        include_str!("golden/service-tier/in.yaml"),
        include_str!("golden/pvc-model/in.yaml"),
    ];
    texts.iter().flat_map(|text| yaml::documents(text).unwrap()).collect()
}

fn settings() -> Settings {
    Settings { router_image: "registry.example/smallfirst:1".into(), ..Settings::default() }
}

/// Everything that is planned, as bytes; what is refused, as its words.
fn everything(observed: &Observed) -> String {
    let mut out = String::new();
    let mut add = |objects: Vec<plan::Desired>| {
        for desired in objects {
            assert!(!has_null(&desired.body), "{}", desired.body);
            out.push_str(&desired.body.to_string());
        }
    };
    let mut words = Vec::new();
    let now = jiff::Timestamp::UNIX_EPOCH;
    for tier in observed.tiers.values() {
        let mut outcome = Outcome::default();
        match plan::tier(tier, &Seen::default(), &settings()) {
            Ok(plan) => add(plan.objects()),
            Err(invalid) => outcome.invalid = Some(invalid),
        }
        words.push(format!("{:?}", status::tier(tier, observed, &outcome, now)));
    }
    for path in observed.paths.values() {
        let (invalid, unresolved) = match validate::path(path, observed) {
            Ok(valid) => (None, valid.unresolved),
            Err(invalid) => (Some(invalid), None),
        };
        let outcome = Outcome { invalid, unresolved, ..Outcome::default() };
        words.push(format!("{:?}", status::path(path, &outcome, now)));
    }
    for policy in observed.policies.values() {
        let mut outcome = Outcome::default();
        match plan::policy(policy, observed, &settings()) {
            Ok(plan) => {
                outcome.unresolved.clone_from(&plan.unresolved);
                outcome.table_hash = Some(plan.table_hash.clone());
                add(plan.objects());
            }
            Err(invalid) => {
                assert!(!invalid.message.is_empty());
                outcome.invalid = Some(invalid);
            }
        }
        words.push(format!("{:?}", status::policy(policy, observed, &outcome, now)));
    }
    out + &words.concat()
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

/// The objects that parse, whatever they hold.
fn observed(documents: &[Value]) -> Observed {
    fn take<K: serde::de::DeserializeOwned>(document: &Value) -> Option<(String, Arc<K>)> {
        let name = document.pointer("/metadata/name").and_then(Value::as_str)?.to_owned();
        Some((name, Arc::new(serde_json::from_value(document.clone()).ok()?)))
    }
    let mut observed = Observed::default();
    for document in documents {
        observed.tiers.extend(take::<ModelTier>(document));
        observed.paths.extend(take::<EscalationPath>(document));
        observed.policies.extend(take::<RoutingPolicy>(document));
    }
    observed
}

/// Every place of a document.
fn pointers(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| pointers(v, format!("{path}/{k}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| pointers(v, format!("{path}/{i}"), out)),
        _ => {}
    }
    out.push(path);
}

/// Values that are nearly right, and values that are not at all.
fn value() -> impl Strategy<Value = Value> {
    let words = select(vec![
        "",
        "0",
        "-1",
        "1.5",
        "nan",
        "0s",
        "99999h",
        "10s",
        "compact",
        "frontier",
        "small-first",
        "Small",
        "Frontier",
        "Always",
        "FailoverOnly",
        "https://a",
        "http://[::",
        "https://x@y",
        "(",
        "{}",
        "{",
        "\u{1F600}",
        "é/ü",
        "..",
        "Custom",
        "anonymous",
        "engine",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        words.prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let keys = select(vec![
        "name",
        "spec",
        "metadata",
        "labels",
        "containers",
        "volumes",
        "hostPath",
        "securityContext",
        "privileged",
        "ports",
        "hostPort",
        "env",
        "value",
        "tierRef",
        "class",
        "match",
        "regex",
        "confidence",
        "atLeast",
    ]);
    leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((keys.clone(), inner), 0..4).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())
            }),
        ]
    })
}

/// `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn nothing_panics(edits in vec((any::<Index>(), any::<Index>(), value()), 1..6)) {
        let mut documents = documents();
        for (document, place, value) in edits {
            let document = document.get_mut(&mut documents);
            let mut places = Vec::new();
            pointers(document, String::new(), &mut places);
            if let Some(found) = document.pointer_mut(place.get(&places).as_str()) {
                *found = value;
            }
        }
        for document in &documents {
            let _ = admission::problems(document);
        }
        let observed = observed(&documents);
        prop_assert_eq!(everything(&observed), everything(&observed));
    }

    /// A template is the least typed of all inputs.
    #[test]
    fn no_template_panics_or_leaves_a_null(template in value()) {
        let Value::Object(template) = template else { return Ok(()) };
        let mut observed = observed(&documents());
        let tier = Arc::make_mut(observed.tiers.get_mut("compact").unwrap());
        tier.spec.pool.as_mut().unwrap().template = Some(smallfirst::api::model_tier::RawTemplate(template));
        everything(&observed);
    }

    #[test]
    fn the_order_of_documents_does_not_matter(order in Just((0..5usize).collect::<Vec<_>>()).prop_shuffle()) {
        let texts: Vec<&str> = include_str!("golden/quickstart/in.yaml").split("\n---\n").collect();
        prop_assert_eq!(texts.len(), order.len());
        let read = |text: String| parse(&[Source { name: "in.yaml".into(), text }]).unwrap();
        let shuffled: Vec<&str> = order.iter().map(|&i| texts[i]).collect();
        prop_assert_eq!(everything(&read(shuffled.join("\n---\n"))), everything(&read(texts.join("\n---\n"))));
    }
}
