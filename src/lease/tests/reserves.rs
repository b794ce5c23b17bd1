//! A workload with a reserve that comes to one router, while Low requests take all they get at every router.
//!
//! Before that routers and leaders came and went, and while it comes other routers do. It must find what is left of its
//! reserve after that router's next report: it reports every second, and an answer takes 10 ms here.

use super::*;
use crate::lease::parts::Parts;

const HISTORIES: u64 = 500;
/// The next report and its answer, and the step in which the test looks.
const ROUND: u64 = 1_070 * MS;
const STEP: u64 = 50 * MS;

/// The limit that all lack.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scarce {
    Tokens,
    Requests,
    Places,
}

impl Scarce {
    /// A history with as much of all else as anybody asks for.
    fn world(self, history: u64) -> World {
        let mut world = World::with(history, |world| {
            let (tokens, requests) = (1_000 + world.dice.roll(200_000), 120 + world.dice.roll(6_000));
            let places = 8 + u32::try_from(world.dice.roll(60)).unwrap();
            world.limit = if self == Self::Tokens { tokens } else { 1_000_000_000 };
            world.requests_limit = if self == Self::Requests { requests } else { 10_000_000 };
            world.places = if self == Self::Places { places } else { 100_000 };
            world.most = 2 + u32::try_from(world.dice.roll(5)).unwrap();
            // More than that is not kept where it is lent.
            world.reserve = 10_000_000 * (5 + world.dice.roll(66));
        });
        (0..30).for_each(|_| world.event());
        world.calm = true;
        world.routers.retain(|router| !router.draining);
        world.routers.iter_mut().for_each(|router| router.cut = [false; 2]);
        world.start();
        world.start();
        world
    }
}

impl World {
    /// So long, after which Low requests come to each router until it refuses one.
    fn flood(&mut self, scarce: Scarce, step: u64) {
        self.go(self.now + step);
        // Where one of High risk waits, nobody of Low goes before it.
        let open: Vec<_> = (0..self.routers.len()).filter(|place| self.routers[*place].waiting.urgent == 0).collect();
        for place in open {
            let amount = if scarce == Scarce::Tokens { 1 + self.limit / 50 } else { 1 };
            for _ in 0..20 {
                let time = if scarce == Scarce::Places { self.dice.roll(self.longest) } else { 50 * MS };
                if !self.ask(place, amount, amount, time) {
                    break;
                }
            }
        }
    }

    fn flood_for(&mut self, scarce: Scarce, time: u64) {
        let until = self.now + time;
        while self.now < until {
            self.flood(scarce, 5 * STEP);
        }
    }

    /// Another router is cut off or comes, or a new process takes the router's place.
    fn disturb(&mut self, at: usize) -> usize {
        let others = self.routers.len() as u64 - 1;
        let other = (at + 1 + usize::try_from(self.dice.roll(others)).unwrap()) % self.routers.len();
        match self.dice.roll(4) {
            0 => self.routers[other].cut = [true; 2],
            1 => self.start(),
            2 => {
                self.routers.swap_remove(at);
                self.start();
                return self.routers.len() - 1;
            }
            _ => {}
        }
        at
    }

    /// So many requests of the workload come to a router at once, beside the flood: the time until the last was admitted.
    fn reserved_requests(&mut self, scarce: Scarce, at: usize, many: u64, amount: u64) -> u64 {
        let begin = self.now;
        (0..many).for_each(|_| self.routers[at].note(amount, true, true));
        let mut waits = many;
        loop {
            while waits > 0 && self.try_ask(at, amount, amount, 1_000 * MS, true) {
                waits -= 1;
            }
            let waiting = u32::try_from(waits).unwrap();
            self.routers[at].waiting = Waiting { all: waiting, urgent: waiting };
            let waited = self.now - begin;
            if waits == 0 {
                return waited;
            }
            assert!(waited < 60_000 * MS, "{waits} of {many} requests for {amount} wait yet");
            self.flood(scarce, STEP);
        }
    }
}

fn histories(scarce: Scarce, history: impl Fn(&mut World, usize) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for first in 0..threads {
            let history = &history;
            scope.spawn(move || {
                for number in (first..HISTORIES).step_by(usize::try_from(threads).unwrap()) {
                    let tell = Tell(number);
                    let mut world = scarce.world(number);
                    // What was used of a reserve, and as much that was owed, is there again after two minutes.
                    world.flood_for(scarce, 125_000 * MS);
                    let at = usize::try_from(world.dice.roll(world.routers.len() as u64)).unwrap();
                    let at = world.disturb(at);
                    history(&mut world, at);
                    drop(tell);
                }
            });
        }
    });
}

#[test]
fn tokens_of_a_reserve_are_found_at_any_router() {
    histories(Scarce::Tokens, |world, at| {
        let kept = Parts::of(world.limit, world.most, Count::Bucket).reservable(world.reserve);
        let kept = kept * world.reserve / 1_000_000_000;
        let many = 1 + world.dice.roll(10.min(kept));
        let waited = world.reserved_requests(Scarce::Tokens, at, many, kept / many);
        assert!(waited <= ROUND, "{kept} tokens of {} after {waited} us", world.limit);
    });
}

#[test]
fn places_of_a_reserve_are_found_at_any_router() {
    histories(Scarce::Places, |world, at| {
        let kept = u64::from(world.places) * world.reserve / 1_000_000_000;
        let waited = world.reserved_requests(Scarce::Places, at, kept, 1);
        assert!(waited <= ROUND, "{kept} places of {} after {waited} us", world.places);
    });
}

#[test]
fn requests_come_as_often_as_a_reserve_says_at_any_router() {
    histories(Scarce::Requests, |world, at| {
        let limit = world.requests_limit;
        // Nine tenths of the reserve; one is gained after so long, and who lacks one asks every quarter of a second.
        let pause = 60_000 * MS * 1_000_000_000 / (limit * world.reserve * 9 / 10);
        let most = ROUND + 60_000 * MS * 10 / (limit * 7) + 300 * MS;
        let (begin, mut due, mut waiting) = (world.now, 0, VecDeque::new());
        while world.now - begin < 30_000 * MS {
            while due <= world.now - begin {
                waiting.push_back(begin + due);
                world.routers[at].note(1, true, true);
                due += pause;
            }
            while let Some(since) = waiting.front().copied()
                && world.try_ask(at, 1, 1, 50 * MS, true)
            {
                waiting.pop_front();
                let waited = world.now - since;
                assert!(waited <= most, "one of {limit} a minute after {waited} us of {most}");
            }
            let waits = u32::try_from(waiting.len()).unwrap();
            world.routers[at].waiting = Waiting { all: waits, urgent: waits };
            world.flood(Scarce::Requests, STEP);
        }
        let first = waiting.front().map_or(0, |since| world.now - since);
        assert!(first <= most, "one of {limit} a minute waits for {first} us of {most}");
    });
}
