//! The closed form against a simulation of what it stands for: requests that wait in one line, replicas that slow down as
//! their batches fill, work that varies less or more than exponentially. The simulation shares the assumption that arrivals
//! are by chance, and that routers send a request to the replica with the fewest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::input::{Service, Takes, Variation};
use super::load::{Load, Part};
use super::slots::Target;
use super::testing::Chance;
use super::wait::Speed;

/// Positive numbers in the order of their bits, which is their own.
type Heap = BinaryHeap<Reverse<u64>>;

fn top(heap: &Heap) -> f64 {
    heap.peek().map_or(f64::INFINITY, |Reverse(bits)| f64::from_bits(*bits))
}

/// A pool to simulate.
#[derive(Clone, Copy, Debug)]
struct World {
    speed: Speed,
    lambda: f64,
    /// Coefficient of variation of the work.
    cv: f64,
    within: f64,
    arrivals: u32,
}

#[derive(Clone, Default)]
struct Replica {
    /// Work that each request has had since the replica began, and when that was so.
    done: f64,
    at: f64,
    /// What `done` will be when a request ends.
    ends: Heap,
}

impl Replica {
    fn seconds(&self, speed: &Speed) -> f64 {
        speed.seconds(self.ends.len() as f64)
    }

    /// When the next request ends.
    fn next(&self, speed: &Speed) -> f64 {
        if self.ends.is_empty() { f64::INFINITY } else { self.at + (top(&self.ends) - self.done) * self.seconds(speed) }
    }

    fn advance(&mut self, now: f64, speed: &Speed) {
        self.done += (now - self.at) / self.seconds(speed);
        self.at = now;
    }

    fn begin(&mut self, work: f64, now: f64, speed: &Speed) {
        self.advance(now, speed);
        self.ends.push(Reverse((self.done + work).to_bits()));
    }
}

impl World {
    /// Work of mean 1: exponential, or else log-normal, as lengths of answers are.
    fn work(&self, chance: &mut Chance) -> f64 {
        if (self.cv - 1.0).abs() < 1e-9 {
            return chance.exponential();
        }
        let variance = (1.0 + self.cv * self.cv).ln();
        (variance.sqrt() * chance.normal() - variance / 2.0).exp()
    }

    /// Part of the requests that wait longer than allowed, and its standard error.
    fn late(&self, replicas: u32) -> (f64, f64) {
        let (mut chance, mut tally) = (Chance::new(7), Tally::default());
        if self.speed.growing > 0.0 {
            self.batches(replicas, &mut chance, &mut tally);
        } else {
            self.servers(replicas, &mut chance, &mut tally);
        }
        tally.part()
    }

    /// Where the batch makes no difference: every slot is a server, which is free from some time on.
    fn servers(&self, replicas: u32, chance: &mut Chance, tally: &mut Tally) {
        let mut free: Heap = (0..replicas).map(|_| Reverse(0)).collect();
        let mut now = 0.0;
        for arrival in 0..self.arrivals {
            now += chance.exponential() / self.lambda;
            let begins = top(&free).max(now);
            free.pop();
            free.push(Reverse((begins + self.speed.fixed * self.work(chance)).to_bits()));
            tally.add(arrival, self.arrivals, begins - now > self.within);
        }
    }

    fn batches(&self, replicas: u32, chance: &mut Chance, tally: &mut Tally) {
        let speed = self.speed;
        let mut pool = vec![Replica::default(); replicas as usize];
        let mut line: VecDeque<(f64, f64, u32)> = VecDeque::new();
        let (mut arrival, mut next) = (0, 0.0);
        while arrival < self.arrivals || !line.is_empty() {
            let ends = pool.iter().map(|replica| replica.next(&speed)).enumerate();
            let (first, end) = ends.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            if next < end && arrival < self.arrivals {
                let (now, work) = (next, self.work(chance));
                let emptiest = pool.iter_mut().min_by_key(|replica| replica.ends.len()).unwrap();
                if (emptiest.ends.len() as f64) < speed.slots {
                    emptiest.begin(work, now, &speed);
                    tally.add(arrival, self.arrivals, false);
                } else {
                    line.push_back((now, work, arrival));
                }
                next += chance.exponential() / self.lambda;
                arrival += 1;
                continue;
            }
            pool[first].advance(end, &speed);
            pool[first].ends.pop();
            if let Some((came, work, arrival)) = line.pop_front() {
                tally.add(arrival, self.arrivals, end - came > self.within);
                pool[first].begin(work, end, &speed);
            }
        }
    }

    /// Replicas by the closed form.
    fn closed(&self, percentile: f64) -> u32 {
        // One token is one unit of work: S(b) = alpha + beta b.
        let service = Service::Batching { alpha: self.speed.fixed, beta: self.speed.growing, gamma: 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
        let target = Target::new(service, self.speed.slots as u32, self.within, percentile);
        let takes = Takes {
            input_tokens: 0.0,
            output_tokens: 1.0,
            variation: Variation::of_output(self.cv * self.cv),
            seconds: 0.0,
        };
        let load = Load { parts: vec![Part { rate: self.lambda, dispersion: 1.0, window: 0.0, takes }] };
        target.replicas(target.slots(&load, self.lambda))
    }
}

/// Batches of arrivals by which the error is estimated. The first is left out, as the pool was empty.
const BATCHES: usize = 20;

#[derive(Default)]
struct Tally([(u32, u32); BATCHES]);

impl Tally {
    fn add(&mut self, arrival: u32, of: u32, late: bool) {
        let (count, lates) = &mut self.0[arrival as usize * BATCHES / of as usize];
        *count += 1;
        *lates += u32::from(late);
    }

    fn part(&self) -> (f64, f64) {
        let parts: Vec<f64> = self.0[1..].iter().map(|(count, late)| f64::from(*late) / f64::from(*count)).collect();
        let number = parts.len() as f64;
        let mean = parts.iter().sum::<f64>() / number;
        let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (number - 1.0);
        (mean, (variance / number).sqrt())
    }
}

/// Every cell of the table: `percentile` of the requests wait a quarter of their service time at most. A simulation with as
/// many replicas as the closed form says must not fail for certain, and one with fewer than it may be off by must fail.
fn compare(rhos: &[f64], batch: bool, arrivals: u32, percentile: f64) {
    let (slots, fixed, growing) = if batch { (8.0, 0.44, 0.07) } else { (1.0, 1.0, 0.0) };
    let (speed, target) = (Speed { fixed, growing, slots }, 1.0 - percentile);
    println!("P(W > S/4) <= {target:.2}, {slots} slots a replica");
    println!("{:>5} {:>5} {:>4} {:>6} {:>15} {:>6}", "slots", "rho", "CV", "closed", "late", "least");
    let mut wrong = Vec::new();
    for c in [1.0, 2.0, 5.0, 20.0, 100.0, 200.0] {
        for (rho, cv) in rhos.iter().flat_map(|rho| [0.5, 1.0, 2.0].map(|cv| (*rho, cv))) {
            let world = World { speed, lambda: rho * c / speed.seconds(slots), cv, within: 0.25, arrivals };
            let closed = world.closed(percentile);
            let fails = |(late, error): (f64, f64)| late - 3.0 * error > target;
            let allowed = closed.div_ceil(10).max(1);
            // The least that will do, as far as the closed form may be above it.
            let mut fewer = (closed.saturating_sub(allowed + 1)..closed).rev();
            let least = 1 + fewer.find(|n| *n == 0 || fails(world.late(*n))).unwrap_or_else(|| closed - allowed - 2);
            let (late, error) = world.late(closed);
            println!("{c:>5} {rho:>5} {cv:>4} {closed:>6} {late:>7.4}+-{error:.4} {least:>6}");
            if fails((late, error)) || least + allowed < closed {
                wrong.push(format!("c {c} rho {rho} CV {cv}: {closed}, {least} will do, late {late} +- {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{slots} slots a replica: {wrong:#?}");
}

#[test]
fn the_closed_form_is_as_a_simulation_finds() {
    compare(&[0.3, 0.6, 0.8, 0.95], false, 60_000, 0.95);
}

/// Where a wait is rare several slots are taken at once by chance, not because the pool is busy.
#[test]
fn the_closed_form_is_as_a_simulation_finds_of_rare_waits() {
    compare(&[0.3, 0.6], false, 60_000, 0.99);
}

#[test]
fn the_closed_form_is_as_a_simulation_of_batches_finds() {
    compare(&[0.6, 0.95], true, 20_000, 0.95);
}

/// The same with more requests, and for rarer waits: minutes. `make sizing-table` prints it.
#[test]
#[ignore = "minutes: make sizing-table"]
fn the_closed_form_is_as_long_simulations_find() {
    for (batch, percentile) in [(false, 0.95), (false, 0.99), (true, 0.95), (true, 0.99)] {
        compare(&[0.3, 0.6, 0.8, 0.95], batch, 400_000, percentile);
    }
}
