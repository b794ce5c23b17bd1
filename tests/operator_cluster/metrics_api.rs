//! The metrics API behind a real API server's aggregation layer, read by the real controller of HorizontalPodAutoscalers.
//!
//! The control plane has no network of services: a Service of type ExternalName leads to the test's process.

use std::net::SocketAddr;
use std::process::Command;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use smallfirst::operator::metrics_api::access::Access;
use smallfirst::operator::metrics_api::registration::Registration;
use smallfirst::operator::metrics_api::server::Server;
use smallfirst::operator::metrics_api::trust::Trust;
use smallfirst::operator::observe::Availability;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::routers::client_of;
use super::sync::{Fleet, Listening, portfolio, ready, says};
use super::*;

const APISERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io";
const SERVICE: &str = "smallfirst-metrics-api";
const VERSION: &str = "/apis/external.metrics.k8s.io/v1beta1";

fn value_path(ns: &str) -> String {
    let selector = "labelSelector=smallfirst.dev%2Ftier%3Dsmall";
    format!("{VERSION}/namespaces/{ns}/smallfirst_tier_concurrency?{selector}")
}

/// The APIService, and the Service that it names.
pub async fn register(client: &Client, release: &str, port: u16) {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": SERVICE, "namespace": release}, "spec": {"type": "ExternalName", "externalName": "localhost"},
    }))
    .unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), release);
    services.patch(SERVICE, &PatchParams::apply("test").force(), &Patch::Apply(&service)).await.unwrap();
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {
            "group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"name": SERVICE, "namespace": release, "port": port},
        },
    });
    server::send(client, "PATCH", &format!("{APISERVICE}?fieldManager=test&force=true"), &object).await.unwrap();
}

pub async fn unregister(client: &Client) {
    server::send(client, "DELETE", APISERVICE, &json!({})).await.unwrap();
}

/// Serves the metrics API of an operator, until that stops.
pub async fn serve(operator: &mut Listening, client: &Client, release: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (world, leader) = (Arc::clone(&operator.world), operator.leader.clone());
    let trust = Arc::new(Trust::new(client.clone(), Arc::clone(&operator.certificate)));
    let (access, service) = (Access::new(client.clone()), (release.to_owned(), SERVICE.to_owned()));
    let api = Server { world: Arc::clone(&world), access, trust: Arc::clone(&trust) };
    let queue = Arc::clone(&operator.queue);
    let registration = Registration::new(client.clone(), leader, world, queue, service, operator.sync.clone());
    operator.tasks.spawn(Arc::clone(&trust).run());
    operator.tasks.spawn(registration.run());
    operator.tasks.spawn(Arc::new(api).run(listener));
    until("the front proxy's authority", || async { trust.door().map(drop) }).await;
    address
}

/// Asks past the API server; the status of the answer and its body. `None`: it ended before.
pub async fn ask_directly(
    operator: &Listening,
    release: &str,
    at: SocketAddr,
    headers: &str,
    path: &str,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Option<(u16, String)> {
    let ca = operator.sync.borrow().clone().unwrap().ca;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let tls = ClientConfig::builder().with_root_certificates(roots);
    let tls = match identity {
        Some((chain, key)) => tls.with_client_auth_cert(chain, key).unwrap(),
        None => tls.with_no_client_auth(),
    };
    let name = ServerName::try_from(format!("{SERVICE}.{release}.svc")).unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A token of an account for the API server.
pub async fn token(client: &Client, ns: &str, account: &str) -> String {
    let path = format!("/api/v1/namespaces/{ns}/serviceaccounts/{account}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = server::send(client, "POST", &path, &request).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    server::send(client, "GET", path, &json!({})).await
}

/// Code and message of a refusal.
async fn refused(client: &Client, path: &str) -> (u16, String) {
    match get(client, path).await {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("{path}: {other:?}"),
    }
}

/// What `kubectl get --raw` prints; None, said aloud, where there is no kubectl.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
async fn raw(path: &str) -> Option<Value> {
    let kubeconfig = std::env::var_os("SMALLFIRST_TEST_KUBECONFIG").unwrap();
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(kubeconfig).args(["get", "--raw", path]);
    // In a thread of its own: it is this one that answers.
    match tokio::task::spawn_blocking(move || command.output()).await.unwrap() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(serde_json::from_slice(&output.stdout).unwrap())
        }
        Err(error) => {
            eprintln!("skipped, because kubectl can't be run: {error}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
            None
        }
    }
}

/// A namespace with a tier, a policy and one ready router, and an operator that serves the metrics API.
async fn start(client: &Client, wire: &Wire) -> (String, String, Listening, SocketAddr) {
    // A test that failed may have left it.
    let _ = server::send(client, "DELETE", APISERVICE, &json!({})).await;
    let (ns, release) = (namespace(client, "metrics").await, namespace(client, "metrics-release").await);
    let operators = wire.client().await;
    let mut operator = Listening::start(operators.clone(), &release, Some(ns.clone()), Leader::default()).await;
    portfolio(client, &ns).await;
    ready(client, &ns, &["r-0"]).await;
    let (tier, policy) = ((ns.clone(), "small".to_owned()), (ns.clone(), "front".to_owned()));
    until("the tier", || async { operator.world.tiers.get(&tier) }).await;
    until("the policy", || async { operator.world.policies.get(&policy) }).await;
    until("the ready router", || async { (!operator.world.slices.ids().is_empty()).then_some(()) }).await;
    let address = serve(&mut operator, &operators, &release).await;
    (ns, release, operator, address)
}

async fn availability(operator: &Listening, wanted: impl Fn(&Availability) -> bool) -> Availability {
    until("the metrics API", || async { Some(operator.world.metrics_api()).filter(&wanted) }).await
}

#[test]
fn an_autoscaler_scales_by_it_and_what_is_not_known_is_an_error() {
    let _alone = alone();
    server::with_server(|_| async move {
        let wire = Wire::default();
        // One that takes an error for an answer and does not try again.
        let client = wire.client().await;
        let (ns, release, operator, address) = start(&client, &wire).await;
        register(&client, &release, address.port()).await;
        availability(&operator, |seen| *seen == Availability::Available).await;

        // Discovery, in its three forms.
        let list = get(&client, VERSION).await.unwrap();
        assert_eq!(list["resources"][0]["name"], "smallfirst_tier_concurrency", "{list}");
        assert_eq!(get(&client, "/apis/external.metrics.k8s.io").await.unwrap()["versions"][0]["version"], "v1beta1");
        let all = until("discovery", || async {
            let groups = get(&client, "/apis").await.unwrap();
            let found = groups["groups"].as_array()?.iter().any(|group| group["name"] == "external.metrics.k8s.io");
            found.then_some(groups)
        });
        all.await;
        if let Some(list) = raw(VERSION).await {
            assert_eq!(list["kind"], "APIResourceList");
        }

        // Nobody has reported: an error, and the autoscaler leaves what it scales alone.
        let (code, message) = refused(&client, &value_path(&ns)).await;
        assert!(code == 503 && message.contains("router pod r-0 of RoutingPolicy"), "{code} {message}");
        let deployment = json!({
            "metadata": {"name": "load", "namespace": ns},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "load"}},
                "template": {
                    "metadata": {"labels": {"app": "load"}},
                    "spec": {"containers": [{"name": "c", "image": "registry.example/c:1"}]},
                },
            },
        });
        create(&client, &ns, &serde_json::from_value::<Deployment>(deployment).unwrap()).await;
        let selector = json!({"matchLabels": {"smallfirst.dev/tier": "small"}});
        let metric = json!({"name": "smallfirst_tier_concurrency", "selector": selector});
        let external = json!({"metric": metric, "target": {"type": "AverageValue", "averageValue": "1500m"}});
        let autoscaler = json!({
            "metadata": {"name": "load", "namespace": ns},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "load"},
                "minReplicas": 1, "maxReplicas": 10, "metrics": [{"type": "External", "external": external}],
            },
        });
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), &ns);
        create(&client, &ns, &serde_json::from_value::<HorizontalPodAutoscaler>(autoscaler).unwrap()).await;
        let message = until("the autoscaler's complaint", || async {
            let seen = condition(&autoscalers.get("load").await.unwrap(), "ScalingActive")?;
            (seen["status"] == "False").then(|| seen["message"].as_str().unwrap().to_owned())
        });
        let message = message.await;
        assert!(message.contains("router pod r-0 of RoutingPolicy"), "{message}");
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        let replicas = || async { deployments.get("load").await.unwrap().spec.unwrap().replicas };
        assert_eq!(replicas().await, Some(2));

        // Eight requests, one and a half a replica.
        let (world, at) = (Arc::clone(&operator.world), ns.clone());
        let reporting = tokio::spawn(async move {
            for sequence in 1.. {
                says(&world, &at, sequence, 8);
                pause(500).await;
            }
        });
        until("the first report", || async { get(&client, &value_path(&ns)).await.ok() }).await;
        let list = get(&client, &value_path(&ns)).await.unwrap();
        assert_eq!(list["items"][0]["metricLabels"]["smallfirst.dev/tier"], "small", "{list}");
        assert_eq!(list["items"][0]["value"], "8000m", "{list}");
        if let Some(list) = raw(&value_path(&ns)).await {
            assert_eq!(list["kind"], "ExternalMetricValueList");
        }
        until("six replicas", || async { (replicas().await == Some(6)).then_some(()) }).await;

        // What is asked for wrongly.
        for (path, code, part) in [
            (format!("{VERSION}/namespaces/{ns}/other"), 404, "no metric other"),
            (format!("{VERSION}/namespaces/{ns}/smallfirst_tier_concurrency"), 400, "labelSelector: must be"),
            (value_path(&ns).replace("small", "none").replace("nonefirst", "smallfirst"), 404, "ModelTier"),
        ] {
            let (found, message) = refused(&client, &path).await;
            assert!(found == code && message.contains(part), "{path}: {found} {message}");
        }
        reporting.abort();
        unregister(&client).await;
        operator.stop().await;
    });
}

#[test]
fn a_router_that_has_nobody_to_ask_wakes_its_tier() {
    let _alone = alone();
    server::with_server(|client| async move {
        let (ns, _, operator, _) = start(&client, &Wire::default()).await;
        let id = (ns.clone(), "small".to_owned());
        let fleet = Fleet::new(&client, &ns).await;
        let router = fleet.router("r-0").await;
        let concurrency = || operator.world.concurrency(&id, Instant::now());
        until("a report", || async { concurrency().ok() }).await;
        assert_eq!((concurrency(), operator.world.concurrency.last_wanted(&id)), (Ok(0.0), None));
        let mut stream = TcpStream::connect(router.traffic).await.unwrap();
        let body = r#"{"model":"chat","messages":[{"role":"user","content":"hello"}]}"#;
        let head =
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 50"), "{reply}");
        until("the demand", || async { operator.world.concurrency.last_wanted(&id) }).await;
        assert!(concurrency().is_ok_and(|requests| requests > 0.0), "{:?}", concurrency());
        operator.stop().await;
    });
}

#[test]
fn tiers_say_whether_their_autoscalers_can_read_it() {
    let _alone = alone();
    server::with_server(|client| async move {
        let wire = Wire::default();
        let (ns, release, operator, address) = start(&client, &wire).await;
        let mut scaled = tier(&ns, "scaled");
        let pool = scaled.spec.pool.as_mut().unwrap();
        pool.per_replica = Some(serde_json::from_value(json!({"concurrency": 4})).unwrap());
        pool.scaling = Some(serde_json::from_value(json!({"max": 3})).unwrap());
        create(&client, &ns, &scaled).await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let says = |status: &'static str, part: &'static str| {
            let tiers = tiers.clone();
            async move {
                until(part, || async {
                    let found = condition(&tiers.get("scaled").await.unwrap(), "ScalingActive")?;
                    let message = found["message"].as_str()?;
                    (found["status"] == status && message.contains(part)).then(|| found["reason"].clone())
                })
                .await
            }
        };
        assert_eq!(says("False", "There is no APIService").await, "MetricsAPIUnavailable");
        register(&client, &ns, 443).await;
        assert_eq!(says("False", "not taken over").await, "MetricsAPIUnavailable");
        unregister(&client).await;
        register(&client, &release, address.port()).await;
        assert_eq!(says("True", "can read").await, "MetricsAPIAvailable");
        assert!(condition(&tiers.get("small").await.unwrap(), "ScalingActive").is_none(), "nobody scales it");

        // It is looked at again, and nothing is said twice.
        wire.take();
        pause(12_000).await;
        let statuses: Vec<_> = wire.take().into_iter().filter(|write| write.ends_with("/status")).collect();
        assert_eq!(statuses, Vec::<String>::new(), "silence");
        unregister(&client).await;
        operator.stop().await;
    });
}

#[test]
fn strangers_are_refused_and_another_s_api_is_left_alone() {
    let _alone = alone();
    server::with_server(|client| async move {
        let wire = Wire::default();
        let (ns, release, operator, address) = start(&client, &wire).await;

        // Another has it.
        availability(
            &operator,
            |seen| matches!(seen, Availability::Unavailable(why) if why.contains("There is no APIService")),
        )
        .await;
        register(&client, &ns, 443).await;
        let before = get(&client, APISERVICE).await.unwrap();
        let theirs =
            |seen: &Availability| matches!(seen, Availability::Unavailable(why) if why.contains("not taken over"));
        availability(&operator, theirs).await;
        let after = get(&client, APISERVICE).await.unwrap();
        assert_eq!(
            (&after["spec"], &after["metadata"]["generation"]),
            (&before["spec"], &before["metadata"]["generation"])
        );
        unregister(&client).await;
        let writes = wire.take();
        assert!(!writes.iter().any(|write| write.contains("apiservices")), "{writes:#?}");

        register(&client, &release, address.port()).await;
        availability(&operator, |seen| *seen == Availability::Available).await;
        let writes = wire.take().into_iter().filter(|write| write.contains("apiservices")).count();
        assert_eq!(writes, 1, "and one write for ours");

        for account in ["nobody", "reader"] {
            let object = json!({"metadata": {"name": account, "namespace": ns}});
            create(&client, &ns, &serde_json::from_value::<ServiceAccount>(object).unwrap()).await;
        }
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader", "namespace": ns},
            "rules": [{
                "apiGroups": ["external.metrics.k8s.io"], "resources": ["smallfirst_tier_concurrency"], "verbs": ["list"],
            }],
        });
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
        server::send(&client, "POST", &format!("{path}/roles"), &role).await.unwrap();
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader", "namespace": ns},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": ns}],
        });
        server::send(&client, "POST", &format!("{path}/rolebindings"), &binding).await.unwrap();

        // Through the API server: it refuses whom it does not know to have the right.
        assert_eq!(refused(&client_of(&client, &ns, "nobody").await, &value_path(&ns)).await.0, 403);
        let mut sequence = 1;
        says(&operator.world, &ns, sequence, 2);
        let list = get(&client_of(&client, &ns, "reader").await, &value_path(&ns)).await.unwrap();
        assert_eq!(list["items"][0]["value"], "2000m", "{list}");

        // Past it: by token only, and by nobody's word.
        let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
        let (nobody, reader) = (token(&client, &ns, "nobody").await, token(&client, &ns, "reader").await);
        let forged = "x-remote-user: system:admin\r\nx-remote-group: system:masters\r\n";
        for (headers, wanted) in [
            (String::new(), 401),
            (forged.to_owned(), 401),
            (bearer("forged"), 401),
            (bearer(&nobody), 403),
            (format!("{forged}{}", bearer(&nobody)), 403),
            (bearer(&reader), 200),
        ] {
            sequence += 1;
            says(&operator.world, &ns, sequence, 2);
            let answer = ask_directly(&operator, &release, address, &headers, &value_path(&ns), None).await;
            let (code, body) = answer.expect("an answer");
            assert_eq!(code, wanted, "{headers}: {body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert!(code == 200 || body["kind"] == "Status" && body["code"] == code, "{body}");
        }
        let (code, _) = ask_directly(&operator, &release, address, &bearer(&reader), "/apis", None).await.unwrap();
        assert_eq!(code, 200, "discovery is everybody's whom the API server knows");

        // A certificate that the front proxy's authority did not sign.
        let own = rcgen::generate_simple_self_signed(["front-proxy-client".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let identity = Some((vec![own.cert.der().clone()], key));
        assert_eq!(ask_directly(&operator, &release, address, forged, &value_path(&ns), identity).await, None);

        unregister(&client).await;
        operator.stop().await;
    });
}
