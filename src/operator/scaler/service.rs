//! What is answered: pure, but for the world that it reads.

use std::time::{Duration, Instant};

use tonic::Status;

use super::messages::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, MetricSpec, MetricValue, ScaledObjectRef,
};
use crate::operator::metrics_api::METRIC;
use crate::operator::observe::cache::Id;
use crate::operator::observe::world::{World, current};

/// Key of a trigger's metadata: the tier.
pub const TIER: &str = "tier";
/// Key of a trigger's metadata: how many requests at a time a replica should have on average.
pub const TARGET: &str = "targetConcurrency";

/// For how long a tier is active after somebody wanted it: two of KEDA's default polls, so that none is missed. How long a
/// tier then stays says `cooldownPeriod` of the ScaledObject.
pub const ACTIVE: Duration = Duration::from_secs(60);

/// The tier that a trigger names.
fn tier_of(world: &World, object: &ScaledObjectRef) -> Result<Id, Status> {
    let Some(tier) = object.scaler_metadata.get(TIER).filter(|tier| !tier.is_empty()) else {
        return Err(Status::invalid_argument(format!("metadata.{TIER}: must name a ModelTier")));
    };
    let awaited = world.awaited();
    if !awaited.is_empty() {
        return Err(Status::unavailable(format!("the operator awaits {}", awaited.join(", "))));
    }
    let id = (object.namespace.clone(), tier.clone());
    let found = current(&world.tiers, &id).map(|_| id);
    found.ok_or_else(|| {
        let namespace = &object.namespace;
        Status::not_found(format!("metadata.{TIER}: ModelTier {namespace}/{tier} is not known here"))
    })
}

fn concurrency(world: &World, tier: &Id, now: Instant) -> Result<f64, Status> {
    world.concurrency(tier, now).map_err(|not_yet| Status::unavailable(not_yet.to_string()))
}

/// A number in whole ones, rounded up.
#[expect(clippy::cast_possible_truncation, reason = "saturates, as wanted")]
fn whole(number: f64) -> i64 {
    number.ceil() as i64
}

/// Whether a tier is wanted.
///
/// # Errors
/// When the trigger names none, or nobody is known to want it and not every router has said so.
pub fn is_active(world: &World, object: &ScaledObjectRef, now: Instant) -> Result<bool, Status> {
    let tier = tier_of(world, object)?;
    let wanted = world.concurrency.last_wanted(&tier);
    if wanted.is_some_and(|wanted| now.saturating_duration_since(wanted) < ACTIVE) {
        return Ok(true);
    }
    concurrency(world, &tier, now).map(|_| false)
}

/// Whether the pool of a trigger's tier is at zero.
#[must_use]
pub fn is_asleep(world: &World, object: &ScaledObjectRef) -> bool {
    tier_of(world, object).is_ok_and(|tier| world.is_asleep(&tier))
}

/// The metric, and what a replica should have of it.
///
/// # Errors
/// When the trigger names no tier, or no target.
pub fn metric_spec(world: &World, object: &ScaledObjectRef) -> Result<GetMetricSpecResponse, Status> {
    tier_of(world, object)?;
    let text = object.scaler_metadata.get(TARGET).map(String::as_str).unwrap_or_default();
    let target = text.parse().ok().filter(|target: &f64| target.is_finite() && *target > 0.0);
    let target = target.ok_or_else(|| {
        let wanted = "must be how many requests at a time a replica should have, a number above 0";
        Status::invalid_argument(format!("metadata.{TARGET}: {wanted}, is {text:?}"))
    })?;
    let metric_name = METRIC.to_owned();
    let spec = MetricSpec { metric_name, target_size: whole(target), target_size_float: target };
    Ok(GetMetricSpecResponse { metric_specs: vec![spec] })
}

/// How many requests the tier has at a time.
///
/// # Errors
/// When the trigger names no tier, or before every router has said.
pub fn metrics(world: &World, request: &GetMetricsRequest, now: Instant) -> Result<GetMetricsResponse, Status> {
    if request.metric_name != METRIC {
        let name = &request.metric_name;
        return Err(Status::invalid_argument(format!("metricName: must be {METRIC}, is {name:?}")));
    }
    let object = request.scaled_object_ref.as_ref();
    let object = object.ok_or_else(|| Status::invalid_argument("scaledObjectRef: is missing"))?;
    let requests = concurrency(world, &tier_of(world, object)?, now)?;
    let metric_name = METRIC.to_owned();
    let value = MetricValue { metric_name, metric_value: whole(requests), metric_value_float: requests };
    Ok(GetMetricsResponse { metric_values: vec![value] })
}
