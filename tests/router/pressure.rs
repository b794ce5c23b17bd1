//! Thresholds that give way while an account is short, as the leader says and as clients meet it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Zoned;
use serde_json::{Value, json};
use smallfirst::operator::sync::SERVER_NAME;
use smallfirst::operator::sync::authority::Authority;
use smallfirst::router::sync::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::sign::SingleCertAndKey;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, Reply, body, get, table};
use super::{LARGE, SURE};

/// Misses the threshold of -0.4 by 0.15.
const NEARLY: Behaviour = Behaviour::Answer("small says", -0.55);
const REFUSED: &str = "small:escalated(confidence) large:accepted";
const ACCEPTED: &str = "small:under-pressure(confidence)";

/// A leader that says what the test wants, and keeps the last report.
struct Leader {
    lowered: Arc<Mutex<Value>>,
    report: Arc<Mutex<Value>>,
    task: tokio::task::JoinHandle<()>,
    sync: Value,
}

impl Leader {
    async fn start() -> Self {
        let today = Zoned::now().date();
        let authority = Authority::generate(today).unwrap();
        let certificate =
            Arc::new(SingleCertAndKey::from(authority.issue(&["smallfirst-sync".to_owned()], today).unwrap()));
        let tls = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificate);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (lowered, report) = (Arc::new(Mutex::new(Value::Null)), Arc::<Mutex<Value>>::default());
        let said = (lowered.clone(), report.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, (lowered, report)) = (acceptor.clone(), said.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    let mut text = Vec::new();
                    while stream.read_buf(&mut text).await.is_ok_and(|read| read > 0) {
                        let whole = String::from_utf8_lossy(&text).into_owned();
                        let Some((_, body)) = whole.split_once("\r\n\r\n") else { continue };
                        let Ok(said) = serde_json::from_str(body) else { continue };
                        *report.lock().unwrap() = said;
                        text.clear();
                        let reply =
                            json!({"leader": true, "nextMs": 100, "lowered": *lowered.lock().unwrap()}).to_string();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
                        stream.write_all((head + &reply).as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let sync = json!({"address": address, "serverName": SERVER_NAME, "ca": authority.certificate});
        Self { lowered, report, task, sync }
    }

    /// Lowers the threshold of a workload by so many thousandths.
    fn lower(&self, workload: &str, thousandths: u64) {
        *self.lowered.lock().unwrap() = json!({workload: {"small": thousandths * 1_000_000}});
    }

    fn verdicts(&self, workload: &str) -> Value {
        self.report.lock().unwrap()["counts"]["workloads"][workload].clone()
    }
}

struct Case {
    leader: Leader,
    large: FakeUpstream,
    small: FakeUpstream,
    router: Harness,
    _folder: tempfile::TempDir,
}

impl Case {
    async fn start(change: impl FnOnce(&mut Value)) -> Self {
        let (small, large, leader) =
            (FakeUpstream::start(NEARLY).await, FakeUpstream::start(LARGE).await, Leader::start().await);
        let mut given = table(small.port, large.port);
        given["sync"] = leader.sync.clone();
        given["paths"]["up"]["slack"] = json!(0.4);
        let mut medium = given["workloads"][0].clone();
        (medium["name"], medium["models"], medium["risk"]) = (json!("mail"), json!(["mail"]), json!("Medium"));
        given["workloads"].as_array_mut().unwrap().push(medium);
        change(&mut given);
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "t").unwrap();
        let identity = Identity { pod: "router-0".into(), token };
        let router = Harness::with(given, |config| config.sync = Some(identity)).await;
        Self { leader, large, small, router, _folder: folder }
    }

    async fn ask(&self, workload: &str) -> Reply {
        self.router.ask(&body(workload)).await
    }

    /// Asks until the steps are these.
    async fn until(&self, workload: &str, steps: &str) -> Reply {
        let begin = Instant::now();
        loop {
            let reply = self.ask(workload).await;
            if reply.header("x-smallfirst-steps") == steps {
                return reply;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{workload}: {}", reply.head);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_misses_its_threshold_by_little_is_accepted_while_the_leader_says_so() {
    let case = Case::start(|_| ()).await;
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), REFUSED);
    case.leader.lower("intent", 151);
    let reply = case.until("intent", ACCEPTED).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-outcome")), (200, "under-pressure"));
    assert!(reply.body.contains("small says"), "{}", reply.body);
    let asked = case.large.count();
    case.small.now(Behaviour::Answer("small says", -0.56));
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), REFUSED, "it misses by more");
    case.small.now(SURE);
    assert_eq!(case.ask("intent").await.header("x-smallfirst-outcome"), "accepted");
    assert_eq!(case.large.count(), asked + 1);
    let metrics = get(case.router.admin, "/metrics").await.body;
    for line in [
        "smallfirst_router_threshold_lowered{workload=\"intent\",step=\"small\"} 0.151\n",
        "smallfirst_router_accepted_under_pressure_total{workload=\"intent\",field=\"slack\"} 1\n",
        "smallfirst_router_requests_total{workload=\"intent\",outcome=\"under-pressure\"} 1\n",
        "step=\"small\",tier=\"small\",verdict=\"under-pressure\",reason=\"confidence\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let begin = Instant::now();
    while !case.router.log_text().contains("\"outcome\":\"under-pressure\"") {
        assert!(begin.elapsed() < Duration::from_secs(2), "{}", case.router.log_text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The account has room again.
    *case.leader.lowered.lock().unwrap() = json!({});
    case.small.now(NEARLY);
    case.until("intent", REFUSED).await;
    let metrics = get(case.router.admin, "/metrics").await.body;
    assert!(metrics.contains("threshold_lowered{workload=\"intent\",step=\"small\"} 0.0\n"), "{metrics}");
}

#[tokio::test]
async fn high_gives_no_way_and_medium_half_of_the_slack_whatever_the_leader_says() {
    let case = Case::start(|_| ()).await;
    *case.leader.lowered.lock().unwrap() = json!({
        "review": {"small": 4_000_000_000_u64}, "mail": {"small": 4_000_000_000_u64}, "intent": {"small": 4_000_000_000_u64}
    });
    case.until("intent", ACCEPTED).await;
    assert_eq!(case.ask("mail").await.header("x-smallfirst-steps"), ACCEPTED, "0.15 of 0.2");
    assert_eq!(case.ask("review").await.header("x-smallfirst-steps"), REFUSED);
    case.small.now(Behaviour::Answer("small says", -0.65));
    assert_eq!(case.ask("mail").await.header("x-smallfirst-steps"), REFUSED, "0.25 of 0.2");
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), ACCEPTED, "0.25 of 0.4");
    case.small.now(Behaviour::Answer("small says", -0.85));
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), REFUSED, "0.45 of 0.4");
}

/// Verdicts stay what they are: sizing reckons with them, whatever became of the answers.
#[tokio::test]
async fn reports_say_what_gates_refused_and_by_how_little_whatever_was_accepted() {
    let case = Case::start(|_| ()).await;
    case.ask("intent").await;
    case.leader.lower("intent", 400);
    case.until("intent", ACCEPTED).await;
    case.small.now(SURE);
    case.ask("intent").await;
    let begin = Instant::now();
    loop {
        let counts = case.leader.verdicts("intent");
        let verdicts = &counts["steps"]["small"];
        let judged = verdicts["judged"].as_u64().unwrap_or(0);
        let pressed = counts["underPressure"].as_u64().unwrap_or(0);
        if pressed == 1 && verdicts["failed"].as_u64() == Some(judged - 1) {
            // 0.15 is in the bin that ends at 0.01 * 1.75^5.
            assert_eq!(verdicts["misses"][5].as_u64(), Some(judged - 1), "{counts}");
            assert_eq!(counts["answered"].as_u64(), Some(judged), "{counts}");
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{counts}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_answer_that_misses_more_than_its_threshold_still_escalates() {
    let other = json!({"onMissing": "Escalate", "required": false, "check": {"notMatch": "says"}});
    let case = Case::start(|table| {
        let steps = &mut table["paths"]["up"]["steps"];
        steps[0]["accept"].as_array_mut().unwrap().push(other);
    })
    .await;
    case.leader.lower("intent", 400);
    let begin = Instant::now();
    while !get(case.router.admin, "/metrics").await.body.contains("step=\"small\"} 0.4\n") {
        assert!(begin.elapsed() < Duration::from_secs(10), "the threshold is not lowered");
        case.ask("intent").await;
    }
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), REFUSED);
}

/// What escalationLimit holds back is counted beside it.
#[tokio::test]
async fn refused_answers_that_the_limit_on_escalations_lets_through_are_counted_apart() {
    let case = Case::start(|table| {
        let limit = json!({"ratio": 0, "windowMs": 600_000, "onExceeded": "BestAnswer"});
        table["paths"]["up"]["escalationLimit"] = limit;
    })
    .await;
    assert_eq!(case.ask("intent").await.header("x-smallfirst-outcome"), "best-answer");
    let line = "accepted_under_pressure_total{workload=\"intent\",field=\"escalationLimit\"} 1\n";
    let metrics = get(case.router.admin, "/metrics").await.body;
    assert!(metrics.contains(line), "{metrics}");
}

/// An operator that is gone lowers nothing for ever: see the unit tests for how long. One that only does not know yet
/// changes nothing.
#[tokio::test]
async fn a_leader_that_knows_nothing_yet_or_is_gone_changes_nothing_at_once() {
    let case = Case::start(|_| ()).await;
    case.leader.lower("intent", 200);
    case.until("intent", ACCEPTED).await;
    *case.leader.lowered.lock().unwrap() = Value::Null;
    let sequence = || case.leader.report.lock().unwrap()["sequence"].as_u64().unwrap();
    let before = sequence();
    while sequence() < before + 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), ACCEPTED);
    case.leader.task.abort();
    assert_eq!(case.ask("intent").await.header("x-smallfirst-steps"), ACCEPTED);
}
