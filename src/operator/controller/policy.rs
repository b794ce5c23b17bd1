//! RoutingPolicy: observe its tiers and paths -> validate and compile the table -> apply the router -> status.
//!
//! A policy that is not in force is not applied at all: the table that was published last keeps serving.

use std::time::Instant;

use jiff::Timestamp;

use super::queue::Key;
use super::{Context, Reconciled, attempt};
use crate::api::conditions::REASON_UNSUPPORTED;
use crate::operator::apply::Owner;
use crate::operator::observe::world::current;
use crate::operator::plan;
use crate::operator::status::{self, ApplyProblem, Outcome};

/// One look at a policy.
pub async fn reconcile(context: &Context, key: &Key) -> Reconciled {
    let Some(mut policy) = current(&context.world.policies, &key.id) else {
        context.statuses.keep(key);
        context.world.routers.forget(&key.id);
        context.world.concurrency.forget(&key.id);
        return Reconciled::nothing();
    };
    let owner = Owner { namespace: key.id.0.clone(), uid: policy.metadata.uid.clone().unwrap_or_default() };
    let mut observed = context.world.namespace(&key.id.0);
    context.world.add_table(&mut observed, &owner.uid, &key.id.1);
    let mut outcome = Outcome::default();
    let mut ending = Reconciled::ok();
    match plan::policy(&policy, &observed, &context.settings()) {
        Ok(mut plan) => {
            outcome.unresolved.clone_from(&plan.unresolved);
            // Whether there is the kind is looked for all the time: then this is looked at again.
            let waits = plan.http_route.take_if(|route| !context.world.children.has(&route.resource));
            let hash = plan.table_hash.clone();
            // Beside the table, not before it: routers don't wait for a status.
            let replaced = status::replaced(&policy, &hash, Timestamp::now());
            let (applied, ()) = tokio::join!(
                context.applier.apply(&owner, plan.objects()),
                context.statuses.at_once(key, &policy, replaced),
            );
            (outcome.apply, ending) = attempt(applied);
            if ending.is_gone() {
                context.statuses.keep(key);
                return ending;
            }
            if outcome.apply.is_none() {
                outcome.table_hash = Some(hash);
                // Without its route the rest is in force all the same.
                outcome.apply = waits.map(|_| no_gateway_api());
            }
        }
        Err(invalid) => outcome.invalid = Some(invalid),
    }
    let router = (key.id.0.clone(), format!("{}-router", key.id.1));
    context.world.add_deployment(&mut observed, &owner.uid, &router);
    context.world.add_reports(&mut observed, &key.id, Instant::now());
    context.world.add_books(&mut observed, &key.id);
    if let Some(latest) = current(&context.world.policies, &key.id) {
        policy.status = latest.status;
    }
    let (new, again) = status::policy(&policy, &observed, &outcome, Timestamp::now());
    let told = context.statuses.tell(key, &policy, policy.status.as_ref(), &new);
    ending.after([told, again].into_iter().flatten().min())
}

fn no_gateway_api() -> ApplyProblem {
    let message =
        "spec.router.gateway: this cluster has no HTTPRoute (gateway.networking.k8s.io/v1); looked for every minute";
    ApplyProblem { reason: REASON_UNSUPPORTED, message: message.to_owned() }
}
