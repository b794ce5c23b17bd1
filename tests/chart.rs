//! The charts as helm renders them, and the generated files beside them.
//!
//! helm comes from PATH (`make test` puts the cluster tool's there); without it these tests say that they are skipped.

use std::process::{Command, Output};

use serde_json::Value;
use smallfirst::api::crd;
use smallfirst::yaml;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs helm in the project's folder; None, said aloud, where there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn helm(args: &[&str]) -> Option<Output> {
    match Command::new("helm").args(args).current_dir(ROOT).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped, because helm can't be run: {error}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
            None
        }
    }
}

/// What the chart renders with these settings, in the order of its output.
fn render(settings: &[&str]) -> Option<Vec<Value>> {
    let mut args = vec!["template", "smallfirst", "charts/smallfirst", "--namespace", "smallfirst-system"];
    for setting in settings {
        args.extend(["--set", setting]);
    }
    let output = helm(&args)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(yaml::documents(&String::from_utf8(output.stdout).expect("UTF-8")).expect("YAML"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Rules of every role in the output.
fn rules(objects: &[Value]) -> Vec<&Value> {
    let roles = objects.iter().filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole");
    roles.flat_map(|role| role["rules"].as_array().expect("rules")).collect()
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    rule[field].as_array().expect("a list").iter().any(|value| value == wanted)
}

#[test]
fn the_operator_may_touch_one_secret_of_its_own_and_no_rule_has_a_wildcard() {
    for settings in [&[][..], &["watchNamespace=ai"]] {
        let Some(objects) = render(settings) else { return };
        for role in objects.iter().filter(|object| object["kind"] == "Role" || object["kind"] == "ClusterRole") {
            let rules = role["rules"].as_array().expect("rules");
            for rule in rules.iter().filter(|rule| has(rule, "resources", "secrets")) {
                assert_eq!(role["metadata"]["namespace"], "smallfirst-system", "{rule}");
                // Who creates can't be told the name beforehand.
                let creates = rule["verbs"] == serde_json::json!(["create"]);
                assert!(creates || rule["resourceNames"] == serde_json::json!(["smallfirst-sync-ca"]), "{rule}");
            }
        }
        for rule in rules(&objects) {
            for field in ["apiGroups", "resources", "verbs"] {
                assert!(!has(rule, field, "*"), "{rule}");
            }
        }
    }
}

#[test]
fn the_pod_satisfies_restricted() {
    let Some(objects) = render(&[]) else { return };
    let deployments = of_kind(&objects, "Deployment");
    let pod = &deployments[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().expect("containers") {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
    }
}

#[test]
fn one_namespace_needs_no_cluster_role_but_to_review_tokens() {
    let Some(objects) = render(&["watchNamespace=ai"]) else { return };
    let roles = of_kind(&objects, "ClusterRole");
    let rule = serde_json::json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]);
    assert!(roles.len() == 1 && roles[0]["rules"] == rule, "{roles:?}");
    assert_eq!(of_kind(&objects, "ClusterRoleBinding").len(), 1);
    let args = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(args.as_array().expect("args").iter().any(|arg| arg == "--namespace=ai"), "{args}");
    let namespaces: Vec<_> =
        of_kind(&objects, "Role").iter().map(|role| role["metadata"]["namespace"].clone()).collect();
    assert_eq!(namespaces, ["ai", "smallfirst-system"]);
}

/// Routers find every operator pod by a name that the operator is told.
#[test]
fn routers_find_the_operators_by_a_headless_service() {
    let Some(objects) = render(&[]) else { return };
    let services = of_kind(&objects, "Service");
    let service = services.iter().find(|s| s["metadata"]["name"] == "smallfirst-sync").expect("a service");
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["port"]), (&"None".into(), &9443.into()));
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().expect("args");
    let address = "--sync-address=smallfirst-sync.smallfirst-system.svc:9443";
    assert!(args.iter().any(|arg| arg == address), "{args:?}");
    assert!(container["ports"].as_array().expect("ports").iter().any(|port| port["containerPort"] == 9443));
}

#[test]
fn the_operators_image_is_the_routers() {
    let Some(objects) = render(&["image.repository=registry.example/sf", "image.tag=v9"]) else { return };
    let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/sf:v9");
    let args = container["args"].as_array().expect("args");
    assert!(args.iter().any(|arg| arg == "--router-image=registry.example/sf:v9"), "{args:?}");
}

#[test]
fn values_that_do_not_exist_are_refused() {
    for (setting, named) in [
        ("bogus=1", "bogus"),
        ("image.tga=x", "tga"),
        ("replicas=-1", "replicas"),
        ("watchNamespace=UPPER", "watchNamespace"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
    ] {
        let Some(output) = helm(&["template", "x", "charts/smallfirst", "--set", setting]) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(named), "{setting}: {said}");
    }
}

#[test]
fn the_definitions_reach_the_cluster_as_the_types_have_them_and_stay() {
    let Some(output) = helm(&["template", "x", "charts/smallfirst-crds"]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rendered = yaml::documents(&String::from_utf8(output.stdout).expect("UTF-8")).expect("YAML");
    for crd in &mut rendered {
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        crd["metadata"].as_object_mut().expect("metadata").remove("annotations");
    }
    let mut wanted = crd::all();
    for list in [&mut rendered, &mut wanted] {
        list.sort_by_key(|crd| crd["metadata"]["name"].to_string());
    }
    assert!(rendered == wanted, "charts/smallfirst-crds is not what the types say: run 'make crds' and commit");
}

#[test]
fn the_kustomize_base_is_what_the_types_say() {
    for crd in crd::all() {
        let plural = crd["spec"]["names"]["plural"].as_str().expect("a plural");
        let path = format!("{ROOT}/deploy/crds/{plural}.yaml");
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(yaml::documents(&text).expect("YAML") == [crd], "{path} is stale: run 'make crds' and commit");
    }
}

#[test]
fn the_kustomize_base_is_what_the_chart_renders() {
    let Some(objects) = render(&[]) else { return };
    let text = std::fs::read_to_string(format!("{ROOT}/deploy/operator/operator.yaml")).expect("a file");
    let kept = yaml::documents(&text).expect("YAML");
    assert!(objects == kept, "deploy/operator is stale: run 'make manifests' and commit");
}

/// Nothing random or timed is rendered: an upgrade without a change changes nothing, and Argo CD sees no drift.
#[test]
fn rendering_twice_gives_the_same() {
    let (Some(first), Some(second)) = (render(&[]), render(&[])) else { return };
    assert_eq!(first, second);
}
