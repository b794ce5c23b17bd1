//! A tier that is scaled to zero, because nobody asked for it: a request goes on without it, or waits for it. Either way it is
//! counted, and the operator, which hears of it at once, wakes the tier.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::attempts::Call;
use super::call::CallError;
use super::endpoints::Endpoints;
use super::tally::Rejected;
use crate::api::escalation_path::FailoverReason;

/// The endpoints in force as soon as the tier has one: waits for that as long as its step may take, where its path waits.
///
/// # Errors
/// When it has none.
pub(super) async fn awake(asking: &Call<'_, '_>) -> Result<Arc<Endpoints>, CallError> {
    let Call { world, step, upstream, stage, deadline, .. } = *asking;
    let shared = world.shared;
    let waiting = stage.waits.then(|| upstream.tally.wait());
    let limit = (Instant::now() + Duration::from_millis(step.timeout_ms)).min(deadline);
    let tell = || shared.met_cold.send_replace(());
    if waiting.is_some() {
        tell();
    }
    while waiting.is_some() {
        // Before the look, so that no change is missed between the two.
        let changed = shared.endpoints_changed.notified();
        let endpoints = shared.endpoints.load_full();
        if !upstream.endpoints(&endpoints).is_empty() {
            return Ok(endpoints);
        }
        if timeout_at(limit, changed).await.is_err() {
            break;
        }
    }
    upstream.tally.rejected(Rejected::Cold);
    tell();
    let error = CallError::blameless(FailoverReason::Unreachable, "scaled to zero");
    Err(CallError { cold: true, ..error })
}
