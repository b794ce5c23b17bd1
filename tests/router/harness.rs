//! A router in this process, on real sockets, and a client that shows what came over the wire.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use smallfirst::router::Limits;
use smallfirst::router::control::Inputs;
use smallfirst::router::endpoints::Addresses;
use smallfirst::router::run::{Config, Running, start};
use smallfirst::routing::source::secrets::Secrets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The access log of a router under test.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub struct Harness {
    pub running: Option<Running>,
    pub table: watch::Sender<Option<Arc<str>>>,
    pub secrets: watch::Sender<Secrets>,
    pub addresses: watch::Sender<Addresses>,
    pub log: Log,
    pub address: std::net::SocketAddr,
    pub admin: std::net::SocketAddr,
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        found.unwrap_or("")
    }
}

pub fn key(secret: &str, key: &str, value: &'static str) -> ((String, String), Bytes) {
    ((secret.to_owned(), key.to_owned()), Bytes::from(value))
}

impl Harness {
    pub async fn start(table: serde_json::Value) -> Self {
        Self::with(table, |_| ()).await
    }

    pub async fn with(table: serde_json::Value, change: impl FnOnce(&mut Config)) -> Self {
        let harness = Self::not_ready(table, change).await;
        harness.until_ready().await;
        harness
    }

    pub async fn not_ready(table: serde_json::Value, change: impl FnOnce(&mut Config)) -> Self {
        let (table, tables) = watch::channel(Some(Arc::from(table.to_string())));
        let keys = [key("client-keys", "finance", "k-finance"), key("client-keys", "guest", "k-guest")];
        let (secrets, secret_changes) = watch::channel(Secrets::from_iter(keys));
        let (addresses, address_changes) = watch::channel(Addresses::new());
        let log = Log::default();
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            admin: Some(([127, 0, 0, 1], 0).into()),
            threads: 2,
            limits: Limits { max_body_bytes: 1 << 20, ..Limits::default() },
            lame_duck: Duration::from_millis(50),
            drain: Duration::from_secs(5),
            state: None,
            access_log: Box::new(log.clone()),
            sync: None,
            tls_secret: None,
        };
        change(&mut config);
        let inputs = Inputs { table: tables, secrets: secret_changes, addresses: address_changes };
        let running = start(config, inputs).await.unwrap();
        let (address, admin) = (running.address, running.admin.unwrap());
        Self { running: Some(running), table, secrets, addresses, log, address, admin }
    }

    pub async fn until_ready(&self) {
        for _ in 0..200 {
            if get(self.admin, "/readyz").await.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the router did not become ready");
    }

    /// Puts another table in force.
    pub async fn reload(&self, table: serde_json::Value) {
        let before = get(self.admin, "/table").await.header("x-smallfirst-table-hash").to_owned();
        self.table.send(Some(Arc::from(table.to_string()))).unwrap();
        for _ in 0..200 {
            if get(self.admin, "/table").await.header("x-smallfirst-table-hash") != before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the table was not taken");
    }

    pub async fn ask(&self, body: &str) -> Reply {
        self.ask_as("k-finance", body).await
    }

    pub async fn ask_as(&self, key: &str, body: &str) -> Reply {
        post(self.address, key, body.as_bytes()).await
    }

    pub fn log_text(&self) -> String {
        String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap()
    }
}

pub async fn get(address: std::net::SocketAddr, path: &str) -> Reply {
    exchange(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
}

pub async fn post(address: std::net::SocketAddr, key: &str, body: &[u8]) -> Reply {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    exchange(address, &[head.as_bytes(), body].concat()).await
}

pub async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // As most clients do: everything is sent before the answer is read, even that of a refused request.
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 65536];
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
    let text = String::from_utf8_lossy(&bytes).to_string();
    // Says only that the body may come.
    let text = text.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

/// A table of two tiers at two ports: `small` gated by confidence, then `large`; a High-risk and a fallback workload.
pub fn table(small: u16, large: u16) -> serde_json::Value {
    let tier = |class: &str, port: u16| {
        serde_json::json!({
            "class": class, "dataClass": "Confidential", "public": false, "model": format!("model-{class}"),
            "contextTokens": 8000, "capabilities": ["Chat", "Logprobs", "Streaming", "JSONSchema"],
            "inputPrice": 1_000_000_000_u64, "cachedInputPrice": 500_000_000, "outputPrice": 2_000_000_000_u64,
            "concurrency": null, "backend": {"url": {"baseUrl": format!("http://127.0.0.1:{port}/v1"), "credential": null}}
        })
    };
    let step = |tier: &str, entry: &str, accept: serde_json::Value| serde_json::json!({"name": tier, "tiers": [tier], "entry": entry, "timeoutMs": 400, "attempts": 2, "accept": accept});
    let path = |steps: Vec<serde_json::Value>, direction: &str| {
        serde_json::json!({
            "steps": steps, "deadlineMs": 1000, "direction": direction, "onExhausted": "BestAnswer",
            "failoverOn": ["Unreachable", "Timeout", "RateLimited", "ServerError", "Degraded", "ContextOverflow"]
        })
    };
    let gate = serde_json::json!([{"onMissing": "Escalate", "required": false, "check": {"confidence": {"measure": "MeanLogprob", "quantile": null, "scope": "All", "atLeast": -0.4}}}]);
    let workload = |name: &str, risk: &str, data: &str, path: &str| {
        serde_json::json!({
            "name": name, "owner": "team", "risk": risk, "dataClass": data, "models": [name], "headers": [],
            "clients": [], "onlyByDefault": false, "path": path
        })
    };
    serde_json::json!({
        "formatVersion": 1, "namespace": "ai", "policy": "assistants", "currency": "USD",
        "clients": [
            {"name": "finance", "apiKey": {"name": "client-keys", "key": "finance"}, "workloads": null},
            {"name": "guest", "apiKey": {"name": "client-keys", "key": "guest"}, "workloads": ["intent"]}
        ],
        "tiers": {"small": tier("Small", small), "large": tier("Frontier", large)},
        "paths": {
            "up": path(vec![step("small", "Always", gate.clone()), step("large", "Always", serde_json::json!([]))], "Up"),
            "down": path(vec![step("large", "Always", serde_json::json!([])), step("small", "FailoverOnly", serde_json::json!([]))], "UpThenDown")
        },
        "workloads": [
            workload("intent", "Low", "Internal", "up"), workload("review", "High", "Internal", "up"),
            workload("draft", "Medium", "Internal", "down"), workload("secret", "Medium", "Restricted", "down")
        ],
        "defaultWorkload": null, "accessLog": "JSON"
    })
}

pub fn body(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"PROMPT-TEXT"}}]}}"#)
}
