//! The gRPC server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::messages::{IsActiveResponse, ScaledObjectRef};
use super::service::{is_active, is_asleep, metric_spec, metrics};
use crate::operator::observe::world::World;
use crate::runtime::listen;

/// Connections at a time. KEDA keeps a few,
const CONNECTIONS: usize = 64;
/// with a stream for each ScaledObject.
const STREAMS: u32 = 4096;
/// Longest message, in bytes.
const LONGEST: usize = 64 << 10;
/// Longest time for a connection to begin.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a peer is asked whether it is there.
const ALIVE: Duration = Duration::from_secs(30);
/// How often a stream looks whether its tier is wanted. Routers report once a second.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a stream says once more that a tier is wanted, while its pool is at zero. KEDA does not try again what failed, and
/// may have let a pool sleep just as the stream still had it wanted.
const AGAIN: Duration = Duration::from_secs(2);

/// Serves until it is dropped. Streams end when `stopped` says so: KEDA asks another operator pod at once then. After a
/// connection that broke it waits, and longer each time.
pub async fn serve(listener: TcpListener, world: Arc<World>, stopped: watch::Receiver<bool>) {
    listen::serve(listener, CONNECTIONS, |stream| connection(stream, Arc::clone(&world), stopped.clone())).await;
}

async fn connection(stream: TcpStream, world: Arc<World>, stopped: watch::Receiver<bool>) {
    // One that says nothing does not keep its place.
    if !matches!(tokio::time::timeout(PATIENCE, stream.peek(&mut [0])).await, Ok(Ok(1))) {
        return;
    }
    let service = service_fn(|request| {
        let (world, stopped) = (Arc::clone(&world), stopped.clone());
        async move { Ok::<_, Infallible>(answer(request, world, stopped).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(ALIVE).max_concurrent_streams(STREAMS);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a scaler's connection ended");
    }
}

/// One call.
async fn answer(request: Request<Incoming>, world: Arc<World>, stopped: watch::Receiver<bool>) -> Response<Body> {
    fn grpc<E, D>() -> Grpc<ProstCodec<E, D>>
    where
        E: prost::Message + 'static,
        D: prost::Message + Default + 'static,
    {
        Grpc::new(ProstCodec::default()).max_decoding_message_size(LONGEST)
    }
    match request.uri().path() {
        "/externalscaler.ExternalScaler/IsActive" => {
            let call = tower::service_fn(|request: tonic::Request<ScaledObjectRef>| {
                let active = is_active(&world, request.get_ref(), Instant::now());
                std::future::ready(active.map(|result| tonic::Response::new(IsActiveResponse { result })))
            });
            grpc().unary(call, request).await
        }
        "/externalscaler.ExternalScaler/StreamIsActive" => {
            let call = tower::service_fn(|request: tonic::Request<ScaledObjectRef>| {
                let changes = changes(Arc::clone(&world), request.into_inner(), stopped.clone());
                std::future::ready(Ok::<_, Status>(tonic::Response::new(changes)))
            });
            grpc().server_streaming(call, request).await
        }
        "/externalscaler.ExternalScaler/GetMetricSpec" => {
            let call = tower::service_fn(|request: tonic::Request<ScaledObjectRef>| {
                std::future::ready(metric_spec(&world, request.get_ref()).map(tonic::Response::new))
            });
            grpc().unary(call, request).await
        }
        "/externalscaler.ExternalScaler/GetMetrics" => {
            let call = tower::service_fn(|request: tonic::Request<_>| {
                let values = metrics(&world, request.get_ref(), Instant::now());
                std::future::ready(values.map(tonic::Response::new))
            });
            grpc().unary(call, request).await
        }
        path => Status::unimplemented(format!("{path}: no such method")).into_http(),
    }
}

/// Whether a tier is wanted: now, whenever that changes, and again while it is wanted and its pool is at zero. While it can't
/// be said nothing is; what is wrong with the trigger ends it.
fn changes(
    world: Arc<World>,
    object: ScaledObjectRef,
    stopped: watch::Receiver<bool>,
) -> impl Stream<Item = Result<IsActiveResponse, Status>> + Send + 'static {
    futures::stream::unfold(Some(None), move |said| {
        let (world, object, mut stopped) = (Arc::clone(&world), object.clone(), stopped.clone());
        async move {
            let said: Option<(bool, Instant)> = said?;
            loop {
                let now = Instant::now();
                match is_active(&world, &object, now) {
                    Ok(result) if said.is_none_or(|said| is_news(&world, &object, said, result, now)) => {
                        return Some((Ok(IsActiveResponse { result }), Some(Some((result, now)))));
                    }
                    Ok(_) => {}
                    Err(status) if status.code() == tonic::Code::Unavailable => {}
                    Err(status) => return Some((Err(status), None)),
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    _ = stopped.wait_for(|stopped| *stopped) => return None,
                }
            }
        }
    })
}

/// Whether a stream that said something at a time has something to say.
fn is_news(world: &World, object: &ScaledObjectRef, said: (bool, Instant), result: bool, now: Instant) -> bool {
    let (before, at) = said;
    result != before || (result && now.saturating_duration_since(at) >= AGAIN && is_asleep(world, object))
}
