//! The charts as helm renders them, and the generated files beside them.
//!
//! helm comes from PATH (`make test` puts the cluster tool's there); without it these tests say that they are skipped.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use serde_json::Value;
use smallfirst::api::crd;
use smallfirst::operator::metrics::Metrics as OperatorMetrics;
use smallfirst::router::admission::limiter::Kind;
use smallfirst::router::metrics::{Metrics as RouterMetrics, ReloadLabels};
use smallfirst::router::retry_budget::RetryBudget;
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
    render_in("smallfirst-system", &["--skip-tests"], settings)
}

fn render_in(namespace: &str, flags: &[&str], settings: &[&str]) -> Option<Vec<Value>> {
    let mut args = vec!["template", "smallfirst", "charts/smallfirst", "--namespace", namespace];
    args.extend(flags);
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
fn pods_satisfy_restricted() {
    let Some(objects) = render_in("smallfirst-system", &[], &[]) else { return };
    for pod in [&of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"], &of_kind(&objects, "Pod")[0]["spec"]] {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().expect("containers") {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"]["drop"][0], "ALL");
        }
    }
}

/// `helm test` asks the operator: its Service selects the operator's pods and not its own.
#[test]
fn the_test_pod_asks_the_operators_readiness() {
    let Some(objects) = render_in("somewhere", &[], &[]) else { return };
    let is_test = |object: &&Value| object["metadata"]["annotations"]["helm.sh/hook"] == "test";
    let [service, pod] = objects.iter().filter(is_test).collect::<Vec<_>>()[..] else { panic!("two hooks") };
    let operator = &of_kind(&objects, "Deployment")[0]["spec"];
    assert_eq!(service["spec"]["selector"], operator["selector"]["matchLabels"]);
    assert_ne!(
        pod["metadata"]["labels"]["app.kubernetes.io/component"],
        service["spec"]["selector"]["app.kubernetes.io/component"]
    );
    let [ours, theirs] = [&pod["spec"], &operator["template"]["spec"]].map(|pod| &pod["containers"][0]);
    assert_eq!(ours["image"], theirs["image"]);
    assert_eq!(ours["args"], serde_json::json!(["probe", "http://smallfirst-test.somewhere:9090/readyz"]));
    assert_eq!(theirs["readinessProbe"]["httpGet"]["path"], "/readyz");
}

#[test]
fn several_operators_are_drained_one_at_a_time() {
    let (Some(one), Some(two)) = (render(&[]), render(&["replicas=2"])) else { return };
    assert!(of_kind(&one, "PodDisruptionBudget").is_empty());
    let budget = &of_kind(&two, "PodDisruptionBudget")[0]["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    assert_eq!(budget["selector"], of_kind(&two, "Deployment")[0]["spec"]["selector"]);
}

#[test]
fn monitoring_is_an_option_and_selects_what_there_is() {
    let Some(objects) = render(&[]) else { return };
    let kinds = ["PodMonitor", "ServiceMonitor", "PrometheusRule"];
    assert!(objects.iter().all(|object| kinds.iter().all(|kind| object["kind"] != *kind)));

    let Some(objects) = render(&["metrics.podMonitor.enabled=true", "metrics.podMonitor.labels.release=prom"]) else {
        return;
    };
    let [operator, routers] = of_kind(&objects, "PodMonitor")[..] else { panic!("two monitors") };
    assert_eq!(operator["spec"]["selector"], of_kind(&objects, "Deployment")[0]["spec"]["selector"]);
    assert_eq!(routers["spec"]["selector"]["matchLabels"], serde_json::json!({"smallfirst.dev/component": "router"}));
    assert_eq!(routers["spec"]["namespaceSelector"], serde_json::json!({"any": true}));
    assert_eq!(routers["metadata"]["labels"]["release"], "prom");

    let settings = ["metrics.podMonitor.enabled=true", "metrics.serviceMonitor.enabled=true", "watchNamespace=ai"];
    let Some(objects) = render(&settings) else { return };
    // The operator is read once.
    let [routers] = of_kind(&objects, "PodMonitor")[..] else { panic!("one monitor") };
    assert_eq!(routers["spec"]["namespaceSelector"], serde_json::json!({"matchNames": ["ai"]}));
    let wanted = of_kind(&objects, "ServiceMonitor")[0]["spec"]["selector"]["matchLabels"].clone();
    let matches = |service: &Value| {
        let labels = service["metadata"]["labels"].as_object().expect("labels");
        wanted.as_object().expect("labels").iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let found: Vec<_> = of_kind(&objects, "Service").into_iter().filter(|service| matches(service)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["spec"]["ports"][0]["name"], "admin");
}

/// The words of `values.schema.json` and the values are the same, and every value is described.
#[test]
fn every_value_has_a_place_in_the_schema() {
    fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(target) => root.pointer(target.trim_start_matches('#')).expect("a definition"),
            None => schema,
        }
    }
    fn walk(path: &str, root: &Value, schema: &Value, values: &Value) {
        let described = schema.get("description").or_else(|| resolve(root, schema).get("description"));
        assert!(path.is_empty() || described.is_some(), "{path}: no description");
        let schema = resolve(root, schema);
        let Some(fields) = schema["properties"].as_object() else { return };
        assert_eq!(schema["additionalProperties"], false, "{path}");
        for (name, field) in fields.iter().filter(|(name, _)| *name != "global") {
            let value = values.get(name).unwrap_or_else(|| panic!("{path}.{name}: not in values.yaml"));
            walk(&format!("{path}.{name}"), root, field, value);
        }
        for name in values.as_object().into_iter().flat_map(serde_json::Map::keys) {
            assert!(fields.contains_key(name), "{path}.{name}: not in values.schema.json");
        }
    }
    let read = |file: &str| std::fs::read_to_string(format!("{ROOT}/charts/smallfirst/{file}")).expect("a file");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    walk("", &schema, &schema, &yaml::documents(&read("values.yaml")).expect("YAML")[0]);
}

#[test]
fn the_image_is_built_with_the_toolchain_of_the_tests() {
    let read = |file: &str| std::fs::read_to_string(format!("{ROOT}/{file}")).expect("a file");
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.split('"').nth(1).expect("a channel");
    assert!(read("Dockerfile").contains(&format!("FROM rust:{version}-bookworm AS build\n")), "{version}");
}

/// `tests/gitops` holds the dashboard and the alerts against this list: name, then labels.
#[test]
fn the_list_of_metrics_is_what_the_processes_say() {
    let (mut router, mut operator) = (Registry::default(), Registry::default());
    let metrics = RouterMetrics::new(&mut router);
    // Metrics with labels show once something was counted.
    drop((
        metrics.workload("w", std::iter::once("t")),
        metrics.hedges("w"),
        metrics.leg("w", "s", "t", std::iter::empty()),
        metrics.gives_way("w", "s", 1.0),
        metrics.moves("w", "s"),
    ));
    drop((metrics.retries("t", Arc::new(RetryBudget::new(Instant::now()))), metrics.account("a", [])));
    drop((metrics.lease("account", "a", Kind::Requests), metrics.store("a")));
    metrics.reloads.get_or_create(&ReloadLabels { result: "loaded" }).inc();
    let metrics = OperatorMetrics::default();
    metrics.register(&mut operator);
    metrics.reconcile("k", "ok", Duration::ZERO);
    metrics.write("k", "create");
    metrics.watch_errors("k");
    metrics.set_malformed("k", 0);
    metrics.set_concurrency([(("n".to_owned(), "t".to_owned()), 0.0)]);
    let mut list = BTreeSet::new();
    for registry in [router, operator] {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        list.extend(text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let series = line.rsplit_once(' ').expect("a value").0;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
            names.fold(name.to_owned(), |line, label| format!("{line} {label}"))
        }));
    }
    let list: String = list.into_iter().map(|line| line + "\n").collect();
    let file = format!("{ROOT}/tests/gitops/metrics.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &list).expect("a file");
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(kept, list, "stale: run 'UPDATE_GOLDEN=1 cargo test --test chart' and commit");
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
fn autoscalers_read_from_the_operator_when_asked_to() {
    let Some(objects) = render(&[]) else { return };
    assert!(of_kind(&objects, "APIService").is_empty(), "a cluster has one: it may be another's");
    let named = |objects: &[Value], name: &str| {
        of_kind(objects, "Service").into_iter().find(|service| service["metadata"]["name"] == name).cloned()
    };
    assert!(named(&objects, "smallfirst-metrics-api").is_none() && named(&objects, "smallfirst-scaler").is_none());

    let Some(objects) = render(&["metricsApi.enabled=true", "scaler.enabled=true"]) else { return };
    let operator = &of_kind(&objects, "Deployment")[0]["spec"];
    let container = &operator["template"]["spec"]["containers"][0];
    let listens = |name: &str, port: u16| {
        let ports = container["ports"].as_array().expect("ports");
        ports.iter().any(|each| each["name"] == name && each["containerPort"] == port)
    };
    let told = |flag: &str| container["args"].as_array().expect("args").iter().any(|arg| arg == flag);
    assert!(listens("metrics-api", 6443) && told("--metrics-api-service=smallfirst-metrics-api"), "{container}");
    assert!(listens("scaler", 9444) && told("--scaler-listen=0.0.0.0:9444"), "{container}");
    for (name, port, target) in [("smallfirst-metrics-api", 443, "metrics-api"), ("smallfirst-scaler", 9444, "scaler")]
    {
        let service = named(&objects, name).expect("a service");
        assert_eq!(service["spec"]["selector"], operator["selector"]["matchLabels"]);
        let only = &service["spec"]["ports"][0];
        assert_eq!((&only["port"], &only["targetPort"]), (&port.into(), &target.into()));
    }
    let [api] = of_kind(&objects, "APIService")[..] else { panic!("one APIService") };
    let service = serde_json::json!({"name": "smallfirst-metrics-api", "namespace": "smallfirst-system", "port": 443});
    assert_eq!(api["spec"]["service"], service);
    assert!(api["spec"].get("insecureSkipTLSVerify").is_none() && api["spec"].get("caBundle").is_none(), "{api}");
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
fn the_operator_is_told_who_scales_pools() {
    for (settings, told) in [(&[][..], "HorizontalPodAutoscaler"), (&["scaling.autoscaler=External"], "External")] {
        let Some(objects) = render(settings) else { return };
        let args = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"];
        let told = format!("--autoscaler={told}");
        assert!(args.as_array().expect("args").iter().any(|arg| *arg == told), "{args}");
    }
}

#[test]
fn values_that_do_not_exist_are_refused() {
    for (setting, named) in [
        ("scaling.autoscaler=Knative", "autoscaler"),
        ("bogus=1", "bogus"),
        ("image.tga=x", "tga"),
        ("replicas=-1", "replicas"),
        ("watchNamespace=UPPER", "watchNamespace"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("metrics.podMonitor.interval=often", "interval"),
        ("metrics.rules.enabled=maybe", "enabled"),
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
fn the_kustomize_bases_are_what_the_chart_renders() {
    let monitoring =
        ["metrics.podMonitor.enabled=true", "metrics.rules.enabled=true", "metrics.dashboard.enabled=true"];
    let only = ["monitors", "rules", "dashboard"].map(|name| format!("--show-only=templates/{name}.yaml"));
    let only: Vec<&str> = only.iter().map(String::as_str).collect();
    for (file, objects) in [
        ("operator/operator", render(&[])),
        ("overlays/one-namespace/operator", render_in("ai", &["--skip-tests"], &["watchNamespace=ai"])),
        ("monitoring/monitoring", render_in("smallfirst-system", &only, &monitoring)),
    ] {
        let Some(objects) = objects else { return };
        let text = std::fs::read_to_string(format!("{ROOT}/deploy/{file}.yaml")).expect("a file");
        let kept = yaml::documents(&text).expect("YAML");
        assert!(objects == kept, "deploy/{file}.yaml is stale: run 'make manifests' and commit");
    }
}

/// Nothing random or timed is rendered: an upgrade without a change changes nothing, and Argo CD sees no drift.
#[test]
fn rendering_twice_gives_the_same() {
    let (Some(first), Some(second)) = (render(&[]), render(&[])) else { return };
    assert_eq!(first, second);
}
