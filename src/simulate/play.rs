//! A run: events in virtual time, one after the other.
//!
//! ```text
//! Row -> Arrives -> walk: limits -> for each step: account -> tier -> gates -> reply or next step
//!                            Look (waits for the account)   Answers, Pool, TimesOut (a tier is asked)
//! Looks after pools every 15 s: sizes, autoscalers.  Bin: a point of the series.  Fails, Recovers: outages.
//! ```
//! Where a request goes is said by [`walk`](super::walk); here is what time does to it.

use std::collections::BTreeMap;
use std::time::Instant;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::arrivals::{Arrival, Arrivals};
use super::autoscaler::{self, Autoscaler, Bounds};
use super::clock::{Clock, Nanos, seconds};
use super::measure::{Measure, PoolNow};
use super::planner::Planner;
use super::pool::{Pool, PoolEvent};
use super::provider::Provider;
use super::replica::ReplicaEvent;
use super::requests::{Place, Requests, Turn};
use super::scenario::{Looks, Scenario};
use super::world::{World, instant};
use crate::router::admission::queue::Ticket;
use crate::router::admission::room::Room;
use crate::router::admission::share::Share;
use crate::router::breaker::Circuit;
use crate::routing::table::Quota;
use crate::sizing::Sizes;

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// The next row of the trace is due.
    Row,
    /// A request comes.
    Arrives(Arrival),
    /// A request that waits for its account looks again.
    Look(Turn),
    /// A provider answers.
    Answers(Turn),
    /// A call has taken too long.
    TimesOut(Turn),
    /// Something happens at a pool.
    Pool(usize, PoolEvent),
    /// An outage begins.
    Fails(usize),
    /// An outage ends.
    Recovers(usize),
    /// Pools are looked after.
    Scale,
    /// A bin of the series is over.
    Bin,
}

/// State of a tier.
pub(super) struct TierNow {
    pub(super) circuit: Circuit,
    pub(super) outage: Option<Looks>,
    pub(super) pool: Option<Pool>,
    scaler: Option<Autoscaler>,
    bounds: Bounds,
}

/// What a provider's account has granted in the bin.
#[derive(Default)]
pub(super) struct Granted {
    /// Requests, tokens, tokens of input, tokens of output.
    pub(super) used: [u64; 4],
    pub(super) in_flight: u32,
}

/// In what a run differs from what the scenario says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// An operator sizes and scales pools, and lowers thresholds; else pools keep the replicas that they begin with.
    pub operated: bool,
    /// Tiers that fail or are at their limit are left alone for a while.
    pub circuits: bool,
}

/// A run.
pub struct Run<'w> {
    pub(super) world: &'w World,
    pub(super) epoch: Instant,
    pub(super) clock: Clock<Event>,
    pub(super) arrivals: Arrivals<'w>,
    pub(super) requests: Requests<'w>,
    pub(super) tiers: Vec<TierNow>,
    pub(super) rooms: Vec<Room>,
    /// Who waits for each account, with the turn that looks again.
    pub(super) waiting: Vec<Vec<(Ticket, Turn)>>,
    pub(super) providers: Vec<Provider>,
    pub(super) granted: Vec<Granted>,
    pub(super) draws: ChaCha8Rng,
    pub(super) measure: Measure,
    pub(super) planner: Option<Planner>,
    /// What sizing had said when each outage began, by the pools that are sized against its tier.
    promises: Vec<BTreeMap<String, String>>,
    pub(super) circuits: bool,
    coming: Vec<(Nanos, Arrival)>,
    /// Requests that are scheduled and have not come yet.
    expected: usize,
}

impl<'w> Run<'w> {
    /// A run that has not begun.
    #[must_use]
    pub fn new(world: &'w World, scenario: &Scenario, arrivals: Arrivals<'w>, mode: Mode, epoch: Instant) -> Self {
        let tier = |tier: &super::world::Tier| {
            let of = tier.pool.as_ref();
            let scaling = of.filter(|_| mode.operated).and_then(|of| of.scaling.as_ref());
            let replicas = of.map_or(0, |of| of.replicas);
            TierNow {
                circuit: Circuit::default(),
                outage: None,
                pool: of.map(|of| Pool::new(of.spec, replicas)),
                bounds: scaling.map_or(Bounds { floor: replicas, ceiling: replicas }, |scaling| Bounds {
                    floor: scaling.min,
                    ceiling: scaling.max,
                }),
                scaler: scaling.map(|scaling| Autoscaler::new(scaling.target, scaling.stabilization)),
            }
        };
        let room = |account: &super::world::Account| {
            let mut room = Room::default();
            room.set(&account.quota, Share::ALL, &account.reserves, epoch);
            room
        };
        let sized = world.tiers.iter().any(|tier| tier.pool.as_ref().is_some_and(|pool| pool.sized));
        let gives_way = world.routes.iter().any(|route| route.path.slack.is_some());
        let steps = world.routes.iter().map(|route| route.path.steps.len());
        let duration = arrivals.duration();
        Self {
            world,
            epoch,
            clock: Clock::default(),
            requests: Requests::default(),
            tiers: world.tiers.iter().map(tier).collect(),
            rooms: world.accounts.iter().map(room).collect(),
            waiting: world.accounts.iter().map(|_| Vec::new()).collect(),
            providers: world.granted.iter().map(|(_, quota)| Provider::new(quota, epoch)).collect(),
            granted: world.granted.iter().map(|_| Granted::default()).collect(),
            draws: ChaCha8Rng::seed_from_u64(scenario.seed.wrapping_add(1)),
            measure: Measure::new(steps, world.tiers.len(), world.outages.len(), duration),
            arrivals,
            planner: (mode.operated && (sized || gives_way)).then(|| Planner::new(world)),
            promises: vec![BTreeMap::new(); world.outages.len()],
            circuits: mode.circuits,
            coming: Vec::new(),
            expected: 0,
        }
    }

    /// Plays it to its end. `progress` is told now and then what part is done.
    pub fn play(mut self, progress: &mut dyn FnMut(f64)) -> Played {
        for (place, outage) in self.world.outages.iter().enumerate() {
            self.clock.at(outage.from, Event::Fails(place));
            self.clock.at(outage.to, Event::Recovers(place));
        }
        self.clock.at(autoscaler::PERIOD, Event::Scale);
        self.clock.at(self.measure.bin, Event::Bin);
        self.clock.at(0, Event::Row);
        let duration = self.arrivals.duration();
        while let Some(event) = self.clock.pop() {
            if matches!(event, Event::Scale) {
                progress((seconds(self.clock.now()) / seconds(duration)).min(1.0));
            }
            self.happen(event);
            // What is still scheduled is of requests that have ended.
            if self.clock.now() >= duration && self.expected == 0 && self.requests.is_empty() {
                break;
            }
        }
        self.close_bin();
        let now = self.clock.now();
        let hours = |tier: &mut TierNow| tier.pool.as_mut().map_or(0.0, |pool| pool.replica_hours(now));
        Played {
            replica_hours: self.tiers.iter_mut().map(hours).collect(),
            events: self.clock.scheduled(),
            until: now,
            duration,
            promises: self.promises,
            sizes: self.planner.map(|planner| planner.sizes).unwrap_or_default(),
            measure: self.measure,
        }
    }

    fn happen(&mut self, event: Event) {
        let goes_on = self.clock.now() < self.arrivals.duration();
        match event {
            Event::Row => self.row(),
            Event::Arrives(arrival) => {
                self.expected -= 1;
                self.arrive(arrival);
            }
            Event::Look(turn) => self.look(turn),
            Event::Answers(turn) => self.answered(turn),
            Event::TimesOut(turn) => self.timed_out(turn),
            Event::Pool(tier, event) => self.at_pool(tier, event),
            Event::Fails(outage) => self.fail(outage),
            Event::Recovers(outage) => self.tiers[self.world.outages[outage].tier].outage = None,
            Event::Scale => {
                self.scale();
                if goes_on {
                    self.clock.at(self.clock.now() + autoscaler::PERIOD, Event::Scale);
                }
            }
            Event::Bin => {
                self.close_bin();
                if goes_on {
                    self.clock.at(self.clock.now() + self.measure.bin, Event::Bin);
                }
            }
        }
    }

    /// The row that is due, and those that are due with it.
    fn row(&mut self) {
        let Some(at) = self.arrivals.next(&mut self.coming) else { return };
        // The first row is asked for at the beginning; from then on each is asked for when the one before is due.
        self.expected += self.coming.len();
        for (at, arrival) in self.coming.drain(..) {
            self.clock.at(at, Event::Arrives(arrival));
        }
        self.clock.at(at, Event::Row);
    }

    /// The time as the router's code knows it.
    pub(super) fn now(&self) -> Instant {
        instant(self.epoch, self.clock.now())
    }

    /// A draw from 0 to 1.
    pub(super) fn jitter(&mut self) -> f64 {
        self.draws.random()
    }

    fn at_pool(&mut self, tier: usize, event: PoolEvent) {
        let now = self.clock.now();
        let Self { tiers, clock, .. } = self;
        let Some(pool) = tiers[tier].pool.as_mut() else { return };
        let done = match event {
            PoolEvent::Starts(which) => {
                pool.started(which);
                return;
            }
            PoolEvent::At(_, ReplicaEvent::Began { call }) => {
                if let Some(call) = self.requests.of_turn(Turn::of(call)).and_then(|request| request.call.as_mut()) {
                    call.waited = now.saturating_sub(call.since);
                }
                return;
            }
            PoolEvent::At(which, tick) => {
                pool.tick(which, tick, now, &mut |at, event| clock.at(at, Event::Pool(tier, event)))
            }
        };
        done.into_iter().for_each(|call| self.answered(Turn::of(call)));
    }

    /// A tier is lost: who was being answered by it is not.
    fn fail(&mut self, outage: usize) {
        let (place, outage) = (outage, self.world.outages[outage]);
        let lost = &self.world.tiers[outage.tier].name;
        let against = self
            .world
            .tiers
            .iter()
            .filter(|tier| tier.pool.as_ref().is_some_and(|pool| pool.sized && pool.asked.against.contains(lost)));
        self.promises[place] = against
            .filter_map(|tier| {
                let size = self.planner.as_ref()?.sizes.pools.get(&tier.name)?;
                Some((tier.name.clone(), size.sentence.clone()))
            })
            .collect();
        self.tiers[outage.tier].outage = Some(outage.looks);
        for turn in self.requests.calling(outage.tier) {
            self.lose(turn);
            if outage.looks == Looks::Silent {
                if let Some(call) = self.requests.of_turn(turn).and_then(|request| request.call.as_mut()) {
                    call.place = Place::Lost;
                }
            } else {
                self.failed_in_flight(turn, outage.looks);
            }
        }
    }

    /// Looks after all pools.
    fn scale(&mut self) {
        let now = self.clock.now();
        let Self { tiers, clock, planner, world, .. } = self;
        for (place, floor, ceiling) in planner.iter_mut().flat_map(|planner| planner.plan(world, now)) {
            tiers[place].bounds = Bounds { floor, ceiling };
        }
        for (place, TierNow { pool, scaler, bounds, .. }) in tiers.iter_mut().enumerate() {
            let (Some(pool), Some(scaler)) = (pool, scaler) else { continue };
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
            let replicas = scaler.decide(pool.wanted(), pool.load() as f64, *bounds, now);
            pool.scale(replicas, now, &mut |at, event| clock.at(at, Event::Pool(place, event)));
        }
    }

    fn close_bin(&mut self) {
        let pools = self.tiers.iter().filter_map(|tier| {
            let pool = tier.pool.as_ref()?;
            let Bounds { floor, ceiling } = tier.bounds;
            Some(PoolNow { ready: pool.ready(), floor, ceiling, requests: pool.load() })
        });
        let bin = seconds(self.measure.bin);
        let accounts = self.world.granted.iter().zip(&mut self.granted).map(|((_, quota), now)| {
            let used = std::mem::take(&mut now.used);
            used_part(quota, used, now.in_flight, bin)
        });
        let (pools, accounts) = (pools.collect(), accounts.collect());
        self.measure.close_bin(pools, accounts);
    }
}

/// What of the tightest limit was used in so many seconds, or is now.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn used_part(quota: &Quota, used: [u64; 4], in_flight: u32, over: f64) -> f64 {
    let limits = [
        quota.requests_per_minute,
        quota.tokens_per_minute,
        quota.input_tokens_per_minute,
        quota.output_tokens_per_minute,
    ];
    let rates =
        limits.into_iter().zip(used).filter_map(|(limit, used)| Some(used as f64 * 60.0 / over / limit? as f64));
    let places = quota.max_concurrent.map(|most| f64::from(in_flight) / f64::from(most.max(1)));
    rates.chain(places).fold(0.0, f64::max)
}

/// A run that is over.
pub struct Played {
    /// What was counted.
    pub measure: Measure,
    /// Hours of replicas, by tier.
    pub replica_hours: Vec<f64>,
    /// Events that happened.
    pub events: u64,
    /// How long the load lasted.
    pub duration: Nanos,
    /// When the last event was.
    pub until: Nanos,
    /// What sizing had promised of pools when each outage began.
    pub promises: Vec<BTreeMap<String, String>>,
    /// What sizing said last.
    pub sizes: Sizes,
}

/// A pool's replicas on average over a run, rounded up.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
pub fn mean_replicas(replica_hours: f64, until: Nanos) -> u32 {
    (replica_hours / (seconds(until) / 3_600.0)).ceil() as u32
}
