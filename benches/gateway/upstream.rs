//! A mock model server for load tests: chat completions of a fixed length, plain or streamed, and faults on demand.
//!
//! Every token carries the `user` of its request and its own number (`alice.0 alice.1 ...`), so that a client can tell
//! whether something was lost, repeated or crossed. Controlled over the same port: `POST /fault?kind=error&percent=5`.
#![expect(clippy::print_stdout, reason = "a program")]

mod fault;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use fault::{Fault, Kind};
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A mock model server. Prints `listening ADDRESS` once it does.
///
/// POST .../chat/completions answers (`stream`, `logprobs` and `stream_options.include_usage` are honoured; a token a
/// frame); GET /health and /v1/models too; GET /stats counts; POST /fault?kind=KIND&percent=N sets what goes wrong from
/// now on: none, error (500), reset (the connection is torn), cut (in the middle of the reply), freeze (no answer to
/// anything). Several kinds, joined by commas, take turns.
#[derive(Parser)]
#[command(name = "upstream", verbatim_doc_comment)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Tokens of a reply.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Time before a reply begins, in milliseconds.
    #[arg(long, default_value_t = 0)]
    first_ms: u64,
    /// Time between the tokens of a stream, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Threads that serve.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

struct Mock {
    args: Args,
    fault: watch::Sender<Fault>,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// The connection is to be torn, or its reply broken off.
type Torn = std::io::Error;
type Body = UnsyncBoxBody<Bytes, Torn>;

/// What a request says of its answer.
#[derive(serde::Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    logprobs: bool,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    user: String,
}

#[derive(serde::Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn reply(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    reply
}

fn logprobs(token: &str) -> String {
    let others: Vec<String> =
        (0..5).map(|n| format!(r#"{{"token":"{token}{n}","logprob":-{n}.5,"bytes":null}}"#)).collect();
    format!(r#"{{"token":"{token}","logprob":-0.0123456,"bytes":null,"top_logprobs":[{}]}}"#, others.join(","))
}

const HEAD: &str = r#""id":"chatcmpl-1","created":1,"model":"mock""#;

impl Mock {
    fn usage(&self) -> String {
        let tokens = self.args.tokens;
        format!(r#""usage":{{"prompt_tokens":100,"completion_tokens":{tokens},"total_tokens":{}}}"#, tokens + 100)
    }

    fn completion(&self, asked: &Asked) -> String {
        let (mut content, mut all) = (String::new(), Vec::new());
        for number in 0..self.args.tokens {
            let token = format!(" {}.{number}", asked.user);
            content.push_str(&token);
            if asked.logprobs {
                all.push(logprobs(&token));
            }
        }
        let logprobs =
            if asked.logprobs { format!(r#","logprobs":{{"content":[{}]}}"#, all.join(",")) } else { String::new() };
        format!(
            r#"{{{HEAD},"object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"{logprobs}}}],{}}}"#,
            self.usage()
        )
    }

    fn event(&self, asked: &Asked, number: usize) -> String {
        let chunk = |choices: &str, more: &str| {
            format!("data: {{{HEAD},\"object\":\"chat.completion.chunk\",\"choices\":[{choices}]{more}}}\n\n")
        };
        if number < self.args.tokens {
            let token = format!(" {}.{number}", asked.user);
            let logprobs = if asked.logprobs {
                format!(r#","logprobs":{{"content":[{}]}}"#, logprobs(&token))
            } else {
                String::new()
            };
            let choice = format!(r#"{{"index":0,"delta":{{"content":"{token}"}},"finish_reason":null{logprobs}}}"#);
            return chunk(&choice, "");
        }
        let mut rest = chunk(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, "");
        if asked.stream_options.as_ref().is_some_and(|options| options.include_usage) {
            rest.push_str(&chunk("", &format!(",{}", self.usage())));
        }
        rest + "data: [DONE]\n\n"
    }

    /// The reply, which breaks off in its middle if it is to be `cut`.
    fn answer(self: &Arc<Self>, asked: Asked, cut: bool) -> Response<Body> {
        let torn = || Err(Torn::other("cut"));
        if !asked.stream {
            let text = self.completion(&asked);
            if cut {
                let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
                let parts = futures::stream::iter([Ok(Frame::data(half)), torn()]);
                return reply(StatusCode::OK, "application/json", StreamBody::new(parts).boxed_unsync());
            }
            return reply(StatusCode::OK, "application/json", full(text));
        }
        let (mock, tokens) = (self.clone(), self.args.tokens);
        let events = futures::stream::iter(0..=tokens).then(move |number| {
            let text = if cut && number == tokens / 2 { None } else { Some(mock.event(&asked, number)) };
            let pause = Duration::from_millis(if number == 0 { 0 } else { mock.args.pace_ms });
            async move {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                text.map(|text| Frame::data(Bytes::from(text))).ok_or_else(|| Torn::other("cut"))
            }
        });
        reply(StatusCode::OK, "text/event-stream", StreamBody::new(events).boxed_unsync())
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Torn> {
        let (parts, body) = request.into_parts();
        let json = "application/json";
        match (&parts.method, parts.uri.path()) {
            (&Method::POST, "/fault") => {
                return Ok(match Fault::of(parts.uri.query().unwrap_or_default()) {
                    Ok(fault) => {
                        self.fault.send_replace(fault);
                        reply(StatusCode::OK, "text/plain", full("ok\n"))
                    }
                    Err(why) => reply(StatusCode::BAD_REQUEST, "text/plain", full(why)),
                });
            }
            (_, "/stats") => {
                let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
                let text =
                    format!(r#"{{"requests":{},"connections":{}}}"#, count(&self.requests), count(&self.connections));
                return Ok(reply(StatusCode::OK, json, full(text)));
            }
            _ => {}
        }
        // Ends when it is thawed; a client that leaves ends it too.
        let mut faults = self.fault.subscribe();
        let _ = faults.wait_for(|fault| !fault.frozen()).await;
        if parts.method == Method::GET {
            return Ok(reply(
                StatusCode::OK,
                json,
                full(r#"{"object":"list","data":[{"id":"mock","object":"model","owned_by":"bench"}]}"#),
            ));
        }
        let bytes = body.collect().await.map_err(Torn::other)?.to_bytes();
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = faults.borrow().draw(number);
        if self.args.first_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.args.first_ms)).await;
        }
        match fault {
            Some(Kind::Error) => {
                return Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, json, full(r#"{"error":{"message":"mock"}}"#)));
            }
            Some(Kind::Reset) => return Err(Torn::other("reset")),
            Some(Kind::Freeze) => std::future::pending().await,
            Some(Kind::Cut) | None => {}
        }
        Ok(match serde_json::from_slice::<Asked>(&bytes) {
            Ok(asked) => self.answer(asked, fault == Some(Kind::Cut)),
            Err(why) => reply(StatusCode::BAD_REQUEST, "text/plain", full(why.to_string())),
        })
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mock = self.clone();
        let service = service_fn(move |request| Box::pin(mock.clone().serve(request)));
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let stream = connection.into_parts().io.into_inner();
        if ended.is_err() {
            // A close with unsent time left is a reset.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        drop(stream);
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn main() -> anyhow::Result<()> {
    // Cargo says `--bench` to every benchmark; run as one of all, it has nothing to measure.
    let words: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    if words.len() == 1 {
        println!("a mock server, no benchmark: see --help");
        return Ok(());
    }
    let args = Args::parse_from(words);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        println!("listening {}", listener.local_addr()?);
        let mock = Arc::new(Mock {
            args,
            fault: watch::Sender::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(mock.clone().connection(stream));
        }
    })
}
