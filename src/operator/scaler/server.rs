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
use tonic::Status;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::messages::{IsActiveResponse, ScaledObjectRef};
use super::service::{is_active, metric_spec, metrics};
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

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, world: Arc<World>) {
    listen::serve(listener, CONNECTIONS, |stream| connection(stream, Arc::clone(&world))).await;
}

async fn connection(stream: TcpStream, world: Arc<World>) {
    // One that says nothing does not keep its place.
    if !matches!(tokio::time::timeout(PATIENCE, stream.peek(&mut [0])).await, Ok(Ok(1))) {
        return;
    }
    let service = service_fn(|request| {
        let world = Arc::clone(&world);
        async move { Ok::<_, Infallible>(answer(request, world).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(ALIVE).max_concurrent_streams(STREAMS);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a scaler's connection ended");
    }
}

/// One call.
async fn answer(request: Request<Incoming>, world: Arc<World>) -> Response<Body> {
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
                let changes = changes(Arc::clone(&world), request.into_inner());
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

/// Whether a tier is wanted: now, and whenever that changes. While it can't be said nothing is; what is wrong with the
/// trigger ends it.
fn changes(
    world: Arc<World>,
    object: ScaledObjectRef,
) -> impl Stream<Item = Result<IsActiveResponse, Status>> + Send + 'static {
    futures::stream::unfold(Some(None), move |said| {
        let (world, object) = (Arc::clone(&world), object.clone());
        async move {
            let said = said?;
            loop {
                match is_active(&world, &object, Instant::now()) {
                    Ok(result) if said != Some(result) => {
                        return Some((Ok(IsActiveResponse { result }), Some(Some(result))));
                    }
                    Ok(_) => {}
                    Err(status) if status.code() == tonic::Code::Unavailable => {}
                    Err(status) => return Some((Err(status), None)),
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    })
}
