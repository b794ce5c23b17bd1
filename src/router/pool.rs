//! Connections to upstreams, kept alive, one pool a core: a request never waits for another core's lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::endpoints::{Address, Endpoint};

/// Longest time to connect, name resolution and TLS included.
const CONNECT: Duration = Duration::from_secs(3);
/// Idle connections are dropped after this time: below the idle limits that servers commonly have.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept for one endpoint on one core.
const KEPT: usize = 256;

/// A connection that is ready for one more request.
pub type Connection = SendRequest<Full<Bytes>>;

/// Why a request got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// No connection.
    Connect,
    /// The connection broke before the head of a reply.
    Broken,
}

/// Idle connections of an endpoint, the one used last at the end, each with the time since when.
type Idle = Vec<(Connection, Instant)>;

/// The pool of one core.
pub struct Pool {
    idle: RefCell<HashMap<u64, Idle>>,
    tls: Arc<ClientConfig>,
}

/// TLS as routers speak it to providers: the system's certificate authorities, HTTP/1.1.
#[must_use]
pub fn tls() -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { idle: RefCell::default(), tls }
    }

    fn take(&self, endpoint: &Endpoint) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&endpoint.id)?;
        while let Some((connection, since)) = list.pop() {
            if connection.is_ready() && since.elapsed() < IDLE {
                return Some(connection);
            }
        }
        None
    }

    /// Gives a connection back once its reply was read to the end.
    pub fn put(&self, endpoint: &Endpoint, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if !idle.contains_key(&endpoint.id) {
            // A good moment to forget endpoints that nobody asks any more.
            idle.retain(|_, list| list.iter().any(|(c, since)| !c.is_closed() && since.elapsed() < IDLE));
        }
        let list = idle.entry(endpoint.id).or_default();
        if list.len() < KEPT {
            list.push((connection, Instant::now()));
        }
    }

    /// Sends a request. A kept connection that the other side closed meanwhile is replaced once by a fresh one.
    ///
    /// # Errors
    /// When there is no connection, or it breaks before a reply.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        make: impl Fn() -> http::Request<Full<Bytes>>,
    ) -> Result<(http::Response<Incoming>, Connection), Failed> {
        if let Some(mut connection) = self.take(endpoint) {
            match connection.try_send_request(make()).await {
                Ok(response) => return Ok((response, connection)),
                // Nothing was written: safe to send again. Anything else may have been worked on.
                Err(error) if error.message().is_some() || error.error().is_incomplete_message() => {}
                Err(_) => return Err(Failed::Broken),
            }
        }
        let mut connection = tokio::time::timeout(CONNECT, self.connect(&endpoint.address))
            .await
            .map_err(|_| Failed::Connect)?
            .map_err(|_| Failed::Connect)?;
        match connection.send_request(make()).await {
            Ok(response) => Ok((response, connection)),
            Err(_) => Err(Failed::Broken),
        }
    }

    async fn connect(&self, address: &Address) -> std::io::Result<Connection> {
        let broken = |e: hyper::Error| std::io::Error::other(e);
        match address {
            Address::Pod(at) => {
                let stream = TcpStream::connect(at).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
                tokio::task::spawn_local(connection);
                Ok(sender)
            }
            Address::Host { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                if *tls {
                    let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                    let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
                    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
                    tokio::task::spawn_local(connection);
                    return Ok(sender);
                }
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
                tokio::task::spawn_local(connection);
                Ok(sender)
            }
        }
    }
}
