//! A request's way along its path: the router's decisions, in virtual time.
//!
//! What the router decides without a network is the same code here: [`decide`] (which steps are entered, who is skipped,
//! where a request goes after each answer), limits, the account's [`Room`](crate::router::admission::room::Room) with its
//! reserves and its queue by risk, the limit on escalations, and circuits. What is simulated is what tiers and gates say.
//!
//! This is the walk itself; [`waiting`](super::waiting) is what becomes of those that wait for an account, and
//! [`calls`](super::calls) what tiers do.

use std::time::Duration;

use super::arrivals::Arrival;
use super::clock::{Nanos, nanos};
use super::measure::End;
use super::play::Run;
use super::requests::{Best, Request};
use super::world::instant;
use crate::api::escalation_path::{Entry, FailoverReason};
use crate::api::types::Risk;
use crate::router::admission::escalations::Leave;
use crate::router::admission::limiter::Demand;
use crate::router::admission::room::{self, Asker, Order};
use crate::router::admission::{ASSUMED_TOKENS, admit};
use crate::router::answer::Usage;
use crate::router::money::Money;
use crate::routing::decide::{self, Needs, Next, Outcome, Progress};

/// What came of asking a tier.
pub(super) enum Asked {
    /// Nothing yet.
    Flying,
    /// It was not asked, or said no at once.
    Said(Outcome),
    /// The limit on escalations does not let the request go on.
    Stop,
}

impl Run<'_> {
    /// A request comes.
    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let (now, at) = (self.clock.now(), self.now());
        let world = self.world;
        let kind = &world.kinds[usize::try_from(arrival.kind).unwrap_or_default()];
        let Some(row) = self.arrivals.row(arrival) else { return };
        let says = self.arrivals.says(row);
        let max_tokens = says.and_then(|says| says.max_tokens).or(kind.max_tokens);
        let route = &world.routes[kind.route];
        self.measure.arrived(kind.route);
        let mut request = Request {
            arrival,
            at: now,
            deadline: now.saturating_add(nanos(Duration::from_millis(route.path.deadline_ms))),
            kind,
            says,
            input: row.input,
            output: row.output.min(max_tokens.unwrap_or(u32::MAX)),
            max_tokens,
            step: 0,
            leg: 0,
            progress: Progress::default(),
            leave: Leave::new(None, None, at),
            admitted: None,
            best: None,
            last: None,
            full: false,
            cost: Money::default(),
            used: 0,
            call: None,
            failed_over: None,
        };
        let limiters = [kind.client.and_then(|client| world.clients[client].as_ref()), route.limiter.as_ref()];
        if limiters.iter().any(Option::is_some) {
            match admit(limiters, demand(&request), at) {
                Ok(admitted) => request.admitted = Some(admitted),
                Err(_) => {
                    self.measure.ended((kind.route, route.risk), End::Shed("limit"), Money::default(), 0, 0);
                    return;
                }
            }
        }
        request.leave = Leave::new(route.escalations.as_ref(), kind.client, at);
        request.failed_over = self.fails_over(&request);
        if let Some(outage) = request.failed_over {
            self.measure.outages[outage].arrived += 1;
        }
        if let Some(planner) = &mut self.planner {
            planner.arrived(route);
        }
        let place = self.requests.add(request);
        self.go_on(place);
    }

    /// The outage in which a request comes straight to the tier that is lost, and may fall back to a pool.
    fn fails_over(&self, request: &Request<'_>) -> Option<usize> {
        let route = &self.world.routes[request.kind.route];
        let first = *route.steps.first()?.first()?;
        let now = self.clock.now();
        let on = |outage: &super::world::Outage| outage.tier == first && (outage.from..outage.to).contains(&now);
        let outage = self.world.outages.iter().position(on)?;
        let fails_over = route.path.steps.iter().zip(&route.steps).any(|(step, tiers)| {
            let takes = |tier: &usize| {
                let tier = &self.world.tiers[*tier];
                tier.pool.is_some() && decide::skip(&tier.tier, route.data_class, needs(request)).is_none()
            };
            step.entry == Entry::FailoverOnly && decide::enters(&route.path, step, true) && tiers.iter().any(takes)
        });
        fails_over.then_some(outage)
    }

    /// Takes a request as far as it goes now.
    fn go_on(&mut self, place: u32) {
        while let Some(tier) = self.next_tier(place) {
            match self.ask(place, tier) {
                Asked::Flying => return,
                Asked::Stop => break,
                Asked::Said(outcome) => {
                    if !self.takes_in(place, outcome) {
                        break;
                    }
                }
            }
        }
        self.finish(place, None);
    }

    /// The tier that is asked next. `None`: the path is at its end.
    fn next_tier(&mut self, place: u32) -> Option<usize> {
        let request = self.requests.get(place)?;
        let route = &self.world.routes[request.kind.route];
        loop {
            let step = route.path.steps.get(request.step)?;
            let entered = request.leg > 0 || decide::enters(&route.path, step, request.progress.unavailable);
            let tier = route.steps[request.step].get(request.leg).filter(|_| entered);
            if let Some(tier) = tier {
                return Some(*tier);
            }
            request.step += 1;
            request.leg = 0;
        }
    }

    /// Takes in what came of a tier. False: the request goes no further.
    fn takes_in(&mut self, place: u32, outcome: Outcome) -> bool {
        let now = self.clock.now();
        let Some(request) = self.requests.get(place) else { return false };
        let route = &self.world.routes[request.kind.route];
        match request.progress.after(&route.path, outcome) {
            Next::Tier => request.leg += 1,
            Next::Step => {
                request.step += 1;
                request.leg = 0;
            }
            Next::Reply | Next::End => return false,
        }
        now < request.deadline
    }

    fn ask(&mut self, place: u32, tier: usize) -> Asked {
        let (now, world) = (self.now(), self.world);
        let Some(request) = self.requests.get(place) else { return Asked::Stop };
        let (route, asked) = (&world.routes[request.kind.route], &world.tiers[tier]);
        let bound =
            Usage { prompt: request.input.into(), cached: 0, completion: request.max_tokens.unwrap_or(0).into() };
        let left = route.path.max_cost.map(|most| Money::from_nanos(most) - request.cost);
        if left.is_some_and(|left| Money::of(bound, &asked.tier) > left) {
            return Asked::Said(Outcome::Skipped(None));
        }
        let escalates = request.progress.rejected;
        if escalates && !request.leave.ask(now) {
            return Asked::Stop;
        }
        let skip = decide::skip(&asked.tier, route.data_class, needs(request));
        let circuit = &self.tiers[tier].circuit;
        let gives_way = asked.serves_high && route.risk != Risk::High && circuit.spares(route.risk, now);
        let skipped = match skip {
            Some(skip) => Some(skip.failure()),
            None => gives_way.then_some(Some(FailoverReason::Degraded)),
        };
        if let Some(reason) = skipped {
            if escalates {
                request.leave.give_back(now);
            }
            request.full |= skip.is_none() && circuit.limited_for(now).is_some();
            return Asked::Said(Outcome::Skipped(reason));
        }
        // Nobody waits for a tier that is not asked then.
        let Some(account) = asked.account.filter(|_| circuit.would_admit(now)) else {
            return self.start(place, tier, None);
        };
        let moved = self.planner.as_ref().map_or(0.0, |planner| planner.moved(route, &route.path.steps[request.step]));
        // Gates draw by what is counted up from 0.
        if moved > 0.0 && request.arrival.draw(u64::MAX - request.step as u64) < moved {
            return Asked::Said(self.no_room(place));
        }
        let output = match request.max_tokens {
            Some(most) => Demand { stated: most.into(), assumed: 0 },
            None => Demand { stated: 0, assumed: ASSUMED_TOKENS },
        };
        let order = Order { input: request.input.into(), output };
        let reserve = world.accounts[account].reserves.iter().position(|reserve| reserve.workload == route.name);
        let asker = Asker { risk: route.risk, movable: route.movable[request.step], reserve };
        let deadline = instant(self.epoch, request.deadline);
        let room = &mut self.rooms[account];
        let amounts = room.amounts(order, asker);
        match room.enter(amounts, asker, now, deadline) {
            room::Entry::In(_) => self.start(place, tier, Some((asker, amounts))),
            room::Entry::Refused(_) => Asked::Said(self.no_room(place)),
            room::Entry::Waits(ticket, give_up) => {
                self.wait(place, tier, (asker, amounts), ticket, give_up);
                Asked::Flying
            }
        }
    }

    /// Goes on with what came of a tier.
    pub(super) fn after(&mut self, place: u32, asked: Asked) {
        match asked {
            Asked::Flying => {}
            Asked::Said(outcome) if self.takes_in(place, outcome) => self.go_on(place),
            Asked::Said(_) | Asked::Stop => self.finish(place, None),
        }
    }

    /// A request ends; `accepted`: by an answer that was. As at the end of the router's walk.
    pub(super) fn finish(&mut self, place: u32, accepted: Option<End>) {
        let (at, now, world) = (self.clock.now(), self.now(), self.world);
        let Some(request) = self.requests.remove(place) else { return };
        let route = &world.routes[request.kind.route];
        let refused =
            request.leave.refused(now).filter(|_| request.progress.rejected).map(|(on_exceeded, _)| on_exceeded);
        let may = decide::may_answer_best(&route.path, route.risk, refused);
        let end = match (request.best, request.last, request.full) {
            (Some(_), ..) if let Some(accepted) = accepted => accepted,
            (Some(_), ..) if may => End::BestAnswer,
            _ if refused.is_some() => End::Shed("escalation limit"),
            _ if at >= request.deadline => End::Failed("deadline"),
            (_, None | Some(FailoverReason::RateLimited), true) => End::Shed("capacity"),
            (_, Some(FailoverReason::Timeout), _) => End::Failed("timeout"),
            (_, Some(_), _) => End::Failed("unavailable"),
            (_, None, _) if request.progress.rejected => End::Failed("no accepted answer"),
            (_, None, _) => End::Failed("no eligible tier"),
        };
        let alone = |best: Best| world.tiers[best.tier].curve.alone(request.input, request.output);
        let alone = request.best.map_or(0, alone);
        let latency: Nanos = at - request.at;
        self.measure.ended((request.kind.route, route.risk), end, request.cost, latency, alone);
        if let Some(admitted) = request.admitted {
            admitted.settle(Some(request.used));
        }
    }
}

fn needs(request: &Request<'_>) -> Needs {
    let most = u64::from(request.max_tokens.unwrap_or(0));
    Needs { tokens: u64::from(request.input) + most, ..request.kind.needs }
}

fn demand(request: &Request<'_>) -> Demand {
    let output = request.max_tokens.unwrap_or(0);
    Demand {
        stated: u64::from(request.input) + u64::from(output),
        assumed: if request.max_tokens.is_some() { 0 } else { ASSUMED_TOKENS },
    }
}
