//! What the operator does, in virtual time: the same code counts demand, makes a portfolio of it, sizes pools and lowers
//! thresholds. A router tells it what it counted once a period.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::clock::{Nanos, SECOND};
use super::world::{PoolOf, Route, Tier, World};
use crate::operator::demand::measured::{Measured, OfNamespace};
use crate::operator::demand::{Heard, Stored};
use crate::operator::plan::portfolio::{Known, portfolio};
use crate::routing::counts::{Band, Counts};
use crate::routing::misses::bin_of;
use crate::routing::table::Step;
use crate::sizing::input::{Escalation, Offered, Pool, Service, Takes};
use crate::sizing::output::Sizes;
use crate::sizing::size;
use crate::sizing::steady::{Standing, settle};
use crate::sizing::thresholds::{InForce, PerStep};

/// The router that reports.
const ROUTER: &str = "router";

/// What was seen, and what stands.
pub(super) struct Planner {
    policy: (String, String),
    measured: Measured,
    counts: Counts,
    reports: u64,
    standing: BTreeMap<String, Standing>,
    thresholds: InForce,
    moves: InForce,
    /// By how much thresholds are lowered.
    lowered: PerStep,
    /// The part of requests that is moved to pools.
    moved: PerStep,
    /// What sizing said last.
    pub(super) sizes: Sizes,
}

impl Planner {
    pub(super) fn new(world: &World) -> Self {
        let policy = (world.table.namespace.clone(), world.table.policy.clone());
        let measured = Measured::default();
        measured.begin(&policy, Stored::default());
        Self {
            policy,
            measured,
            counts: Counts::default(),
            reports: 0,
            standing: BTreeMap::new(),
            thresholds: InForce::default(),
            moves: InForce::default(),
            lowered: PerStep::new(),
            moved: PerStep::new(),
            sizes: Sizes::default(),
        }
    }

    /// A request came.
    pub(super) fn arrived(&mut self, route: &Route) {
        self.counts.workloads.entry(route.name.clone()).or_default().offered += 1;
    }

    /// A tier answered a request of so many tokens, input and output, after a time.
    pub(super) fn answered(&mut self, route: &Route, tier: &str, (input, output): (u32, u32), after: Nanos) {
        let (input, output) = (u64::from(input), u64::from(output));
        let workload = self.counts.workloads.entry(route.name.clone()).or_default();
        let taken = workload.tiers.entry(tier.to_owned()).or_default();
        taken.calls += 1;
        taken.input += input;
        taken.output += output;
        // How long replicas take is known from the scenario: only the sums that say how requests vary are needed.
        let bands = &mut self.counts.tiers.entry(tier.to_owned()).or_default().bands;
        bands.resize(1, Band::default());
        for band in bands {
            band.calls += 1;
            band.micros += after / 1_000;
            band.input += input;
            band.output += output;
            band.output_squared += output * output;
            band.input_squared += input * input;
            band.input_output += input * output;
        }
    }

    /// Gates judged an answer. `missed`: by how little it was refused, if only by its threshold.
    pub(super) fn judged(&mut self, route: &Route, step: &Step, refused: bool, missed: Option<f64>) {
        let workload = self.counts.workloads.entry(route.name.clone()).or_default();
        let verdicts = workload.steps.entry(step.name.clone()).or_default();
        verdicts.judged += 1;
        verdicts.failed += u64::from(refused);
        if let Some(bin) = missed.and_then(bin_of).and_then(|bin| verdicts.misses.0.get_mut(bin)) {
            *bin += 1;
        }
    }

    /// By how much a threshold is lowered.
    pub(super) fn lowered(&self, route: &Route, step: &Step) -> f64 {
        of_step(&self.lowered, route, step)
    }

    /// The part of a step's requests that is moved to a pool.
    pub(super) fn moved(&self, route: &Route, step: &Step) -> f64 {
        of_step(&self.moved, route, step)
    }

    /// A period is over: the floors and ceilings of pools that are sized, by the place of their tier.
    pub(super) fn plan(&mut self, world: &World, now: Nanos) -> Vec<(usize, u32, u32)> {
        let at = i64::try_from(now / SECOND).unwrap_or(i64::MAX);
        self.reports += 1;
        let heard = Heard { pod: ROUTER, incarnation: 1, sequence: self.reports, age: at, at };
        self.measured.report(&self.policy, heard, &self.counts);
        let start = world.tiers.iter().filter_map(|tier| Some(tier.pool.as_ref()?.spec.start)).max();
        let known = Here {
            measured: self.measured.of_namespace(&self.policy.0, at),
            start: super::clock::seconds(start.unwrap_or(SECOND)),
        };
        let tables = [(self.policy.1.clone(), Arc::clone(&world.table))].into();
        let mut portfolio = portfolio(&tables, &BTreeMap::new(), &known);
        portfolio.pools =
            world.tiers.iter().filter_map(|tier| Some((tier.name.clone(), pool(tier, tier.pool.as_ref()?)))).collect();
        self.sizes = size(&portfolio);
        let now = Duration::from_nanos(now);
        self.lowered = self.thresholds.settle(&self.sizes.lowered, now);
        self.moved = self.moves.settle(&self.sizes.moved, now);
        let mut bounds = Vec::new();
        for (place, tier) in world.tiers.iter().enumerate() {
            let sized = tier.pool.as_ref().filter(|pool| pool.sized).zip(self.sizes.pools.get(&tier.name));
            let Some((pool, size)) = sized else { continue };
            let before = self.standing.get(&tier.name).copied();
            let stabilization = Duration::from_nanos(pool.stabilization());
            let standing = settle(before, size, pool.bounds().0, stabilization, now);
            self.standing.insert(tier.name.clone(), standing);
            bounds.push((place, standing.floor, size.ceiling));
        }
        bounds
    }
}

fn of_step(all: &PerStep, route: &Route, step: &Step) -> f64 {
    // Most of the time there are none.
    if all.is_empty() {
        return 0.0;
    }
    all.get(&(route.name.clone(), step.name.clone())).copied().unwrap_or_default()
}

/// What was measured, over the time in which pods start here.
struct Here<'a> {
    measured: OfNamespace<'a>,
    start: f64,
}

impl Known for Here<'_> {
    fn offered(&self, policy: &str, workload: &str, _seconds: f64) -> Offered {
        self.measured.offered(policy, workload, self.start)
    }

    fn escalation(&self, policy: &str, workload: &str, step: &str) -> Option<Escalation> {
        self.measured.escalation(policy, workload, step)
    }

    fn takes(&self, policy: &str, workload: &str, tier: &str) -> Option<Takes> {
        self.measured.takes(policy, workload, tier)
    }

    fn service(&self, _tier: &str, _concurrency: Option<u32>) -> Option<Service> {
        None
    }
}

fn pool(tier: &Tier, of: &PoolOf) -> Pool {
    let (min, max) = of.bounds();
    Pool {
        class: tier.tier.class,
        service: Some(Service::Batching { alpha: tier.curve.alpha, beta: tier.curve.beta, gamma: tier.curve.gamma }),
        concurrency: of.spec.slots,
        start: super::clock::seconds(of.spec.start),
        min,
        max,
        replica_hour: of.replica_hour.unwrap_or(0),
        asked: of.asked.clone(),
    }
}
