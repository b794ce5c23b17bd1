//! What the operator makes for routers, as routers use it.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::RoleBinding;
use smallfirst::api::types::SecretKeyRef;
use smallfirst::router::control::Standing;
use smallfirst::router::secret_problem::SecretProblem;
use smallfirst::routing::RoutingTable;
use smallfirst::routing::source::{configmap, endpoints};
use smallfirst::routing::table::Backend;
use smallfirst::runtime::problems::{self, Pace};

use super::*;

/// A client that is a ServiceAccount, by one of its tokens.
pub async fn client_of(client: &Client, namespace: &str, account: &str) -> Client {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = server::send(client, "POST", &path, &request).await.unwrap();
    let path = std::env::var_os("SMALLFIRST_TEST_KUBECONFIG").unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await.unwrap();
    config.auth_info = kube::config::AuthInfo {
        token: Some(answer["status"]["token"].as_str().unwrap().to_owned().into()),
        ..kube::config::AuthInfo::default()
    };
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

#[test]
fn a_router_tells_a_missing_secret_on_its_policy_with_its_own_rights() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "secret").await;
        let running = Running::start(&Wire::default(), &ns).await;
        create(&client, &ns, &tier(&ns, "small")).await;
        let (path, policy) = route(&ns, "small");
        create(&client, &ns, &path).await;
        create(&client, &ns, &policy).await;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        until("the routers", || async { deployments.get_opt("front-router").await.unwrap() }).await;
        let router = client_of(&client, &ns, "front-router").await;
        let secret = SecretKeyRef { name: "keys".into(), key: "finance".into() };
        let problem = SecretProblem::absent("RoutingPolicy front: spec.clients[finance].apiKey.secretKeyRef", &secret);
        let (sender, problems) = watch::channel(Standing { problems: vec![problem], ..Standing::default() });
        let tick = Duration::from_millis(200);
        let pace = Pace { grace: tick, again: tick, retry: tick };
        for _ in 0..2 {
            tokio::spawn(problems::tell(router.clone(), ns.clone(), "front".into(), problems.clone(), pace));
        }
        let table = configmap::follow(router, &ns, "front-table", None).wait_for(Option::is_some).await.map(drop);
        assert!(table.is_ok());
        let events: Api<Event> = Api::namespaced(client.clone(), &ns);
        let warnings = ListParams::default().fields("reason=SecretNotFound");
        until("the event", || async { events.list(&warnings).await.unwrap().items.pop() }).await;
        pause(1000).await;
        let found = events.list(&warnings).await.unwrap().items;
        assert_eq!(found.len(), 1, "{found:#?}");
        let note = found[0].note.as_deref().unwrap();
        assert!(note.contains("spec.clients[finance].apiKey.secretKeyRef: Secret keys has no key finance"), "{note}");
        let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), &ns);
        let regarding = found[0].regarding.as_ref().unwrap();
        assert_eq!(regarding.uid, policies.get("front").await.unwrap().metadata.uid);
        assert_eq!(regarding.name.as_deref(), Some("front"));
        drop(sender);
        running.stop().await;
    });
}

#[test]
fn a_port_of_a_service_with_several_is_found_in_its_endpoints() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "ports").await;
        let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": 8000});
        let service = json!({
            "metadata": {"name": "theirs", "namespace": ns},
            "spec": {"ports": [port("metrics", 9090), port("chat", 80)]},
        });
        create(&client, &ns, &serde_json::from_value::<Service>(service).unwrap()).await;
        let port = |name: &str, port: u16| json!({"name": name, "port": port});
        let slice = json!({
            "metadata": {"name": "theirs-1", "namespace": ns, "labels": {"kubernetes.io/service-name": "theirs"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}],
            "ports": [port("metrics", 9091), port("chat", 8000)],
        });
        create(&client, &ns, &serde_json::from_value::<EndpointSlice>(slice).unwrap()).await;
        let running = Running::start(&Wire::default(), &ns).await;
        let mut served = tier(&ns, "small");
        served.spec.pool = None;
        served.spec.service = serde_json::from_value(json!({"serviceRef": {"name": "theirs", "port": 80}})).unwrap();
        create(&client, &ns, &served).await;
        let (path, policy) = route(&ns, "small");
        create(&client, &ns, &path).await;
        create(&client, &ns, &policy).await;
        let tables: Api<ConfigMap> = Api::namespaced(client.clone(), &ns);
        let table = until("the table", || async { tables.get_opt("front-table").await.unwrap() }).await;
        let table: RoutingTable = serde_json::from_str(&table.data.unwrap()["table.json"]).unwrap();
        let Backend::Service { name, port_name, .. } = &table.tiers["small"].backend else { panic!("{table:?}") };
        let accounts: Api<RoleBinding> = Api::namespaced(client.clone(), &ns);
        until("the rights", || async { accounts.get_opt("front-router").await.unwrap() }).await;
        let mut addresses = endpoints::follow(client_of(&client, &ns, "front-router").await, &ns);
        let seen = addresses.wait_for(|seen| !seen.is_empty()).await.unwrap();
        let found = seen.get(&(ns.clone(), name.clone(), port_name.clone().unwrap()));
        assert_eq!(found, Some(&vec!["192.0.2.7:8000".parse().unwrap()]), "{seen:?}");
        drop(seen);
        running.stop().await;
    });
}
