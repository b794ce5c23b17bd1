//! What routers count, as it comes to an operator: over TLS, in the reports of a router with real sockets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use smallfirst::operator::sync::SERVER_NAME;
use smallfirst::operator::sync::authority::Authority;
use smallfirst::router::sync::Identity;
use smallfirst::routing::counts::{Counts, WorkloadCounts};
use smallfirst::routing::report::{Reply, Report};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, exchange, table};
use super::{LARGE, SURE, UNSURE};

/// Where a router reports: it takes every report, and answers nothing but that it did.
pub struct Desk {
    sync: Value,
    last: watch::Receiver<Report>,
    /// Milliseconds after which it asks for the next report.
    pub next_ms: Arc<AtomicU64>,
}

impl Desk {
    async fn start() -> Self {
        let today = jiff::Zoned::now().date();
        let authority = Authority::generate(today).unwrap();
        let certificate = authority.issue(&["smallfirst-sync".to_owned()], today).unwrap();
        let resolver = rustls::sign::SingleCertAndKey::from(certificate);
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(resolver));
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, last) = watch::channel(Report::default());
        let (heard, next_ms) = (Arc::new(heard), Arc::new(AtomicU64::new(100)));
        let next = Arc::clone(&next_ms);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, acceptor.clone(), Arc::clone(&heard), Arc::clone(&next)));
            }
        });
        let sync = json!({"address": address, "serverName": SERVER_NAME, "ca": authority.certificate});
        Self { sync, last, next_ms }
    }

    /// The first report in which this holds.
    pub async fn counts(&mut self, holds: impl Fn(&Counts) -> bool) -> Counts {
        let wait = self.last.wait_for(|report| holds(&report.counts));
        let found = tokio::time::timeout(Duration::from_secs(10), wait).await;
        let found = found.ok().map(|report| report.unwrap().counts.clone());
        found.unwrap_or_else(|| panic!("{:#?}", self.last.borrow().counts))
    }
}

async fn take(stream: TcpStream, acceptor: TlsAcceptor, heard: Arc<watch::Sender<Report>>, next_ms: Arc<AtomicU64>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let (heard, next_ms) = (Arc::clone(&heard), next_ms.load(Ordering::Relaxed));
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            heard.send_replace(serde_json::from_slice(&body).unwrap());
            let reply = Reply { next_ms, ..Reply::default() };
            Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(serde_json::to_vec(&reply).unwrap()))))
        }
    });
    // It ends with the router.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

pub struct Reporting {
    pub desk: Desk,
    pub router: Harness,
    table: Value,
    _token: tempfile::TempDir,
}

pub async fn reporting(small: &FakeUpstream, large: &FakeUpstream, change: impl FnOnce(&mut Value)) -> Reporting {
    let desk = Desk::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let mut table = table(small.port, large.port);
    table["sync"] = desk.sync.clone();
    change(&mut table);
    let identity = Identity { pod: "r-0".to_owned(), token };
    let router = Harness::with(table.clone(), |config| config.sync = Some(identity)).await;
    Reporting { desk, router, table, _token: folder }
}

/// Nothing before the router has a table: it reports that too.
static NOTHING: LazyLock<WorkloadCounts> = LazyLock::new(WorkloadCounts::default);

fn of<'a>(counts: &'a Counts, workload: &str) -> &'a WorkloadCounts {
    counts.workloads.get(workload).unwrap_or(&NOTHING)
}

#[tokio::test]
async fn requests_verdicts_tokens_and_money_are_reported_and_outlive_a_table() {
    let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
    let mut all = reporting(&small, &large, |_| ()).await;
    for _ in 0..3 {
        assert_eq!(all.router.ask(&body("intent")).await.status, 200);
    }
    small.now(SURE);
    assert_eq!(all.router.ask(&body("intent")).await.status, 200);
    let counts = all.desk.counts(|counts| of(counts, "intent").answered == 4).await;
    let seen = serde_json::to_value(of(&counts, "intent")).unwrap();
    let small_cost = 4 * 120_000;
    assert_eq!(
        seen,
        json!({
            "offered": 4, "answered": 4,
            "steps": {"small": {"judged": 4, "failed": 3}},
            "tiers": {
                "small": {"calls": 4, "input": 400, "output": 40, "cost": small_cost},
                "large": {"calls": 3, "input": 300, "output": 30, "cost": 3 * 120_000},
            },
        })
    );
    let band = &counts.tiers["small"].bands[0];
    assert_eq!((band.calls, band.input, band.output, band.output_squared), (4, 400, 40, 400));
    assert_eq!((band.input_squared, band.input_output), (40_000, 4000));
    assert_eq!((band.input_micros, band.output_micros), (100 * band.micros, 10 * band.micros));
    // One after the other, so each alone, and nobody between them.
    assert_eq!(counts.tiers["small"].bands.len(), 1);
    assert_eq!(band.occupied, band.requests);
    assert!(band.micros > 0 && band.occupied.abs_diff(band.micros) < 1000, "{band:?}");
    assert_eq!(
        of(&counts, "draft"),
        &WorkloadCounts { tiers: of(&counts, "draft").tiers.clone(), ..WorkloadCounts::default() }
    );

    // Another table, with another gate: counts go on.
    all.table["sync"]["address"] = json!(all.desk.sync["address"]);
    all.table["paths"]["up"]["steps"][0]["accept"] =
        json!([{"onMissing": "Escalate", "required": false, "check": {"finishReason": ["stop"]}}]);
    all.router.reload(all.table.clone()).await;
    assert_eq!(all.router.ask(&body("intent")).await.status, 200);
    let counts = all.desk.counts(|counts| of(counts, "intent").answered == 5).await;
    let verdicts = of(&counts, "intent").steps["small"];
    assert_eq!((verdicts.judged, verdicts.failed), (5, 3));
}

#[tokio::test]
async fn what_is_turned_away_fails_or_is_left_is_reported_by_what_became_of_it() {
    let (small, large) = (FakeUpstream::start(Behaviour::Reset).await, FakeUpstream::start(Behaviour::Reset).await);
    let mut all = reporting(&small, &large, |table| {
        table["workloads"][0]["limits"] =
            json!({"requestsPerMinute": 2, "tokensPerMinute": null, "maxConcurrent": null});
    })
    .await;
    let statuses = [
        all.router.ask(&body("intent")).await.status,
        all.router.ask(&body("intent")).await.status,
        all.router.ask(&body("intent")).await.status,
    ];
    assert_eq!(statuses, [502, 502, 429]);
    // A request that hangs, and whose client leaves.
    small.now(Behaviour::Hang);
    large.now(Behaviour::Hang);
    let address = all.router.address;
    let hanging =
        tokio::spawn(async move { super::harness::post(address, "k-finance", body("draft").as_bytes()).await });
    let counts = all.desk.counts(|counts| of(counts, "draft").in_flight == 1).await;
    let intent = of(&counts, "intent");
    let rejected: u64 = intent.rejected.values().sum();
    assert_eq!((intent.offered, intent.answered, intent.failed, rejected, intent.in_flight), (3, 0, 2, 1, 0));
    assert!(counts.tiers["small"].failed >= 2, "{counts:#?}");
    hanging.abort();
    let counts = all.desk.counts(|counts| of(counts, "draft").abandoned == 1).await;
    assert_eq!((of(&counts, "draft").offered, of(&counts, "draft").in_flight), (1, 0));
}

#[tokio::test]
async fn a_request_that_is_tried_again_is_offered_once() {
    let (small, large) = (FakeUpstream::start(Behaviour::Reset).await, FakeUpstream::start(Behaviour::Reset).await);
    let mut all = reporting(&small, &large, |_| ()).await;
    let ask = |tried: u32, prompt: &'static str| {
        let text = body("draft").replace("PROMPT-TEXT", prompt);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k-finance\r\n\
             x-stainless-retry-count: {tried}\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        async move { exchange(all.router.address, head.as_bytes()).await.status }
    };
    assert_eq!((ask(0, "one").await, ask(1, "one").await), (502, 502));
    large.now(LARGE);
    assert_eq!(ask(2, "one").await, 200);
    // Who says so of what nobody has seen is not believed; nor who asks anew.
    assert_eq!((ask(1, "two").await, ask(0, "one").await), (200, 200));
    let counts = all.desk.counts(|counts| of(counts, "draft").answered == 3).await;
    assert_eq!((of(&counts, "draft").offered, of(&counts, "draft").failed), (3, 2));
}
