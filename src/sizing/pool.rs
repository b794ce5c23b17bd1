//! "Small absorbs": the replicas that a pool needs for its own requests and for those of the tiers it is sized against,
//! between its minimum and what it may cost.

use std::collections::BTreeSet;

use super::PERIOD;
use super::flow::{Decided, Visit, Walk, Walker};
use super::input::{Pool, Portfolio};
use super::load::{Load, Part, share};
use super::output::{Band, Binding, Limited, PoolSize, Slots};
use super::sentence;
use super::slots::{Target, burst, greatest, grown};

/// Standard errors of the measured rate within which a floor stays: of a normal estimate, 997 of 1,000 are.
const CERTAIN: f64 = 3.0;

/// What comes to a pool.
#[derive(Debug, Default)]
struct Demand {
    /// By itself.
    own: Load,
    /// All that may fall back to it while the tiers that it is sized against are lost, each with the part that comes anyway,
    /// because their accounts are short.
    fallback: Vec<(Part, f64)>,
    /// Judged answers of its own a second, and those that gates refuse.
    judged: f64,
    refused: f64,
}

impl Demand {
    /// Its own, with `part` of all that may fall back: what comes anyway counts towards that.
    fn with_fallback(&self, part: f64) -> Load {
        let more = self.fallback.iter().map(|(of, anyway)| of.thinned((part - anyway).max(0.0)));
        Load { parts: self.own.parts.iter().copied().chain(more).collect() }
    }
}

/// Sizes the pool of a tier.
pub(super) fn plan(portfolio: &Portfolio, walker: &Walker<'_>, tier: &str, pool: &Pool, decided: &Decided) -> PoolSize {
    let demand = demand(portfolio, walker, tier, &pool.asked.against, decided);
    let (ceiling, by) = ceiling(pool);
    let mut size = PoolSize {
        own_rate: demand.own.rate(),
        fallback_rate: demand.fallback.iter().map(|(part, _)| part.rate).sum::<f64>() + 0.0,
        escalation: if demand.judged > 0.0 { demand.refused / demand.judged } else { 0.0 },
        slots: Slots::default(),
        own_replicas: 0,
        replicas: 0,
        floor: pool.min.min(ceiling),
        ceiling,
        // Nothing is known: whatever stands may stay.
        band: Band { low: pool.min, high: ceiling },
        growth: None,
        wait: None,
        binding: Binding::Unknown,
        limited: None,
        sentence: String::new(),
    };
    if let Some(service) = pool.service {
        let target = Target::new(service, pool.concurrency, pool.asked.within, pool.asked.percentile);
        fill(&mut size, pool, &target, &demand, by);
    }
    size.sentence = sentence::pool(&size, pool);
    size
}

/// What comes to a tier by every workload's path.
fn demand(
    portfolio: &Portfolio,
    walker: &Walker<'_>,
    tier: &str,
    against: &BTreeSet<String>,
    decided: &Decided,
) -> Demand {
    let mut demand = Demand::default();
    // As if the accounts of the tiers that may be lost had room for everything.
    let mut roomy = decided.clone();
    let of_lost: Vec<bool> = portfolio.accounts.values().map(|account| !account.tiers.is_disjoint(against)).collect();
    roomy.cut.retain(|(_, account), _| of_lost.get(*account) != Some(&true));
    for (w, workload) in portfolio.workloads.iter().enumerate() {
        let walk = walker.walk(w, decided, &BTreeSet::new());
        let here = |visit: &&Visit<'_>| visit.tier == tier;
        let part = |rate, visit: &Visit<'_>| Part::of(&workload.offered, rate, visit.takes);
        for visit in walk.visits.iter().filter(here) {
            demand.own.parts.push(part(visit.rate(), visit));
            if !visit.is_beside() {
                demand.judged += visit.rate();
                demand.refused += visit.rate() * share(workload.steps[visit.at.0].escalation.ratio);
            }
        }
        if against.is_empty() {
            continue;
        }
        let roomy = walker.walk(w, &roomy, &BTreeSet::new());
        for visit in walker.walk(w, decided, against).visits.iter().filter(here) {
            let rate = |walk: &Walk<'_>| {
                walk.visits.iter().filter(here).find(|known| known.at == visit.at).map_or(0.0, Visit::rate)
            };
            let more = visit.rate() - rate(&roomy);
            if more > 0.0 {
                let anyway = (rate(&walk) - rate(&roomy)).clamp(0.0, more) / more;
                demand.fallback.push((part(more, visit), anyway));
            }
        }
    }
    demand
}

/// The most replicas, and what says so. Never below the minimum.
fn ceiling(pool: &Pool) -> (u32, Binding) {
    let paid = pool.asked.hourly_budget.filter(|_| pool.replica_hour > 0).map(|budget| budget / pool.replica_hour);
    let paid = paid.map_or(u32::MAX, |replicas| u32::try_from(replicas).unwrap_or(u32::MAX));
    let by = if paid < pool.max { Binding::Budget } else { Binding::Maximum };
    (pool.max.min(paid).max(pool.min), by)
}

fn fill(size: &mut PoolSize, pool: &Pool, target: &Target, demand: &Demand, by: Binding) {
    // A peak is seen one period later at most, and met when a replica has started.
    let start = super::load::number(pool.start) + PERIOD.as_secs_f64();
    let all = demand.with_fallback(share(pool.asked.absorb));
    let error = CERTAIN * all.error();
    let need = |load: &Load, error: f64| target.slots(load, (burst(load, start) + error).max(0.0));
    let (own_slots, slots) = (need(&demand.own, 0.0), need(&all, 0.0));
    let replicas = target.replicas(slots).max(target.replicas(own_slots));
    let [low, high] = [-error, error].map(|error| target.replicas(need(&all, error)));
    let floor = replicas.max(pool.min).min(size.ceiling);
    let carried = |load: &Load, replicas: u32| target.carries(load, f64::from(replicas) * target.concurrency);
    size.slots = Slots { own: count(own_slots), all: count(slots.max(own_slots)) };
    size.own_replicas = target.replicas(own_slots);
    size.replicas = replicas;
    size.band = Band { low: low.min(replicas), high: high.max(replicas) };
    size.growth = (all.rate() > 0.0).then(|| grown(&all, start, carried(&all, floor)));
    let slots_of_floor = f64::from(floor) * target.concurrency;
    size.wait = (all.rate() > 0.0).then(|| target.wait(&all, all.rate(), slots_of_floor));
    size.binding = match () {
        () if replicas > size.ceiling => by,
        () if replicas < pool.min || replicas == 0 => Binding::Minimum,
        () if replicas > size.own_replicas => Binding::Absorb,
        () => Binding::OwnDemand,
    };
    if replicas > size.ceiling {
        let holds = |part: f64| {
            let both = demand.with_fallback(share(pool.asked.absorb) * part);
            carried(&both, size.ceiling) >= burst(&both, start)
        };
        let own = demand.own.rate();
        let times =
            if own > 0.0 { grown(&demand.own, start, carried(&demand.own, size.ceiling)).min(1.0) } else { 1.0 };
        size.limited = Some(Limited {
            by,
            missing: replicas - size.ceiling,
            absorb: greatest(holds) * share(pool.asked.absorb),
            own_rate: own * times,
        });
    }
    size.floor = floor;
}

/// Slots as a whole number; what no pool has is the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, and slots are not negative"
)]
const fn count(slots: f64) -> u64 {
    slots as u64
}

#[cfg(test)]
mod tests;
