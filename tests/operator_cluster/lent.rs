//! Limits that are lent: real `smallfirst router` processes, a real API server, and an operator that leads.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::sync::{Fleet, Listening, portfolio, ready};
use super::*;

/// Head of the reply to a request. No endpoint of the tier exists: what the limit lets through is told so.
async fn ask(router: SocketAddr) -> String {
    let body = r#"{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(router).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

/// Requests that the limit let through in so many seconds, of about forty a second.
async fn let_through(router: SocketAddr, seconds: u64) -> u32 {
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        count += u32::from(!ask(router).await.starts_with("HTTP/1.1 429"));
        pause(20).await;
    }
    count
}

#[test]
fn a_limit_is_lent_to_the_router_that_needs_it() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "lent").await, namespace(&client, "lent-release").await);
        let operator = Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default()).await;
        let policies = portfolio(&client, &ns).await;
        let limits = json!({"requestsPerMinute": 600});
        let workload =
            json!({"name": "chat", "owner": "team", "risk": "Low", "pathRef": {"name": "way"}, "limits": limits});
        let patch = Patch::Merge(json!({"spec": {"workloads": [workload]}}));
        policies.patch("front", &PatchParams::default(), &patch).await.unwrap();
        let fleet = Fleet::new(&client, &ns).await;
        let routers = [fleet.router("r-0").await, fleet.router("r-1").await];
        ready(&client, &ns, &["r-0", "r-1"]).await;
        let first = routers[0].traffic;
        until("the limit is lent", || async {
            ask(first).await.contains("x-ratelimit-limit-requests: 600\r\n").then_some(())
        })
        .await;
        // A floor of 50 a minute, and what the operator lends: 450 a minute, of which it has little in the beginning.
        let lent = let_through(first, 30).await;
        assert!((140..=900).contains(&lent), "{lent}");
        operator.stop().await;
        let_through(first, 6).await;
        let floor = let_through(first, 12).await;
        assert!((5..=12).contains(&floor), "{floor}");
        drop(routers);
    });
}
