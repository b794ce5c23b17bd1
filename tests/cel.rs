//! What the API server takes and refuses: the table `tests/cel/rows.yaml`, run twice. Offline, as `smallfirst local`
//! reads manifests; and against a real API server (`SMALLFIRST_TEST_KUBECONFIG`) by server-side dry-run.
#![expect(clippy::unwrap_used, reason = "tests")]

mod edits;
mod server;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use server::{send, with_server};
use smallfirst::api::crd;
use smallfirst::routing::source::manifests::admission;
use smallfirst::yaml;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    of: String,
    #[serde(default)]
    set: BTreeMap<String, Value>,
    reject: Option<String>,
}

impl Row {
    fn document(&self) -> Value {
        let bases: BTreeMap<String, Value> = yaml::from_str(include_str!("cel/bases.yaml")).unwrap();
        let mut document = bases.get(&self.of).unwrap_or_else(|| panic!("{}", self.of)).clone();
        for (pointer, value) in &self.set {
            edits::put(&mut document, pointer, value.clone());
        }
        document
    }

    /// What is wrong with an answer: empty text means that the document was taken.
    fn judge(&self, answer: &str) -> Option<String> {
        let fits = match &self.reject {
            None => answer.is_empty(),
            Some(text) => !answer.is_empty() && answer.contains(text.as_str()),
        };
        (!fits).then(|| format!("{} ({})\n  wanted {:?}\n  got    {answer:?}", self.name, self.of, self.reject))
    }
}

fn rows() -> Vec<Row> {
    let rows: Vec<Row> = yaml::from_str(include_str!("cel/rows.yaml")).unwrap();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "every row has a name of its own");
    rows
}

/// Messages of all CEL rules of the CRDs.
fn rules() -> BTreeSet<String> {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                    found.insert(rule["message"].as_str().expect("a message").to_owned());
                }
                map.values().for_each(|v| walk(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    crd::all().iter().for_each(|crd| walk(crd, &mut found));
    found
}

#[test]
fn every_rule_refuses_some_row() {
    let refused: BTreeSet<String> = rows().into_iter().filter_map(|row| row.reject).collect();
    let rules = rules();
    assert!(rules.len() >= 14, "{rules:?}");
    let missing: Vec<&String> = rules.difference(&refused).collect();
    assert!(missing.is_empty(), "no row is refused by: {missing:#?}");
}

#[test]
fn offline() {
    let judge = |row: &Row| row.judge(&admission::problems(&row.document()).join("; "));
    let wrong: Vec<String> = rows().iter().filter_map(judge).collect();
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn api_server() {
    with_server(|client| async move {
        let (mut wrong, rows) = (Vec::new(), rows());
        for row in &rows {
            wrong.extend(row.judge(&create(&client, &row.document()).await));
        }
        assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    });
}

/// What the API server has against a document; empty if it would take it.
async fn create(client: &kube::Client, document: &Value) -> String {
    let plural = match document["kind"].as_str().unwrap() {
        "ModelTier" => "modeltiers",
        "EscalationPath" => "escalationpaths",
        _ => "routingpolicies",
    };
    let query = "dryRun=All&fieldValidation=Strict";
    let path = format!("/apis/smallfirst.dev/v1alpha1/namespaces/default/{plural}?{query}");
    match send(client, "POST", &path, document).await {
        Ok(_) => String::new(),
        Err(kube::Error::Api(status)) => status.message,
        Err(error) => panic!("{error}"),
    }
}
