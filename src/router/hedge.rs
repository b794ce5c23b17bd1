//! Hedging: the next step starts beside one that takes too long, and the first answer that is accepted wins.
//!
//! ```text
//! step ----- bound ---- slow -------> accepted: the other is cancelled
//!              \--budget, room--> next step ----> accepted: this one is cancelled
//! ```
//! It costs a second answer, just when there may be too much to do. So it is kept to one request in twenty of a path, by
//! a budget that starts empty, and left out where the next tier is degraded or its account is not a fifth free. The next
//! step is entered by the same rules as ever: clearance, capabilities, `maxCost`, quota, the limit on escalations.
//!
//! A percentile would sink by itself if the slow requests that it sends to the next step were not counted: one that is
//! given up counts as having taken so long (ADR 11).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::time::timeout;

use super::admission::escalations::Leave;
use super::answer::Usage;
use super::attempts::Call;
use super::cascade::{Said, Walk, at_most, needs};
use super::degraded::is_degraded;
use super::latencies::Latencies;
use super::metrics::Metrics;
use super::money::Money;
use super::route::{Leg, Stage};
use super::trace::{Ending, StepTrace, Trace};
use crate::routing::decide;
use crate::routing::table::{self, Step};

/// One hedge for so many requests of a path.
const SHARE: u32 = 20;
/// Hedges that may be saved up.
const SAVED: u32 = 10;

/// Share of the next tier's account that must be free, in percent.
const FREE: u32 = 20;

/// Why a step was not asked that stood by as a hedge when the client left.
const STANDS_BY: &str = "Hedge";

/// How a path hedges.
pub struct Hedge {
    bound: table::Hedge,
    state: Arc<State>,
    metrics: HedgeMetrics,
}

/// What is kept when the table changes.
struct State {
    /// What may be spent, in parts of a hedge.
    budget: AtomicU32,
    /// Times of each step.
    steps: Vec<Latencies>,
}

/// What hedges come to, found when the table is loaded.
pub struct HedgeMetrics {
    /// The hedge's answer was taken.
    pub won: Counter,
    /// The slow step's was, or none.
    pub lost: Counter,
    /// There was none, because the budget was spent.
    pub over_budget: Counter,
}

/// What the next step said, when it was asked ahead of its turn and its answer was not accepted.
pub(super) struct Ahead<'s> {
    pub(super) leg: &'s Leg,
    pub(super) said: Said<'s>,
}

impl Hedge {
    /// A hedge of a path with so many steps.
    #[must_use]
    pub fn new(bound: table::Hedge, steps: usize, before: Option<&Self>, workload: &str, metrics: &Metrics) -> Self {
        let state = before.map(|before| before.state.clone()).filter(|state| state.steps.len() == steps);
        let fresh = || State { budget: AtomicU32::new(0), steps: (0..steps).map(|_| Latencies::default()).collect() };
        Self { bound, state: state.unwrap_or_else(|| Arc::new(fresh())), metrics: metrics.hedges(workload) }
    }

    /// Counts a request of the path.
    pub fn request(&self) {
        let more = |saved: u32| Some(saved.saturating_add(1).min(SHARE * SAVED));
        // Never fails: there is always a next number.
        let _ = self.state.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn spend(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(SHARE);
        let spent = self.state.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if !spent {
            self.metrics.over_budget.inc();
        }
        spent
    }

    /// The time after which a step is slow; `None` while that is not known.
    #[must_use]
    pub fn bound(&self, step: usize) -> Option<Duration> {
        match self.bound {
            table::Hedge::After { after_ms } => Some(Duration::from_millis(after_ms)),
            table::Hedge::Percentile { percentile } => self.state.steps.get(step)?.percentile(percentile),
        }
    }

    /// Counts the time after which a step had said something, or was given up.
    fn observe(&self, step: usize, said: Option<&Said<'_>>, time: Duration) {
        let answered = said.is_none_or(|said| matches!(said, Said::Accepted(_) | Said::Rejected(_)));
        if let (true, table::Hedge::Percentile { .. }, Some(times)) = (answered, self.bound, self.state.steps.get(step))
        {
            times.observe(time);
        }
    }
}

/// What became of the request before a step.
#[derive(Clone, Copy)]
pub(super) struct SoFar {
    /// The step, by its place in the path.
    pub(super) step: usize,
    /// Whether an earlier tier was unavailable.
    pub(super) unavailable: bool,
    /// Whether an earlier answer failed its gates.
    pub(super) rejected: bool,
}

/// Asks a step, whose entry is the last of the trace, and the next one beside it once it is slow. What the next one said is
/// told too, unless its answer is the one that is taken. An answer that is taken is then the last of the trace.
pub(super) async fn ask<'a, 's>(
    walk: &Walk<'a, 's>,
    hedge: &Hedge,
    call: &Call<'a, 's>,
    so_far: SoFar,
    leave: &mut Leave<'_>,
    trace: &mut Trace<'s>,
) -> (Said<'s>, Option<Box<Ahead<'s>>>) {
    let next = next(walk, call, so_far);
    let hedged = hedge.bound(so_far.step).zip(next.as_ref());
    // On its entry, what it has cost counts when the client leaves before it has ended.
    trace.0.extend(hedged.map(|(_, (leg, _))| StepTrace::skipped(leg, STANDS_BY)));
    let (entry, beside) = match (trace.0.as_mut_slice(), hedged) {
        ([.., entry, standing_by], Some((bound, (leg, call)))) => (entry, Some((bound, *leg, call, standing_by))),
        ([.., entry], None) => (entry, None),
        // The step has an entry.
        _ => return (Said::Skipped(None), None),
    };
    let Some((bound, leg, beside, standing_by)) = beside else {
        let begin = Instant::now();
        let said = walk.ask(call, entry).await;
        entry.latency = begin.elapsed();
        hedge.observe(so_far.step, Some(&said), entry.latency);
        give_back(so_far, leave, entry);
        return (said, None);
    };
    // An escalation that came before is not the hedge's to give back.
    let had_leave = leave.is_granted();
    let race = Race { walk, hedge, first: call, second: beside, bound };
    let (first, second) = race.run(leave, [&mut *entry, &mut *standing_by]).await;
    hedge.observe(so_far.step, first.as_ref(), entry.latency);
    if standing_by.ending == Ending::Skipped(STANDS_BY) {
        give_back(so_far, leave, entry);
        trace.0.pop();
        return (first.unwrap_or(Said::Skipped(None)), None);
    }
    match (first, second) {
        (first, Some(won @ Said::Accepted(_))) => {
            if first.is_none() {
                cancel(call, entry);
            }
            hedge.metrics.won.inc();
            (won, None)
        }
        (Some(won @ Said::Accepted(_)), second) => {
            if second.is_none() {
                cancel(beside, standing_by);
            }
            std::mem::swap(entry, standing_by);
            hedge.metrics.lost.inc();
            if !had_leave {
                leave.give_back(Instant::now());
            }
            (won, None)
        }
        (first, second) => {
            hedge.metrics.lost.inc();
            (first.unwrap_or(Said::Skipped(None)), second.map(|said| Box::new(Ahead { leg, said })))
        }
    }
}

/// A request that was sent on to a tier which was not asked may be sent on to another.
fn give_back(so_far: SoFar, leave: &mut Leave<'_>, entry: &StepTrace<'_>) {
    if so_far.rejected && matches!(entry.ending, Ending::Skipped(_)) {
        leave.give_back(Instant::now());
    }
}

/// The next step's first tier that can take the request, and what it would be asked.
fn next<'a, 's>(walk: &Walk<'a, 's>, call: &Call<'a, 's>, so_far: SoFar) -> Option<(&'s Leg, Call<'a, 's>)> {
    let route = walk.route;
    let (steps, stages) = (route.path.steps.get(so_far.step + 1..)?, route.stages.get(so_far.step + 1..)?);
    let enters = |(step, _): &(&Step, &Stage)| decide::enters(&route.path, step, so_far.unavailable);
    let (step, stage) = steps.iter().zip(stages).find(enters)?;
    let peek = walk.asked.peek;
    // What the slow step may come to cost is not in the trace yet.
    let left = call.left.map(|left| left - at_most(peek, &call.upstream.tier, 0));
    let takes = |leg: &&Leg| {
        let tier = &leg.upstream.tier;
        leg.upstream.name != call.upstream.name
            && leg.upstream.authorization.is_ok()
            && decide::skip(tier, route.data_class, needs(peek)).is_none()
            && left.is_none_or(|left| at_most(peek, tier, 0) <= left)
    };
    let leg = stage.legs.iter().find(takes)?;
    Some((leg, walk.call(step, stage, leg, left)))
}

/// A step and the next one beside it.
struct Race<'r, 'a, 's> {
    walk: &'r Walk<'a, 's>,
    hedge: &'r Hedge,
    first: &'r Call<'a, 's>,
    second: &'r Call<'a, 's>,
    /// When the second starts, if it does.
    bound: Duration,
}

impl<'s> Race<'_, '_, 's> {
    /// What each said, until one is accepted or both have ended; `None`: nothing yet. Who has ended nothing is dropped, and
    /// its connection with it.
    async fn run(
        &self,
        leave: &mut Leave<'_>,
        [first, second]: [&mut StepTrace<'s>; 2],
    ) -> (Option<Said<'s>>, Option<Said<'s>>) {
        let Self { walk, bound, .. } = *self;
        let begin = Instant::now();
        let mut said: [Option<(Said<'s>, Duration)>; 2] = [None, None];
        let mut started = Duration::ZERO;
        {
            let mut asking = pin!(walk.ask(self.first, first));
            if let Ok(soon) = timeout(bound, asking.as_mut()).await {
                said[0] = Some((soon, begin.elapsed()));
            } else if self.may_start(leave) {
                started = begin.elapsed();
                *second = StepTrace { hedge: true, ..StepTrace::new(second.leg) };
                let mut hedging = pin!(walk.ask(self.second, second));
                let goes_on = |said: &[Option<(Said<'s>, Duration)>; 2]| {
                    let accepted = |ended: &(Said<'s>, Duration)| matches!(ended.0, Said::Accepted(_));
                    said.iter().any(Option::is_none) && !said.iter().flatten().any(accepted)
                };
                while goes_on(&said) {
                    let which = tokio::select! {
                        biased;
                        first = asking.as_mut(), if said[0].is_none() => (0, first),
                        second = hedging.as_mut(), if said[1].is_none() => (1, second),
                    };
                    said[which.0] = Some((which.1, begin.elapsed()));
                }
            } else {
                said[0] = Some((asking.await, begin.elapsed()));
            }
        }
        let time = begin.elapsed();
        let ended = |said: &Option<(Said<'s>, Duration)>| said.as_ref().map_or(time, |(_, at)| *at);
        first.latency = ended(&said[0]);
        second.latency = ended(&said[1]).saturating_sub(started);
        let [first, second] = said.map(|said| said.map(|(said, _)| said));
        (first, second)
    }

    /// Whether the second may start now that the first is slow.
    fn may_start(&self, leave: &mut Leave<'_>) -> bool {
        let upstream = self.second.upstream;
        let (now, had_leave) = (Instant::now(), leave.is_granted());
        let free = upstream.account.as_ref().is_none_or(|account| account.has_free(FREE, now));
        if !free || is_degraded(upstream, upstream.endpoints(self.walk.world.endpoints)) || !leave.ask(now) {
            return false;
        }
        let spent = self.hedge.spend();
        if !spent && !had_leave {
            leave.give_back(now);
        }
        spent
    }
}

/// Nobody knows what was made of a call that is given up: at least its input was read.
fn cancel(call: &Call<'_, '_>, entry: &mut StepTrace<'_>) {
    entry.ending = Ending::Cancelled;
    if entry.usage == Usage::default() {
        entry.usage.prompt = call.asked.peek.input_tokens_estimate();
        entry.cost = Money::of(entry.usage, &call.upstream.tier);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn hedge(bound: table::Hedge) -> Hedge {
        Hedge::new(bound, 2, None, "w", &Metrics::new(&mut Registry::default()))
    }

    #[test]
    fn one_request_in_twenty_may_be_hedged_and_none_on_credit() {
        let hedge = hedge(table::Hedge::After { after_ms: 5 });
        assert!(!hedge.spend());
        let mut hedges = 0;
        for _ in 0..1_000 {
            hedge.request();
            hedges += u32::from(hedge.spend());
        }
        assert_eq!(hedges, 50);
        (0..10_000).for_each(|_| hedge.request());
        assert_eq!((0..).take_while(|_| hedge.spend()).count(), 10, "what is saved up is bounded");
    }

    #[test]
    fn a_percentile_is_of_its_own_step_and_of_enough_requests() {
        let hedge = hedge(table::Hedge::Percentile { percentile: 90 });
        let answered = Said::Rejected(None);
        for _ in 0..50 {
            assert_eq!(hedge.bound(0), None);
            hedge.observe(0, Some(&answered), Duration::from_millis(20));
            // Nobody answered.
            hedge.observe(1, Some(&Said::Skipped(None)), Duration::from_millis(1));
        }
        assert!(hedge.bound(0).is_some() && hedge.bound(1).is_none() && hedge.bound(2).is_none());
        // Given up: it took as long at least.
        (0..50).for_each(|_| hedge.observe(0, None, Duration::from_millis(400)));
        assert!(hedge.bound(0) > Some(Duration::from_millis(400)));
        let kept = Hedge::new(hedge.bound, 2, Some(&hedge), "w", &Metrics::new(&mut Registry::default()));
        assert_eq!(kept.bound(0), hedge.bound(0));
        let other = Hedge::new(hedge.bound, 3, Some(&hedge), "w", &Metrics::new(&mut Registry::default()));
        assert_eq!(other.bound(0), None, "other steps");
    }
}
