//! A newer operator with a renderer that was changed on purpose: no pod of a tier whose spec did not change restarts.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use smallfirst::api::model_tier::Pool;
use smallfirst::operator::plan::Renderer;
use smallfirst::routing::table;

use super::*;

/// What a newer version might make of the same spec.
fn render(tier: &ModelTier, pool: &Pool, entry: &table::Tier) -> PodTemplateSpec {
    let mut template = plan::render(tier, pool, entry);
    template.spec.as_mut().unwrap().termination_grace_period_seconds = Some(GRACE);
    template
}

const GRACE: i64 = 77;

fn newer() -> Settings {
    Settings { renderer: Renderer { version: "newer", render }, ..settings() }
}

async fn start(wire: &Wire, namespace: &str, settings: Settings) -> Running {
    Running::start_with(wire.client().await, Some(namespace.to_owned()), Leader::default(), settings).await
}

/// UIDs of the pods of a tier, sorted.
async fn pods(client: &Client, namespace: &str) -> Vec<String> {
    let labels = ListParams::default().labels("smallfirst.dev/tier=small");
    let list = Api::<Pod>::namespaced(client.clone(), namespace).list_metadata(&labels).await.unwrap();
    let mut uids: Vec<String> = list.items.iter().filter_map(ResourceExt::uid).collect();
    uids.sort();
    uids
}

#[test]
fn a_newer_renderer_restarts_no_pod_of_a_spec_that_did_not_change() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "pinned").await;
        let wire = Wire::default();
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), &ns);
        let grace = || async {
            let deployment = deployments.get_opt("small-pool").await.unwrap()?;
            deployment.spec?.template.spec?.termination_grace_period_seconds
        };
        let names = || async {
            let list = revisions.list(&ListParams::default()).await.unwrap().items;
            list.into_iter().map(|r| (r.revision, r.name_any())).collect::<std::collections::BTreeMap<_, _>>()
        };

        let old = start(&wire, &ns, settings()).await;
        create(&client, &ns, &tier(&ns, "small")).await;
        let before = until("the pod", || async {
            let pods = pods(&client, &ns).await;
            (pods.len() == 1).then_some(pods)
        })
        .await;
        // The schema's default comes first.
        let told = || async { tiers.get("small").await.unwrap().status?.current_revision };
        let status = until("the status", told).await;
        let first = names().await.remove(&1).unwrap();
        assert_eq!(status, first);
        pause(1000).await;
        old.stop().await;
        wire.take();

        let new = start(&wire, &ns, newer()).await;
        pause(3000).await;
        assert_eq!(wire.take(), Vec::<String>::new(), "an upgrade");
        // Not even when the rest of the Deployment changes.
        let scale = json!({"spec": {"pool": {"replicas": 2}}});
        tiers.patch("small", &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
        let after = until("the second pod", || async {
            let pods = pods(&client, &ns).await;
            (pods.len() == 2).then_some(pods)
        })
        .await;
        assert!(before.iter().all(|pod| after.contains(pod)), "{before:?} {after:?}");
        assert_ne!(grace().await, Some(GRACE));

        // A new spec is rendered by the new version; the one before, when it comes back, is what it was.
        let args = |args: &str| json!({"spec": {"pool": {"args": [args]}}});
        tiers.patch("small", &PatchParams::default(), &Patch::Merge(&args("--new"))).await.unwrap();
        until("the new template", || async { (grace().await == Some(GRACE)).then_some(()) }).await;
        assert_eq!(names().await.len(), 2);
        tiers.patch("small", &PatchParams::default(), &Patch::Merge(&args("--flag"))).await.unwrap();
        until("the template before", || async { (grace().await != Some(GRACE)).then_some(()) }).await;
        assert_eq!(names().await.len(), 2);

        // Who wants the newer rendering deletes the stored one.
        revisions.delete(&first, &DeleteParams::default()).await.unwrap();
        until("the new rendering", || async { (grace().await == Some(GRACE)).then_some(()) }).await;
        assert_eq!(names().await.get(&3), Some(&first));
        new.stop().await;
    });
}
