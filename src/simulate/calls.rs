//! Calls of tiers: who works on them, and how they end.

use std::time::Duration;

use rand::RngExt;

use super::clock::nanos;
use super::kinds::Verdict;
use super::measure::End;
use super::play::{Event, Run};
use super::replica::Work;
use super::requests::{Best, Call, Place, Turn};
use super::scenario::Looks;
use super::walk::Asked;
use crate::api::escalation_path::FailoverReason;
use crate::router::admission::room::{Amounts, Asker};
use crate::router::answer::Usage;
use crate::router::breaker::Fault;
use crate::router::money::Money;
use crate::routing::decide::{self, Outcome};

impl Run<'_> {
    /// Asks a tier, with room in its account.
    pub(super) fn start(&mut self, place: u32, tier: usize, held: Option<(Asker, Amounts)>) -> Asked {
        let (at, now) = (self.clock.now(), self.now());
        if !self.tiers[tier].circuit.admit(now) {
            self.settle(tier, held, [0; 4]);
            let limited = self.tiers[tier].circuit.limited_for(now).is_some();
            if let Some(request) = self.requests.get(place) {
                request.full |= limited;
                if request.progress.rejected {
                    request.leave.give_back(now);
                }
            }
            return Asked::Said(Outcome::Skipped(Some(FailoverReason::Degraded)));
        }
        let turn = self.requests.next_turn(place);
        let called = self.call(turn, tier);
        let Some(request) = self.requests.get(place) else { return Asked::Stop };
        match called {
            Ok(place) => {
                let route = &self.world.routes[request.kind.route];
                let timeout = nanos(Duration::from_millis(route.path.steps[request.step].timeout_ms));
                let until = at.saturating_add(timeout).min(request.deadline);
                request.call = Some(Call { tier, since: at, waited: 0, held, place });
                self.clock.at(until, Event::TimesOut(turn));
                Asked::Flying
            }
            Err((reason, pause)) => Asked::Said(self.failed(turn.place, tier, held, reason, pause)),
        }
    }

    /// Who works on a call.
    fn call(&mut self, turn: Turn, tier: usize) -> Result<Place, (FailoverReason, Option<Duration>)> {
        let (at, now) = (self.clock.now(), self.now());
        let Self { requests, tiers, clock, draws, providers, granted, world, .. } = self;
        let Some(request) = requests.get(turn.place) else { return Ok(Place::Lost) };
        match tiers[tier].outage {
            None => {}
            Some(Looks::Silent) => return Ok(Place::Lost),
            Some(Looks::ServerError) => return Err((FailoverReason::ServerError, None)),
            Some(Looks::Unreachable) => return Err((FailoverReason::Unreachable, None)),
        }
        let (input, output) = (request.input, request.output);
        if let Some(pool) = tiers[tier].pool.as_mut() {
            let work = Work { call: turn.number(), input, output };
            let mut random = |below: usize| draws.random_range(0..below.max(1));
            let mut schedule = |at, event| clock.at(at, Event::Pool(tier, event));
            let which = pool.ask(work, at, &mut random, &mut schedule);
            return which.map(Place::Replica).ok_or((FailoverReason::Unreachable, None));
        }
        if let Some(account) = world.tiers[tier].granted {
            providers[account].ask(input, output, now).map_err(|wait| (FailoverReason::RateLimited, Some(wait)))?;
            let granted = &mut granted[account];
            granted.in_flight += 1;
            let (input, output) = (u64::from(input), u64::from(output));
            for (used, more) in granted.used.iter_mut().zip([1, input + output, input, output]) {
                *used += more;
            }
        }
        clock.at(at.saturating_add(world.tiers[tier].curve.alone(input, output)), Event::Answers(turn));
        Ok(Place::Provider)
    }

    /// A call failed: its circuit and its account learn of it.
    pub(super) fn failed(
        &mut self,
        place: u32,
        tier: usize,
        held: Option<(Asker, Amounts)>,
        reason: FailoverReason,
        pause: Option<Duration>,
    ) -> Outcome {
        let now = self.now();
        self.measure.tiers[tier].failures += 1;
        // Who was not reached or said no has counted no tokens. Who did not come to an end may have.
        let used = held.map_or([0; 4], |(_, amounts)| amounts);
        self.settle(tier, held, if reason == FailoverReason::Timeout { used } else { [0; 4] });
        let jitter = self.jitter();
        let rules = &self.world.tiers[tier].rules;
        let state = &mut self.tiers[tier];
        let no_replica = state.outage.is_none() && state.pool.as_ref().is_some_and(|pool| pool.ready() == 0);
        match pause {
            _ if !self.circuits => state.circuit.release(),
            Some(pause) => state.circuit.limit(now, pause),
            // That there is nobody yet says nothing of them.
            None if no_replica => state.circuit.release(),
            None => {
                if state.circuit.failure(rules, Fault::NoAnswer, now, jitter) {
                    state.circuit.eject(rules, now, jitter);
                }
            }
        }
        if let Some(request) = self.requests.get(place) {
            request.last = Some(reason);
            request.full |= reason == FailoverReason::RateLimited;
        }
        Outcome::Unavailable(Some(reason))
    }

    /// A call that was being worked on failed in an outage.
    pub(super) fn failed_in_flight(&mut self, turn: Turn, looks: Looks) {
        let reason =
            if looks == Looks::Unreachable { FailoverReason::Unreachable } else { FailoverReason::ServerError };
        let Some(call) = self.requests.of_turn(turn).and_then(|request| request.call.take()) else { return };
        let outcome = self.failed(turn.place, call.tier, call.held, reason, None);
        self.after(turn.place, Asked::Said(outcome));
    }

    /// A call has taken too long.
    pub(super) fn timed_out(&mut self, turn: Turn) {
        if self.requests.of_turn(turn).is_none_or(|request| request.call.is_none()) {
            return;
        }
        self.lose(turn);
        let Some(request) = self.requests.of_turn(turn) else { return };
        let Some(call) = request.call.take() else { return };
        let route = &self.world.routes[request.kind.route];
        let step = &route.path.steps[request.step];
        let fair = nanos(Duration::from_millis(step.timeout_ms.min(route.path.deadline_ms)) / 2);
        let outcome = if self.clock.now() - call.since < fair {
            // What earlier steps left of the deadline may be too little for anybody.
            request.last = Some(FailoverReason::Timeout);
            let used = call.held.map_or([0; 4], |(_, amounts)| amounts);
            self.settle(call.tier, call.held, used);
            self.tiers[call.tier].circuit.release();
            Outcome::Unavailable(Some(FailoverReason::Timeout))
        } else {
            self.failed(turn.place, call.tier, call.held, FailoverReason::Timeout, None)
        };
        self.after(turn.place, Asked::Said(outcome));
    }

    /// A tier answered.
    pub(super) fn answered(&mut self, turn: Turn) {
        let (now, now_nanos, world) = (self.now(), self.clock.now(), self.world);
        let Some(request) = self.requests.of_turn(turn) else { return };
        let Some(call) = request.call.take() else { return };
        let tier = &world.tiers[call.tier];
        if let (Place::Provider, Some(account)) = (&call.place, tier.granted) {
            self.providers[account].ended();
            let granted = &mut self.granted[account];
            granted.in_flight = granted.in_flight.saturating_sub(1);
        }
        let (input, output) = (u64::from(request.input), u64::from(request.output));
        let by_the_hour = tier.pool.as_ref().is_some_and(|pool| pool.replica_hour.is_some());
        let usage = Usage { prompt: input, cached: 0, completion: output };
        let cost = if by_the_hour { Money::default() } else { Money::of(usage, &tier.tier) };
        request.cost += cost;
        request.used += input + output;
        let work = &mut self.measure.tiers[call.tier];
        work.answers += 1;
        work.input += input;
        work.output += output;
        work.cost += cost;
        let (route, step) = (&world.routes[request.kind.route], request.step);
        let gates = &request.kind.gates[step];
        let gated = !route.path.steps[step].accept.is_empty();
        let own = request.says.and_then(|says| says.scores.get(&route.path.steps[step].name)).copied();
        let what = u64::try_from(step).unwrap_or_default() * 2;
        let verdict = gates.judge(own, [request.arrival.draw(what), request.arrival.draw(what + 1)]);
        let passed = verdict == Verdict::Passed;
        let most = decide::most_given_way(&route.path, step, route.risk);
        let missed = if let Verdict::Missed(by) = verdict { Some(by).filter(|_| most > 0.0) } else { None };
        if gated {
            self.measure.judged(request.kind.route, step, !passed);
        }
        let mut accepted = passed.then_some(End::Accepted);
        if let Some(planner) = &mut self.planner {
            let of = &route.path.steps[step];
            planner.answered(route, &tier.name, (request.input, request.output), now_nanos - call.since);
            if gated {
                planner.judged(route, of, !passed, missed);
            }
            let lowered = planner.lowered(route, of);
            let lets_through = missed.is_some_and(|missed| decide::accepts_under_pressure(missed, lowered, most));
            accepted = accepted.or_else(|| lets_through.then_some(End::UnderPressure));
        }
        if let Some(outage) = request.failed_over
            && tier.pool.is_some()
        {
            let failed_over = &mut self.measure.outages[outage];
            failed_over.answered += 1;
            failed_over.in_time += u64::from(tier.pool.as_ref().is_some_and(|pool| call.waited <= pool.within));
        }
        if accepted.is_none() {
            let class = tier.tier.class;
            if gates.returnable && request.best.is_none_or(|best| class >= best.class) {
                request.best = Some(Best { class, tier: call.tier });
            }
            // It answered: what kept an earlier tier from answering is no longer why there is no answer.
            (request.last, request.full) = (None, false);
        }
        self.settle(call.tier, call.held, [1, input + output, input, output]);
        self.tiers[call.tier].circuit.success(&tier.rules, now);
        if accepted.is_some() {
            if let Some(request) = self.requests.get(turn.place) {
                request.best = Some(Best { class: tier.tier.class, tier: call.tier });
            }
            self.finish(turn.place, accepted);
        } else {
            self.after(turn.place, Asked::Said(Outcome::Rejected));
        }
    }

    /// Whoever works on a request's call stops.
    pub(super) fn lose(&mut self, turn: Turn) {
        let now = self.clock.now();
        let Self { requests, tiers, clock, providers, granted, world, .. } = self;
        let Some(call) = requests.of_turn(turn).and_then(|request| request.call.as_mut()) else { return };
        let tier = call.tier;
        match std::mem::replace(&mut call.place, Place::Lost) {
            Place::Replica(which) => {
                if let Some(pool) = tiers[tier].pool.as_mut() {
                    let mut schedule = |at, event| clock.at(at, Event::Pool(tier, event));
                    pool.cancel(which, turn.number(), now, &mut schedule);
                }
            }
            Place::Provider => {
                if let Some(account) = world.tiers[tier].granted {
                    providers[account].ended();
                    granted[account].in_flight = granted[account].in_flight.saturating_sub(1);
                }
            }
            Place::Account(..) | Place::Lost => {}
        }
    }
}
