//! The admin port: `/healthz`, `/readyz`, `/metrics`, and what a process adds.
//!
//! `/healthz` says that the process answers. `/readyz` says whether it does its work, and if not, what it awaits:
//! one name a line, so that the reason is in the probe's event.

use std::future::Future;
use std::sync::Arc;

pub use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// What a process still waits for; empty when it is ready.
pub type Awaits = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The routes that every process has. `refresh` runs before metrics are read.
pub fn routes(awaits: Awaits, registry: Arc<Registry>, refresh: Arc<dyn Fn() + Send + Sync>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || {
                let awaited = awaits();
                async move {
                    if awaited.is_empty() {
                        return (StatusCode::OK, "ok\n".to_owned());
                    }
                    let lines: String = awaited.iter().map(|name| format!("awaits {name}\n")).collect();
                    (StatusCode::SERVICE_UNAVAILABLE, lines)
                }
            }),
        )
        .route(
            "/metrics",
            get(move || {
                refresh();
                let mut text = String::new();
                // Writing to a String cannot fail.
                let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
                async move {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    ([(header::CONTENT_TYPE, kind)], text).into_response()
                }
            }),
        )
}

/// Serves the routes until `stop` is done.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}
