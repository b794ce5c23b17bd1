//! Golden plans against a real API server: it takes every child as it is, a second apply writes nothing, and the
//! pods satisfy Pod Security `restricted`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod server;

use std::sync::LazyLock;

use serde_json::{Value, json};
use server::{send, with_server};
use smallfirst::operator::plan::{self, Desired, Seen, Settings};
use smallfirst::routing::source::manifests::{Source, parse};

/// A namespace of this run: one of an earlier run may still be going.
static NAMESPACE: LazyLock<String> = LazyLock::new(|| format!("smallfirst-plan-test-{}", std::process::id()));

/// The children of every golden case that has some, in the test's namespace and without owners, which do not exist.
fn children() -> Vec<Desired> {
    let cases = [
        ("quickstart", include_str!("golden/quickstart/in.yaml")),
        ("template-merge", include_str!("golden/template-merge/in.yaml")),
        ("pvc-model", include_str!("golden/pvc-model/in.yaml")),
        ("router-options", include_str!("golden/router-options/in.yaml")),
        ("model-sources", include_str!("golden/model-sources/in.yaml")),
        ("gpu-custom", include_str!("golden/gpu-custom/in.yaml")),
        ("provider-only", include_str!("golden/provider-only/in.yaml")),
        ("autoscalers", include_str!("golden/autoscalers/in.yaml")),
    ];
    let settings = Settings { router_image: "registry.example/smallfirst:1".into(), ..Settings::default() };
    let mut children = Vec::new();
    for (name, text) in cases {
        let observed = parse(&[Source { name: name.into(), text: text.into() }]).unwrap();
        for tier in observed.tiers.values() {
            children.extend(plan::tier(tier, &Seen::default(), &settings).unwrap().objects());
        }
        for policy in observed.policies.values() {
            children.extend(plan::policy(policy, &observed, &settings).unwrap().objects());
        }
    }
    for child in &mut children {
        child.body["metadata"]["namespace"] = NAMESPACE.clone().into();
        if child.resource.kind == "Deployment" {
            // No pods: their images do not exist.
            child.body["spec"]["replicas"] = 0.into();
        }
        if let Some(subject) = child.body.pointer_mut("/subjects/0/namespace") {
            *subject = NAMESPACE.clone().into();
        }
    }
    children
}

fn path_of(child: &Desired) -> String {
    let resource = &child.resource;
    let root = if resource.group.is_empty() { "/api/v1".into() } else { format!("/apis/{}", resource.api_version) };
    format!("{root}/namespaces/{}/{}/{}", *NAMESPACE, resource.plural, child.name)
}

async fn apply(client: &kube::Client, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let query = "fieldManager=smallfirst-test&fieldValidation=Strict&force=true";
    send(client, "PATCH", &format!("{path}?{query}"), body).await
}

#[test]
fn the_api_server_takes_every_child_once() {
    with_server(|client| async move {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE.as_str(), "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        });
        apply(&client, &format!("/api/v1/namespaces/{}", *NAMESPACE), &namespace).await.unwrap();
        let mut wrong = Vec::new();
        let children = children();
        assert!(children.len() > 30);
        for child in &children {
            let (place, path) = (format!("{} {}", child.resource.kind, child.name), path_of(child));
            let mut stored = Vec::new();
            for _ in 0..2 {
                match apply(&client, &path, &child.body).await {
                    Ok(object) => stored.push(ours(object)),
                    Err(error) => wrong.push(format!("{place}: {error}")),
                }
            }
            if stored.first() != stored.last() {
                wrong.push(format!("{place}: the second apply wrote"));
            }
            if child.resource.kind == "Deployment"
                && let Err(problem) = run_as_pod(&client, child).await
            {
                wrong.push(format!("{place}: {problem}"));
            }
        }
        let _ = send(&client, "DELETE", &format!("/api/v1/namespaces/{}", *NAMESPACE), &json!({})).await;
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// An object without what its controllers write. A write by our field manager shows in its time.
fn ours(mut object: Value) -> Value {
    object["status"] = Value::Null;
    object["metadata"]["resourceVersion"] = Value::Null;
    let annotations = object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    object["metadata"]["annotations"] =
        annotations.into_iter().filter(|(name, _)| !name.starts_with("deployment.kubernetes.io/")).collect();
    let fields = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    object["metadata"]["managedFields"] = fields.into_iter().filter(|f| f["manager"] == "smallfirst-test").collect();
    object
}

/// Pod Security judges pods, not Deployments: makes a pod of the template, by dry-run.
async fn run_as_pod(client: &kube::Client, deployment: &Desired) -> Result<(), kube::Error> {
    let mut pod = deployment.body["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = deployment.name.clone().into();
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All&fieldValidation=Strict", *NAMESPACE);
    send(client, "POST", &path, &pod).await.map(drop)
}
