//! Every [`PERIOD`]: sizes the pools that are to be sized, looks how accounts stand, and looks again at the tiers of which
//! there is something new to say. A leader measures; the others have nothing to size by.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Context;
use super::queue::{Key, Kind, Queue};
use crate::operator::demand::measured::OfNamespace;
use crate::operator::observe::world::{World, current};
use crate::operator::plan::portfolio::{Known, portfolio};
use crate::runtime::leader::Leader;
use crate::sizing::input::{Escalation, Offered, Service, Takes};
use crate::sizing::{PERIOD, size};

/// Runs until it is aborted.
pub(super) async fn run(context: Arc<Context>, queue: Arc<Queue>, leader: Leader) {
    let Context { world, planner, .. } = &*context;
    let began = Instant::now();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = tick.tick().await;
        if !leader.leads(now) {
            planner.clear();
            world.pressure.clear();
            continue;
        }
        let namespaces = sized(world);
        world.pressure.forget_all_but(&namespaces);
        for namespace in namespaces {
            let mut observed = world.namespace(&namespace);
            for policy in observed.policies.clone().into_values() {
                world.add_table(&mut observed, &policy.uid().unwrap_or_default(), &policy.name_any());
            }
            let measured = world.measured.of_namespace(&namespace, Timestamp::now().as_second());
            let known = Here { measured, world, namespace: &namespace };
            let portfolio = portfolio(&observed.tables, &observed.tiers, &known);
            let sizes = size(&portfolio);
            let mut news = planner.look(&namespace, &observed.tiers, &portfolio, &sizes, now - began);
            news.extend(world.pressure.look(&observed, &portfolio, &sizes, now - began));
            queue.add_all(news.into_iter().map(|id| Key { kind: Kind::Tier, id }));
        }
    }
}

/// Namespaces with a pool that is to be sized, or an account with a quota.
fn sized(world: &World) -> BTreeSet<String> {
    let asks = |id: &(String, String)| {
        let Some(spec) = current(&world.tiers, id).map(|tier| tier.spec) else { return false };
        spec.pool.is_some_and(|pool| pool.sizing.is_some())
            || spec.provider.is_some_and(|provider| provider.quota.is_some())
    };
    world.tiers.ids().into_iter().filter(asks).map(|(namespace, _)| namespace).collect()
}

/// What this operator knows of a namespace.
struct Here<'a> {
    measured: OfNamespace<'a>,
    world: &'a World,
    namespace: &'a str,
}

impl Known for Here<'_> {
    fn offered(&self, policy: &str, workload: &str, seconds: f64) -> Offered {
        self.measured.offered(policy, workload, seconds)
    }

    fn escalation(&self, policy: &str, workload: &str, step: &str) -> Option<Escalation> {
        self.measured.escalation(policy, workload, step)
    }

    fn takes(&self, policy: &str, workload: &str, tier: &str) -> Option<Takes> {
        self.measured.takes(policy, workload, tier)
    }

    fn routers(&self, policy: &str) -> Option<u32> {
        let id = (self.namespace.to_owned(), policy.to_owned());
        self.world.routers.heard(&id, std::time::Instant::now())
    }

    fn service(&self, tier: &str, concurrency: Option<u32>) -> Option<Service> {
        self.measured.service(tier, concurrency)
    }
}
