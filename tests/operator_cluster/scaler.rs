//! The external scaler, asked by gRPC's own client (Python's), as KEDA asks it.
//!
//! `SMALLFIRST_TEST_PYTHON` names a Python with `tests/scaler/requirements.txt`; `tests/run` makes one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use smallfirst::operator::scaler::server::serve;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::sync::{Listening, portfolio, ready, says};
use super::*;

const METRIC: &str = "smallfirst_tier_concurrency";

/// A client in a process of its own.
struct Keda {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    namespace: String,
}

impl Keda {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn start(address: &str, namespace: &str) -> Option<Self> {
        let Some(python) = std::env::var_os("SMALLFIRST_TEST_PYTHON") else {
            eprintln!("skipped, because SMALLFIRST_TEST_PYTHON names no Python with grpcio");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scaler/client.py");
        let mut command = Command::new(python);
        command.args([script, address]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || said.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Some(Self { child, lines, namespace: namespace.to_owned() })
    }

    fn send(&mut self, call: &str, mut asked: Value) {
        asked["call"] = call.into();
        asked["namespace"] = self.namespace.clone().into();
        writeln!(self.child.stdin.as_mut().unwrap(), "{asked}").unwrap();
    }

    /// The next line.
    async fn read(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.recv()).await;
        serde_json::from_str(&line.expect("a line in time").expect("a client that lives")).unwrap()
    }

    async fn ask(&mut self, call: &str, asked: Value) -> Value {
        self.send(call, asked);
        self.read().await
    }
}

impl Drop for Keda {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An operator that serves the scaler.
struct Serving {
    operator: Listening,
    namespace: String,
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Serving {
    /// Of a policy front with the tier small, whose only router is ready and has said nothing yet.
    async fn start(client: &Client, name: &str, small: impl AsyncFnOnce(&Client, &str)) -> (Self, String) {
        let (ns, release) = (namespace(client, name).await, namespace(client, &format!("{name}-release")).await);
        let operator = Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default()).await;
        small(client, &ns).await;
        ready(client, &ns, &["r-0"]).await;
        let slices = || async { (!operator.world.slices.ids().is_empty()).then_some(()) };
        until("the ready router", slices).await;
        let id = (ns.clone(), "small".to_owned());
        until("the tier", || async { operator.world.tiers.get(&id) }).await;
        let policy = (ns.clone(), "front".to_owned());
        until("the policy", || async { operator.world.policies.get(&policy) }).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, Arc::clone(&operator.world), stopped));
        (Self { operator, namespace: ns, task, stop }, address)
    }

    async fn stop(self) {
        self.task.abort();
        self.operator.stop().await;
    }
}

#[test]
fn keda_is_told_when_a_tier_is_wanted_and_how_much() {
    let _alone = alone();
    server::with_server(|client| async move {
        let of_others = async |client: &Client, ns: &str| drop(portfolio(client, ns).await);
        let (serving, address) = Serving::start(&client, "scaler", of_others).await;
        let (ns, operator) = (serving.namespace.clone(), &serving.operator);
        let Some(mut keda) = Keda::start(&address, &ns) else { return };
        let small = json!({"metadata": {"tier": "small", "targetConcurrency": "1.4"}});

        // Not 0, and not inactive: nobody knows.
        let mut values = small.clone();
        values["metricName"] = METRIC.into();
        for (call, asked) in [("IsActive", &small), ("GetMetrics", &values)] {
            let answer = keda.ask(call, asked.clone()).await;
            assert_eq!(answer["code"], "UNAVAILABLE", "{answer}");
            assert!(answer["details"].as_str().unwrap().contains("router pod r-0 of RoutingPolicy"), "{answer}");
        }
        let spec = keda.ask("GetMetricSpec", small.clone()).await;
        let wanted = json!({"metricName": METRIC, "targetSize": "2", "targetSizeFloat": 1.4});
        assert_eq!(spec["answer"]["metricSpecs"], json!([wanted]), "{spec}");

        // A stream says nothing until it is known, then what it is, then the change.
        keda.send("StreamIsActive", small.clone());
        pause(1500).await;
        says(&operator.world, &ns, 1, 0);
        let first = keda.read().await;
        assert_eq!((&first["call"], &first["answer"]["result"]), (&"StreamIsActive".into(), &false.into()), "{first}");
        assert_eq!(keda.ask("IsActive", small.clone()).await["answer"]["result"], false);
        says(&operator.world, &ns, 2, 3);
        let pushed = keda.read().await;
        assert_eq!(
            (&pushed["call"], &pushed["answer"]["result"]),
            (&"StreamIsActive".into(), &true.into()),
            "{pushed}"
        );
        assert_eq!(keda.ask("IsActive", small.clone()).await["answer"]["result"], true);
        let value = keda.ask("GetMetrics", values.clone()).await;
        let found = &value["answer"]["metricValues"][0];
        assert_eq!(found["metricName"], METRIC, "{value}");
        let number = found["metricValueFloat"].as_f64().unwrap();
        assert!(number > 0.0 && number <= 3.0, "{value}");

        // What is wrong with a trigger is told with its field.
        for (call, asked, code, part) in [
            ("IsActive", json!({"metadata": {}}), "INVALID_ARGUMENT", "metadata.tier: must name a ModelTier"),
            ("IsActive", json!({"metadata": {"tier": "none"}}), "NOT_FOUND", "/none is not known here"),
            ("GetMetricSpec", json!({"metadata": {"tier": "small"}}), "INVALID_ARGUMENT", "metadata.targetConcurrency"),
            (
                "GetMetricSpec",
                json!({"metadata": {"tier": "small", "targetConcurrency": "-1"}}),
                "INVALID_ARGUMENT",
                "a number above 0, is \"-1\"",
            ),
            ("GetMetrics", json!({"metadata": {"tier": "small"}, "metricName": "x"}), "INVALID_ARGUMENT", "metricName"),
            ("StreamIsActive", json!({"metadata": {"tier": "none"}}), "NOT_FOUND", "/none is not known here"),
            ("StreamMetricSpec", small.clone(), "UNIMPLEMENTED", "no such method"),
        ] {
            let answer = keda.ask(call, asked).await;
            assert_eq!(answer["code"], code, "{answer}");
            assert!(answer["details"].as_str().unwrap().contains(part), "{answer}");
        }
        drop(keda);
        serving.stop().await;
    });
}

#[test]
fn a_stream_wakes_what_sleeps_until_it_has_woken_and_ends_before_the_operator_does() {
    let _alone = alone();
    server::with_server(|client| async move {
        let asleep = async |client: &Client, ns: &str| {
            let mut small = tier(ns, "small");
            small.spec.pool.as_mut().unwrap().replicas = 0;
            create(client, ns, &small).await;
            let (path, policy) = route(ns, "small");
            create(client, ns, &path).await;
            create(client, ns, &policy).await;
        };
        let (serving, address) = Serving::start(&client, "scaler-zero", asleep).await;
        let (ns, world) = (serving.namespace.clone(), Arc::clone(&serving.operator.world));
        let id = (ns.clone(), "small".to_owned());
        until("the pool at zero", || async { world.is_asleep(&id).then_some(()) }).await;
        let Some(mut keda) = Keda::start(&address, &ns) else { return };
        let active = |line: &Value| line["answer"]["result"].as_bool();

        says(&world, &ns, 1, 0);
        let first = keda.ask("StreamIsActive", json!({"metadata": {"tier": "small", "targetConcurrency": "1"}})).await;
        assert_eq!(active(&first), Some(false), "{first}");
        // What KEDA did about the first may have failed, or was undone by what it had seen before.
        says(&world, &ns, 2, 3);
        for _ in 0..3 {
            let told = keda.read().await;
            assert_eq!(active(&told), Some(true), "{told}");
        }
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let woken = Patch::Merge(json!({"spec": {"pool": {"replicas": 1}}}));
        tiers.patch("small", &PatchParams::default(), &woken).await.unwrap();
        until("the pool woken", || async { (!world.is_asleep(&id)).then_some(()) }).await;
        while keda.lines.try_recv().is_ok() {}
        pause(3000).await;
        assert_eq!(keda.lines.try_recv().ok(), None, "said once too often");

        // KEDA comes back at once to a stream that ended, and hesitates after one that broke.
        serving.stop.send(true).unwrap();
        let last = keda.read().await;
        assert_eq!(last["code"], "OK", "{last}");
        drop(keda);
        serving.stop().await;
    });
}
