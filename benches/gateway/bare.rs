//! The least that a proxy on hyper can be, which shows what hyper itself costs: a thread a core, each with its own listener,
//! connections and runtime, as the router has them; bodies are read whole on both sides, and nothing looks into them.
#![expect(clippy::print_stderr, reason = "a program")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Passes every request on.
#[derive(Parser)]
#[command(name = "bare")]
struct Args {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Whom to ask.
    #[arg(long)]
    to: SocketAddr,
}

/// Idle connections of a thread.
type Pool = Rc<RefCell<Vec<SendRequest<Full<Bytes>>>>>;

async fn connect(to: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}

async fn pass(pool: &Pool, to: SocketAddr, asked: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (head, body) = asked.into_parts();
    let mut request = Request::new(Full::new(body.collect().await?.to_bytes()));
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("backend"));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let idle = pool.borrow_mut().pop();
    let mut connection = match idle {
        Some(connection) => connection,
        None => connect(to).await?,
    };
    let (head, body) = connection.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    pool.borrow_mut().push(connection);
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = head.status;
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        reply.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    Ok(reply)
}

async fn serve(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let pool = Pool::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        spawn_local(async move {
            let service = service_fn(|request| pass(&pool, to, request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

fn thread(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(4096)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async move { serve(TcpListener::from_std(socket.into())?, to).await })
}

fn main() -> Result<()> {
    let Args { listen, to } = Args::parse();
    let cores = std::thread::available_parallelism().context("the number of cores")?.get();
    let threads: Vec<_> = (0..cores).map(|_| std::thread::spawn(move || thread(listen, to))).collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
}
