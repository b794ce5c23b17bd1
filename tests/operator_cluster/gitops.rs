//! What a person or a GitOps tool does with kubectl and helm, beside a running operator: what is there already is no
//! difference, an upgrade without a change writes nothing, and uninstalling leaves what serves.

use std::process::Command;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRole;

use super::*;

const SAMPLE: &str = include_str!("../../deploy/samples/quickstart.yaml");

/// What a program of PATH said; None, said aloud, where it is missing. Fails with what it said when it fails.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn run(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("KUBECONFIG", std::env::var_os("SMALLFIRST_TEST_KUBECONFIG").unwrap());
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {}: {said} {complaint}", args.join(" "));
            Some(said)
        }
        Err(error) => {
            eprintln!("skipped, because {program} can't be run: {error}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
            None
        }
    }
}

/// Kind, name and version of every object of a release, as the API server has them.
fn versions(release: &str, namespace: &str) -> String {
    let file = std::env::temp_dir().join(format!("{release}-{}.yaml", std::process::id()));
    std::fs::write(&file, run("helm", &["get", "manifest", release, "--namespace", namespace]).unwrap()).unwrap();
    let format = "{range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let get = ["get", "-f", file.to_str().unwrap(), "-o", &format!("jsonpath={format}")];
    let found = run("kubectl", &get).unwrap();
    std::fs::remove_file(file).unwrap();
    found
}

#[test]
fn nothing_differs_upgrades_write_nothing_and_uninstalling_leaves_what_serves() {
    let _alone = alone();
    server::with_server(|client| async move {
        let release = namespace(&client, "release").await;
        let ns = namespace(&client, "gitops").await;
        let upgrade = |chart: &str| {
            let folder = format!("charts/{chart}");
            // The definitions of the test cluster are older than this release.
            run("helm", &["upgrade", "--install", chart, &folder, "--namespace", &release, "--take-ownership"])
        };
        if upgrade("smallfirst-crds").is_none() {
            return;
        }
        upgrade("smallfirst");
        let sample = std::env::temp_dir().join(format!("{ns}.yaml"));
        std::fs::write(&sample, SAMPLE.replace("namespace: ai", &format!("namespace: {ns}"))).unwrap();
        let sample = sample.to_str().unwrap();
        run("kubectl", &["apply", "-f", sample]);
        let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), &ns);
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        // No tool takes a fresh object for one that is done.
        let fresh = condition(&policies.get("assistants").await.unwrap(), "Ready").unwrap();
        assert_eq!((&fresh["status"], &fresh["reason"]), (&json!("Unknown"), &json!("Pending")));
        let running = Running::start(&Wire::default(), &ns).await;
        until("the policy", || async {
            let found = condition(&policies.get("assistants").await.unwrap(), "ResolvedRefs")?;
            (found["status"] == "True").then_some(())
        })
        .await;
        for name in ["compact-pool", "assistants-router"] {
            until(name, || async { deployments.get_opt(name).await.unwrap() }).await;
        }

        // `kubectl diff` ends with 1 where something differs.
        run("kubectl", &["diff", "-f", sample]);
        let again = run("kubectl", &["apply", "-f", sample]).unwrap();
        assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
        // As Flux and Argo CD do it.
        let flux = ["--server-side", "--field-manager=flux", "-f", sample];
        let applied = || run("kubectl", &[&["apply", "--output=jsonpath={..resourceVersion}"], &flux[..]].concat());
        let versions_before = applied();
        run("kubectl", &[&["diff"], &flux[..]].concat());
        assert_eq!(applied(), versions_before, "applied again");

        for (chart, has) in
            [("smallfirst-crds", "CustomResourceDefinition modeltiers"), ("smallfirst", "Deployment smallfirst ")]
        {
            let before = versions(chart, &release);
            assert!(before.contains(has), "{before}");
            upgrade(chart);
            assert_eq!(versions(chart, &release), before, "an upgrade that changes nothing");
        }

        // The operator goes first, as helm does it; nobody is left who could take a finalizer away.
        running.stop().await;
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let role = format!("{release}-smallfirst-operator");
        assert!(roles.get_opt(&role).await.unwrap().is_some());
        for chart in ["smallfirst", "smallfirst-crds"] {
            run("helm", &["uninstall", chart, "--namespace", &release, "--wait", "--timeout", "60s"]);
        }
        assert!(roles.get_opt(&role).await.unwrap().is_none());
        assert!(policies.get("assistants").await.unwrap().metadata.deletion_timestamp.is_none());
        assert_eq!(tiers.list(&ListParams::default()).await.unwrap().items.len(), 2);
        for name in ["compact-pool", "assistants-router"] {
            assert!(deployments.get(name).await.unwrap().metadata.deletion_timestamp.is_none(), "{name}");
        }
        let own: Api<Deployment> = Api::namespaced(client.clone(), &release);
        assert_eq!(own.list(&ListParams::default()).await.unwrap().items.len(), 0);

        // And without an operator the resources go too, and take their children along.
        run("kubectl", &["delete", "-f", sample, "--timeout=60s"]);
        until("the children to go", || async {
            deployments.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
        })
        .await;
        run("kubectl", &["delete", "namespace", &ns, "--timeout=60s"]);
        std::fs::remove_file(sample).unwrap();
    });
}

#[test]
fn health_checks_for_argo_cd_leave_its_other_settings() {
    let _alone = alone();
    server::with_server(|client| async move {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        if namespaces.get_opt("argocd").await.unwrap().is_none() {
            let object = serde_json::from_value(json!({"metadata": {"name": "argocd"}})).unwrap();
            namespaces.create(&PostParams::default(), &object).await.unwrap();
        }
        let settings: Api<ConfigMap> = Api::namespaced(client.clone(), "argocd");
        let params = PatchParams::apply("argocd").force();
        let theirs = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"},
            "data": {"url": "https://argocd.example.com"},
        });
        settings.patch("argocd-cm", &params, &Patch::Apply(&theirs)).await.unwrap();
        if run("kubectl", &["apply", "--server-side", "-k", "deploy/argocd"]).is_none() {
            return;
        }
        let data = settings.get("argocd-cm").await.unwrap().data.unwrap();
        let script = include_str!("../../deploy/argocd/health.lua");
        let keys = ["EscalationPath", "ModelTier", "RoutingPolicy"]
            .map(|kind| format!("resource.customizations.health.smallfirst.dev_{kind}"));
        for key in &keys {
            assert_eq!(data[key], script, "{key}");
        }
        assert_eq!(data["url"], "https://argocd.example.com");
        assert_eq!(data.len(), 4, "{:?}", data.keys());
    });
}
