//! Ten thousand histories of routers and leaders: what all routers take together, and whether who asks is served.
//!
//! A history draws its events from its number. Clocks run up to 1 % apart, messages are lost, late and out of order, routers
//! come late, are cut off, stop and start anew, leaders change. What was admitted is checked against a bucket, as a
//! provider would keep it, and against the number of places. In half of them a workload of High risk has a reserve.

mod reserves;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::holding::{Holding, Places, Waiting};
use super::ledger::{Ledger, Limit};
use super::lessee::Lessee;
use super::reserve::Reserve;
use super::*;

const HISTORIES: u64 = 10_000;
const MS: u64 = 1_000;

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// A clock that runs up to half a percent fast or slow.
#[derive(Clone, Copy)]
struct Clock {
    begin: Instant,
    /// In 1e-6.
    rate: u64,
}

impl Clock {
    fn new(begin: Instant, dice: &mut Dice) -> Self {
        let rate = match dice.roll(3) {
            0 => 995_000,
            1 => 1_005_000,
            _ => 995_000 + dice.roll(10_000),
        };
        Self { begin: begin + Duration::from_secs(dice.roll(1_000)), rate }
    }

    fn at(&self, real: u64) -> Instant {
        self.begin + Duration::from_micros(real * self.rate / 1_000_000)
    }

    /// The real time that so much of its own takes.
    fn real(&self, own: u64) -> u64 {
        own * 1_000_000 / self.rate
    }
}

struct Router {
    id: RouterId,
    clock: Clock,
    lessee: Lessee,
    amounts: Holding,
    requests: Holding,
    places: Places,
    in_flight: u32,
    /// Requests that wait, of which it tells.
    waiting: Waiting,
    answered: u64,
    draining: bool,
    cut: [bool; 2],
    next_report: u64,
    /// The leader has heard a report that its session is in.
    confirmed: u32,
    served: u64,
}

struct Request {
    until: u64,
    incarnation: u64,
    reserved: u64,
    used: u64,
    reserve: Option<usize>,
    /// In flight where no leader can know of it any more.
    unknown: bool,
}

enum Message {
    Report(RouterId, Claims),
    Reply(u64, Grants),
}

struct World {
    dice: Dice,
    begin: Instant,
    now: u64,
    limit: u64,
    /// Requests a minute.
    requests_limit: u64,
    places: u32,
    most: u32,
    /// Longest time of a request, in microseconds.
    longest: u64,
    /// How slowly events follow each other.
    pace: u64,
    /// The reserve of a workload, in 1e-9; 0: none.
    reserve: u64,
    routers: Vec<Router>,
    leader: Option<Ledger>,
    leader_clock: Clock,
    epoch: u32,
    elects: u64,
    quiet_until: Option<u64>,
    messages: Vec<(u64, Message)>,
    requests: Vec<Request>,
    provider: Bucket,
    /// When it was asked, in the last minute.
    minute: VecDeque<u64>,
    incarnations: u64,
    calm: bool,
}

fn key(kind: Kind) -> Key {
    Key { scope: Scope::Account, name: "p".into(), kind }
}

impl Router {
    /// A request asks for so much.
    fn note(&mut self, amount: u64, high: bool, reserve: bool) {
        let reserve = (high && reserve).then_some(0);
        self.amounts.ask(amount, high, reserve);
        self.requests.ask(1, high, reserve);
    }
}

impl World {
    fn new(history: u64) -> Self {
        Self::with(history, |_| {})
    }

    /// One whose limits are set before it begins.
    fn with(history: u64, set: impl FnOnce(&mut Self)) -> Self {
        let mut dice = Dice(history);
        let begin = Instant::now() + Duration::from_secs(1_000);
        let limit = if dice.chance(50) { 1 + dice.roll(300) } else { 1 + dice.roll(200_000) };
        let leader_clock = Clock::new(begin, &mut dice);
        let mut world = Self {
            begin,
            now: 0,
            limit,
            requests_limit: if dice.chance(70) { 1 + dice.roll(300) } else { 1 + dice.roll(30_000) },
            places: if dice.chance(50) { 1 + u32::try_from(dice.roll(40)).unwrap() } else { 100_000 },
            most: 1 + u32::try_from(dice.roll(6)).unwrap(),
            longest: (3 + dice.roll(7)) * 1_000 * MS,
            pace: [1, 1, 2, 4][usize::try_from(dice.roll(4)).unwrap()],
            reserve: if dice.chance(50) { 0 } else { 1 + dice.roll(900_000_000) },
            routers: Vec::new(),
            leader: None,
            leader_clock,
            epoch: 0,
            elects: dice.roll(3_000) * MS,
            quiet_until: None,
            messages: Vec::new(),
            requests: Vec::new(),
            provider: Bucket::new(limit, begin),
            minute: VecDeque::new(),
            incarnations: 0,
            calm: false,
            dice,
        };
        set(&mut world);
        world.provider = Bucket::new(world.limit, begin);
        for _ in 0..=world.dice.roll(world.most.into()) {
            world.start();
        }
        world
    }

    fn reserves(&self) -> Vec<Reserve> {
        let reserve = Reserve { workload: "review".into(), nanos: self.reserve };
        if self.reserve > 0 { vec![reserve] } else { Vec::new() }
    }

    fn start(&mut self) {
        if self.routers.iter().filter(|router| !router.draining).count() >= self.most as usize {
            return;
        }
        self.incarnations += 1;
        let clock = Clock::new(self.begin, &mut self.dice);
        let now = clock.at(self.now);
        let pod = self.incarnations.to_string();
        let id = RouterId { namespace: "ai".into(), policy: "chat".into(), pod, incarnation: self.incarnations };
        let mut router = Router {
            id,
            clock,
            lessee: Lessee::new(now),
            amounts: Holding::leased(self.limit, self.most, Count::Bucket, now),
            requests: Holding::leased(self.requests_limit, self.most, Count::Minute, now),
            places: Places::leased(self.places, self.most, now, Duration::from_micros(self.longest)),
            in_flight: 0,
            waiting: Waiting::default(),
            answered: 0,
            draining: false,
            cut: [false; 2],
            next_report: self.now + self.dice.roll(1_000) * MS,
            confirmed: 0,
            served: self.now,
        };
        let reserves = self.reserves();
        router.amounts.reserve(&reserves, now);
        router.requests.reserve(&reserves, now);
        router.places.reserve(&reserves);
        self.routers.push(router);
    }

    /// Moves to a time, and lets happen what is due until then.
    fn go(&mut self, until: u64) {
        loop {
            let reports = self.routers.iter().map(|router| router.next_report);
            let ends = self.requests.iter().map(|request| request.until);
            let messages = self.messages.iter().map(|(at, _)| *at);
            let elects = self.leader.is_none().then_some(self.elects);
            let next = reports.chain(ends).chain(messages).chain(elects).chain(self.quiet_until).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            self.step();
        }
        self.now = until;
    }

    fn step(&mut self) {
        let now = self.now;
        if self.leader.is_none() && self.elects <= now {
            self.epoch += 1;
            self.leader_clock = Clock::new(self.begin, &mut self.dice);
            let since = self.leader_clock.at(now);
            let mut leader = Ledger::new(since, self.epoch);
            let reserves: Vec<_> = self.reserves().into_iter().map(|reserve| ("chat".into(), reserve)).collect();
            let limit = |kind, limit| Limit {
                namespace: "ai".into(),
                policy: None,
                key: key(kind),
                limit,
                most: self.most,
                reserves: reserves.clone(),
            };
            leader.set_limits(
                [
                    limit(Kind::Tokens, self.limit),
                    limit(Kind::Requests, self.requests_limit),
                    limit(Kind::Concurrency, self.places.into()),
                ],
                Duration::from_micros(self.longest),
                since,
            );
            self.leader = Some(leader);
            self.quiet_until = Some(now + self.leader_clock.real(5_100 * MS));
        }
        if self.quiet_until.is_some_and(|at| at <= now) {
            self.quiet_until = None;
            for request in &mut self.requests {
                let router = self.routers.iter().find(|router| router.id.incarnation == request.incarnation);
                request.unknown |= router.is_none_or(|router| router.confirmed != self.epoch);
            }
        }
        while let Some(place) = self.requests.iter().position(|request| request.until <= now) {
            let request = self.requests.swap_remove(place);
            let router = self.routers.iter_mut().find(|router| router.id.incarnation == request.incarnation);
            if let Some(router) = router {
                router.in_flight -= 1;
                router.amounts.fill(router.clock.at(now));
                router.amounts.settle_as(request.reserved, request.used, request.reserve);
                router.places.leave(request.reserve);
                self.provider.put(request.reserved - request.used);
            }
        }
        while let Some(place) = self.messages.iter().position(|(at, _)| *at <= now) {
            let (_, message) = self.messages.swap_remove(place);
            self.deliver(message);
        }
        for place in 0..self.routers.len() {
            if self.routers[place].next_report <= now {
                self.send_report(place);
            }
        }
    }

    fn send_report(&mut self, place: usize) {
        let jitter = if self.calm { 0 } else { self.dice.roll(200) };
        let router = &mut self.routers[place];
        router.next_report = self.now + (1_000 + jitter) * MS;
        let (now, in_flight) = (router.clock.at(self.now), router.in_flight);
        let report = router.lessee.next();
        let (numbers, waiting) = ((report, router.answered), router.waiting);
        let amounts = router.amounts.claim(&key(Kind::Tokens), numbers, waiting, now);
        let requests = router.requests.claim(&key(Kind::Requests), numbers, waiting, now);
        let places = router.places.claim(&key(Kind::Concurrency), numbers, (in_flight, waiting), now);
        let report = router.lessee.report(amounts.into_iter().chain(requests).chain(places).collect(), now);
        if !router.cut[0] {
            let message = Message::Report(router.id.clone(), report);
            self.send(message);
        }
    }

    fn send(&mut self, message: Message) {
        if self.calm {
            self.messages.push((self.now + 5 * MS, message));
        } else if !self.dice.chance(5) {
            let most = [50, 50, 50, 50, 1_000, 3_000][usize::try_from(self.dice.roll(6)).unwrap()];
            let late = self.dice.roll(most * MS);
            self.messages.push((self.now + late, message));
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Report(id, claims) => {
                let Some(leader) = &mut self.leader else { return };
                let grants = leader.report(&id, &claims, self.leader_clock.at(self.now));
                let router = self.routers.iter_mut().find(|router| router.id == id);
                if let Some(router) = router.filter(|_| grants.session != 0) {
                    if claims.session == grants.session {
                        router.confirmed = self.epoch;
                    }
                    if !router.cut[1] {
                        self.send(Message::Reply(id.incarnation, grants));
                    }
                }
            }
            Message::Reply(incarnation, grants) => {
                let router = self.routers.iter_mut().find(|router| router.id.incarnation == incarnation);
                let Some(router) = router else { return };
                let now = router.clock.at(self.now);
                let Some(terms) = router.lessee.read(&grants) else { return };
                router.answered = terms.answers;
                let of = |kind| terms.grants.iter().find(|grant| grant.key.kind == kind);
                let soon = [
                    router.amounts.apply(of(Kind::Tokens), &terms, now),
                    router.requests.apply(of(Kind::Requests), &terms, now),
                    router.places.apply(of(Kind::Concurrency), &terms, now),
                ];
                if let Some(soon) = soon.into_iter().flatten().min() {
                    let soon = u64::try_from(soon.as_micros()).unwrap();
                    router.next_report = router.next_report.min(self.now + soon);
                }
            }
        }
    }

    /// A request of so much for so long; it uses a part of it. It is one of High risk, or of Low.
    fn ask(&mut self, place: usize, amount: u64, used: u64, time: u64) -> bool {
        // In calm nothing is urgent: that may leave nothing for the rest.
        let high = !self.calm && self.dice.chance(20);
        self.routers[place].note(amount, high, self.reserve > 0);
        self.try_ask(place, amount, used, time, high)
    }

    /// As [`ask`](Self::ask), for one that has asked.
    fn try_ask(&mut self, place: usize, amount: u64, used: u64, time: u64, high: bool) -> bool {
        let reserve = (high && self.reserve > 0).then_some(0);
        let router = &mut self.routers[place];
        let now = router.clock.at(self.now);
        router.amounts.fill(now);
        router.requests.fill(now);
        router.places.fill(now);
        let wait = |held: &Holding, amount| if high { held.wait(amount) } else { held.wait_beside_reserves(amount) };
        let room = wait(&router.amounts, amount) == Some(Duration::ZERO);
        let may = wait(&router.requests, 1) == Some(Duration::ZERO);
        let places = &router.places;
        let free = if high { places.free(router.in_flight) } else { places.free_beside_reserves(router.in_flight) } > 0;
        if !room {
            router.amounts.lack(amount);
        }
        if !may {
            router.requests.lack(1);
        }
        if !free {
            router.places.lack(reserve);
        }
        if !room || !may || !free {
            router.places.turned_away(router.in_flight + 1, reserve);
            return false;
        }
        router.requests.take_as(1, reserve);
        if self.dice.chance(3) && !self.calm {
            // Nobody could be asked.
            router.requests.settle_as(1, 0, reserve);
            return false;
        }
        router.amounts.take_as(amount, reserve);
        router.in_flight += 1;
        router.places.enter(router.in_flight, reserve);
        let until = self.now + router.clock.real(time);
        let incarnation = router.id.incarnation;
        self.requests.push(Request { until, incarnation, reserved: amount, used, reserve, unknown: false });
        // Fast clocks fill buckets faster.
        self.provider.fill(self.begin + Duration::from_micros(self.now * 1_005 / 1_000));
        assert_eq!(self.provider.wait(amount), Some(Duration::ZERO), "more than the limit of {}", self.limit);
        self.provider.take(amount);
        let begin = self.now.saturating_sub(60_000 * MS);
        while self.minute.pop_front_if(|at| *at < begin).is_some() {}
        self.minute.push_back(self.now);
        let (asked, most) = (self.minute.len() as u64, self.requests_limit);
        assert!(asked <= most, "{asked} requests in a minute, the limit is {most}");
        let in_flight = self.requests.iter().filter(|request| !request.unknown).count();
        assert!(in_flight <= self.places as usize, "{in_flight} in flight, the limit is {}", self.places);
        true
    }

    /// Something happens.
    fn event(&mut self) {
        let pause = [20, 150, 400, 1_500][usize::try_from(self.dice.roll(4)).unwrap()];
        let pause = self.dice.roll(pause * self.pace * MS);
        self.go(self.now + pause);
        let routers = self.routers.len() as u64;
        let place = usize::try_from(self.dice.roll(routers)).unwrap_or_default();
        match self.dice.roll(100) {
            0..20 => {
                // Everybody takes all there is.
                for place in 0..self.routers.len() {
                    let (amount, time) = (1 + self.limit / 24, self.longest - self.dice.roll(self.longest / 2));
                    let most = if self.dice.chance(50) { 24 } else { self.places.min(40) };
                    for _ in 0..most {
                        if !self.ask(place, amount, amount, time) && !self.ask(place, 1, 1, time) {
                            break;
                        }
                    }
                }
            }
            20..80 if routers > 0 => {
                let place = if self.dice.chance(40) { 0 } else { place };
                for _ in 0..=self.dice.roll(12) {
                    let most = if self.dice.chance(10) { self.limit } else { self.limit / 16 };
                    let amount = 1 + self.dice.roll(most);
                    let used = if self.dice.chance(50) { amount } else { self.dice.roll(amount + 1) };
                    let time = if self.dice.chance(30) { self.longest } else { self.dice.roll(self.longest) };
                    let time = if self.dice.chance(50) { time / 20 } else { time };
                    self.ask(place, amount, used, time);
                }
            }
            80..86 if routers > 0 => {
                let cut = [[true, true], [true, false], [false, true], [false, false]];
                self.routers[place].cut = cut[usize::try_from(self.dice.roll(4)).unwrap()];
            }
            86..89 => self.start(),
            89..92 if routers > 0 => {
                // It stops at once; what it asked for goes on.
                self.routers.swap_remove(place);
                self.start();
            }
            92..94 if routers > 0 => {
                let router = &mut self.routers[place];
                router.draining = true;
                router.lessee.drain();
                router.amounts.drain();
                router.requests.drain();
                router.places.drain();
                router.next_report = self.now;
                self.start();
            }
            94..97 if self.leader.is_some() => {
                self.leader = None;
                self.quiet_until = None;
                self.elects = self.now + if self.dice.chance(50) { 0 } else { self.dice.roll(9_000) * MS };
            }
            _ => {}
        }
    }

    /// All is well again. After a while whoever asks is served at least every three seconds.
    fn calm(&mut self) {
        self.calm = true;
        self.routers.retain(|router| !router.draining);
        self.routers.iter_mut().for_each(|router| router.cut = [false; 2]);
        let routers = self.routers.len() as u64;
        let asking = 1 + self.dice.roll(routers);
        // Each one's part of three seconds; beside a full reserve less lies ready, and some of what is gained finds no room.
        let least = if self.reserve > 0 { 4 } else { 2 };
        let few = self.limit.min(self.requests_limit) / 20 / asking < least;
        let places = self.places - reserve::places_left(self.places, [(self.reserve, 0)]);
        if routers == 0 || few || places < self.most {
            return;
        }
        self.go(self.now + 15_000 * MS + 2 * self.longest);
        self.go(self.now + 62_000 * MS);
        let begin = self.now;
        for tick in 0..120 {
            self.go(begin + tick * 100 * MS);
            for place in 0..usize::try_from(asking).unwrap() {
                for _ in 0..3 {
                    if self.ask(place, 1, 1, 50 * MS) {
                        self.routers[place].served = self.now;
                    }
                }
                let idle = self.now - self.routers[place].served.max(begin);
                assert!(idle < 3_000 * MS, "a router that asks was not served for {idle} us");
            }
        }
    }
}

#[test]
fn no_history_takes_more_than_the_limit_or_starves_who_asks() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || {
                for history in (first..HISTORIES).step_by(usize::try_from(threads).unwrap()) {
                    let tell = Tell(history);
                    let mut world = World::new(history);
                    (0..80).for_each(|_| world.event());
                    world.calm();
                    drop(tell);
                }
            });
        }
    });
}

/// Says which history it was that failed.
struct Tell(u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history {}", self.0);
        }
    }
}
