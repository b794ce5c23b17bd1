//! A reserve over three routers, all of whose Low requests come to two of them: its workload comes to the third.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use super::demand::{AtWork, Provider};
use super::pressure::exchange;
use super::sync::{Fleet, Listening, ready};
use super::*;

/// A reserve of four tenths: of 12 places it keeps five, and has four whole ones.
const PLACES: usize = 12;
const KEPT: usize = 5;
const OWN: usize = 4;
/// Of 60,000 tokens a minute it has gained far more than that after half a minute.
const BURST: usize = 8;
/// The next report, its answer, and a busy machine.
const ROUND: Duration = Duration::from_millis(2_500);

/// An account of places and one of tokens, each with a workload of Low risk and one of High with a reserve.
async fn portfolio(client: &Client, ns: &str, accounts: [(&str, &str, Value); 2]) {
    let mut workloads = Vec::new();
    for (name, url, quota) in accounts {
        let tier = json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": name, "namespace": ns},
            "spec": {
                "class": "Frontier", "owner": "team", "prices": [{"inputPerMillion": "1", "outputPerMillion": "1"}],
                "model": {"name": name, "contextTokens": 8192},
                "provider": {
                    "api": "OpenAI", "baseURL": url, "account": name, "quota": quota,
                    "credential": {"secretKeyRef": {"name": "keys", "key": "k"}},
                },
            },
        });
        create(client, ns, &serde_json::from_value::<ModelTier>(tier).unwrap()).await;
        for risk in ["Low", "High"] {
            let model = format!("{name}-{}", risk.to_lowercase());
            let mut workload = json!({
                "name": model, "owner": "team", "risk": risk, "match": {"models": [model]}, "tierRef": {"name": name},
            });
            if risk == "High" {
                workload["reserve"] = json!("0.4");
            }
            workloads.push(workload);
        }
    }
    let (_, mut policy) = route(ns, "places");
    let key = json!({"secretKeyRef": {"name": "keys", "key": "client"}});
    let names: Vec<_> = workloads.iter().map(|workload| workload["name"].clone()).collect();
    policy.spec.anonymous = None;
    policy.spec.default = serde_json::from_value(json!({"workload": "places-low"})).unwrap();
    policy.spec.clients = serde_json::from_value(json!([{"name": "team", "apiKey": key, "workloads": names}])).unwrap();
    policy.spec.workloads = serde_json::from_value(json!(workloads)).unwrap();
    policy.spec.router.replicas = 3;
    create(client, ns, &policy).await;
}

/// Status of the answer to a request of a workload.
async fn ask(router: SocketAddr, workload: &str, max_tokens: usize) -> u16 {
    let body = json!({
        "model": workload, "user": workload, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hello"}],
    });
    let body = body.to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer k-team\r\ncontent-type: application/json";
    let reply = exchange(router, format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    reply.and_then(|reply| reply.split(' ').nth(1)?.parse().ok()).unwrap_or_default()
}

/// Asks again and again, until it is aborted.
async fn flood(router: SocketAddr, workload: &'static str) {
    loop {
        if ask(router, workload, 900).await != 200 {
            pause(200).await;
        }
    }
}

#[test]
fn a_reserve_is_found_at_the_router_that_its_workload_comes_to() {
    let _alone = alone();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "reserve").await, namespace(&client, "reserve-release").await);
        let operator = Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default()).await;
        let slow = Provider::slow(Duration::from_secs(10));
        let quick = Provider::slow(Duration::from_millis(50));
        let ((slow_url, trusted), (quick_url, also)) = (slow.start().await, quick.start().await);
        let accounts = [
            ("places", slow_url.as_str(), json!({"maxConcurrent": PLACES})),
            ("tokens", quick_url.as_str(), json!({"tokensPerMinute": 60_000})),
        ];
        portfolio(&client, &ns, accounts).await;
        let fleet = Fleet::new(&client, &ns).await;
        fleet.mount("keys", "k", "v");
        fleet.mount("keys", "client", "k-team");
        fleet.trust(&format!("{trusted}{also}"));
        let pods = ["r-0", "r-1", "r-2"];
        let mut routers = Vec::new();
        for pod in pods {
            routers.push(fleet.router(pod).await);
        }
        ready(&client, &ns, &pods).await;
        let mut flooding = JoinSet::new();
        for router in &routers[1..] {
            for _ in 0..8 {
                flooding.spawn(flood(router.traffic, "places-low"));
                flooding.spawn(flood(router.traffic, "tokens-low"));
            }
        }
        let at_work = |provider: &Provider, who: &str| -> AtWork {
            provider.at_work.lock().unwrap().get(who).copied().unwrap_or_default()
        };
        until("Low takes what it may", || async { (at_work(&slow, "places-low").now == PLACES - KEPT).then_some(()) })
            .await;
        pause(36_000).await;
        assert_eq!(at_work(&slow, "places-low").most, PLACES - KEPT, "the reserve is not Low's");
        assert!(at_work(&quick, "tokens-low").most > 0, "Low is served");

        // At the router that nobody came to.
        let (third, began) = (routers[0].traffic, Instant::now());
        let mut asking = JoinSet::new();
        (0..OWN).for_each(|_| drop(asking.spawn(async move { ask(third, "places-high", 10).await })));
        (0..BURST).for_each(|_| drop(asking.spawn(async move { ask(third, "tokens-high", 900).await })));
        for _ in 0..BURST {
            assert_eq!(asking.join_next().await.unwrap().unwrap(), 200);
        }
        let tokens = began.elapsed();
        assert!(tokens < ROUND, "tokens after {tokens:?}");
        until("its places", || async { (at_work(&slow, "places-high").now == OWN).then_some(()) }).await;
        let places = began.elapsed();
        assert!(places < ROUND, "places after {places:?}");
        println!("tokens after {tokens:?}, places after {places:?}");
        while let Some(status) = asking.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
        assert!(at_work(&slow, "all").most <= PLACES, "{:?}", at_work(&slow, "all"));
        flooding.shutdown().await;
        operator.stop().await;
    });
}
