//! A fake model server: it does what a real one can't be asked to do on demand (refuse, reset, hang, answer rubbish).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the fake does with the next requests.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// 200 with this content, every token at this log probability.
    Answer(&'static str, f64),
    /// 200 with this content: unsure where the request says `HARD`, cut where it sets `max_tokens` to 1.
    ByPrompt(&'static str),
    /// 200 with these contents in turn, by the number of the request.
    Turns(&'static [&'static str]),
    /// The same after a while, with every token sure.
    Slow(Duration, &'static str),
    /// The same as a stream, where the request asks for one.
    Stream(&'static str, f64),
    /// A stream of so many tokens, each at this log probability and after a pause; it breaks off before the token given.
    Flow { tokens: usize, logprob: f64, pause: Duration, cut: Option<usize> },
    /// A stream that counts `t0 t1 t2`, and goes on with an assistant message if it continues those; one that begins
    /// anew breaks off before the token given.
    Counts { tokens: usize, pause: Duration, cut: Option<usize>, continues: bool },
    /// This status with a body that must never reach a client.
    Status(u16),
    /// As `Answer` with every token sure, but each request of this number gets a 500.
    Flaky(usize, &'static str),
    /// 400: the request is longer than the context.
    TooLong,
    /// 429 with `Retry-After`.
    Busy(u32),
    /// 429 with these lines in its head, each with its end.
    Limited(&'static str),
    /// As `Answer` with every token sure, and these lines in its head.
    Spent(&'static str, &'static str),
    /// The connection is closed after the request was read.
    Reset,
    /// No answer to chat; the health path still answers.
    Hang,
    /// No answer to anything.
    Frozen,
    /// 200 with this body.
    Raw(&'static str),
}

pub struct FakeUpstream {
    pub port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
    pub requests: Arc<AtomicUsize>,
    /// Clients that closed while a request of theirs was hanging.
    pub gone: Arc<AtomicUsize>,
    pub last_body: Arc<Mutex<String>>,
}

impl FakeUpstream {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            requests: Arc::default(),
            gone: Arc::default(),
            last_body: Arc::default(),
        };
        let (behaviour, requests) = (fake.behaviour.clone(), fake.requests.clone());
        let (gone, last_body) = (fake.gone.clone(), fake.last_body.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (behaviour, requests) = (behaviour.clone(), requests.clone());
                let (gone, last_body) = (gone.clone(), last_body.clone());
                tokio::spawn(async move { serve(stream, behaviour, requests, gone, last_body).await });
            }
        });
        fake
    }

    pub fn now(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
    last_body: Arc<Mutex<String>>,
) {
    while let Some(body) = request(&mut stream).await {
        let behaviour = behaviour.lock().unwrap().clone();
        let health = body == "health";
        let mut turn = 0;
        if !health {
            turn = requests.fetch_add(1, Ordering::SeqCst);
            last_body.lock().unwrap().clone_from(&body);
        }
        let reply = match behaviour {
            behaviour if health && !matches!(behaviour, Behaviour::Frozen) => http("200 OK", "text/plain", "", "ok"),
            Behaviour::Answer(text, logprob) => {
                http("200 OK", "application/json", "", &completion(text, logprob, &body))
            }
            Behaviour::ByPrompt(text) => {
                let logprob = if body.contains("HARD") { -3.0 } else { -0.01 };
                let whole = completion(text, logprob, &body);
                let cut = || whole.replace("\"stop\"", "\"length\"").replace("tokens\":10", "tokens\":1");
                let answer = if body.contains("\"max_tokens\":1,") { cut() } else { whole.clone() };
                http("200 OK", "application/json", "", &answer)
            }
            Behaviour::Turns(texts) => {
                http("200 OK", "application/json", "", &completion(texts[turn % texts.len()], -0.01, &body))
            }
            Behaviour::Flaky(every, _) if turn % every == 0 => {
                http("500 X", "application/json", "", "{\"error\":\"sk-secret\"}")
            }
            Behaviour::Flaky(_, text) => http("200 OK", "application/json", "", &completion(text, -0.01, &body)),
            Behaviour::Slow(time, text) => {
                tokio::time::sleep(time).await;
                http("200 OK", "application/json", "", &completion(text, -0.01, &body))
            }
            Behaviour::Stream(text, logprob) => {
                let kind = if body.contains("\"stream\":true") { "text/event-stream" } else { "application/json" };
                http("200 OK", kind, "", &stream_of(text, logprob, &body))
            }
            Behaviour::Flow { tokens, logprob, pause, cut } => {
                if flow(&mut stream, tokens, logprob, pause, cut, &body).await.is_none() {
                    gone.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                continue;
            }
            Behaviour::Counts { tokens, pause, cut, continues } => {
                let asked = last_words(&body).filter(|_| continues);
                let from = asked.unwrap_or(0);
                // The router's question whether this engine continues is answered whole.
                let probe = body.contains("\"temperature\":0");
                let cut = cut.filter(|_| asked.is_none() && !probe).unwrap_or(usize::MAX);
                let to = if probe { from + 24 } else { tokens };
                let texts = (from..to.min(cut)).map(|n| if n == 0 { "t0".to_owned() } else { format!(" t{n}") });
                if counts(&mut stream, texts, pause, cut < tokens).await.is_none() {
                    gone.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                continue;
            }
            Behaviour::TooLong => {
                http("400 Bad Request", "application/json", "", r#"{"error":{"code":"context_length_exceeded"}}"#)
            }
            Behaviour::Status(status) => {
                http(&format!("{status} X"), "application/json", "", "{\"error\":\"sk-secret\"}")
            }
            Behaviour::Busy(seconds) => {
                http("429 X", "application/json", &format!("retry-after: {seconds}\r\n"), "{\"error\":\"sk-secret\"}")
            }
            Behaviour::Limited(lines) => http("429 X", "application/json", lines, "{\"error\":\"sk-secret\"}"),
            Behaviour::Spent(lines, text) => http("200 OK", "application/json", lines, &completion(text, -0.01, &body)),
            Behaviour::Raw(text) => http("200 OK", "application/json", "", text),
            Behaviour::Reset => return,
            Behaviour::Hang | Behaviour::Frozen => {
                let mut buffer = [0; 1];
                // Ends when the router closes the connection.
                if matches!(
                    tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer)).await,
                    Ok(Ok(0) | Err(_))
                ) {
                    gone.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
        };
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// `None` when it did not come to its end.
async fn flow(
    stream: &mut TcpStream,
    tokens: usize,
    logprob: f64,
    pause: Duration,
    cut: Option<usize>,
    request: &str,
) -> Option<()> {
    let mut send = async |text: String| stream.write_all(text.as_bytes()).await.ok();
    let piece = |event: &str| format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8);
    send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".into()).await?;
    for token in 0..tokens {
        if cut == Some(token) {
            return None;
        }
        tokio::time::sleep(pause).await;
        let text = format!("t{token} ");
        let mut choice = serde_json::json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
        if request.contains("\"logprobs\":true") {
            choice["logprobs"] = logprobs(&text, logprob);
        }
        let chunk = serde_json::json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [choice]});
        send(piece(&chunk.to_string())).await?;
    }
    let rest = stream_of("", 0.0, "\"stream\":true \"include_usage\":true");
    for event in rest.split("\n\n").skip(1).filter_map(|event| event.strip_prefix("data: ")) {
        send(piece(event)).await?;
    }
    send("0\r\n\r\n".into()).await
}

/// Words of the assistant message that a request ends with.
fn last_words(request: &str) -> Option<usize> {
    let request: serde_json::Value = serde_json::from_str(request).ok()?;
    let last = request["messages"].as_array()?.last()?;
    (last["role"] == "assistant").then(|| last["content"].as_str().unwrap_or("").split_whitespace().count())
}

/// `None` when it did not come to its end.
async fn counts(stream: &mut TcpStream, texts: impl Iterator<Item = String>, pause: Duration, cut: bool) -> Option<()> {
    let mut send = async |text: String| stream.write_all(text.as_bytes()).await.ok();
    let piece = |event: &str| format!("{:x}\r\ndata: {event}\n\n\r\n", event.len() + 8);
    let chunk = |delta: serde_json::Value| {
        serde_json::json!({
            "id": "n", "object": "chat.completion.chunk", "created": 2, "model": "fake",
            "choices": [{"index": 0, "delta": delta, "finish_reason": null}]
        })
    };
    send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".into()).await?;
    send(piece(&chunk(serde_json::json!({"role": "assistant", "content": null})).to_string())).await?;
    for text in texts {
        tokio::time::sleep(pause).await;
        let mut chunk = chunk(serde_json::json!({"content": text}));
        chunk["choices"][0]["logprobs"] = logprobs(&text, -0.01);
        send(piece(&chunk.to_string())).await?;
    }
    if cut {
        return None;
    }
    let rest = stream_of("", 0.0, "\"stream\":true \"include_usage\":true");
    for event in rest.split("\n\n").skip(1).filter_map(|event| event.strip_prefix("data: ")) {
        send(piece(event)).await?;
    }
    send("0\r\n\r\n".into()).await
}

pub async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let text = String::from_utf8_lossy(&bytes).to_string();
        if let Some(end) = text.find("\r\n\r\n") {
            if text.starts_with("GET /health") {
                return Some("health".into());
            }
            let head = text[..end].to_lowercase();
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(text[end + 4..].to_owned());
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

pub fn http(status: &str, kind: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
}

fn logprobs(text: &str, logprob: f64) -> serde_json::Value {
    let bytes = text.as_bytes();
    serde_json::json!({"content": [{"token": text, "logprob": logprob, "bytes": bytes, "top_logprobs": []}]})
}

pub fn completion(text: &str, logprob: f64, request: &str) -> String {
    let mut choice = serde_json::json!({
        "index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"
    });
    if request.contains("\"logprobs\":true") {
        choice["logprobs"] = logprobs(text, logprob);
    }
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "choices": [choice],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    })
    .to_string()
}

pub fn stream_of(text: &str, logprob: f64, request: &str) -> String {
    if !request.contains("\"stream\":true") {
        return completion(text, logprob, request);
    }
    let chunk = |choices: serde_json::Value| serde_json::json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": choices});
    let mut first =
        serde_json::json!({"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": null});
    if request.contains("\"logprobs\":true") {
        first["logprobs"] = logprobs(text, logprob);
    }
    let mut usage = chunk(serde_json::json!([]));
    usage["usage"] = serde_json::json!({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110});
    let last = chunk(serde_json::json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
    let mut events = vec![chunk(serde_json::json!([first])).to_string(), last.to_string()];
    if request.contains("\"include_usage\":true") {
        events.push(usage.to_string());
    }
    events.push("[DONE]".into());
    events.iter().map(|e| format!("data: {e}\n\n")).collect()
}
