//! A pool: replicas that start, serve, and finish what they have when they are taken away.
//!
//! A request goes to the less busy of two replicas that are drawn, by the router's own rule. The engine queues what is
//! more than its slots, as real ones do.

use super::clock::{Nanos, seconds};
use super::replica::{Curve, Replica, ReplicaEvent, Work};
use crate::router::endpoints::less_busy;

/// How a pool's replicas are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplicaSpec {
    /// How long requests take.
    pub curve: Curve,
    /// Requests that a replica works on at a time.
    pub slots: u32,
    /// Time from the decision to add a replica until it serves.
    pub start: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    /// It takes nothing new, and goes when it is done.
    Leaving,
}

#[derive(Debug)]
struct Member {
    replica: Replica,
    phase: Phase,
}

/// ReplicaId replica: its place, and how many had that place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaId {
    place: usize,
    life: u32,
}

/// What happens at a pool, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolEvent {
    /// A replica is ready: [`Pool::started`].
    Starts(ReplicaId),
    /// Something happens at a replica: [`Pool::tick`].
    At(ReplicaId, ReplicaEvent),
}

/// A pool of replicas.
#[derive(Debug)]
pub struct Pool {
    spec: ReplicaSpec,
    /// With the number of lives of each place.
    members: Vec<(u32, Option<Member>)>,
    /// Places of those that are ready, in the order in which they became so.
    ready: Vec<usize>,
    /// Replicas that there are, of all phases, and seconds that they cost up to `at`.
    alive: u32,
    paid: f64,
    at: Nanos,
}

impl Pool {
    /// So many replicas, ready.
    #[must_use]
    pub fn new(spec: ReplicaSpec, replicas: u32) -> Self {
        let mut pool = Self { spec, members: Vec::new(), ready: Vec::new(), alive: 0, paid: 0.0, at: 0 };
        for _ in 0..replicas {
            let which = pool.add(Phase::Ready, 0);
            pool.ready.push(which.place);
        }
        pool
    }

    /// Replicas that are ready.
    #[must_use]
    pub fn ready(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }

    /// Replicas that were asked for: ready or on their way.
    #[must_use]
    pub fn wanted(&self) -> u32 {
        let coming = self
            .members
            .iter()
            .filter(|(_, member)| member.as_ref().is_some_and(|member| member.phase == Phase::Starting));
        self.ready() + u32::try_from(coming.count()).unwrap_or(u32::MAX)
    }

    /// Requests at all replicas.
    #[must_use]
    pub fn load(&self) -> usize {
        self.members.iter().filter_map(|(_, member)| member.as_ref()).map(|member| member.replica.load()).sum()
    }

    /// Hours of replicas up to now: those that start or leave cost as much as those that serve.
    pub fn replica_hours(&mut self, now: Nanos) -> f64 {
        self.pay(now);
        self.paid / 3_600.0
    }

    fn pay(&mut self, now: Nanos) {
        self.paid += f64::from(self.alive) * seconds(now.saturating_sub(self.at));
        self.at = now;
    }

    /// Asks for so many replicas. Those on their way go first, then those that became ready last.
    pub fn scale(&mut self, replicas: u32, now: Nanos, schedule: &mut impl FnMut(Nanos, PoolEvent)) {
        self.pay(now);
        for _ in self.wanted()..replicas {
            let which = self.add(Phase::Starting, now);
            schedule(now + self.spec.start, PoolEvent::Starts(which));
        }
        for _ in replicas..self.wanted() {
            let starting = |(_, member): &(u32, Option<Member>)| {
                member.as_ref().is_some_and(|member| member.phase == Phase::Starting)
            };
            if let Some(place) = self.members.iter().rposition(starting) {
                self.remove(place);
            } else if let Some(place) = self.ready.pop() {
                if let Some(member) = self.member_at(place) {
                    member.phase = Phase::Leaving;
                }
                self.remove_if_done(place);
            }
        }
    }

    /// Sends a request to a replica. `None`: none is ready.
    pub fn ask(
        &mut self,
        work: Work,
        now: Nanos,
        random: &mut impl FnMut(usize) -> usize,
        schedule: &mut impl FnMut(Nanos, PoolEvent),
    ) -> Option<ReplicaId> {
        if self.ready.is_empty() {
            return None;
        }
        let load = |index: usize| {
            let member = self.ready.get(index).and_then(|place| self.members.get(*place)?.1.as_ref());
            member.map_or(usize::MAX, |member| member.replica.load())
        };
        let slots = usize::try_from(self.spec.slots).unwrap_or(usize::MAX);
        let index = less_busy(self.ready.len(), |index| (load(index) >= slots, load(index)), random);
        let place = *self.ready.get(index)?;
        let (life, member) = self.members.get_mut(place)?;
        let which = ReplicaId { place, life: *life };
        member.as_mut()?.replica.offer(work, now, &mut |at, tick| schedule(at, PoolEvent::At(which, tick)));
        Some(which)
    }

    /// A replica is ready, if it is still wanted.
    pub fn started(&mut self, which: ReplicaId) {
        if let Some(member) = self.member(which) {
            member.phase = Phase::Ready;
            self.ready.push(which.place);
        }
    }

    /// Something happens at a replica. Returns the requests that are done.
    pub fn tick(
        &mut self,
        which: ReplicaId,
        tick: ReplicaEvent,
        now: Nanos,
        schedule: &mut impl FnMut(Nanos, PoolEvent),
    ) -> Vec<u64> {
        let mut schedule = |at, tick| schedule(at, PoolEvent::At(which, tick));
        let Some(member) = self.member(which) else { return Vec::new() };
        let done = match tick {
            ReplicaEvent::Began { .. } => return Vec::new(),
            ReplicaEvent::Prefilled(work) => {
                member.replica.prefilled(work, now, &mut schedule);
                return Vec::new();
            }
            ReplicaEvent::Decoded { version } => member.replica.decoded(version, now, &mut schedule),
        };
        self.pay(now);
        self.remove_if_done(which.place);
        done
    }

    /// A request is given up.
    pub fn cancel(&mut self, which: ReplicaId, call: u64, now: Nanos, schedule: &mut impl FnMut(Nanos, PoolEvent)) {
        if let Some(member) = self.member(which) {
            member.replica.cancel(call, now, &mut |at, tick| schedule(at, PoolEvent::At(which, tick)));
            self.pay(now);
            self.remove_if_done(which.place);
        }
    }

    fn add(&mut self, phase: Phase, now: Nanos) -> ReplicaId {
        self.alive += 1;
        let member = Member { replica: Replica::new(self.spec.curve, self.spec.slots, now), phase };
        if let Some(place) = self.members.iter().position(|(_, member)| member.is_none())
            && let Some((life, free)) = self.members.get_mut(place)
        {
            *free = Some(member);
            return ReplicaId { place, life: *life };
        }
        self.members.push((0, Some(member)));
        ReplicaId { place: self.members.len() - 1, life: 0 }
    }

    fn member_at(&mut self, place: usize) -> Option<&mut Member> {
        self.members.get_mut(place)?.1.as_mut()
    }

    fn member(&mut self, which: ReplicaId) -> Option<&mut Member> {
        let (life, member) = self.members.get_mut(which.place)?;
        member.as_mut().filter(|_| *life == which.life)
    }

    fn remove_if_done(&mut self, place: usize) {
        if self.member_at(place).is_some_and(|member| member.phase == Phase::Leaving && member.replica.load() == 0) {
            self.remove(place);
        }
    }

    fn remove(&mut self, place: usize) {
        if let Some((life, member)) = self.members.get_mut(place)
            && member.take().is_some()
        {
            *life = life.wrapping_add(1);
            self.alive -= 1;
        }
    }
}

/// What so many hours of replicas cost, at so many 1e-9 of the currency an hour; in the currency.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn bill(replica_hours: f64, replica_hour: u64) -> f64 {
    replica_hours * replica_hour as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::super::clock::SECOND;
    use super::*;

    const MAKE: ReplicaSpec =
        ReplicaSpec { curve: Curve { overhead: 0.0, alpha: 1.0, beta: 0.0, gamma: 0.0 }, slots: 1, start: 60 * SECOND };

    fn work(call: u64) -> Work {
        Work { call, input: 1, output: 10 }
    }

    /// Draws 0 and so the first two.
    fn first(_: usize) -> usize {
        0
    }

    #[test]
    fn a_replica_starts_late_and_leaves_when_it_is_done() {
        let mut pool = Pool::new(MAKE, 1);
        let mut told = Vec::new();
        pool.scale(2, 0, &mut |at, event| told.push((at, event)));
        assert_eq!((pool.ready(), pool.wanted()), (1, 2));
        let (at, PoolEvent::Starts(second)) = told[0] else { panic!("{told:?}") };
        assert_eq!(at, 60 * SECOND);
        pool.started(second);
        assert_eq!(pool.ready(), 2);
        let mut ignore = |_, _| {};
        let a = pool.ask(work(1), at, &mut first, &mut ignore).expect("a replica");
        let b = pool.ask(work(2), at, &mut first, &mut ignore).expect("the other");
        assert_ne!(a, b);
        pool.scale(1, 61 * SECOND, &mut ignore);
        assert_eq!((pool.ready(), pool.load()), (1, 2));
        let done = pool.tick(b, ReplicaEvent::Decoded { version: 1 }, 70 * SECOND, &mut ignore);
        assert_eq!((done, pool.load()), (vec![2], 1));
        // 60 s of two, 10 s of two, then one.
        assert!((pool.replica_hours(100 * SECOND) * 3_600.0 - 170.0).abs() < 1e-6);
        pool.tick(b, ReplicaEvent::Decoded { version: 1 }, 101 * SECOND, &mut ignore);
        assert_eq!(pool.load(), 1, "nothing happens at a replica that is gone");
    }

    #[test]
    fn what_is_on_its_way_is_called_back_first() {
        let mut pool = Pool::new(MAKE, 1);
        let mut told = Vec::new();
        pool.scale(3, 0, &mut |_, event| told.push(event));
        pool.scale(1, SECOND, &mut |_, _| {});
        for event in told {
            let PoolEvent::Starts(which) = event else { panic!("{event:?}") };
            pool.started(which);
        }
        assert_eq!((pool.ready(), pool.wanted()), (1, 1));
        pool.scale(0, SECOND, &mut |_, _| {});
        assert!(pool.ask(work(1), SECOND, &mut first, &mut |_, _| {}).is_none());
    }
}
