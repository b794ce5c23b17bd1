//! A frontier's quota is cut under load, and returns: who gives way, in which order, as the status and the router's metrics
//! say it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use k8s_openapi::api::events::v1::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::demand::Provider;
use super::sync::{Fleet, Listening, Router, ready};
use super::*;

/// Half of the answers pass the threshold of -0.4; of ten, one each misses it by 0.05, 0.1, 0.15, 0.2 and 0.9. Each comes
/// twice: two workloads that ask in turn get the same ones.
const SCORES: [f64; 20] = [
    -0.1, -0.1, -0.45, -0.45, -0.1, -0.1, -0.5, -0.5, -0.1, -0.1, -0.55, -0.55, -0.1, -0.1, -0.6, -0.6, -0.1, -0.1,
    -1.3, -1.3,
];
/// Requests of each workload a second.
const RATES: [(&str, f64); 3] = [("chat", 5.0), ("mail", 5.0), ("review", 1.0)];

/// Outcomes of requests, by workload.
type Outcomes = Arc<Mutex<BTreeMap<(&'static str, String), usize>>>;

async fn portfolio(client: &Client, ns: &str, url: &str) -> Api<ModelTier> {
    for (name, class) in [("small", "Small"), ("large", "Frontier")] {
        let mut tier = json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": name, "namespace": ns},
            "spec": {
                "class": class, "owner": "team", "prices": [{"inputPerMillion": "1", "outputPerMillion": "1"}],
                "model": {"name": name, "contextTokens": 2048, "capabilities": ["Chat", "Logprobs"]},
                "provider": {
                    "api": "OpenAI", "baseURL": url, "account": name, "credential": {"secretKeyRef": {"name": "keys", "key": "k"}}
                },
            },
        });
        if name == "large" {
            tier["spec"]["provider"]["quota"] = json!({"requestsPerMinute": 1200});
        }
        create(client, ns, &serde_json::from_value::<ModelTier>(tier).unwrap()).await;
    }
    let (mut path, mut policy) = route(ns, "small");
    path.spec = serde_json::from_value(json!({
        "owner": "team", "pressure": {"slack": "0.3"},
        "steps": [
            {"name": "first", "tierRef": {"name": "small"}, "accept": [{"confidence": {"measure": "MeanLogprob", "atLeast": "-0.4"}}]},
            {"name": "second", "tierRef": {"name": "large"}},
        ],
    }))
    .unwrap();
    let workload =
        |name: &str, risk: &str| json!({"name": name, "owner": "team", "risk": risk, "match": {"models": [name]}});
    let [mut chat, mut mail, mut review] =
        [workload("chat", "Low"), workload("mail", "Medium"), workload("review", "High")];
    (chat["pathRef"], mail["pathRef"]) = (json!({"name": "way"}), json!({"name": "way"}));
    (review["tierRef"], review["reserve"]) = (json!({"name": "large"}), json!("0.2"));
    // Only who lists a workload with a reserve may use it.
    policy.spec.anonymous = None;
    let key = json!({"secretKeyRef": {"name": "keys", "key": "client"}});
    let everybody = json!([{"name": "team", "apiKey": key, "workloads": ["chat", "mail", "review"]}]);
    policy.spec.clients = serde_json::from_value(everybody).unwrap();
    policy.spec.workloads = serde_json::from_value(json!([chat, mail, review])).unwrap();
    create(client, ns, &path).await;
    create(client, ns, &policy).await;
    Api::namespaced(client.clone(), ns)
}

pub async fn exchange(address: SocketAddr, request: String) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.ok()?;
    Some(reply)
}

/// Asks at a steady rate until it is aborted, whatever the answers take.
async fn load(address: SocketAddr, workload: &'static str, rate: f64, outcomes: Outcomes) {
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut asking = JoinSet::new();
    loop {
        tick.tick().await;
        while asking.try_join_next().is_some() {}
        let outcomes = Arc::clone(&outcomes);
        asking.spawn(async move {
            let body =
                format!(r#"{{"model":"{workload}","max_tokens":16,"messages":[{{"role":"user","content":"hello"}}]}}"#);
            let head =
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k-team\r\ncontent-type: application/json";
            let reply = exchange(address, format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
            let outcome = reply
                .as_deref()
                .unwrap_or_default()
                .lines()
                .find_map(|line| line.strip_prefix("x-smallfirst-outcome: "));
            let outcome = outcome.unwrap_or("none").trim().to_owned();
            *outcomes.lock().unwrap().entry((workload, outcome)).or_default() += 1;
        });
    }
}

/// By how much the router lowers the thresholds of both workloads.
async fn lowered(router: &Router) -> [f64; 2] {
    let text =
        exchange(router.admin, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".into()).await.unwrap();
    ["chat", "mail"].map(|workload| {
        let name = format!("smallfirst_router_threshold_lowered{{workload=\"{workload}\",step=\"first\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap()
    })
}

/// The measures that the status says, and its sentence.
async fn said(tiers: &Api<ModelTier>) -> Option<(Vec<String>, String)> {
    let quota = tiers.get("large").await.unwrap().status?.quota?;
    Some((quota.measures.iter().map(|measure| format!("{measure:?}")).collect(), quota.message))
}

/// [`until`], with time for two looks and for what must not have been needed for a minute.
async fn within<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(120) {
        if let Some(value) = check().await {
            return value;
        }
        pause(250).await;
    }
    panic!("{what}: not within two minutes");
}

#[test]
fn a_quota_that_is_cut_makes_low_give_way_then_medium_and_never_high() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "pressure").await, namespace(&client, "pressure-release").await);
        let operator = Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default()).await;
        let (url, certificate) = Provider::with(&SCORES).start().await;
        let tiers = portfolio(&client, &ns, &url).await;
        let fleet = Fleet::new(&client, &ns).await;
        fleet.mount("keys", "k", "v");
        fleet.mount("keys", "client", "k-team");
        fleet.trust(&certificate);
        let router = fleet.router("r-0").await;
        ready(&client, &ns, &["r-0"]).await;
        let outcomes = Outcomes::default();
        let mut asking = JoinSet::new();
        for (workload, rate) in RATES {
            asking.spawn(load(router.traffic, workload, rate, Arc::clone(&outcomes)));
        }
        let taken = |workload: &'static str, outcome: &str| {
            outcomes.lock().unwrap().get(&(workload, outcome.to_owned())).copied().unwrap_or_default()
        };
        let quota = |limit: i64| {
            let patch = json!({"spec": {"provider": {"quota": {"requestsPerMinute": limit}}}});
            let tiers = &tiers;
            async move { tiers.patch("large", &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop).unwrap() }
        };
        let (tiers, router) = (&tiers, &router);
        let (measures, message) = within("it is said", || said(tiers)).await;
        assert!(measures.is_empty() && message.starts_with("fits: "), "{measures:?} {message}");
        assert_eq!(lowered(router).await, [0.0; 2]);

        // 360 a minute are needed, with the reserve kept free 372 of 324: Low gives way, as far as it must.
        quota(360).await;
        let [chat, mail] =
            within("Low gives way", || async { Some(lowered(router).await).filter(|by| by[0] > 0.0) }).await;
        assert!(chat < 0.3 && mail == 0.0, "{chat} {mail}");
        let short = |wanted: &'static str| async move {
            let (measures, message) = said(tiers).await?;
            (measures.first().map(String::as_str) == Some(wanted)).then_some(message)
        };
        let message = within("it is said", || short("ThresholdsLowered")).await;
        assert!(
            message.starts_with("short: ") && message.contains("chat accepts at step first what misses"),
            "{message}"
        );
        assert!(!message.contains("mail accepts"), "{message}");
        let tier = tiers.get("large").await.unwrap();
        assert_eq!(condition(&tier, "WithinQuota").map(|c| c["reason"].clone()), Some(json!("QuotaShort")));
        within("an answer under pressure", || async { (taken("chat", "under-pressure") > 0).then_some(()) }).await;
        assert_eq!(taken("mail", "under-pressure"), 0);

        // Half of that again: Low by all of its slack, then Medium by half at most.
        quota(180).await;
        let [chat, mail] =
            within("Medium gives way", || async { Some(lowered(router).await).filter(|by| by[1] > 0.0) }).await;
        assert!(chat == 0.3 && mail <= 0.15, "{chat} {mail}");
        within("an answer of Medium", || async { (taken("mail", "under-pressure") > 0).then_some(()) }).await;

        // It returns: what was needed ends once, after a minute.
        quota(1200).await;
        let (began, mut before) = (Instant::now(), lowered(router).await);
        while before != [0.0; 2] {
            assert!(began.elapsed() < Duration::from_secs(120), "nobody should give way any more: {before:?}");
            pause(250).await;
            let now = lowered(router).await;
            assert!(now[0] <= before[0] && now[1] <= before[1], "it swings: {before:?} {now:?}");
            before = now;
        }
        let message =
            within("it is said", || async { said(tiers).await.filter(|(measures, _)| measures.is_empty()) }).await.1;
        assert!(message.starts_with("fits: "), "{message}");
        // Two more looks.
        for _ in 0..30 {
            assert_eq!(lowered(router).await, [0.0; 2]);
            pause(1_000).await;
        }
        asking.shutdown().await;
        let all = outcomes.lock().unwrap().clone();
        let high: Vec<_> = all.iter().filter(|((workload, _), _)| *workload == "review").collect();
        assert!(high.iter().all(|((_, outcome), _)| outcome == "accepted"), "{all:?}");
        let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), &ns);
        let pressed = |workload: &'static str| {
            let policies = &policies;
            async move {
                let status = policies.get("front").await.unwrap().status?;
                let found = status.workloads.into_iter().find(|found| found.name == workload)?;
                Some((found.accepted_under_pressure?, found.escalation_ratio?.0.parse::<f64>().ok()?))
            }
        };
        let (chat, ratio) = within("what was accepted so", || pressed("chat")).await;
        assert!(chat > 0 && (0.45..0.55).contains(&ratio), "verdicts stay what they are: {chat} {ratio}");
        let events: Api<Event> = Api::namespaced(client.clone(), &ns);
        let found = events.list(&ListParams::default()).await.unwrap().items;
        let reasons: Vec<_> =
            found.iter().filter_map(|event| event.reason.as_deref()).filter(|r| r.starts_with("Quota")).collect();
        assert_eq!(
            (reasons.iter().filter(|r| **r == "QuotaShort").count(), reasons.contains(&"QuotaFits")),
            (1, true),
            "{reasons:?}"
        );
        operator.stop().await;
    });
}
