//! What the operator would measure, and how it would size pools by it: `sizing` in virtual time.
//!
//! Demand is that of the last [`WINDOW`], escalation ratios are verdicts over the same time or longer, and the index of
//! dispersion is that of counts over the pod's start time within the last [`MEMORY`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::clock::{Nanos, SECOND, nanos};
use super::world::{PoolOf, Route, Tier, World};
use crate::api::escalation_path::FailoverReason;
use crate::routing::decide;
use crate::routing::table::{self, Quota};
use crate::sizing::input::{Account, Escalation, Offered, Pool, Portfolio, Service, Step, Takes, Workload};
use crate::sizing::output::Sizes;
use crate::sizing::steady::{Standing, settle};
use crate::sizing::{PERIOD, size};

/// Time over which demand is measured.
const WINDOW: Duration = Duration::from_secs(300);
/// Longest time that is remembered.
const MEMORY: Duration = Duration::from_secs(3_600);

/// What was seen of one workload in one period.
#[derive(Clone, Debug, Default)]
struct Period {
    arrived: u32,
    input: f64,
    output: f64,
    output_squared: f64,
    /// By step: requests that its tier can serve, answers that were judged, and those refused.
    steps: Vec<[u32; 3]>,
}

impl Period {
    fn add(&mut self, other: &Self) {
        self.arrived += other.arrived;
        self.input += other.input;
        self.output += other.output;
        self.output_squared += other.output_squared;
        self.steps.resize(self.steps.len().max(other.steps.len()), [0; 3]);
        for (sum, more) in self.steps.iter_mut().zip(&other.steps) {
            for (sum, more) in sum.iter_mut().zip(more) {
                *sum += more;
            }
        }
    }
}

/// What was seen, and the floors that stand.
pub(super) struct Planner {
    /// By route, the period that goes on last.
    seen: Vec<VecDeque<Period>>,
    standing: BTreeMap<String, Standing>,
    /// What sizing said last.
    pub(super) sizes: Sizes,
}

impl Planner {
    pub(super) fn new(routes: &[Route]) -> Self {
        let seen = |route: &Route| VecDeque::from([Period::of(route.path.steps.len())]);
        Self { seen: routes.iter().map(seen).collect(), standing: BTreeMap::new(), sizes: Sizes::default() }
    }

    /// A request came. `serves`: the steps whose tier can serve it.
    pub(super) fn arrived(&mut self, route: usize, (input, output): (u32, u32), serves: impl Iterator<Item = bool>) {
        let Some(period) = self.seen.get_mut(route).and_then(VecDeque::back_mut) else { return };
        period.arrived += 1;
        period.input += f64::from(input);
        period.output += f64::from(output);
        period.output_squared += f64::from(output) * f64::from(output);
        for ([served, ..], serves) in period.steps.iter_mut().zip(serves) {
            *served += u32::from(serves);
        }
    }

    /// Gates judged an answer.
    pub(super) fn judged(&mut self, route: usize, step: usize, refused: bool) {
        let period = self.seen.get_mut(route).and_then(VecDeque::back_mut);
        if let Some([_, judged, of_them]) = period.and_then(|period| period.steps.get_mut(step)) {
            *judged += 1;
            *of_them += u32::from(refused);
        }
    }

    /// A period is over: the floors and ceilings of pools that are sized, by the place of their tier.
    pub(super) fn plan(&mut self, world: &World, now: Nanos) -> Vec<(usize, u32, u32)> {
        self.sizes = size(&self.portfolio(world));
        let mut bounds = Vec::new();
        for (place, tier) in world.tiers.iter().enumerate() {
            let sized = tier.pool.as_ref().filter(|pool| pool.sized).zip(self.sizes.pools.get(&tier.name));
            let Some((pool, size)) = sized else { continue };
            let before = self.standing.get(&tier.name).copied();
            let stabilization = Duration::from_nanos(pool.stabilization());
            let standing = settle(before, size, pool.bounds().0, stabilization, Duration::from_nanos(now));
            self.standing.insert(tier.name.clone(), standing);
            bounds.push((place, standing.floor, size.ceiling));
        }
        let most = usize::try_from(MEMORY.as_secs() / PERIOD.as_secs()).unwrap_or(1);
        for (seen, route) in self.seen.iter_mut().zip(&world.routes) {
            seen.push_back(Period::of(route.path.steps.len()));
            if seen.len() > most {
                seen.pop_front();
            }
        }
        bounds
    }

    fn portfolio(&self, world: &World) -> Portfolio {
        let pools = world.tiers.iter().filter_map(|tier| Some((tier.name.clone(), pool(tier, tier.pool.as_ref()?))));
        let start = world.tiers.iter().filter_map(|tier| Some(tier.pool.as_ref()?.spec.start)).max();
        let workloads = world.routes.iter().zip(&self.seen);
        let accounts = world.accounts.iter().enumerate().map(|(at, account)| {
            let tiers = world.tiers.iter().filter(|tier| tier.account == Some(at)).map(|tier| tier.name.clone());
            (account.name.clone(), Account { tiers: tiers.collect(), quota: quota(&account.quota) })
        });
        Portfolio {
            workloads: workloads.map(|(route, seen)| workload(route, seen, world, start.unwrap_or(SECOND))).collect(),
            pools: pools.collect(),
            accounts: accounts.collect(),
        }
    }
}

impl Period {
    fn of(steps: usize) -> Self {
        Self { steps: vec![[0; 3]; steps], ..Self::default() }
    }
}

fn workload(route: &Route, seen: &VecDeque<Period>, world: &World, start: Nanos) -> Workload {
    let periods = usize::try_from(WINDOW.as_secs() / PERIOD.as_secs()).unwrap_or(1);
    let mut lately = Period::default();
    seen.iter().rev().take(periods).for_each(|period| lately.add(period));
    let mut ever = Period::default();
    seen.iter().for_each(|period| ever.add(period));
    let window = PERIOD * u32::try_from(seen.len().min(periods)).unwrap_or(1);
    // Until there is enough of the last minutes, what is remembered of longer ago.
    let basis = if lately.arrived >= 30 { &lately } else { &ever };
    let requests = f64::from(basis.arrived.max(1));
    let (input_tokens, output_tokens) = (basis.input / requests, basis.output / requests);
    let variance = (basis.output_squared / requests - output_tokens * output_tokens).max(0.0);
    let variation = if output_tokens > 0.0 { variance / (output_tokens * output_tokens) } else { 1.0 };
    let path = &route.path;
    let step = |(at, (step, tiers)): (usize, (&table::Step, &Vec<usize>))| {
        let tier = &world.tiers[*tiers.first()?];
        if !decide::enters(path, step, true) {
            return None;
        }
        let [served, ..] = basis.steps.get(at).copied().unwrap_or_default();
        let [_, judged, refused] = if lately.steps.get(at).is_some_and(|counts| counts[1] >= 100) {
            lately.steps.get(at)
        } else {
            ever.steps.get(at)
        }
        .copied()
        .unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens of a request")]
        let alone = tier.curve.alone(input_tokens as u32, output_tokens as u32);
        let seconds = super::clock::seconds(alone);
        Some(Step {
            name: step.name.clone(),
            tiers: step.tiers.clone(),
            entry: step.entry,
            eligible: f64::from(served) / requests,
            takes: Takes { input_tokens, output_tokens, variation, seconds },
            escalation: Escalation {
                ratio: f64::from(refused) / f64::from(judged.max(1)),
                misses: Vec::new(),
                slack: 0.0,
            },
            beside: Vec::new(),
        })
    };
    let offered = Offered {
        rate: f64::from(lately.arrived) / window.as_secs_f64(),
        dispersion: dispersion(seen, start),
        window: window.as_secs_f64(),
    };
    let goes_on = |reasons: &[FailoverReason]| reasons.iter().any(|reason| decide::fails_over(path, *reason));
    Workload {
        name: route.name.clone(),
        risk: route.risk,
        reserve: nano(route.reserve),
        offered,
        steps: path.steps.iter().zip(&route.steps).enumerate().filter_map(step).collect(),
        on_outage: goes_on(&[FailoverReason::Unreachable, FailoverReason::ServerError, FailoverReason::Degraded]),
        on_shortage: goes_on(&[FailoverReason::RateLimited]),
        escalation_limit: path.escalation_limit.map(|limit| nano(limit.ratio)),
    }
}

/// Variance over mean of the counts of spans as long as a pod takes to start; 1 where there are too few to schedule, and never
/// less. The variance is Allan's, half the mean square of differences between neighbours: a rate that changes slowly is no
/// burst.
fn dispersion(seen: &VecDeque<Period>, start: Nanos) -> f64 {
    let span = usize::try_from(start.div_ceil(nanos(PERIOD)).max(1)).unwrap_or(1);
    let arrived: Vec<f64> = seen.iter().map(|period| f64::from(period.arrived)).collect();
    let counts: Vec<f64> = arrived.rchunks_exact(span).map(|counts| counts.iter().sum()).collect();
    #[expect(clippy::cast_precision_loss, reason = "few spans")]
    let number = counts.len() as f64;
    let mean = counts.iter().sum::<f64>() / number;
    if number < 8.0 || mean <= 0.0 {
        return 1.0;
    }
    let squares: f64 = counts.windows(2).map(|pair| (pair[0] - pair[1]) * (pair[0] - pair[1])).sum();
    (squares / (2.0 * (number - 1.0)) / mean).max(1.0)
}

fn pool(tier: &Tier, of: &PoolOf) -> Pool {
    let (min, max) = of.bounds();
    Pool {
        service: Some(Service::Batching { alpha: tier.curve.alpha, beta: tier.curve.beta, gamma: tier.curve.gamma }),
        concurrency: of.spec.slots,
        start: super::clock::seconds(of.spec.start),
        min,
        max,
        replica_hour: of.replica_hour.unwrap_or(0),
        asked: of.asked.clone(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "limits of accounts")]
fn quota(quota: &Quota) -> crate::sizing::input::Quota {
    let limit = |limit: Option<u64>| limit.map(|limit| limit as f64);
    crate::sizing::input::Quota {
        requests_per_minute: limit(quota.requests_per_minute),
        tokens_per_minute: limit(quota.tokens_per_minute),
        input_tokens_per_minute: limit(quota.input_tokens_per_minute),
        output_tokens_per_minute: limit(quota.output_tokens_per_minute),
        concurrency: quota.max_concurrent.map(f64::from),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn nano(ratio: u64) -> f64 {
    ratio as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispersion_is_that_of_counts_over_the_start_time() {
        let seen = |counts: &[u32]| -> VecDeque<Period> {
            counts.iter().map(|arrived| Period { arrived: *arrived, ..Period::default() }).collect()
        };
        let alternating = seen(&[0, 20].repeat(16));
        // Over 15 s it swings between 0 and 20; over 30 s it is always 20. A slope is no burst.
        assert!((dispersion(&alternating, 15 * SECOND) - 20.0).abs() < 1e-9);
        let slope: Vec<u32> = (100..132).collect();
        assert!((dispersion(&seen(&slope), 15 * SECOND) - 1.0).abs() < 1e-9);
        assert!((dispersion(&alternating, 30 * SECOND) - 1.0).abs() < 1e-9);
        assert!((dispersion(&seen(&[0, 20]), 15 * SECOND) - 1.0).abs() < 1e-9, "too few to schedule");
    }
}
