//! Routers that report: real `smallfirst router` processes against a real API server, and an operator that listens.
//!
//! There is no kubelet: the test says by an EndpointSlice which pods are ready. Where a real router can't be made to
//! misbehave a scripted one reports, through the code that real ones report with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::Kubeconfig;
use smallfirst::operator::controller::Queue;
use smallfirst::operator::observe::world::World;
use smallfirst::operator::sync::books::Books;
use smallfirst::operator::sync::keeper::{Certificate, Keeper};
use smallfirst::operator::sync::lending::Lending;
use smallfirst::operator::sync::server::{Desk, serve};
use smallfirst::operator::sync::tokens::Tokens;
use smallfirst::router::control::Standing;
use smallfirst::router::{self, sync};
use smallfirst::routing::counts::{Counts, TierCounts};
use smallfirst::routing::report::{RefusedTable, Report};
use smallfirst::routing::table::SyncAddress;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// An operator that routers report to.
pub struct Listening {
    pub running: Running,
    pub world: Arc<World>,
    pub queue: Arc<Queue>,
    pub sync: watch::Receiver<Option<SyncAddress>>,
    pub certificate: Arc<Certificate>,
    pub leader: Leader,
    pub tasks: JoinSet<()>,
}

impl Listening {
    /// `release` is the operator's own namespace.
    pub async fn start(client: Client, release: &str, watched: Option<String>, leader: Leader) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (keeper, certificate, sync) = Keeper::new(client.clone(), release, &address, leader.clone());
        let tokens = Tokens::reviewed_by(client.clone());
        let controller = Controller::new(client.clone(), watched, settings(), leader.clone(), Some(sync.clone()));
        let (world, queue): (Arc<World>, Arc<Queue>) = (Arc::clone(&controller.world), Arc::clone(&controller.queue));
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.named(format!("smallfirst-metrics-api.{release}.svc")).run());
        let books = Books::new(client.clone(), leader.clone(), Arc::clone(&world), Arc::clone(&queue));
        let books = Arc::new(books);
        tasks.spawn(Arc::clone(&books).run());
        let (seen, due, lending) = (Arc::clone(&world), Arc::clone(&queue), Lending::default());
        let desk = Desk { world: seen, queue: due, tokens, leader: leader.clone(), books, lending };
        tasks.spawn(serve(listener, Arc::clone(&certificate), Arc::new(desk)));
        let awaited = controller.awaited();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(controller.run(stopped));
        until("the caches", || async { awaited().is_empty().then_some(()) }).await;
        Self { running: Running { stop, task }, world, queue, sync, certificate, leader, tasks }
    }

    pub async fn stop(self) {
        self.running.stop().await;
        drop(self.tasks);
    }
}

/// A token of a policy's routers, as the kubelet would mount it.
pub async fn token(client: &Client, ns: &str, account: &str) -> String {
    let path = format!("/api/v1/namespaces/{ns}/serviceaccounts/{account}/token");
    let spec = json!({"audiences": ["smallfirst-sync"]});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = server::send(client, "POST", &path, &request).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// A router process.
pub struct Router {
    child: Child,
    pub traffic: SocketAddr,
    pub admin: SocketAddr,
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Router {
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Hash of the table in force.
    pub async fn hash(&self) -> Option<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.ok()?;
        stream.write_all(b"GET /table HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("x-smallfirst-table-hash: "))?;
        Some(line.trim().to_owned())
    }
}

/// File with the certificate that routers trust.
const AUTHORITY: &str = "authority.pem";

/// What router processes of a policy share: their rights, their token, their Secrets.
pub struct Fleet {
    folder: tempfile::TempDir,
    namespace: String,
}

impl Fleet {
    pub async fn new(client: &Client, ns: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ns);
        until("the routers' account", || async { accounts.get_opt("front-router").await.unwrap() }).await;
        std::fs::write(folder.path().join("token"), token(client, ns, "front-router").await).unwrap();
        let kubeconfig = Kubeconfig::read_from(std::env::var_os("SMALLFIRST_TEST_KUBECONFIG").unwrap()).unwrap();
        let path = format!("/api/v1/namespaces/{ns}/serviceaccounts/front-router/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = server::send(client, "POST", &path, &request).await.unwrap();
        let mut config = serde_json::to_value(&kubeconfig).unwrap();
        for user in config["users"].as_array_mut().unwrap() {
            user["user"] = json!({"token": answer["status"]["token"]});
        }
        std::fs::write(folder.path().join("kubeconfig"), config.to_string()).unwrap();
        std::fs::create_dir(folder.path().join("secrets")).unwrap();
        Self { folder, namespace: ns.to_owned() }
    }

    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    pub fn mount(&self, secret: &str, key: &str, value: &str) {
        let folder = self.folder.path().join("secrets").join(secret);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(key), value).unwrap();
    }

    /// Routers that are started from now on trust this certificate and no other.
    pub fn trust(&self, pem: &str) {
        std::fs::write(self.folder.path().join(AUTHORITY), pem).unwrap();
    }

    pub async fn router(&self, pod: &str) -> Router {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (listen, admin) = (free(), free());
        let at = |name: &str| -> PathBuf { Path::new(self.folder.path()).join(name) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_smallfirst"));
        command.args(["router", "--namespace", &self.namespace, "--policy", "front", "--pod", pod, "--threads", "1"]);
        command.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        command.arg("--sync-token-file").arg(at("token")).arg("--secrets-dir").arg(at("secrets"));
        command.env_clear().env("KUBECONFIG", at("kubeconfig")).env("RUST_LOG", "warn");
        if at(AUTHORITY).exists() {
            command.env("SSL_CERT_FILE", at(AUTHORITY));
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let router = Router { child, traffic: listen, admin };
        until("the router's table", || async { router.hash().await }).await;
        router
    }

    /// A scripted router: it says what it is told to.
    pub fn scripted(&self, pod: &str, standing: Standing) -> watch::Sender<Standing> {
        self.reporting(pod, standing, router::admission::budget::Budgets::default()).0
    }

    /// The same, with budgets that the test spends.
    pub fn reporting(
        &self,
        pod: &str,
        standing: Standing,
        budgets: router::admission::budget::Budgets,
    ) -> (watch::Sender<Standing>, Arc<router::Shared>) {
        let identity = sync::Identity { pod: pod.to_owned(), token: self.token_file() };
        let (tell, standing) = watch::channel(standing);
        let (stop, stopping) = watch::channel(false);
        let shared = shared(budgets);
        let reporting = sync::run(identity, standing, stopping, Arc::clone(&shared));
        tokio::spawn(async move {
            reporting.await;
            drop(stop);
        });
        (tell, shared)
    }
}

/// What a router's cores share, without any.
fn shared(budgets: router::admission::budget::Budgets) -> Arc<router::Shared> {
    let log = router::access_log::AccessLog::start(Box::new(std::io::sink()));
    let metrics = router::metrics::Metrics::new(&mut prometheus_client::registry::Registry::default());
    Arc::new(router::Shared::new(metrics, log, router::Limits::default(), budgets, true, 1))
}

/// Says which router pods are ready, as the control plane would.
pub async fn ready(client: &Client, ns: &str, pods: &[&str]) {
    let endpoint = |(at, pod): (usize, &&str)| {
        json!({
            "addresses": [format!("192.0.2.{}", at + 1)], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": ns},
        })
    };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "front-test", "namespace": ns,
            "labels": {"kubernetes.io/service-name": "front-router", "smallfirst.dev/component": "router"},
        },
        "addressType": "IPv4", "endpoints": pods.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080}],
    });
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), ns);
    api.patch("front-test", &PatchParams::apply("test").force(), &Patch::Apply(&slice)).await.unwrap();
}

/// Says how many requests the tier small has, as a router's report would.
pub fn says(world: &World, ns: &str, sequence: u64, in_flight: u64) {
    let counts = TierCounts { in_flight, endpoints: 1, ..TierCounts::default() };
    let counts = Counts { tiers: [("small".to_owned(), counts)].into(), ..Counts::default() };
    let report = Report { pod: "r-0".to_owned(), incarnation: 1, sequence, counts, ..Report::default() };
    world.concurrency.report(&(ns.to_owned(), "front".to_owned()), &report, Instant::now());
}

/// Status, reason and message of Programmed, if it speaks of the latest spec.
async fn programmed(policies: &Api<RoutingPolicy>) -> Option<(String, String, String, Option<String>)> {
    let policy = policies.get("front").await.unwrap();
    let found = condition(&policy, "Programmed")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    let hash = policy.status.and_then(|status| Some(status.table?.hash));
    let current = found["observedGeneration"].as_i64() == policy.metadata.generation;
    current.then(|| (text("status"), text("reason"), text("message"), hash))
}

async fn reason(policies: &Api<RoutingPolicy>, wanted: &str) -> (String, Option<String>) {
    until(wanted, || async {
        let (_, reason, message, hash) = programmed(policies).await?;
        (reason == wanted).then_some((message, hash))
    })
    .await
}

/// Another spec, without meaning for anybody.
pub async fn change(policies: &Api<RoutingPolicy>, n: usize) -> i64 {
    let patch = json!({"spec": {"workloads": [
        {"name": "chat", "owner": format!("team-{n}"), "risk": "Low", "pathRef": {"name": "way"}}
    ]}});
    let changed = policies.patch("front", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    changed.metadata.generation.unwrap()
}

pub async fn portfolio(client: &Client, ns: &str) -> Api<RoutingPolicy> {
    let mut small = tier(ns, "small");
    small.spec.pool = None;
    small.spec.service = serde_json::from_value(json!({"serviceRef": {"name": "other", "port": 80}})).unwrap();
    create(client, ns, &small).await;
    let (path, policy) = route(ns, "small");
    create(client, ns, &path).await;
    create(client, ns, &policy).await;
    Api::namespaced(client.clone(), ns)
}

#[test]
fn programmed_is_true_when_every_ready_router_serves_the_table() {
    let _alone = alone();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "sync").await, namespace(&client, "sync-release").await);
        let wire = Wire::default();
        let operator = Listening::start(wire.client().await, &release, Some(ns.clone()), Leader::default()).await;
        let policies = portfolio(&client, &ns).await;
        reason(&policies, "NoRouters").await;
        let fleet = Fleet::new(&client, &ns).await;
        let routers = [fleet.router("r-0").await, fleet.router("r-1").await];
        ready(&client, &ns, &["r-0", "r-1"]).await;
        let (_, mut last) = reason(&policies, "Programmed").await;

        for n in 0..20 {
            let generation = change(&policies, n).await;
            let (_, hash) = reason(&policies, "Programmed").await;
            assert_ne!(hash, last, "generation {generation}");
            for router in &routers {
                assert_eq!(router.hash().await, hash, "generation {generation}");
            }
            last = hash;
        }
        // A path's change is none of the policy's spec: it must not be true of the table before.
        let paths: Api<EscalationPath> = Api::namespaced(client.clone(), &ns);
        routers[1].signal("-STOP");
        let steps = json!([{"name": "first", "tierRef": {"name": "small"}, "timeout": "7s"}]);
        paths.patch("way", &PatchParams::default(), &Patch::Merge(json!({"spec": {"steps": steps}}))).await.unwrap();
        reason(&policies, "Propagating").await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            assert_eq!(programmed(&policies).await.unwrap().1, "Propagating", "a router is frozen");
            pause(50).await;
        }
        routers[1].signal("-CONT");
        let (_, hash) = reason(&policies, "Programmed").await;
        assert_eq!(routers[1].hash().await, hash);

        // A table that is too long to be text.
        let headers: Vec<Value> =
            (0..16).map(|n| json!({"name": format!("x-{n}"), "value": "v".repeat(1000)})).collect();
        let workload = |n: usize| {
            let (name, path) = (format!("large-{n}"), json!({"name": "way"}));
            json!({"name": name, "owner": "team", "risk": "Low", "match": {"headers": headers}, "pathRef": path})
        };
        let mut workloads: Vec<Value> = (0..20).map(workload).collect();
        workloads.push(json!({"name": "chat", "owner": "team", "risk": "Low", "pathRef": {"name": "way"}}));
        let patch = Patch::Merge(json!({"spec": {"workloads": workloads}}));
        policies.patch("front", &PatchParams::default(), &patch).await.unwrap();
        let (_, hash) = reason(&policies, "Programmed").await;
        assert_eq!(routers[1].hash().await, hash);
        let tables: Api<ConfigMap> = Api::namespaced(client.clone(), &ns);
        let table = tables.get("front-table").await.unwrap();
        assert!(table.binary_data.is_some_and(|data| data.contains_key("table.json.gz")));
        assert_eq!(table.data.unwrap().into_keys().collect::<Vec<_>>(), ["summary.txt"], "and no text beside it");
        change(&policies, 0).await;
        reason(&policies, "Programmed").await;
        assert!(tables.get("front-table").await.unwrap().data.is_some_and(|data| data.contains_key("table.json")));

        // A Secret that is not there.
        let clients = json!([{"name": "finance", "apiKey": {"secretKeyRef": {"name": "keys", "key": "finance"}}}]);
        let patch = Patch::Merge(json!({"spec": {"anonymous": null, "clients": clients}}));
        policies.patch("front", &PatchParams::default(), &patch).await.unwrap();
        let (message, _) = reason(&policies, "WaitingForMounts").await;
        assert!(
            message.contains("spec.clients[finance]") && message.contains("Secret keys has no key finance"),
            "{message}"
        );
        fleet.mount("keys", "finance", "k");
        reason(&policies, "Programmed").await;

        // One that refuses (scripted), in its words; once it is gone that is past.
        let sync = operator.sync.borrow().clone();
        let hash = programmed(&policies).await.unwrap().3.unwrap();
        let refused = Some(RefusedTable { hash, message: "unknown gate `magic`".to_owned() });
        let tell = fleet.scripted("r-2", Standing { refused, sync, ..Standing::default() });
        ready(&client, &ns, &["r-0", "r-1", "r-2"]).await;
        let (message, _) = reason(&policies, "TableRefused").await;
        assert_eq!(message, "Pod r-2: unknown gate `magic`");
        ready(&client, &ns, &["r-0", "r-1"]).await;
        reason(&policies, "Programmed").await;
        drop(tell);

        // One of a version that does not report.
        ready(&client, &ns, &["r-0", "r-1", "r-old"]).await;
        let (message, _) = reason(&policies, "RouterVersion").await;
        assert!(message.starts_with("Pod r-old: does not report"), "{message}");
        ready(&client, &ns, &["r-0", "r-1"]).await;
        reason(&policies, "Programmed").await;

        // Without a good token nothing is learned.
        for (pod, text) in [("forged", "no token".to_owned()), ("other", token(&client, &ns, "default").await)] {
            let file = fleet.token_file().with_file_name(pod);
            std::fs::write(&file, text).unwrap();
            let (_tell, standing) =
                watch::channel(Standing { sync: operator.sync.borrow().clone(), ..Standing::default() });
            let (_stop, stopping) = watch::channel(false);
            let identity = sync::Identity { pod: pod.to_owned(), token: file };
            let reporting = tokio::spawn(sync::run(
                identity,
                standing,
                stopping,
                shared(router::admission::budget::Budgets::default()),
            ));
            pause(1500).await;
            let id = (ns.clone(), "front".to_owned());
            let seen = operator.world.routers.of(&id, Instant::now()).unwrap();
            assert!(!seen.pods.contains_key(pod) && seen.pods.contains_key("r-0"), "{seen:?}");
            reporting.abort();
        }

        // Silence costs nothing, and a restart of the operator neither.
        let writes = || wire.take().into_iter().filter(|w| !w.ends_with("/tokenreviews")).collect::<Vec<_>>();
        pause(1000).await;
        writes();
        pause(3000).await;
        assert_eq!(writes(), Vec::<String>::new(), "an idle cluster");
        let address = operator.sync.borrow().clone();
        operator.stop().await;
        drop(routers);
        let again = Listening::start(wire.client().await, &release, Some(ns.clone()), Leader::default()).await;
        let other = again.sync.borrow().clone();
        assert_eq!(address.unwrap().ca, other.unwrap().ca, "the authority stays");
        again.stop().await;
    });
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1;
    values[at]
}

/// `make propagation`: from the request that changes a spec until the operator has heard of every router that it serves
/// the table, and until a client that watches sees `Programmed`.
#[test]
#[ignore = "a measurement: make propagation"]
fn propagation() {
    let _alone = alone();
    server::with_server(|client| async move {
        let mut figures = BTreeMap::new();
        for (count, changes) in [(2, 200), (10, 100), (50, 50)] {
            let (ns, release) = (namespace(&client, "pace").await, namespace(&client, "pace-release").await);
            let operator = Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default()).await;
            let policies = portfolio(&client, &ns).await;
            let fleet = Fleet::new(&client, &ns).await;
            let names: Vec<String> = (0..count).map(|n| format!("r-{n}")).collect();
            let mut routers = Vec::new();
            for name in &names {
                routers.push(fleet.router(name).await);
            }
            ready(&client, &ns, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
            reason(&policies, "Programmed").await;
            let id = (ns.clone(), "front".to_owned());
            let hashes = || {
                let seen = operator.world.routers.of(&id, Instant::now()).unwrap();
                seen.pods.values().map(|pod| pod.table_hash.clone().unwrap_or_default()).collect::<Vec<_>>()
            };
            let (mut heard, mut shown) = (Vec::new(), Vec::new());
            for n in 0..changes {
                let before = hashes()[0].clone();
                let began = Instant::now();
                let generation = change(&policies, n).await;
                let all = loop {
                    let now = hashes();
                    if now.iter().all(|hash| *hash == now[0] && *hash != before) {
                        break began.elapsed();
                    }
                    tokio::time::sleep(Duration::from_micros(500)).await;
                };
                heard.push(all.as_secs_f64() * 1000.0);
                loop {
                    let policy = operator.world.policies.get(&id).unwrap();
                    let policy = policy.0.as_ref().unwrap();
                    let found = condition(policy, "Programmed").unwrap();
                    if found["status"] == "True" && found["observedGeneration"] == generation {
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                shown.push(began.elapsed().as_secs_f64() * 1000.0);
                pause(50).await;
            }
            let row = |values: &mut Vec<f64>| json!({"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": percentile(values, 1.0)});
            let figure =
                json!({"changes": changes, "acknowledgedMs": row(&mut heard), "programmedMs": row(&mut shown)});
            println!("{count} routers: {figure}");
            figures.insert(count, figure);
            drop(routers);
            operator.stop().await;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&folder).unwrap();
        let routers: BTreeMap<String, Value> = figures.into_iter().map(|(n, f)| (n.to_string(), f)).collect();
        let text = serde_json::to_string_pretty(&json!({"routers": routers})).unwrap();
        std::fs::write(folder.join("propagation.json"), text + "\n").unwrap();
    });
}
