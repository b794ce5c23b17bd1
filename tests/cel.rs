//! What the API server takes and refuses: the table `tests/cel/rows.yaml`, run twice. Offline, as `smallfirst local`
//! reads manifests; and against a real API server (`SMALLFIRST_TEST_KUBECONFIG`) by server-side dry-run.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod edits;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};
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
    let Some(kubeconfig) = std::env::var_os("SMALLFIRST_TEST_KUBECONFIG") else {
        eprintln!("skipped, because SMALLFIRST_TEST_KUBECONFIG names no kubeconfig: `make cluster-up` makes one");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(kubeconfig.as_ref()).await;
        install(&client).await;
        let (mut wrong, rows) = (Vec::new(), rows());
        for row in &rows {
            wrong.extend(row.judge(&create(&client, &row.document()).await));
        }
        assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    });
}

async fn connect(kubeconfig: &std::path::Path) -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

async fn send(client: &kube::Client, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let kind = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    client.request(request.body(serde_json::to_vec(body).unwrap()).unwrap()).await
}

/// The CRDs, by server-side apply, and a wait until the API server serves them.
async fn install(client: &kube::Client) {
    for crd in crd::all() {
        let name = crd["metadata"]["name"].as_str().unwrap();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let apply = format!("{path}?fieldManager=smallfirst-test&force=true");
        let applied = send(client, "PATCH", &apply, &crd).await;
        applied.unwrap_or_else(|error| panic!("{name}: {error}"));
        let plural = name.split('.').next().unwrap();
        for _ in 0..100 {
            let list = format!("/apis/smallfirst.dev/v1alpha1/{plural}?limit=1");
            if send(client, "GET", &list, &json!({})).await.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
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
