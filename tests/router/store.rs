//! Routers of two clusters and one account: what they take together is counted in a real Redis server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use smallfirst::api::types::{Risk, SecretKeyRef};
use smallfirst::lease::reserve::Reserve;
use smallfirst::router::admission::limiter::Kind;
use smallfirst::router::admission::room::{Asker, Lack};
use smallfirst::router::admission::store::{Answer, Counted, Store, Terms};
use smallfirst::router::metrics::Metrics;
use smallfirst::routing::source::secrets::Secrets;
use smallfirst::routing::table::{Quota, QuotaStore};
use tokio::net::TcpStream;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, key, table};
use super::process::free;
use super::{LARGE, SURE, UNSURE};

/// A server, killed at the end of the test.
struct Redis {
    address: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    async fn start() -> Self {
        Self::with(free(), &[]).await
    }

    async fn with(address: SocketAddr, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut redis = Self { address, arguments, child: None };
        redis.again().await;
        redis
    }

    /// Starts it, with nothing in it.
    async fn again(&mut self) {
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut command = Command::new("redis-server");
        command.args(["--bind", &ip, "--save", "", "--appendonly", "no", "--dir", "/tmp", "--port"]);
        let tls = self.arguments.iter().any(|argument| argument == "--tls-cert-file");
        let ports = if tls { ["0", "--tls-port", &port] } else { [&port, "--tls-port", "0"] };
        command.args(ports).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server: 'make deps' installs it"));
        for _ in 0..500 {
            if TcpStream::connect(self.address).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server did not start");
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What it answers to a command.
    fn say(&self, command: &[&str]) -> String {
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let said = Command::new("redis-cli").args(["-h", &ip, "-p", &port]).args(command).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    }

    /// Stops its process, or lets it go on: it keeps its connections and says nothing.
    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A router of a cluster of its own, whose share is a half.
async fn cluster(redis: &Redis, small: u16, large: u16, whole: &Value) -> Harness {
    let mut half = whole.clone();
    half.as_object_mut().unwrap().values_mut().for_each(|limit| *limit = (limit.as_u64().unwrap() / 2).into());
    let mut table = table(small, large);
    table["tiers"]["large"]["account"] = json!({
        "name": "main", "quota": half,
        "store": {"url": redis.url(), "username": null, "password": null, "ca": null, "keyPrefix": "t", "quota": whole}
    });
    let router = Harness::start(table).await;
    until_up(&router, 1).await;
    router
}

async fn until_up(router: &Harness, up: u8) {
    let line = format!("smallfirst_router_quota_store_up{{account=\"main\"}} {up}\n");
    for _ in 0..1_000 {
        if get(router.admin, "/metrics").await.body.contains(&line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store is not {up}: {}", get(router.admin, "/metrics").await.body);
}

async fn requests(router: &Harness, result: &str) -> u64 {
    let begin = format!("smallfirst_router_quota_store_requests_total{{account=\"main\",result=\"{result}\"}} ");
    let metrics = get(router.admin, "/metrics").await.body;
    metrics.lines().find_map(|line| line.strip_prefix(&begin)).unwrap().parse().unwrap()
}

/// How many of so many requests, one after another, the large tier answered. None may fail.
async fn large(router: &Harness, count: u32) -> u32 {
    asked(router, "draft", count).await
}

async fn asked(router: &Harness, model: &str, count: u32) -> u32 {
    let mut answered = 0;
    for _ in 0..count {
        let reply = router.ask(&body(model)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        answered += u32::from(reply.header("x-smallfirst-tier") == "large");
    }
    answered
}

#[tokio::test]
async fn two_clusters_share_a_quota_whatever_their_shares_are() {
    let redis = Redis::start().await;
    let (small, upstream) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let whole = json!({"requestsPerMinute": 40});
    let (a, b) = tokio::join!(
        cluster(&redis, small.port, upstream.port, &whole),
        cluster(&redis, small.port, upstream.port, &whole)
    );
    // More than its share of 20: what the other does not use is there.
    assert_eq!(large(&a, 30).await, 30);
    assert_eq!((large(&b, 20).await, large(&a, 5).await, upstream.count()), (10, 0, 40));
    assert_eq!((requests(&a, "taken").await, requests(&b, "taken").await, requests(&b, "refused").await), (30, 10, 10));
}

#[tokio::test]
async fn a_store_that_dies_fails_no_request_and_knows_all_of_them_when_it_is_back() {
    let mut redis = Redis::start().await;
    let (small, upstream) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let whole = json!({"requestsPerMinute": 40});
    let (a, b) = tokio::join!(
        cluster(&redis, small.port, upstream.port, &whole),
        cluster(&redis, small.port, upstream.port, &whole)
    );
    assert_eq!(large(&a, 12).await, 12);
    redis.kill();
    // Its share is 20, and 12 of that are used.
    let without = large(&a, 15).await;
    assert!((8..=10).contains(&without), "{without}");
    assert_eq!(requests(&a, "away").await, 15);
    assert_eq!(large(&b, 3).await, 3);
    // It has forgotten everything, and is told.
    redis.again().await;
    tokio::join!(until_up(&a, 1), until_up(&b, 1));
    let left = 40 - 12 - without - 3;
    assert_eq!((large(&b, 30).await, upstream.count()), (left, 40));
    assert_eq!(requests(&b, "taken").await, u64::from(left));
}

#[tokio::test]
async fn a_store_that_hangs_costs_one_short_wait() {
    let redis = Redis::start().await;
    let (small, upstream) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let router = cluster(&redis, small.port, upstream.port, &json!({"requestsPerMinute": 1_000})).await;
    redis.signal("-STOP");
    let begin = Instant::now();
    assert_eq!(large(&router, 100).await, 100);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    until_up(&router, 0).await;
    redis.signal("-CONT");
    until_up(&router, 1).await;
    assert_eq!(large(&router, 1).await, 1);
    assert_eq!((requests(&router, "taken").await, requests(&router, "away").await), (1, 100));
}

#[tokio::test]
async fn clusters_together_keep_to_the_requests_at_a_time() {
    let redis = Redis::start().await;
    let (small, upstream) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(Behaviour::Hang).await);
    let whole = json!({"maxConcurrent": 4});
    let (a, b) = tokio::join!(
        cluster(&redis, small.port, upstream.port, &whole),
        cluster(&redis, small.port, upstream.port, &whole)
    );
    let all = async |count| {
        let asking = (0..count).map(|i| asked(if i % 2 == 0 { &a } else { &b }, "intent", 1));
        futures::future::join_all(asking).await.into_iter().sum::<u32>()
    };
    all(8).await;
    assert_eq!(upstream.count(), 4);
    // All have ended.
    upstream.now(LARGE);
    let mut tries = 0;
    while all(4).await < 4 {
        tries += 1;
        assert!(tries < 50, "places are not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster that asks the store without a router around.
struct Alone {
    store: Arc<Store>,
    registry: Registry,
}

fn terms(url: &str, quota: Quota, secrets: &Secrets, login: [Option<SecretKeyRef>; 2]) -> Terms {
    let [password, ca] = login;
    let store = QuotaStore { url: url.to_owned(), username: None, password, ca, key_prefix: "t".to_owned(), quota };
    Terms::new("main", &store, secrets, Duration::from_secs(2)).ok().unwrap()
}

fn asker(risk: Risk) -> Asker {
    Asker { risk, movable: false, reserve: (risk == Risk::High).then_some(0) }
}

impl Alone {
    fn new(terms: Terms) -> Self {
        let reserve = Reserve { workload: "review".to_owned(), nanos: 300_000_000 };
        let mut registry = Registry::default();
        let store = Store::new("main", terms, &[reserve], &Metrics::new(&mut registry));
        Self { store, registry }
    }

    async fn connected(redis: &Redis, quota: Quota) -> Self {
        let alone = Self::new(terms(&redis.url(), quota, &Secrets::default(), [None, None]));
        alone.until_there().await;
        alone
    }

    async fn until_there(&self) {
        for _ in 0..500 {
            let mut text = String::new();
            encode(&mut text, &self.registry).unwrap();
            if text.contains("smallfirst_router_quota_store_up{account=\"main\"} 1\n") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the store is away");
    }

    async fn take(&self, tokens: u64, risk: Risk, patience: Duration) -> Result<Counted, Lack> {
        match self.store.take([1, tokens, tokens / 2, tokens / 2], asker(risk), patience).await {
            Answer::Taken(counted) => Ok(counted),
            Answer::Lacks(lack) => Err(lack),
            Answer::Away => panic!("the store is away"),
        }
    }
}

#[tokio::test]
async fn tokens_are_settled_and_a_reserve_is_left() {
    let redis = Redis::start().await;
    let quota = Quota { tokens_per_minute: Some(100_000), ..Quota::default() };
    let (a, b) = tokio::join!(Alone::connected(&redis, quota), Alone::connected(&redis, quota));
    let first = a.take(60_000, Risk::Low, Duration::ZERO).await.ok().unwrap();
    // Of 40,000 the 30,000 that are reserved are not for Low.
    let lack = b.take(20_000, Risk::Low, Duration::ZERO).await.err().unwrap();
    assert_eq!(lack.kind, Kind::Reserve);
    let high = b.take(39_000, Risk::High, Duration::ZERO).await.ok().unwrap();
    let lack = a.take(10_000, Risk::Medium, Duration::ZERO).await.err().unwrap();
    let wait = lack.wait.unwrap().as_secs_f64();
    assert!(lack.kind == Kind::Tokens && (3.0..=6.0).contains(&wait), "{lack:?}");
    assert!(a.take(100_001, Risk::Medium, Duration::ZERO).await.err().unwrap().wait.is_none(), "that never fits");
    // What was not used is there again, for all.
    first.end([1, 20_000, 10_000, 10_000]);
    high.end([1, 39_000, 19_500, 19_500]);
    let mut tries = 0;
    while a.take(35_000, Risk::Low, Duration::ZERO).await.is_err() {
        tries += 1;
        assert!(tries < 100, "it was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn requests_of_the_last_minute_count_and_no_others() {
    let redis = Redis::start().await;
    let quota = Quota { requests_per_minute: Some(4), ..Quota::default() };
    let alone = Alone::connected(&redis, quota).await;
    let now: u64 = redis.say(&["time"]).lines().next().unwrap().parse().unwrap();
    let (counts, old) = (format!("s{}", now - 40), format!("s{}", now - 63));
    redis.say(&["hset", "t:{main}:used", &counts, "3", &old, "9"]);
    assert!(alone.take(1, Risk::Medium, Duration::ZERO).await.is_ok());
    let lack = alone.take(1, Risk::Medium, Duration::ZERO).await.err().unwrap();
    let wait = lack.wait.unwrap().as_secs_f64();
    assert!(lack.kind == Kind::Requests && (15.0..=22.0).contains(&wait), "{lack:?}");
    assert!(!redis.say(&["hkeys", "t:{main}:used"]).contains(&old), "it is not kept for ever");
}

#[tokio::test]
async fn whoever_waits_at_high_risk_comes_before_other_clusters_low() {
    let redis = Redis::start().await;
    let quota = Quota { max_concurrent: Some(2), ..Quota::default() };
    let (a, b) = tokio::join!(Alone::connected(&redis, quota), Alone::connected(&redis, quota));
    let held = [a.take(1, Risk::Medium, Duration::ZERO).await, a.take(1, Risk::Medium, Duration::ZERO).await];
    let lack = b.take(1, Risk::High, Duration::from_secs(5)).await.err().unwrap();
    assert_eq!(lack.kind, Kind::Concurrency);
    for held in held {
        held.ok().unwrap().end([1; 4]);
    }
    let lack = async || a.take(1, Risk::Medium, Duration::ZERO).await.err().map(|lack| lack.kind);
    while lack().await == Some(Kind::Concurrency) {}
    assert_eq!(lack().await, Some(Kind::Queue), "there is room, for somebody else");
    assert!(b.take(1, Risk::High, Duration::from_secs(5)).await.is_ok());
    assert!(a.take(1, Risk::Medium, Duration::ZERO).await.is_ok());
}

#[tokio::test]
async fn places_of_a_router_that_died_come_back_and_those_of_one_that_lives_do_not() {
    let redis = Redis::start().await;
    let quota = Quota { max_concurrent: Some(2), ..Quota::default() };
    let lives = Alone::connected(&redis, quota).await;
    let held = lives.take(1, Risk::Medium, Duration::ZERO).await.ok().unwrap();
    // As one that is killed: nobody tells the end of its request.
    let died = std::thread::spawn({
        let terms = terms(&redis.url(), quota, &Secrets::default(), [None, None]);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let counted = runtime.block_on(async {
                let dies = Alone::new(terms);
                dies.until_there().await;
                dies.take(1, Risk::Medium, Duration::ZERO).await.ok().unwrap()
            });
            drop(runtime);
            drop(counted);
        }
    });
    died.join().unwrap();
    assert_eq!(lives.take(1, Risk::Medium, Duration::ZERO).await.err().unwrap().kind, Kind::Concurrency);
    // Requests end within 2 s.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let second = lives.take(1, Risk::Medium, Duration::ZERO).await;
    assert!(second.is_ok());
    assert_eq!(lives.take(1, Risk::Medium, Duration::ZERO).await.err().unwrap().kind, Kind::Concurrency);
    held.end([1, 1, 0, 0]);
}

#[tokio::test]
async fn a_store_behind_tls_and_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let address = free();
    let made = rcgen::generate_simple_self_signed(vec![address.ip().to_string()]).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
        at(folder.path(), name)
    };
    let certificate = write("tls.crt", made.cert.pem());
    let key_file = write("tls.key", made.signing_key.serialize_pem());
    let tls = ["--tls-cert-file", &certificate, "--tls-key-file", &key_file, "--tls-auth-clients", "no"];
    let redis = Redis::with(address, &[&tls[..], &["--requirepass", "right"]].concat()).await;
    let pem: &'static str = Box::leak(made.cert.pem().into_boxed_str());
    let secret = |name: &str| Some(SecretKeyRef { name: name.to_owned(), key: "k".to_owned() });
    let url = format!("rediss://{}", redis.address);
    let quota = Quota { requests_per_minute: Some(5), ..Quota::default() };
    let secrets = Secrets::from_iter([key("right", "k", "right\n"), key("wrong", "k", "wrong"), key("ca", "k", pem)]);
    let right = Alone::new(terms(&url, quota, &secrets, [secret("right"), secret("ca")]));
    right.until_there().await;
    assert!(right.take(1, Risk::Medium, Duration::ZERO).await.is_ok());
    for (password, ca) in [("wrong", secret("ca")), ("right", None)] {
        let wrong = Alone::new(terms(&url, quota, &secrets, [secret(password), ca]));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let answer = wrong.store.take([1; 4], asker(Risk::Medium), Duration::ZERO).await;
        assert!(matches!(answer, Answer::Away), "{password}");
    }
    let absent =
        QuotaStore { url, username: None, password: secret("gone"), ca: None, key_prefix: "t".to_owned(), quota };
    let problem = Terms::new("main", &absent, &Secrets::default(), Duration::from_secs(1)).err().unwrap();
    assert!(problem.message.contains("credential.secretKeyRef: Secret gone has no key k"), "{problem}");
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}
