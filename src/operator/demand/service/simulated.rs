//! A replica that serves what comes by chance, behind routers that count as they do.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers above 0")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::tests::{Draws, report};
use super::*;
use crate::router::answer::Usage;
use crate::router::crowd::Crowd;
use crate::router::tally::Tally;

/// A replica: it works on up to so many requests at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    pub(super) alpha: f64,
    pub(super) beta: f64,
    pub(super) gamma: f64,
    pub(super) slots: usize,
}

/// What comes: so many requests a second, to so many routers, with tokens between these, and as many on average.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) rate: f64,
    pub(super) count: usize,
    pub(super) routers: usize,
    pub(super) input: (f64, f64),
    pub(super) output: f64,
}

impl Replica {
    /// Seconds of a request, with so many at a time.
    pub(super) fn seconds(&self, input: f64, output: f64, requests: f64) -> f64 {
        self.gamma.mul_add(input, output * self.beta.mul_add(requests, self.alpha))
    }

    /// The most requests a second.
    pub(super) fn most(&self, load: &Load) -> f64 {
        let slots = float(self.slots as u64);
        slots / self.seconds(f64::midpoint(load.input.0, load.input.1), load.output, slots)
    }

    /// Everybody gets on as S(b) says, at each moment.
    pub(super) fn shares(&self, load: &Load, draws: &mut Draws) -> Calls {
        let mut all = World::new(load, draws);
        // Of each, what part of it is left to do.
        let mut working: Vec<(f64, Request)> = Vec::new();
        while all.answered < load.count {
            let together = float(working.len() as u64);
            let pace = |request: &Request| 1.0 / self.seconds(request.input, request.output, together);
            let ends = working.iter().map(|(left, request)| left / pace(request)).fold(f64::INFINITY, f64::min);
            let passed = f64::min(ends, all.next - all.now);
            working.iter_mut().for_each(|(left, request)| *left -= passed * pace(request));
            all.now += passed;
            working.retain(|(left, request)| *left > 1e-9 || all.answer(request));
            all.arrive(draws);
            while working.len() < self.slots
                && let Some(request) = all.waiting.pop_front()
            {
                working.push((1.0, request));
            }
        }
        all.calls
    }

    /// In steps of a token each, which take alpha + beta * b; those that came since the last are read meanwhile, gamma a token,
    /// and everybody waits for that.
    pub(super) fn steps(&self, load: &Load, draws: &mut Draws) -> Calls {
        let mut all = World::new(load, draws);
        // Of each, the tokens that are left.
        let mut working: Vec<(f64, Request)> = Vec::new();
        while all.answered < load.count {
            all.arrive(draws);
            if working.is_empty() && all.waiting.is_empty() {
                all.now = all.next;
                continue;
            }
            let mut read = 0.0;
            while working.len() < self.slots
                && let Some(request) = all.waiting.pop_front()
            {
                read += request.input;
                working.push((request.output, request));
            }
            // What comes meanwhile is there meanwhile.
            let end = all.now + self.seconds(read, 1.0, float(working.len() as u64));
            while all.next < end {
                all.now = all.next;
                all.arrive(draws);
            }
            all.now = end;
            working.iter_mut().for_each(|(left, _)| *left -= 1.0);
            working.retain(|(left, request)| *left > 0.5 || all.answer(request));
        }
        all.calls
    }
}

struct Request {
    input: f64,
    output: f64,
    came: f64,
    router: usize,
    found: usize,
}

/// Routers and what they have sent; they report once a second.
struct World {
    load: Load,
    began: Instant,
    now: f64,
    /// When another one comes.
    next: f64,
    waiting: VecDeque<Request>,
    routers: Vec<(Crowd, Tally, u64)>,
    answered: usize,
    reports: i64,
    calls: Calls,
}

impl World {
    fn new(load: &Load, draws: &mut Draws) -> Self {
        let began = Instant::now();
        let router = || (Crowd::new(began), Tally::default(), 0);
        Self {
            load: *load,
            began,
            now: 0.0,
            next: draws.exponential() / load.rate,
            waiting: VecDeque::new(),
            routers: std::iter::repeat_with(router).take(load.routers).collect(),
            answered: 0,
            reports: 0,
            calls: Calls::default(),
        }
    }

    /// All reports until now.
    fn report(&mut self) -> Instant {
        while float(self.reports as u64) <= self.now {
            self.reports += 1;
            for (number, (_, tally, in_flight)) in self.routers.iter().enumerate() {
                let counts = TierCounts { endpoints: 1, in_flight: *in_flight, ..TierCounts::default() };
                report(&mut self.calls, &format!("r-{number}"), 1, &tally.counts(counts), self.reports);
            }
        }
        self.began + Duration::from_secs_f64(self.now)
    }

    /// Those that have come by now.
    fn arrive(&mut self, draws: &mut Draws) {
        while self.next <= self.now {
            let now = self.report();
            let number = (draws.next() * float(self.routers.len() as u64)) as usize;
            let (low, high) = self.load.input;
            let (input, output) =
                ((high - low).mul_add(draws.next(), low).round(), self.load.output * draws.exponential());
            let router = &mut self.routers[number];
            router.2 += 1;
            let found = router.0.enter(now);
            let output = output.ceil();
            self.waiting.push_back(Request { input, output, came: self.now, router: number, found });
            self.next += draws.exponential() / self.load.rate;
        }
    }

    /// One is answered, and no longer worked on.
    fn answer(&mut self, request: &Request) -> bool {
        let now = self.report();
        let (crowd, tally, in_flight) = &mut self.routers[request.router];
        let usage = Usage { prompt: request.input as u64, completion: request.output as u64, ..Usage::default() };
        let time = Duration::from_secs_f64(self.now - request.came);
        tally.answered(request.found, time, usage, &crowd.take(now));
        crowd.leave(now);
        *in_flight -= 1;
        self.answered += 1;
        false
    }
}
