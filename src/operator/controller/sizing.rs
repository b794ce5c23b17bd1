//! Every [`PERIOD`]: sizes the pools that are to be sized, and looks again at the tiers of which there is something new to
//! say. A leader measures; the others have nothing to size by.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Context;
use super::queue::{Key, Kind, Queue};
use crate::operator::demand::measured::Measured;
use crate::operator::observe::world::{World, current};
use crate::operator::plan::portfolio::Known;
use crate::runtime::leader::Leader;
use crate::sizing::PERIOD;
use crate::sizing::input::{Offered, Service, Takes};

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
            continue;
        }
        for namespace in sized(world) {
            let mut observed = world.namespace(&namespace);
            for policy in observed.policies.clone().into_values() {
                world.add_table(&mut observed, &policy.uid().unwrap_or_default(), &policy.name_any());
            }
            let known = Here { measured: &world.measured, namespace: &namespace, now: Timestamp::now().as_second() };
            let news = planner.look(&namespace, &observed.tables, &observed.tiers, &known, now - began);
            queue.add_all(news.into_iter().map(|id| Key { kind: Kind::Tier, id }));
        }
    }
}

/// Namespaces with a pool that is to be sized.
fn sized(world: &World) -> BTreeSet<String> {
    let asks = |id: &(String, String)| {
        current(&world.tiers, id).is_some_and(|tier| tier.spec.pool.is_some_and(|pool| pool.sizing.is_some()))
    };
    world.tiers.ids().into_iter().filter(asks).map(|(namespace, _)| namespace).collect()
}

/// What was measured in a namespace.
struct Here<'a> {
    measured: &'a Measured,
    namespace: &'a str,
    now: i64,
}

impl Here<'_> {
    fn id(&self, name: &str) -> (String, String) {
        (self.namespace.to_owned(), name.to_owned())
    }
}

impl Known for Here<'_> {
    fn offered(&self, policy: &str, workload: &str, seconds: f64) -> Offered {
        let offered = self.measured.demand(&self.id(policy), |demand| demand.offered(workload, seconds, self.now));
        offered.unwrap_or_default()
    }

    fn escalation(&self, policy: &str, workload: &str, step: &str) -> Option<f64> {
        self.measured.demand(&self.id(policy), |demand| demand.escalation(workload, step))?
    }

    fn takes(&self, policy: &str, workload: &str, tier: &str) -> Option<Takes> {
        let takes = self.measured.demand(&self.id(policy), |demand| demand.takes(workload, tier))??;
        let calls = self.measured.calls(&self.id(tier), |calls| (calls.seconds(), calls.variation()));
        let (seconds, variation) = calls.unwrap_or_default();
        let (seconds, variation) = (seconds.unwrap_or(takes.seconds), variation.unwrap_or(takes.variation));
        Some(Takes { seconds, variation, ..takes })
    }

    fn service(&self, tier: &str, concurrency: Option<u32>) -> Option<Service> {
        self.measured.calls(&self.id(tier), |calls| calls.service(concurrency))?
    }
}
