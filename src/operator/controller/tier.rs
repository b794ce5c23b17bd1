//! ModelTier: validate and plan -> apply its pool -> status. A tier without a pool has no children.

use std::time::Instant;

use jiff::Timestamp;

use super::queue::Key;
use super::scaling::{self, Pool};
use super::{Context, Reconciled, attempt};
use crate::api::conditions::REASON_DEGRADED;
use crate::operator::apply::{Error, Owner};
use crate::operator::observe::Observed;
use crate::operator::observe::world::current;
use crate::operator::plan::{self, Desired};
use crate::operator::status::{self, Outcome};

/// One look at a tier.
pub async fn reconcile(context: &Context, key: &Key) -> Reconciled {
    let Some(mut tier) = current(&context.world.tiers, &key.id) else {
        // Deleted: its children have its owner reference and go by themselves.
        context.statuses.keep(key);
        context.settled.forget(&key.id);
        return Reconciled::nothing();
    };
    let owner = Owner { namespace: key.id.0.clone(), uid: tier.metadata.uid.clone().unwrap_or_default() };
    let mut outcome = Outcome::default();
    let mut ending = Reconciled::ok();
    let pool = (key.id.0.clone(), format!("{}-pool", key.id.1));
    let mut seen = context.world.seen(&key.id, &owner.uid, &pool);
    seen.scalers.sizing = context.planner.said(&key.id);
    let mut look = None;
    match plan::tier(&tier, &seen, &context.settings()) {
        Ok(mut plan) => {
            outcome.current_revision = plan.pool.as_ref().map(|pool| pool.current_revision.clone());
            let (mut hand_over, mut zero) = (None, None);
            if let Some(pool) = &mut plan.pool {
                (hand_over, zero) = (pool.scaled.hand_over, pool.scaled.zero);
                outcome.metrics_api = pool.scaled.reads_metrics_api().then(|| context.world.metrics_api());
                outcome.unresolved = pool.scaled.problem.take();
            }
            let mut objects = plan.objects();
            match plan::inference_pool::endpoints(&tier, |name| context.world.inference_pool(&key.id.0, name)) {
                Ok(service) => objects.extend(service.as_ref().map(Desired::of)),
                Err(missing) => outcome.unresolved = Some(missing),
            }
            let mut applied = context.applier.apply(&owner, objects).await;
            if applied.is_ok() {
                let children = Pool { owner: &owner, tier: &key.id, id: &pool };
                (applied, look) = scaling::follow(context, &children, &tier, hand_over, zero).await;
            }
            if tier.spec.pool.as_ref().is_some_and(|pool| pool.model_from.image.is_some()) {
                applied = applied.map_err(Error::with_image_volume);
            }
            (outcome.apply, ending) = attempt(applied);
            if ending.is_gone() {
                context.statuses.keep(key);
                return ending;
            }
        }
        // What runs keeps running.
        Err(invalid) => outcome.invalid = Some(invalid),
    }
    let mut observed = Observed { namespace: key.id.0.clone(), ..Observed::default() };
    context.world.add_deployment(&mut observed, &owner.uid, &pool);
    if let Some(latest) = current(&context.world.tiers, &key.id) {
        tier.status = latest.status;
    }
    let before = tier.status.iter().flat_map(|status| &status.conditions).any(|c| c.reason == REASON_DEGRADED);
    let degraded = context.world.routers.degraded(&key.id, before, Instant::now());
    observed.degraded = degraded.is_some();
    observed.sizing = context.planner.said(&key.id);
    observed.quota = context.world.pressure.said(&key.id);
    let new = status::tier(&tier, &observed, &outcome, Timestamp::now());
    let told = context.statuses.tell(key, &tier, tier.status.as_ref(), &new);
    ending.after([told, degraded, look].into_iter().flatten().min())
}
