//! Requests that come by chance to routers of one account, of which less is asked for than there is.
//!
//! Rooms of routers and the leader's ledger, in virtual time. An exchange between them takes none.

use std::time::{Duration, Instant};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::limiter::Demand;
use super::queue::Ticket;
use super::room::{Again, Asker, Entry, Order, Room};
use super::share::Share;
use crate::api::types::Risk;
use crate::lease::holding::Waiting;
use crate::lease::ledger::{Ledger, Limit};
use crate::lease::lessee::Lessee;
use crate::lease::reserve::Reserve;
use crate::lease::{Key, Kind, LACKED, PERIOD, RouterId, Scope};
use crate::routing::table::Quota;

const STEP: Duration = Duration::from_millis(10);
/// What is lent begins with nothing: nobody counts before that.
const BEGINS: Duration = Duration::from_secs(90);
const LASTS: Duration = Duration::from_secs(1_200);
const LONGEST: Duration = Duration::from_secs(10);

struct Router {
    room: Room,
    lessee: Lessee,
    answered: u64,
    last: Instant,
    next: Instant,
    waiting: Vec<Waits>,
}

struct Waits {
    ticket: Ticket,
    give_up: Instant,
    kind: usize,
}

/// Requests of one kind: so many a second, and what became of them.
struct Comes {
    asker: Asker,
    rate: f64,
    came: u32,
    refused: u32,
}

impl Comes {
    fn of(risk: Risk, rate: f64) -> Self {
        let reserve = (risk == Risk::High).then_some(0);
        Self { asker: Asker { risk, movable: false, reserve }, rate, came: 0, refused: 0 }
    }

    fn refused(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.came)
    }
}

impl Router {
    fn new(quota: &Quota, most: u32, reserves: &[Reserve], next: Instant, begin: Instant) -> Self {
        let mut room = Room::default();
        room.set(quota, Share::Lease { most, longest: LONGEST }, reserves, begin);
        Self { room, lessee: Lessee::new(begin), answered: 0, last: begin, next, waiting: Vec::new() }
    }

    /// One comes.
    fn enter(&mut self, kind: usize, comes: &mut Comes, counts: bool, now: Instant) {
        let order = Order { input: 1, output: Demand { stated: 1, assumed: 0 } };
        let amounts = self.room.amounts(order, comes.asker);
        comes.came += u32::from(counts);
        match self.room.enter(amounts, comes.asker, now, now + Duration::from_secs(60)) {
            Entry::In(_) => {}
            Entry::Refused(_) => comes.refused += u32::from(counts),
            Entry::Waits(ticket, give_up) => {
                self.waiting.push(Waits { ticket, give_up, kind });
                self.next = self.next.min(now.max(self.last + LACKED));
            }
        }
    }

    /// Those who wait look, as often as any of them is served.
    fn look(&mut self, all: &mut [Comes], counts: bool, now: Instant) {
        let mut served = true;
        while std::mem::take(&mut served) {
            let room = &mut self.room;
            self.waiting.retain(|waits| {
                let comes = &mut all[waits.kind];
                let amounts = [1, 2, 1, 1];
                match room.again(&waits.ticket, waits.give_up, amounts, comes.asker, now) {
                    Again::Waits(_) => return true,
                    Again::GivenUp(_) => comes.refused += u32::from(counts),
                    Again::In(_) => served = true,
                }
                room.queue.leave(&waits.ticket);
                false
            });
        }
    }

    fn report(&mut self, pod: usize, key: &Key, ledger: &mut Ledger, now: Instant) {
        let few = |number: usize| u32::try_from(number).unwrap();
        let waiting = Waiting { all: few(self.room.queue.len()), urgent: few(self.room.queue.urgent()) };
        let held = self.room.amounts[0].as_mut().expect("requests are limited");
        let claim = held.claim(key, (self.lessee.next(), self.answered), waiting, now);
        let report = self.lessee.report(claim.into_iter().collect(), now);
        let id = RouterId { namespace: "ai".into(), policy: "front".into(), pod: pod.to_string(), incarnation: 1 };
        let grants = ledger.report(&id, &report, now);
        let mut soon = None;
        if let Some(terms) = self.lessee.read(&grants) {
            self.answered = terms.answers;
            soon = held.apply(grants.grants.first(), &terms, now);
        }
        (self.last, self.next) = (now, now + soon.unwrap_or(PERIOD));
    }
}

/// So many routers, and one while they are replaced, of an account of so many requests a minute, of which High has so many
/// percent.
fn play(routers: u32, limit: u64, reserved: u64, all: &mut [Comes]) {
    let begin = Instant::now();
    let key = Key { scope: Scope::Account, name: "provider".into(), kind: Kind::Requests };
    let reserves: &[Reserve] = &[Reserve { workload: "review".into(), nanos: reserved * 10_000_000 }];
    let most = routers + 1;
    let kept = reserves.iter().map(|reserve| ("front".to_owned(), reserve.clone())).collect();
    let lent = Limit { namespace: "ai".into(), policy: None, key: key.clone(), limit, most, reserves: kept };
    let mut ledger = Ledger::new(begin, 1);
    ledger.set_limits([lent], LONGEST, begin);
    let quota = Quota { requests_per_minute: Some(limit), ..Quota::default() };
    let first = |number: u32| begin + PERIOD * number / routers;
    let mut at: Vec<Router> = (0..routers).map(|n| Router::new(&quota, most, reserves, first(n), begin)).collect();
    let mut draws = ChaCha8Rng::seed_from_u64(1);
    let mut now = begin;
    while now < begin + LASTS {
        now += STEP;
        let counts = now > begin + BEGINS;
        for (pod, router) in at.iter_mut().enumerate() {
            for (kind, comes) in all.iter_mut().enumerate() {
                if draws.random::<f64>() < comes.rate / f64::from(routers) * STEP.as_secs_f64() {
                    router.enter(kind, comes, counts, now);
                }
            }
            router.look(all, counts, now);
            if router.next <= now {
                router.report(pod, &key, &mut ledger, now);
            }
            // Places are not limited: that requests end is not played.
            router.room.in_flight = 0;
        }
    }
}

#[test]
fn who_comes_by_chance_is_hardly_ever_refused_while_much_is_free() {
    for (routers, limit, low, high, most) in [
        (1, 720, 3.0, 1.0, 0.0),
        (2, 720, 3.0, 1.0, 0.002),
        (6, 720, 3.0, 1.0, 0.01),
        (2, 720, 6.0, 1.0, 0.01),
        (2, 6_000, 40.0, 10.0, 0.001),
    ] {
        let mut all = [Comes::of(Risk::Low, low), Comes::of(Risk::High, high)];
        play(routers, limit, 20, &mut all);
        let [low, high] = all.each_ref().map(Comes::refused);
        assert!(low <= most && high == 0.0, "{routers} routers, {limit} a minute: {low} of Low, {high} of High");
    }
}

/// A reserve is kept at the operator. What routers keep of it on top lies idle, of the few that lie ready.
#[test]
fn a_reserve_costs_low_little_of_a_small_account() {
    // Nine tenths of what is within reach of two routers.
    for (limit, low, high, most) in [(420, 4.5, 1.2, 0.06), (840, 9.0, 2.4, 0.01)] {
        let mut all = [Comes::of(Risk::Low, low), Comes::of(Risk::High, high)];
        play(2, limit, 20, &mut all);
        let [low, high] = all.each_ref().map(Comes::refused);
        assert!(low <= most && high == 0.0, "{limit} a minute: {low} of Low, {high} of High");
    }
}
