//! One replica of an engine with continuous batching, as sizing models it.
//!
//! ```text
//! waiting (first come, first served) --a slot is free--> prefill: overhead + gamma * input tokens
//!                                                    --> decode: a token a step; a step takes alpha + beta * b seconds
//! ```
//! b is the number of sequences in the batch, those in prefill too. So a request that is alone takes
//! `overhead + gamma * in + out * (alpha + beta)` (`S(1)` of sizing), and each one more makes every step longer. Steps are
//! not told apart: sequences gain tokens continuously at the rate of the batch, which is exact at every time at which
//! the batch changes.
//!
//! Pure: the caller brings the time and keeps the events.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::clock::{Nanos, of_seconds, seconds};

/// How long requests take at a tier. All in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curve {
    /// Whatever the request: network, tokenizer, the provider's own queue.
    pub overhead: f64,
    /// A step of decoding, whatever the batch.
    pub alpha: f64,
    /// More of it for each sequence in the batch.
    pub beta: f64,
    /// Prefill for each token of input.
    pub gamma: f64,
}

impl Curve {
    /// Seconds of a step with so many sequences in the batch.
    fn step(&self, batch: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "batches have far fewer than 2^52 sequences")]
        let batch = batch as f64;
        self.beta.mul_add(batch, self.alpha)
    }

    /// Time before the first token, once a slot is free.
    #[must_use]
    pub fn prefill(&self, input: u32) -> Nanos {
        of_seconds(self.gamma.mul_add(f64::from(input), self.overhead))
    }

    /// Time of a request that is alone.
    #[must_use]
    pub fn alone(&self, input: u32, output: u32) -> Nanos {
        self.prefill(input) + of_seconds(f64::from(output) * self.step(1))
    }
}

/// A request at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Whose.
    pub call: u64,
    /// Tokens of input.
    pub input: u32,
    /// Tokens of output that it will make.
    pub output: u32,
}

/// What a replica wants to be told of, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// A request that waited has a slot now.
    Began {
        /// Whose.
        call: u64,
    },
    /// A request has done its prefill: [`Replica::prefilled`].
    Prefilled(Work),
    /// The next request of the batch is done, if it is still the same batch: [`Replica::decoded`].
    Decoded {
        /// Of the batch.
        version: u32,
    },
}

/// A sequence of the batch: done when each sequence has gained so many tokens since the replica began.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sequence {
    done_at: f64,
    call: u64,
}

impl Eq for Sequence {}

impl PartialOrd for Sequence {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sequence {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.done_at.total_cmp(&other.done_at).then(self.call.cmp(&other.call))
    }
}

/// A replica.
#[derive(Debug)]
pub struct Replica {
    curve: Curve,
    slots: usize,
    waiting: VecDeque<Work>,
    prefilling: Vec<u64>,
    decoding: BinaryHeap<Reverse<Sequence>>,
    /// Tokens that a sequence would have gained that had been in the batch since the replica began, up to `at`.
    gained: f64,
    at: Nanos,
    version: u32,
}

impl Replica {
    /// An idle replica with so many slots.
    #[must_use]
    pub fn new(curve: Curve, slots: u32, now: Nanos) -> Self {
        Self {
            curve,
            slots: usize::try_from(slots.max(1)).unwrap_or(1),
            waiting: VecDeque::new(),
            prefilling: Vec::new(),
            decoding: BinaryHeap::new(),
            gained: 0.0,
            at: now,
            version: 0,
        }
    }

    /// Requests in its slots.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.prefilling.len() + self.decoding.len()
    }

    /// Requests at it, those that wait included.
    #[must_use]
    pub fn load(&self) -> usize {
        self.batch() + self.waiting.len()
    }

    /// Takes a request.
    pub fn offer(&mut self, work: Work, now: Nanos, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) {
        if self.batch() < self.slots {
            self.catch_up(now);
            self.begin(work, schedule);
            self.announce(schedule);
        } else {
            self.waiting.push_back(work);
        }
    }

    /// A request's prefill is over.
    pub fn prefilled(&mut self, work: Work, now: Nanos, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) {
        let Some(place) = self.prefilling.iter().position(|call| *call == work.call) else { return };
        self.prefilling.swap_remove(place);
        self.catch_up(now);
        self.decoding.push(Reverse(Sequence { done_at: self.gained + f64::from(work.output), call: work.call }));
        self.announce(schedule);
    }

    /// The next request of the batch is done: it, and all that are done with it. None if the batch has changed since.
    pub fn decoded(&mut self, version: u32, now: Nanos, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) -> Vec<u64> {
        let mut done = Vec::new();
        if version != self.version {
            return done;
        }
        self.catch_up(now);
        // The first is done by definition: that its time was rounded must not make it late.
        self.gained = self.gained.max(self.decoding.peek().map_or(0.0, |first| first.0.done_at));
        while self.decoding.peek().is_some_and(|first| first.0.done_at <= self.gained) {
            done.extend(self.decoding.pop().map(|first| first.0.call));
        }
        self.fill(schedule);
        self.announce(schedule);
        done
    }

    /// A request is given up: its slot, or its place among those that wait, is free.
    pub fn cancel(&mut self, call: u64, now: Nanos, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) {
        if let Some(place) = self.waiting.iter().position(|work| work.call == call) {
            self.waiting.remove(place);
            return;
        }
        self.catch_up(now);
        self.prefilling.retain(|other| *other != call);
        self.decoding.retain(|sequence| sequence.0.call != call);
        self.fill(schedule);
        self.announce(schedule);
    }

    fn fill(&mut self, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) {
        while self.batch() < self.slots
            && let Some(work) = self.waiting.pop_front()
        {
            schedule(self.at, ReplicaEvent::Began { call: work.call });
            self.begin(work, schedule);
        }
    }

    fn begin(&mut self, work: Work, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) {
        match self.curve.prefill(work.input) {
            0 => {
                self.decoding.push(Reverse(Sequence { done_at: self.gained + f64::from(work.output), call: work.call }))
            }
            prefill => {
                self.prefilling.push(work.call);
                schedule(self.at + prefill, ReplicaEvent::Prefilled(work));
            }
        }
    }

    /// Accounts for the tokens that were made with the batch as it was.
    fn catch_up(&mut self, now: Nanos) {
        let elapsed = seconds(now.saturating_sub(self.at));
        let step = self.curve.step(self.batch());
        if !self.decoding.is_empty() && step > 0.0 {
            self.gained += elapsed / step;
        }
        self.at = now;
    }

    fn announce(&mut self, schedule: &mut impl FnMut(Nanos, ReplicaEvent)) {
        self.version = self.version.wrapping_add(1);
        if let Some(Reverse(first)) = self.decoding.peek() {
            let left = (first.done_at - self.gained).max(0.0) * self.curve.step(self.batch());
            schedule(self.at + of_seconds(left), ReplicaEvent::Decoded { version: self.version });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::{Clock, SECOND};
    use super::*;

    /// Runs a replica; `give_up`: a call that leaves, and when. Returns when each call is done, in seconds.
    fn run(mut replica: Replica, arrivals: &[(f64, Work)], give_up: Option<(u64, f64)>) -> Vec<(u64, f64)> {
        enum Event {
            Arrives(Work),
            Leaves(u64),
            ReplicaEvent(ReplicaEvent),
        }
        let mut clock = Clock::default();
        for (at, work) in arrivals {
            clock.at(of_seconds(*at), Event::Arrives(*work));
        }
        if let Some((call, at)) = give_up {
            clock.at(of_seconds(at), Event::Leaves(call));
        }
        let mut done = Vec::new();
        while let Some(event) = clock.pop() {
            let now = clock.now();
            let mut told = Vec::new();
            let mut schedule = |at, tick| told.push((at, tick));
            match event {
                Event::Arrives(work) => replica.offer(work, now, &mut schedule),
                Event::Leaves(call) => replica.cancel(call, now, &mut schedule),
                Event::ReplicaEvent(ReplicaEvent::Began { .. }) => {}
                Event::ReplicaEvent(ReplicaEvent::Prefilled(work)) => replica.prefilled(work, now, &mut schedule),
                Event::ReplicaEvent(ReplicaEvent::Decoded { version }) => {
                    done.extend(
                        replica.decoded(version, now, &mut schedule).into_iter().map(|call| (call, seconds(now))),
                    );
                }
            }
            told.into_iter().for_each(|(at, tick)| clock.at(at, Event::ReplicaEvent(tick)));
        }
        assert_eq!(replica.load(), 0);
        done
    }

    fn work(call: u64, input: u32, output: u32) -> Work {
        Work { call, input, output }
    }

    fn near(found: &[(u64, f64)], wanted: &[(u64, f64)]) {
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for ((call, at), (other, when)) in found.iter().zip(wanted) {
            assert!(call == other && (at - when).abs() < 1e-6, "{found:?} instead of {wanted:?}");
        }
    }

    const CURVE: Curve = Curve { overhead: 0.5, alpha: 0.01, beta: 0.01, gamma: 0.001 };

    #[test]
    fn a_request_alone_takes_what_the_curve_says() {
        near(&run(Replica::new(CURVE, 4, 0), &[(1.0, work(7, 500, 100))], None), &[(7, 1.0 + 0.5 + 0.5 + 2.0)]);
        assert_eq!(CURVE.alone(500, 100), 3 * SECOND);
    }

    #[test]
    fn two_in_a_batch_slow_each_other_down_and_a_third_waits_for_a_slot() {
        let curve = Curve { overhead: 0.0, gamma: 0.0, ..CURVE };
        let arrivals = [(0.0, work(1, 0, 100)), (1.0, work(2, 0, 100)), (1.0, work(3, 0, 10))];
        // One alone makes 50 tokens in a second; two at 0.03 s a step: the first needs 50 steps more. Then the third
        // takes its slot for 10 steps of 0.03 s, and the second is alone for its last 40.
        let wanted = [(1, 2.5), (3, 2.8), (2, 2.8 + 40.0 * 0.02)];
        near(&run(Replica::new(curve, 2, 0), &arrivals, None), &wanted);
    }

    #[test]
    fn who_leaves_frees_a_slot_wherever_it_is() {
        let arrivals = [(0.0, work(1, 0, 100)), (0.0, work(2, 100, 10))];
        // In its prefill, in the batch, in the queue.
        near(&run(Replica::new(CURVE, 1, 0), &arrivals, Some((1, 0.25))), &[(2, 0.25 + 0.6 + 0.2)]);
        near(&run(Replica::new(CURVE, 1, 0), &arrivals, Some((1, 1.0))), &[(2, 1.0 + 0.6 + 0.2)]);
        near(&run(Replica::new(CURVE, 1, 0), &arrivals, Some((2, 1.0))), &[(1, 0.5 + 2.0)]);
    }
}
