//! Threads, listeners and connections, and their end.
//!
//! A router that leaves a Service ([`Shared::leave`]) ends every reply's connection and says so, and cuts none that is idle:
//! many clients send their next request on a kept connection without looking, and a request that meets its end is lost. Such
//! a connection lasts until a reply has said that it ends, or for as long as an idle one always does. New ones are refused
//! once the listeners are closed, and threads wait for what is open, up to a bound. A router that nobody balances to closes
//! idle connections when it stops.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::patient::{Patient, Transport};
use super::pool::{Pool, tls};
use super::serve::{Worker, serve};
use super::traffic_tls::Certificate;

/// How often a thread wakes even when nothing happens.
///
/// tokio interrupts its own wait, a system call, whenever a timer is due before all others; the timeouts of requests were,
/// one a request. A timer that is always nearer than they are makes that nobody's business.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// The threads of a router.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

impl Server {
    /// Listens with a number of threads, with TLS where there is a certificate to follow.
    ///
    /// # Errors
    /// When the address can't be bound or a thread can't be started.
    pub fn start(
        shared: &Arc<Shared>,
        listen: SocketAddr,
        threads: usize,
        drain: Duration,
        certificate: Option<&Arc<Certificate>>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let first = bind(listen)?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..threads.max(1) {
            listeners.push(bind(address)?);
        }
        let tls = tls();
        let acceptor = certificate.map(|certificate| TlsAcceptor::from(certificate.config()));
        let mut handles = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let (shared, stopped, tls, acceptor) = (shared.clone(), stopped.clone(), tls.clone(), acceptor.clone());
            let thread = std::thread::Builder::new().name(format!("router-{index}"));
            handles.push(thread.spawn(move || {
                // Can't be sent to its thread, so it is made here.
                let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => return tracing::error!(%error, "a thread could not begin"),
                };
                runtime.block_on(async move {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            let worker = Rc::new(Worker { shared, pool: Pool::new(tls) });
                            accept(&worker, listener, acceptor, stopped, drain).await;
                        }
                        Err(error) => tracing::error!(%error, "a listener could not be used"),
                    }
                });
            })?);
        }
        Ok(Self { address, threads: handles, stop })
    }

    /// Stops and waits for what is open. Blocks.
    pub fn stop(self) {
        // Nobody listens any more only when every thread has ended already.
        let _ = self.stop.send(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a router thread had panicked");
            }
        }
    }
}

async fn accept(
    worker: &Rc<Worker>,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    mut stopped: watch::Receiver<bool>,
    drain: Duration,
) {
    tokio::task::spawn_local(async {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
        }
    });
    let open = Rc::new(Cell::new(0_usize));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, usually: a pause lets some close.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (worker, open, stopped) = (worker.clone(), open.clone(), stopped.clone());
        let acceptor = acceptor.clone();
        open.set(open.get() + 1);
        tokio::task::spawn_local(async move {
            match acceptor {
                None => connection(&worker, stream, stopped).await,
                Some(acceptor) => secure(&worker, &acceptor, stream, stopped).await,
            }
            open.set(open.get() - 1);
        });
    }
    drop(listener);
    let end = tokio::time::Instant::now() + drain;
    while open.get() > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if open.get() > 0 {
        tracing::warn!(connections = open.get(), "still open after the drain time");
    }
}

/// A handshake may take as long as the head of a request.
async fn secure(worker: &Rc<Worker>, acceptor: &TlsAcceptor, stream: TcpStream, stopped: watch::Receiver<bool>) {
    match tokio::time::timeout(worker.shared.limits.head_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => connection(worker, stream, stopped).await,
        Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
        Err(_) => tracing::debug!("a handshake took too long"),
    }
}

async fn connection(worker: &Rc<Worker>, stream: impl Transport + 'static, mut stopped: watch::Receiver<bool>) {
    let shared = &worker.shared;
    let service = service_fn(|request| async move {
        let mut reply = serve(worker, request).await;
        if shared.is_leaving() {
            reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, std::convert::Infallible>(reply)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.head_timeout).half_close(false);
    let stream = Patient::new(stream, shared.limits.idle_timeout);
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.wait_for(|stop| *stop) => {
            if !shared.is_leaving() {
                connection.as_mut().graceful_shutdown();
            }
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
