//! What a plan of a pool's replicas asks for besides its objects: a number that the tier's `/scale` takes over, and the way to
//! zero and back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;

use super::Context;
use crate::api::ModelTier;
use crate::operator::apply::{Error, Owner};
use crate::operator::observe::cache::Id;
use crate::operator::plan::scaling::{Turn, Zero};

/// Since when the replicas of pools are there, as far as this operator has seen it.
#[derive(Default)]
pub(super) struct Settled(Mutex<HashMap<Id, Instant>>);

impl Settled {
    fn look(&self, tier: &Id, settled: bool, now: Instant) -> Option<Instant> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if settled {
            return Some(*all.entry(tier.clone()).or_insert(now));
        }
        all.remove(tier);
        None
    }

    /// The tier is gone.
    pub(super) fn forget(&self, tier: &Id) {
        self.look(tier, false, Instant::now());
    }
}

/// A tier's pool.
pub(super) struct Pool<'a> {
    /// Whose children it has.
    pub owner: &'a Owner,
    /// The tier.
    pub tier: &'a Id,
    /// Its Deployment.
    pub id: &'a Id,
}

/// Does what is asked for; says when to look again if nothing happens.
pub(super) async fn follow(
    context: &Context,
    pool: &Pool<'_>,
    tier: &ModelTier,
    hand_over: Option<i32>,
    zero: Option<Zero>,
) -> (Result<(), Error>, Option<Duration>) {
    let Context { world, applier, .. } = context;
    if let Some(replicas) = hand_over {
        // The tier comes back changed, and is looked at again.
        let seen = (pool.tier.1.as_str(), tier.metadata.resource_version.as_deref());
        return (applier.scale::<ModelTier>(pool.owner, seen, replicas).await, None);
    }
    let (Some(zero), Some((state, version))) = (zero, world.deployment(&pool.owner.uid, pool.id)) else {
        return (Ok(()), None);
    };
    let now = Instant::now();
    let settled = context.settled.look(pool.tier, state.rolled_out() || state.deadline_exceeded.is_some(), now);
    match zero.turn(state.desired, settled, world.asked(pool.tier, now), now) {
        Turn::Stay => (Ok(()), None),
        Turn::Look(after) => (Ok(()), Some(after)),
        Turn::To(replicas) => {
            tracing::info!(
                tier = pool.tier.1,
                namespace = pool.tier.0,
                replicas,
                "scaled, because of who asks for the tier"
            );
            let seen = (pool.id.1.as_str(), version.as_deref());
            (applier.scale::<Deployment>(pool.owner, seen, replicas).await, None)
        }
    }
}
