//! What requests come to, from router processes that answer them to the status of their policy: over restarts of both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use rustls::pki_types::PrivateKeyDer;
use smallfirst::sizing::input::Offered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::sync::{Fleet, Listening, Router, ready};
use super::*;

/// Requests at work at a provider: now, and the most that there were.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtWork {
    pub now: usize,
    pub most: usize,
}

/// Stands in for a provider: `unsure` is every second answer of the model `small`. Every answer is of 100 tokens of input
/// and 10 of output, or as many as the request allows.
#[derive(Clone, Default)]
pub struct Provider {
    asked: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    /// Log probabilities of the answers of `small`, in turn. None: it says nothing of that.
    scores: &'static [f64],
    /// How long an answer takes.
    takes: Duration,
    /// What is at work, by the `user` of requests.
    pub at_work: Arc<Mutex<BTreeMap<String, AtWork>>>,
}

impl Provider {
    /// One whose answers of `small` have these log probabilities.
    pub fn with(scores: &'static [f64]) -> Self {
        Self { scores, ..Self::default() }
    }

    /// One whose answers take so long.
    pub fn slow(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    /// Starts it, and gives its base URL and its certificate, which is signed by itself.
    pub async fn start(&self) -> (String, String) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let chain = vec![own.cert.der().clone()];
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let provider = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(provider.clone().serve(stream, acceptor.clone()));
            }
        });
        (format!("https://localhost:{port}/v1"), own.cert.pem())
    }

    async fn serve(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(move |request: Request<Incoming>| {
            let provider = self.clone();
            async move {
                let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes()).unwrap();
                provider.works(&body, 1);
                tokio::time::sleep(provider.takes).await;
                provider.works(&body, -1);
                provider.answer(&body)
            }
        });
        // It ends with the router.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    fn works(&self, request: &Value, more: isize) {
        let mut at_work = self.at_work.lock().unwrap();
        for who in ["all", request["user"].as_str().unwrap_or_default()] {
            let at_work = at_work.entry(who.to_owned()).or_default();
            at_work.now = at_work.now.checked_add_signed(more).unwrap();
            at_work.most = at_work.most.max(at_work.now);
        }
    }

    fn answer(&self, request: &Value) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let small = request["model"] == "small";
        let turn = if small { self.asked.fetch_add(1, Ordering::SeqCst) } else { 0 };
        let text = if turn % 2 == 1 { "unsure" } else { "refund" };
        let mut choice =
            json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
        if let (true, [_, ..]) = (small, self.scores) {
            let token = json!({"token": text, "logprob": self.scores[turn % self.scores.len()], "top_logprobs": []});
            choice["logprobs"] = json!({"content": [token]});
        }
        let output = request["max_tokens"].as_u64().unwrap_or(10);
        let usage = json!({"prompt_tokens": 100, "completion_tokens": output, "total_tokens": 100 + output});
        let answer = json!({
            "id": "a", "object": "chat.completion", "created": 1, "model": request["model"], "choices": [choice], "usage": usage,
        });
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        if self.broken.load(Ordering::SeqCst) {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok(response)
    }
}

/// Two tiers of the provider, one million tokens for 1 and for 10, and a path that goes on where the first is unsure.
async fn portfolio(client: &Client, ns: &str, url: &str) -> Api<RoutingPolicy> {
    for (name, class, price) in [("small", "Small", "1"), ("large", "Frontier", "10")] {
        let tier = json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": name, "namespace": ns},
            "spec": {
                "class": class, "owner": "team", "model": {"name": name, "contextTokens": 2048},
                "prices": [{"inputPerMillion": price, "outputPerMillion": price}],
                "provider": {"api": "OpenAI", "baseURL": url, "credential": {"secretKeyRef": {"name": "keys", "key": "k"}}},
            },
        });
        create(client, ns, &serde_json::from_value::<ModelTier>(tier).unwrap()).await;
    }
    let (mut path, policy) = route(ns, "small");
    path.spec.steps = serde_json::from_value(json!([
        {"name": "first", "tierRef": {"name": "small"}, "accept": [{"notMatch": {"regex": "unsure"}}]},
        {"name": "second", "tierRef": {"name": "large"}},
    ]))
    .unwrap();
    create(client, ns, &path).await;
    create(client, ns, &policy).await;
    Api::namespaced(client.clone(), ns)
}

pub async fn ask(router: &Router, times: usize) -> Vec<String> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        let body = r#"{"model":"chat","messages":[{"role":"user","content":"hello"}]}"#;
        let head =
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut stream = TcpStream::connect(router.traffic).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        statuses.push(reply.split(' ').nth(1).unwrap_or_default().to_owned());
    }
    statuses
}

async fn answered(router: &Router, times: usize) {
    assert_eq!(ask(router, times).await, vec!["200"; times]);
}

/// Waits until the status says so many requests; gives its workload and the policy's cost per transaction.
async fn told(policies: &Api<RoutingPolicy>, requests: i64) -> (Value, Option<String>) {
    until(&format!("{requests} requests in the status"), || async {
        let status = policies.get("front").await.unwrap().status?;
        let workload = status.workloads.first().filter(|workload| workload.requests == requests)?;
        Some((serde_json::to_value(workload).unwrap(), status.cost_per_transaction.map(|cost| cost.0)))
    })
    .await
}

#[test]
fn a_status_says_what_requests_came_to_over_restarts_of_routers_and_operators_and_then_nothing_is_written() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "demand").await, namespace(&client, "demand-release").await);
        let wire = Wire::default();
        let start = async || Listening::start(wire.client().await, &release, Some(ns.clone()), Leader::default()).await;
        let operator = start().await;
        let (url, certificate) = Provider::default().start().await;
        let policies = portfolio(&client, &ns, &url).await;
        let fleet = Fleet::new(&client, &ns).await;
        fleet.mount("keys", "k", "v");
        fleet.trust(&certificate);
        let mut routers = [fleet.router("r-0").await, fleet.router("r-1").await];
        ready(&client, &ns, &["r-0", "r-1"]).await;
        answered(&routers[0], 30).await;
        answered(&routers[1], 10).await;
        // Every answer of small costs 110 millionths; every second one goes on to large, for ten times as much.
        let expected = |requests: i64| json!({"name": "chat", "requests": requests, "costPerTransaction": "0.00066", "escalationRatio": "0.5"});
        assert_eq!(told(&policies, 40).await, (expected(40), Some("0.00066".to_owned())));

        // Another process in a router's place, which counts from nothing.
        routers[0] = fleet.router("r-0").await;
        answered(&routers[0], 10).await;
        assert_eq!(told(&policies, 50).await.0, expected(50));

        // Another operator; requests go on while there is none.
        operator.stop().await;
        answered(&routers[1], 10).await;
        let operator = start().await;
        assert_eq!(told(&policies, 60).await.0, expected(60));
        let id = (ns.clone(), "front".to_owned());
        let offered = || {
            let now = jiff::Timestamp::now().as_second();
            operator.world.measured.demand(&id, |demand| (demand.offered("chat", 30.0, now), demand.peak("chat", now)))
        };
        let (Offered { rate, window, .. }, peak) = offered().unwrap();
        assert!(rate > 0.0 && window > 1.0 && peak >= 59.0 / 300.0, "{rate} in {window} s, peak {peak}");
        let measured = operator.world.measured.demand(&id, |demand| {
            (
                demand.escalation("chat", "first").map(|known| known.ratio),
                demand.takes("chat", "large").map(|takes| takes.input_tokens),
            )
        });
        assert_eq!(measured, Some((Some(0.5), Some(100.0))));

        // Written down; and then, with routers that report all the time, nothing is.
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &ns);
        until("the state", || async {
            let state = maps.get_opt("front-state").await.unwrap()?.data?;
            let stored: Value = serde_json::from_str(state.get("demand.json")?).unwrap();
            let offered: i64 =
                stored["pods"].as_object()?.values().filter_map(|pod| pod["sums"]["chat"][0].as_i64()).sum();
            // Those of the process that was killed are not a pod's any more.
            (offered == 30).then_some(())
        })
        .await;
        let writes = || wire.take().into_iter().filter(|w| !w.ends_with("/tokenreviews")).collect::<Vec<_>>();
        writes();
        pause(12_000).await;
        assert_eq!(writes(), Vec::<String>::new(), "an idle cluster");
        operator.stop().await;
    });
}

#[test]
fn a_tier_that_does_not_answer_is_degraded_until_it_does_again() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "degraded").await, namespace(&client, "degraded-release").await);
        let operator = Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default()).await;
        let provider = Provider::default();
        let (url, certificate) = provider.start().await;
        portfolio(&client, &ns, &url).await;
        let fleet = Fleet::new(&client, &ns).await;
        fleet.mount("keys", "k", "v");
        fleet.trust(&certificate);
        let router = fleet.router("r-0").await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let available = || async {
            let found = condition(&tiers.get("large").await.unwrap(), "Available")?;
            Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
        };
        let is = |status: &str, reason: &str| {
            let wanted = Some((status.to_owned(), reason.to_owned()));
            let available = &available;
            async move { until("the condition", || async { (available().await == wanted).then_some(()) }).await }
        };
        is("True", "Configured").await;
        provider.broken.store(true, Ordering::SeqCst);
        // Five in a row open a circuit.
        ask(&router, 6).await;
        is("False", "Degraded").await;
        provider.broken.store(false, Ordering::SeqCst);
        until("an answer", || async { (ask(&router, 1).await == ["200"]).then_some(()) }).await;
        until("an answer of the large tier", || async {
            ask(&router, 1).await;
            let id = (ns.clone(), "large".to_owned());
            operator.world.measured.calls(&id, |calls| calls.seconds()).flatten().map(drop)
        })
        .await;
        is("True", "Configured").await;
        let events: Api<Event> = Api::namespaced(client.clone(), &ns);
        let reasons = until("both events", || async {
            let found = events.list(&ListParams::default()).await.unwrap().items;
            let of_tier = |event: &&Event| event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some("large");
            let reasons: Vec<String> = found.iter().filter(of_tier).filter_map(|event| event.reason.clone()).collect();
            (reasons.len() >= 2).then_some(reasons)
        })
        .await;
        for reason in ["Degraded", "Recovered"] {
            assert!(reasons.iter().any(|found| found == reason), "{reasons:?}");
        }
        operator.stop().await;
    });
}
