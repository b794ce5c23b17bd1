//! Routers and operators that are killed, messages that are lost: what was spent is never more than the budget, what is
//! recorded never less than what was spent.

use proptest::prelude::*;

use super::super::purse::{Kept, Purse};
use super::*;

const LIMIT: i64 = 100_000;
const PERIOD: i64 = 100;
const ENDS: Duration = Duration::from_secs(100_000);

/// A router process, its disk, and what the provider has seen of it.
struct Node {
    id: String,
    purse: Purse,
    /// Requests in flight: what is reserved, what the provider counts.
    flying: Vec<(i64, i64)>,
    sequence: u64,
}

impl Node {
    fn new(id: String) -> Self {
        Self { id, purse: Purse::default(), flying: Vec::new(), sequence: 0 }
    }

    /// Killed; what it has on disk it finds again.
    fn restart(&mut self) {
        let kept: Kept = self.purse.kept;
        self.purse = Purse::resumed(kept);
        self.flying.clear();
    }
}

/// The cluster of a history.
struct World {
    limit: i64,
    nodes: Vec<Node>,
    made: usize,
    fund: Fund,
    disk: Option<Stored>,
    spent: i64,
    refused: u64,
    now: Instant,
}

impl World {
    fn new(nodes: usize, limit: i64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            limit,
            nodes: Vec::new(),
            made: 0,
            fund: Fund::new(limit, PERIOD, None, now),
            disk: None,
            spent: 0,
            refused: 0,
            now,
        };
        (0..nodes).for_each(|_| world.join());
        world
    }

    fn join(&mut self) {
        self.nodes.push(Node::new(format!("router-{}", self.made)));
        self.made += 1;
    }

    fn request(&mut self, node: usize, reserved: i64, used: i64) {
        let node = &mut self.nodes[node];
        if node.purse.reserve(reserved, self.now) {
            node.flying.push((reserved, used));
            self.spent += used;
        } else {
            self.refused += 1;
        }
    }

    fn answer(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        for (reserved, used) in node.flying.drain(..) {
            node.purse.settle(PERIOD, reserved, used);
        }
    }

    /// One exchange; a message may be lost on either way.
    fn sync(&mut self, node: usize, report_lost: bool, answer_lost: bool) {
        let node = &mut self.nodes[node];
        node.sequence += 1;
        let claim = node.purse.claim(false, self.now);
        if report_lost {
            return;
        }
        let grant = self.fund.report(&node.id, node.sequence, &claim, ENDS, self.now);
        if !answer_lost {
            node.purse.apply(&grant, self.now);
        }
    }

    fn store(&mut self, fails: bool) {
        if let Some(stored) = self.fund.to_store(self.now).filter(|_| !fails) {
            self.disk = Some(stored.clone());
            self.fund.stored(stored, self.now);
        }
    }

    fn new_leader(&mut self) {
        self.fund = Fund::new(self.limit, PERIOD, self.disk.clone(), self.now);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert!(self.spent <= self.limit, "{} of {} were spent", self.spent, self.limit);
        Ok(())
    }

    /// Once all that live have spoken, and of the others nothing was heard for some time.
    fn recorded(&mut self) -> i64 {
        self.pass(QUIET);
        (0..self.nodes.len()).for_each(|node| self.sync(node, false, false));
        self.fund.spent(self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

/// A moment of a history.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Requests at all routers, some of which end, and an exchange of each; bits say which messages are lost.
    Busy {
        reserved: i64,
        share: i64,
        ends: u8,
        reports_lost: u8,
        answers_lost: u8,
        write_fails: bool,
        millis: u64,
    },
    Kill(usize),
    Replace(usize),
    NewLeader,
}

fn event() -> impl Strategy<Value = Event> {
    let rarely = || prop_oneof![3 => Just(0_u8), 1 => any::<u8>()];
    let busy = (1_i64..200, 0_i64..=100, any::<u8>(), rarely(), rarely(), prop::bool::weighted(0.2), 100_u64..1_500);
    prop_oneof![
        20 => busy.prop_map(|(reserved, share, ends, reports_lost, answers_lost, write_fails, millis)| {
            Event::Busy { reserved, share, ends, reports_lost, answers_lost, write_fails, millis }
        }),
        1 => (0_usize..3).prop_map(Event::Kill),
        1 => (0_usize..3).prop_map(Event::Replace),
        1 => Just(Event::NewLeader),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_spends_more_than_the_budget_or_records_less_than_was_spent(
        events in prop::collection::vec(event(), 1..150),
    ) {
        // So little that most histories come to its end.
        let mut world = World::new(3, 4_000);
        for event in events {
            match event {
                Event::Busy { reserved, share, ends, reports_lost, answers_lost, write_fails, millis } => {
                    let bit = |bits: u8, node: usize| bits >> node & 1 == 1;
                    for node in 0..3 {
                        (0..3).for_each(|_| world.request(node, reserved, reserved * share / 100));
                        if bit(ends, node) {
                            world.answer(node);
                        }
                        world.sync(node, bit(reports_lost, node), bit(answers_lost, node));
                    }
                    world.store(write_fails);
                    world.pass(Duration::from_millis(millis));
                }
                Event::Kill(node) => world.nodes[node].restart(),
                Event::Replace(node) => {
                    world.nodes[node] = Node::new(format!("router-{}", world.made));
                    world.made += 1;
                }
                Event::NewLeader => world.new_leader(),
            }
            world.check()?;
        }
        let recorded = world.recorded();
        prop_assert!(recorded >= world.spent, "{recorded} recorded, {} spent", world.spent);
    }
}

/// Requests all the time at all routers, an exchange and a look at the disk each second.
fn second(world: &mut World, price: i64, used: i64) {
    for tick in 0..10 {
        for node in 0..world.nodes.len() {
            // The first has half of the load, the last nothing.
            if node == 0 || tick % 2 == 0 && node + 1 < world.nodes.len() {
                world.request(node, price, used);
                world.answer(node);
            }
            if tick == 9 || world.nodes[node].purse.balance() < price {
                world.sync(node, false, false);
            }
        }
        world.store(false);
        world.pass(Duration::from_millis(100));
    }
}

#[test]
fn nearly_all_of_it_can_be_spent_with_skewed_load_and_restarts() {
    let mut world = World::new(4, LIMIT);
    for seconds in 0..400 {
        second(&mut world, 60, 20);
        match seconds % 10 {
            3 => world.nodes[seconds % 4].restart(),
            7 => world.new_leader(),
            _ => {}
        }
    }
    assert!(world.spent <= LIMIT && world.spent * 100 >= LIMIT * 97, "{} of {LIMIT}", world.spent);
    let recorded = world.fund.spent(world.now);
    assert!(recorded >= world.spent, "{recorded} {}", world.spent);
    assert!(world.nodes[0].purse.is_last(world.now) && world.nodes[0].purse.balance() < 60);
}

#[test]
fn an_idle_budget_writes_nothing_and_a_busy_one_every_ten_seconds() {
    let mut world = World::new(2, LIMIT);
    let writes = |world: &mut World, seconds: usize, price: i64| {
        let mut writes = 0;
        for _ in 0..seconds {
            if price > 0 {
                world.request(0, price, price);
                world.answer(0);
            }
            (0..2).for_each(|node| world.sync(node, false, false));
            let before = world.disk.clone();
            world.store(false);
            writes += u32::from(world.disk != before);
            world.pass(Duration::from_secs(1));
        }
        writes
    };
    writes(&mut world, 20, 0);
    assert_eq!(writes(&mut world, 600, 0), 0);
    let busy = writes(&mut world, 600, 10);
    assert!((50..=62).contains(&busy), "{busy}");
}

#[test]
fn a_new_period_begins_with_all_of_it() {
    let mut world = World::new(1, LIMIT);
    for _ in 0..200 {
        second(&mut world, 100, 100);
    }
    assert_eq!((LIMIT - world.spent) / 1_000, 0);
    world.fund.begin(PERIOD + 1);
    assert_eq!(world.fund.spent(world.now), 0);
    world.sync(0, false, false);
    world.store(false);
    world.sync(0, false, false);
    assert_eq!(world.nodes[0].purse.kept.period, PERIOD + 1);
    let refused = world.refused;
    world.request(0, 50, 50);
    assert_eq!(world.refused, refused);
}

#[test]
fn what_a_lost_router_was_granted_is_spent_and_what_one_that_ends_had_is_not() {
    let mut world = World::new(2, LIMIT);
    for _ in 0..3 {
        second(&mut world, 60, 20);
    }
    let granted = world.nodes[0].purse.kept.granted;
    assert!(granted > 0);
    world.pass(QUIET);
    world.sync(1, false, false);
    let other = world.nodes[1].purse.kept.spent;
    assert_eq!(world.fund.spent(world.now), granted + other);
    let node = &mut world.nodes[0];
    let claim = node.purse.claim(true, world.now);
    world.fund.report(&node.id, 1_000, &claim, ENDS, world.now);
    assert_eq!(world.fund.spent(world.now), claim.spent + other);
}

#[test]
fn what_a_leader_granted_last_is_spent_if_nobody_is_left_to_tell() {
    let mut world = World::new(2, LIMIT);
    for _ in 0..3 {
        second(&mut world, 60, 60);
    }
    // Granted without a chance to write, and spent; then the leader is killed, and the router's pod is lost.
    for _ in 0..40 {
        world.sync(0, false, false);
        let all = world.nodes[0].purse.balance();
        if all > 0 {
            world.request(0, all, all);
        }
        world.request(0, 1_000, 1_000);
        world.pass(Duration::from_millis(100));
    }
    let mark = world.disk.as_ref().expect("it was written").mark;
    assert!(world.spent <= mark && world.spent > mark / 2, "{} of {mark}", world.spent);
    world.nodes[0] = Node::new("another".into());
    world.new_leader();
    assert!(world.recorded() >= world.spent);
}
