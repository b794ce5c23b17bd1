//! Who changes the number of a pool's replicas: the spec, or one autoscaler.
//!
//! ```text
//! HorizontalPodAutoscaler, KEDA -- the Deployment's replicas --> left out of what is applied
//! External, no scaling           -- spec.pool.replicas --------> the Deployment's replicas
//! ```
//! Never two at a time: an autoscaler is made when nobody else scales the pool any more, and somebody else's is named in a
//! condition, not fought (ADR 26). What changes hands keeps its number: see [`AUTOSCALED`](super::AUTOSCALED), and
//! [`Scaled::hand_over`].

use std::time::{Duration, Instant};

use super::labels::Owner;
use super::{Desired, Invalid, Settings, autoscaler, keda};
use crate::api::ModelTier;
use crate::api::conditions::{READY, REASON_CONFLICT, REASON_PROGRESSING, REASON_UNSUPPORTED};
use crate::api::model_tier::Pool;
use crate::api::scaling::Autoscaler;
use crate::api::sizing::SizingStatus;
use crate::operator::validate::{self, Scaling};

/// What the cluster has of who scales a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scalers {
    /// Replicas that the Deployment asks for, while they are an autoscaler's.
    pub autoscaled: Option<i32>,
    /// HorizontalPodAutoscalers of the Deployment or the tier, but for the operator's own.
    pub others: Vec<Other>,
    /// Whether the operator's ScaledObject is there, or on its way out.
    pub scaled_object: bool,
    /// Whether the cluster has ScaledObjects.
    pub has_scaled_objects: bool,
    /// How many replicas the pool needs, as was said last. `None`: the stored status says it, if anything does.
    pub sizing: Option<SizingStatus>,
}

/// A HorizontalPodAutoscaler that is not the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Name of the ScaledObject that it was made for, if it was.
    pub of: Option<String>,
    /// What it scales.
    pub scales: Scales,
}

/// What an autoscaler scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// The pool's Deployment.
    Deployment,
    /// The ModelTier, by its `/scale`.
    Tier,
}

/// How a pool is scaled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scaled {
    /// The Deployment's replicas. `None`: they are left to an autoscaler.
    pub replicas: Option<i32>,
    /// The operator's autoscaler.
    pub autoscaler: Option<Desired>,
    /// Replicas that the tier's `/scale` must have before the Deployment's are its again.
    pub hand_over: Option<i32>,
    /// What keeps it from being scaled as the spec says.
    pub problem: Option<Invalid>,
    /// How it goes to zero and comes back, where its autoscaler can't do that.
    pub zero: Option<Zero>,
}

impl Scaled {
    /// Whether the operator's autoscaler reads the metrics API.
    #[must_use]
    pub fn reads_metrics_api(&self) -> bool {
        self.autoscaler.as_ref().is_some_and(|autoscaler| autoscaler.resource.kind == "HorizontalPodAutoscaler")
    }
}

/// How a pool goes to zero and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zero {
    /// Fewest replicas: above 0 it never goes to zero.
    pub floor: i32,
    /// How long nobody must have asked.
    pub idle_after: Duration,
}

/// How a tier's pool is scaled, whose children have this name.
pub(super) fn plan(
    tier: &ModelTier,
    pool: &Pool,
    owner: &Owner<'_>,
    name: &str,
    seen: &Scalers,
    settings: &Settings,
) -> Scaled {
    let scaling = validate::scaling(tier);
    let scaling = scaling.as_ref().map(|scaling| (scaling, scaling.autoscaler.unwrap_or(settings.autoscaler)));
    let by = scaling.map(|(_, by)| by);
    if let Some(problem) = in_the_way(tier, name, seen, by) {
        return Scaled { problem: Some(problem), ..Scaled::default() };
    }
    let bounds = |scaling| bounds(tier, pool, scaling, seen);
    match scaling {
        None => Scaled { replicas: Some(pool.replicas), ..Scaled::default() },
        Some((_, Autoscaler::External)) => external(pool, seen),
        Some((scaling, Autoscaler::HorizontalPodAutoscaler)) => {
            let [floor, ceiling] = bounds(scaling);
            let seconds = u64::try_from(scaling.stabilization.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
            // It can't go to zero.
            let bounds = [floor.max(1), ceiling];
            let autoscaler = autoscaler::by_concurrency(owner, name, bounds, scaling.target_milli, seconds);
            Scaled {
                autoscaler: Some(Desired::of(&autoscaler)),
                zero: Some(Zero { floor, idle_after: scaling.idle_after }),
                ..Scaled::default()
            }
        }
        Some((scaling, Autoscaler::Keda)) => match (&settings.scaler_address, seen.has_scaled_objects) {
            (None, _) => unsupported("this operator does not answer KEDA; start it with --scaler-address"),
            (_, false) => unsupported("this cluster has no ScaledObject (keda.sh/v1alpha1); looked for every minute"),
            (Some(address), true) => {
                let scaled_object = keda::plan(owner, name, scaling, bounds(scaling), address);
                Scaled { autoscaler: Some(scaled_object), ..Scaled::default() }
            }
        },
    }
}

/// The spec's number, once it is the one that the autoscaler before has left. One that was at zero begins with one replica:
/// a HorizontalPodAutoscaler leaves what is at zero alone.
fn external(pool: &Pool, seen: &Scalers) -> Scaled {
    match seen.autoscaled.map(|replicas| replicas.max(1)) {
        Some(left) if left != pool.replicas => Scaled { hand_over: Some(left), ..Scaled::default() },
        _ => Scaled { replicas: Some(pool.replicas), ..Scaled::default() },
    }
}

/// Fewest and most replicas: what sizing says, within the spec's bounds. The most are at least 1, as autoscalers ask.
fn bounds(tier: &ModelTier, pool: &Pool, scaling: &Scaling, seen: &Scalers) -> [i32; 2] {
    let stored = || tier.status.as_ref()?.sizing.as_ref();
    let said = pool.sizing.as_ref().and_then(|_| seen.sizing.as_ref().or_else(stored));
    let [min, max] = [scaling.min, scaling.max].map(|bound| i32::try_from(bound).unwrap_or(i32::MAX));
    let floor = said.map_or(min, |said| said.floor.clamp(min, max.max(min)));
    let ceiling = said.map_or(max, |said| said.ceiling.min(max));
    [floor, ceiling.max(floor).max(1)]
}

/// Somebody else who scales the pool.
fn in_the_way(tier: &ModelTier, name: &str, seen: &Scalers, by: Option<Autoscaler>) -> Option<Invalid> {
    let field = if by.is_some() { "spec.pool.scaling.autoscaler" } else { "spec.pool.replicas" };
    let wrong = |reason, problem: String| Invalid { condition: READY, reason, message: format!("{field}: {problem}") };
    let tier_name = tier.metadata.name.as_deref().unwrap_or_default();
    let own = matches!(by, Some(Autoscaler::HorizontalPodAutoscaler | Autoscaler::Keda));
    let of_ours = |other: &Other| other.of.as_deref() == Some(name);
    let foreign = seen.others.iter().find(|other| !of_ours(other) && (own || other.scales == Scales::Deployment));
    if let Some(Other { name: other, of, scales }) = foreign {
        let of = of.as_ref().map(|of| format!(" of ScaledObject {of:?}")).unwrap_or_default();
        let scaled = match scales {
            Scales::Deployment => format!("Deployment {name}"),
            Scales::Tier => format!("ModelTier {tier_name}"),
        };
        let advice = match (own, scales) {
            (true, Scales::Tier) => "delete it, or say External".to_owned(),
            (true, Scales::Deployment) => {
                format!("delete it, or let it scale ModelTier {tier_name} and say External")
            }
            (false, _) => format!("delete it, or let it scale ModelTier {tier_name}"),
        };
        let problem = format!(
            "HorizontalPodAutoscaler {other:?}{of} scales {scaled}; the operator leaves the replicas as they are: {advice}"
        );
        return Some(wrong(REASON_CONFLICT, problem));
    }
    let leaving = by != Some(Autoscaler::Keda) && (seen.scaled_object || seen.others.iter().any(of_ours));
    leaving.then(|| {
        let problem = format!("waits until ScaledObject {name:?} and what KEDA made for it are gone");
        wrong(REASON_PROGRESSING, problem)
    })
}

fn unsupported(problem: &str) -> Scaled {
    let message = format!("spec.pool.scaling.autoscaler: {problem}");
    Scaled { problem: Some(Invalid { condition: READY, reason: REASON_UNSUPPORTED, message }), ..Scaled::default() }
}

/// What is known of who asked for a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When somebody was last seen to ask. `None`: nobody was while the operator listened.
    pub last: Option<Instant>,
    /// Since when surely nobody asked. `None`: that is not known, as not every router is heard.
    pub idle_since: Option<Instant>,
}

/// For how much longer a tier is not idle. `None`: it is.
#[must_use]
pub fn idle(now: Instant, last_demand: Instant, idle_after: Duration) -> Option<Duration> {
    idle_after.checked_sub(now.saturating_duration_since(last_demand)).filter(|left| !left.is_zero())
}

/// What to do about a pool that goes to zero and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Stay,
    /// Nothing yet: look again after this time.
    Look(Duration),
    /// Ask for so many replicas.
    To(i32),
}

/// How long to wait for routers that are not heard.
const SOON: Duration = Duration::from_secs(10);

impl Zero {
    /// What to do at this number of replicas. `settled`: since when they are there, or it is known that they will never be.
    /// What was woken has as long to be asked again: whoever woke it may have given up before it could serve. While a router
    /// is not heard nobody knows what it was asked.
    #[must_use]
    pub fn turn(&self, replicas: i32, settled: Option<Instant>, asked: Asked, now: Instant) -> Turn {
        let Self { floor, idle_after } = *self;
        let left = |since: Instant| idle(now, since, idle_after);
        if replicas == 0 {
            let wanted = floor > 0 || asked.last.and_then(left).is_some();
            return if wanted { Turn::To(floor.max(1)) } else { Turn::Stay };
        }
        let (0, Some(settled)) = (floor, settled) else { return Turn::Stay };
        let Some(since) = asked.idle_since else { return Turn::Look(SOON) };
        match left(since.max(settled)) {
            Some(left) => Turn::Look(left),
            None => Turn::To(0),
        }
    }
}

#[cfg(test)]
mod tests;
