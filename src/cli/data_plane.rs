//! What `router` and `local` share: a process that runs a data plane.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::router::control::Inputs;
use crate::router::run::{self, Config, Running};
use crate::runtime::telemetry;

/// Runs `serve` on a thread of its own: traffic has other threads, so that a slow table never slows a request.
pub(super) fn process(serve: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    telemetry::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve)?;
    // A watch that never ends must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(ExitCode::SUCCESS)
}

/// Starts the router and says where it is.
pub(super) async fn start(config: Config, inputs: Inputs) -> anyhow::Result<Running> {
    let running = run::start(config, inputs).await.context("the router can't start")?;
    tracing::info!(address = %running.address, "serving");
    Ok(running)
}
