//! Takes connections, so many at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Serves connections until it is dropped, each in a task of its own. One more than `most` is closed at once.
pub async fn serve<F>(listener: TcpListener, most: usize, connection: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let connection = connection(stream);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}
