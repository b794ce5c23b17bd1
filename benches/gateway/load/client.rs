//! One request, from its due time to its end, over connections that are kept.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::content::{Events, whole};
use crate::Args;

/// How a request ended.
pub enum Ended {
    /// With an answer; `first` is the time to its first token, of a stream.
    Answered { first: Option<Duration> },
    /// Its client went away on purpose.
    Left,
    /// It failed, by kind.
    Failed(&'static str),
}

type Connection = SendRequest<Full<Bytes>>;

pub struct Client {
    address: SocketAddr,
    path: Uri,
    host: HeaderValue,
    authorization: HeaderValue,
    /// The body before the tag and after it.
    body: (String, String),
    timeout: Duration,
    stream: bool,
    check: bool,
    untagged: bool,
    tokens: usize,
    leave_percent: usize,
    number: Cell<usize>,
    idle: RefCell<Vec<Connection>>,
}

/// Names of statuses, so that kinds of failures need no allocation.
fn status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "status_400",
        401 => "status_401",
        404 => "status_404",
        429 => "status_429",
        500 => "status_500",
        502 => "status_502",
        503 => "status_503",
        504 => "status_504",
        _ => "status_other",
    }
}

impl Client {
    /// # Errors
    /// When the URL has no host that resolves.
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let authority = args.url.authority().context("--url: must be http://HOST:PORT/PATH")?;
        let at = (authority.host(), authority.port_u16().unwrap_or(80));
        let address = at.to_socket_addrs()?.next().context("--url: its host has no address")?;
        let prompt = "Which of these is it: a refund, a change of address, a complaint, or another thing? ";
        let prompt: String = prompt.chars().cycle().take(args.prompt_bytes).collect();
        let stream = if args.stream { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
        let (model, tokens) = (serde_json::to_string(&args.model)?, args.tokens);
        let head = format!(r#"{{"model":{model},"max_tokens":{tokens}{stream},"user":""#);
        let tail = format!(r#"","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
        Ok(Self {
            address,
            path: args.url.path().parse()?,
            host: HeaderValue::from_str(authority.as_str())?,
            authorization: HeaderValue::from_str(&format!("Bearer {}", args.key))?,
            body: (head, tail),
            timeout: Duration::from_millis(args.timeout_ms),
            stream: args.stream,
            check: args.check,
            untagged: args.untagged,
            tokens,
            leave_percent: args.leave_percent,
            number: Cell::new(0),
            idle: RefCell::default(),
        })
    }

    /// Asks once. All times count from when it was due.
    pub async fn ask(&self, due: Instant) -> Ended {
        let number = self.number.replace(self.number.get() + 1);
        let leaves = number * 37 % 100 < self.leave_percent;
        // Spread over the time that an answer takes, from before its head to its end.
        let patience = if leaves { Duration::from_micros(number as u64 * 7919 % 20_000) } else { self.timeout };
        match tokio::time::timeout_at((due + patience).into(), self.exchange(due, number)).await {
            Ok(Ok(first)) => Ended::Answered { first },
            Ok(Err(kind)) => Ended::Failed(kind),
            Err(_) if leaves => Ended::Left,
            Err(_) => Ended::Failed("timeout"),
        }
    }

    fn request(&self, tag: &str) -> Request<Full<Bytes>> {
        let body = [self.body.0.as_str(), tag, self.body.1.as_str()].concat();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    async fn send(&self, tag: &str) -> Result<(Response<Incoming>, Connection), &'static str> {
        let kept = self.idle.borrow_mut().pop();
        if let Some(mut connection) = kept.filter(Connection::is_ready) {
            match connection.try_send_request(self.request(tag)).await {
                Ok(response) => return Ok((response, connection)),
                // It was closed while it was idle, and nothing was sent.
                Err(error) if error.message().is_some() => {}
                Err(_) => return Err("broken"),
            }
        }
        let stream = TcpStream::connect(self.address).await.map_err(|_| "connect")?;
        stream.set_nodelay(true).map_err(|_| "connect")?;
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await.map_err(|_| "connect")?;
        tokio::task::spawn_local(driver);
        let response = connection.send_request(self.request(tag)).await.map_err(|_| "broken")?;
        Ok((response, connection))
    }

    async fn exchange(&self, due: Instant, number: usize) -> Result<Option<Duration>, &'static str> {
        let tag = if self.untagged { String::new() } else { format!("r{number}") };
        let (response, connection) = self.send(&tag).await?;
        if response.status() != StatusCode::OK {
            return Err(status(response.status()));
        }
        let mut body = response.into_body();
        let mut first = None;
        if self.stream {
            let mut events = Events::new(tag);
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| "broken")?.into_data() else { continue };
                events.take(&data)?;
                if first.is_none() && events.tokens.count() > 0 {
                    first = Some(due.elapsed());
                }
            }
            events.finish(self.tokens)?;
        } else {
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(|_| "broken")?.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            if self.check {
                whole(&bytes, tag, self.tokens)?;
            }
        }
        self.idle.borrow_mut().push(connection);
        Ok(first)
    }
}
