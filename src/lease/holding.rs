//! A router's side of a limit: what it may take, without asking anybody.
//!
//! Where no operator lends anything it is a part of the limit, and no more than a bucket or a number. Else it is a floor
//! and a lease. The lease is taken first: a floor fills by itself, and has to do when no leader answers.

mod places;
mod reserved;

use std::time::{Duration, Instant};

pub use places::Places;

use reserved::Reserved;

use super::bucket::{Bucket, MILLI, ONE, levels, whole};
use super::lessee::Terms;
use super::minute::Minute;
use super::parts::{Count, Parts};
use super::reserve::{Reserve, WHOLE};
use super::{Claim, GAVE_BACK, Grant, Key, LACKED, PERIOD};

/// Time after which it is worth asking again when no leader answers.
const AWAY: Duration = Duration::from_secs(5);
/// Shortest time over which demand is measured: reports may follow each other faster.
const MEASURE: Duration = Duration::from_millis(900);

/// An amount a minute.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The part, or the floor.
    bucket: Bucket,
    lease: Option<Box<Lease>>,
    reserved: Reserved,
}

#[derive(Clone, Debug)]
struct Lease {
    parts: Parts,
    /// Where any minute counts: what the floor took and gave away.
    minute: Option<Minute>,
    ledger: u64,
    until: Option<Instant>,
    /// It is not over, as of the last [`Holding::fill`].
    live: bool,
    draining: bool,
    granted: u64,
    spent: u64,
    /// What the last report said. Nobody may believe that less was spent than was said once.
    told: u64,
    returned: u64,
    freed_milli: u64,
    /// What was freed of a thousandth, in levels.
    rest: i128,
    asked: Periods,
    /// The part of that for requests of High risk.
    urgent: Periods,
    period: Instant,
    unit: u64,
    /// The last report said that requests find nothing.
    lacked: bool,
    free: u8,
    said: Option<(u64, Claim)>,
}

/// What was asked for, in this period and the two before it.
#[derive(Clone, Copy, Debug, Default)]
struct Periods([u64; 3]);

impl Periods {
    const fn ask(&mut self, amount: u64) {
        self.0[0] = self.0[0].saturating_add(amount);
    }

    const fn next(&mut self) {
        self.0 = [0, self.0[0], self.0[1]];
    }

    /// What two periods may ask for.
    fn two(&self) -> u64 {
        self.0.into_iter().fold(0, u64::max).saturating_mul(2)
    }
}

/// A router's requests that wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    /// All of them.
    pub all: u32,
    /// Those of High risk among them.
    pub urgent: u32,
}

/// Where what was taken came from, if it is lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// What an operator lent.
    pub lease: u64,
    /// The router's own floor.
    pub floor: u64,
}

impl Lease {
    fn balance(&self) -> u64 {
        if self.live { self.granted.saturating_sub(self.spent).saturating_sub(self.returned) } else { 0 }
    }

    /// What was spent beyond what was given.
    fn debt(&self) -> u64 {
        if self.live { (self.spent + self.returned).saturating_sub(self.granted) } else { 0 }
    }
}

impl Holding {
    /// A full part of a limit, all its own.
    #[must_use]
    pub fn part(per_minute: u64, now: Instant) -> Self {
        Self { bucket: Bucket::new(per_minute, now), lease: None, reserved: Reserved::default() }
    }

    /// An empty floor of a limit, and no lease yet.
    #[must_use]
    pub fn leased(limit: u64, most: u32, count: Count, now: Instant) -> Self {
        let parts = Parts::of(limit, most, count);
        let minute = (count == Count::Minute).then(|| {
            let mut minute = Minute::new(now);
            // A process that this one replaces may have taken all of it just now.
            minute.take(milli(parts.floor));
            minute
        });
        let lease = Lease {
            parts,
            minute,
            ledger: 0,
            until: None,
            live: false,
            draining: false,
            granted: 0,
            spent: 0,
            told: 0,
            returned: 0,
            freed_milli: 0,
            rest: 0,
            asked: Periods::default(),
            urgent: Periods::default(),
            period: now,
            unit: 0,
            lacked: false,
            free: 0,
            said: None,
        };
        let bucket = Bucket::empty(parts.floor, parts.floor_fills(), now);
        Self { bucket, lease: Some(Box::new(lease)), reserved: Reserved::default() }
    }

    /// Whether an operator lends it.
    #[must_use]
    pub const fn is_lent(&self) -> bool {
        self.lease.is_some()
    }

    /// Whether more of it may be lent soon, as of the last [`fill`](Self::fill).
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.live && !lease.draining)
    }

    /// Another limit, or another number of routers: what is lent stays so. What is a part is left.
    pub fn resize(&mut self, limit: u64, most: u32) {
        if let Some(lease) = &mut self.lease {
            let parts = Parts::of(limit, most, lease.parts.count);
            // What a floor has more of is empty too.
            let more = parts.floor.saturating_sub(lease.parts.floor);
            lease.minute.iter_mut().for_each(|minute| minute.take(milli(more)));
            lease.parts = parts;
            self.bucket.resize(parts.floor, parts.floor_fills());
        }
    }

    /// Puts reserves in force, which are full then. Their places in this list are what they are known by.
    pub fn reserve(&mut self, reserves: &[Reserve], now: Instant) {
        let own = u64::try_from(self.bucket.capacity() / ONE).unwrap_or(u64::MAX);
        let (limit, holds) = match self.lease.as_ref().map(|lease| lease.parts) {
            None => (own, own),
            Some(Parts { count: Count::Bucket, limit, .. }) => (limit, limit),
            Some(Parts { count: Count::Minute, limit, bucket, floor, .. }) => (limit, bucket.max(floor)),
        };
        self.reserved = Reserved::new(limit, holds, reserves, std::mem::take(&mut self.reserved), now);
    }

    /// Brings it up to a time. An earlier time than the last one changes nothing.
    pub fn fill(&mut self, now: Instant) {
        self.reserved.fill(now);
        let Some(lease) = &mut self.lease else { return self.bucket.fill(now) };
        lease.live = lease.until.is_some_and(|until| now < until);
        if lease.draining {
            return;
        }
        let over = self.bucket.fill_over(now);
        match &mut lease.minute {
            Some(minute) => {
                minute.fill(now);
                if lease.live {
                    // Freed evenly: what comes all at once finds no room at the operator.
                    self.bucket.spill(PERIOD);
                    let room = milli(lease.parts.floor).saturating_sub(minute.taken());
                    let given = u64::try_from(self.bucket.level() / MILLI).unwrap_or_default().min(room);
                    self.bucket.draw(i128::from(given) * MILLI);
                    minute.take(given);
                    lease.freed_milli += given;
                }
            }
            None => {
                lease.rest += over;
                lease.freed_milli += u64::try_from(lease.rest / MILLI).unwrap_or_default();
                lease.rest %= MILLI;
            }
        }
    }

    /// What can be taken now, as of the last [`fill`](Self::fill); rounded down.
    #[must_use]
    pub fn left(&self) -> u64 {
        let balance = self.lease.as_ref().map_or(0, |lease| lease.balance());
        let debt = self.lease.as_ref().map_or(0, |lease| lease.debt());
        let own = u64::try_from(self.own() / ONE).unwrap_or(u64::MAX);
        balance.saturating_add(own).saturating_sub(debt)
    }

    /// What there is of the part or floor, as a level of its bucket.
    fn own(&self) -> i128 {
        let minute = self.lease.as_ref().and_then(|lease| Some((lease.parts.floor, lease.minute.as_ref()?)));
        let left = |(floor, minute): (u64, &Minute)| i128::from(milli(floor).saturating_sub(minute.taken())) * MILLI;
        self.bucket.level().min(minute.map_or(i128::MAX, left))
    }

    /// What requests of Low risk must leave, as a level: without a lease the reserves' part of the floor, and with one what
    /// their workloads will ask for here; the rest is kept by the operator. Of a few seconds' worth one is kept, and whole, as a
    /// part of one would keep the next one too: more at every router is a good part of the few that lie ready, and whoever of
    /// High waits is lent what comes next.
    fn kept(&self) -> i128 {
        let Some(lease) = &self.lease else { return self.reserved.left() };
        let kept = if lease.live { self.reserved.soon() } else { self.reserved.left().min(self.reserved_of_floor()) };
        match lease.parts.count {
            Count::Minute if lease.live => whole(kept).min(ONE),
            Count::Minute => whole(kept),
            Count::Bucket => kept,
        }
    }

    fn reserved_of_floor(&self) -> i128 {
        self.bucket.capacity() / i128::from(WHOLE) * i128::from(self.reserved.nanos())
    }

    /// The most that it ever holds.
    #[must_use]
    pub fn most(&self) -> u64 {
        let own = u64::try_from(self.bucket.capacity() / ONE).unwrap_or(u64::MAX);
        own.saturating_add(self.lease.as_ref().map_or(0, |lease| lease.parts.bucket))
    }

    /// The most that a request of Low risk can be left, when reserves are full.
    #[must_use]
    pub fn most_beside_reserves(&self) -> u64 {
        let nanos = self.reserved.nanos();
        let own = u64::try_from((self.bucket.capacity() - self.reserved_of_floor()).max(0) / ONE).unwrap_or(u64::MAX);
        let lent = self.lease.as_ref().map_or(0, |lease| {
            let kept = u128::from(lease.parts.reservable(nanos)) * u128::from(nanos) / u128::from(WHOLE);
            lease.parts.bucket.saturating_sub(u64::try_from(kept).unwrap_or(u64::MAX))
        });
        own.saturating_add(lent)
    }

    fn level(&self) -> i128 {
        let lease = self.lease.as_ref().map_or(0, |lease| levels(lease.balance()) - levels(lease.debt()));
        self.own() + lease
    }

    /// Time until so much can be taken: zero if now; `None` if never.
    #[must_use]
    pub fn wait(&self, amount: u64) -> Option<Duration> {
        self.wait_beside(amount, 0)
    }

    /// As [`wait`](Self::wait), for a request of Low risk: time until so much can be taken and reserves find theirs.
    #[must_use]
    pub fn wait_beside_reserves(&self, amount: u64) -> Option<Duration> {
        let ever = self.lease.is_none() || amount <= self.most_beside_reserves();
        if ever { self.wait_beside(amount, self.kept()) } else { None }
    }

    /// Time until so much can be taken and so much is left, a level; `None` if never. Where it takes another lease it is the
    /// least that it may be.
    fn wait_beside(&self, amount: u64, left: i128) -> Option<Duration> {
        let Some(lease) = &self.lease else { return self.bucket.wait_beside(amount, left) };
        let wanted = levels(amount).saturating_add(left);
        let missing = wanted - self.level();
        if missing <= 0 {
            return Some(Duration::ZERO);
        }
        if wanted > levels(self.most()) {
            return None;
        }
        let time = |rate: i128| u64::try_from(missing / rate.max(1)).map_or(Duration::MAX, Duration::from_nanos);
        let own = if self.bucket.capacity() - self.bucket.level() >= missing && !lease.draining {
            self.bucket.wait_beside(0, self.bucket.level() + missing).unwrap_or(Duration::MAX)
        } else {
            Duration::MAX
        };
        let lent = if lease.live { time(i128::from(lease.parts.limit) * 1_000_000_000).max(LACKED) } else { AWAY };
        Some(own.min(lent))
    }

    /// Time until all of it is there, as far as this router can know.
    #[must_use]
    pub fn until_full(&self) -> Duration {
        let Some(lease) = &self.lease else { return self.bucket.until_full() };
        let Parts { limit, full, .. } = lease.parts;
        let missing = full.saturating_sub(self.left().saturating_add(u64::from(lease.free) * full / 100));
        Duration::from_secs(60).mul_f64(ratio(missing, limit))
    }

    /// Whether so many percent of it are free, here or where it is lent.
    #[must_use]
    pub fn has_free(&self, percent: u32) -> bool {
        let Some(lease) = &self.lease else {
            return self.bucket.until_full() <= Duration::from_secs(60) * 100_u32.saturating_sub(percent) / 100;
        };
        let full = u128::from(lease.parts.full);
        let lent = if lease.live { u128::from(lease.free) * full } else { 0 };
        u128::from(self.left()) * 100 + lent >= u128::from(percent) * full
    }

    /// Notes that a request asks for so much, once. Urgent is one of High risk; its workload may have a reserve.
    pub fn ask(&mut self, amount: u64, urgent: bool, reserve: Option<usize>) {
        if let Some(lease) = &mut self.lease {
            lease.asked.ask(amount);
            lease.urgent.ask(if urgent { amount } else { 0 });
            reserve.into_iter().for_each(|at| self.reserved.ask(at, amount));
        }
    }

    /// Notes that so much was not there.
    pub fn lack(&mut self, amount: u64) {
        if let Some(lease) = &mut self.lease {
            lease.unit = if lease.unit == 0 { amount } else { lease.unit.min(amount) };
        }
    }

    /// Takes an amount, whether it is there or not. The debt is never greater than a minute's amount.
    pub fn take(&mut self, amount: u64) -> Taken {
        let there = u64::try_from(self.own() / ONE).unwrap_or(u64::MAX);
        let Some(lease) = &mut self.lease else {
            self.bucket.take(amount);
            return Taken::default();
        };
        let lent = amount.min(lease.balance());
        let own = (amount - lent).min(there);
        let debt = amount - lent - own;
        lease.spent += lent;
        let from_floor = if lease.live { own } else { own + debt };
        self.bucket.take(from_floor);
        lease.minute.iter_mut().for_each(|minute| minute.take(milli(from_floor)));
        if lease.live {
            lease.spent += debt.min(lease.parts.bucket.saturating_sub(lease.debt()));
        }
        Taken { lease: amount - from_floor, floor: from_floor }
    }

    /// As [`take`](Self::take), for a request whose workload may have a reserve.
    pub fn take_as(&mut self, amount: u64, reserve: Option<usize>) -> Taken {
        reserve.into_iter().for_each(|at| self.reserved.take(at, amount));
        self.take(amount)
    }

    /// Puts an amount back.
    pub fn put(&mut self, amount: u64) {
        let Some(lease) = &mut self.lease else { return self.bucket.put(amount) };
        // What a report said was spent is counted on by then.
        let lent = if lease.live { amount.min(lease.spent - lease.told) } else { 0 };
        lease.spent -= lent;
        // A floor that counts minutes has given it away already.
        let keeps = !lease.draining && lease.minute.is_none();
        let own = if keeps { (amount - lent).min(self.bucket.room()) } else { 0 };
        self.bucket.put(own);
        lease.freed_milli = lease.freed_milli.saturating_add((amount - lent - own).saturating_mul(1_000));
    }

    /// Corrects what was reserved to what was used.
    pub fn settle(&mut self, reserved: u64, used: u64) {
        if used > reserved {
            self.take(used - reserved);
        } else {
            self.put(reserved - used);
        }
    }

    /// As [`settle`](Self::settle), for a request whose workload may have a reserve.
    pub fn settle_as(&mut self, reserved: u64, used: u64, reserve: Option<usize>) {
        if let Some(at) = reserve {
            self.reserved.take(at, used.saturating_sub(reserved));
            self.reserved.put(at, reserved.saturating_sub(used));
        }
        self.settle(reserved, used);
    }

    /// Gives up its floor, and asks for nothing more.
    pub fn drain(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.draining = true;
            self.bucket.take(self.bucket.left());
        }
    }

    /// What the report with this number says of it; `None` if the report whose answer was the last in force said the same.
    #[must_use]
    pub fn claim(
        &mut self,
        key: &Key,
        (report, answered): (u64, u64),
        waiting: Waiting,
        now: Instant,
    ) -> Option<Claim> {
        self.fill(now);
        let lease = self.lease.as_mut()?;
        if now.saturating_duration_since(lease.period) >= MEASURE {
            lease.period = now;
            lease.asked.next();
            lease.urgent.next();
            self.reserved.next_period();
        }
        let unit = lease.unit.max(1);
        let soon = |asked: &Periods, waiting: u32| asked.two().saturating_add(u64::from(waiting).saturating_mul(unit));
        let wanted = soon(&lease.asked, waiting.all).min(lease.parts.bucket);
        let wanted = if lease.draining { 0 } else { wanted };
        let urgent = soon(&lease.urgent, waiting.urgent).min(wanted);
        (lease.told, lease.lacked) = (lease.spent, lease.unit > 0 || waiting.all > 0);
        let claim = Claim {
            ledger: lease.ledger,
            spent: lease.spent,
            returned: lease.returned,
            freed_milli: lease.freed_milli,
            wanted,
            urgent,
            kept: u64::try_from(self.reserved.soon() / ONE).unwrap_or_default(),
            reserved: self.reserved.used(),
            unit: std::mem::take(&mut lease.unit),
            ..Claim::new(key.clone(), 0)
        };
        say(&mut lease.said, claim, report, answered)
    }

    /// Puts an answer of the leader in force. Returns in what time to report again, if that is to be soon.
    pub fn apply(&mut self, grant: Option<&Grant>, terms: &Terms<'_>, now: Instant) -> Option<Duration> {
        self.fill(now);
        let lease = self.lease.as_mut()?;
        if terms.void {
            begin(lease, 0);
        }
        if let Some(grant) = grant {
            if grant.ledger != lease.ledger {
                if !terms.fresh {
                    return None;
                }
                begin(lease, grant.ledger);
            }
            lease.granted = lease.granted.max(grant.granted);
            lease.free = grant.free;
        }
        if lease.ledger == 0 {
            return None;
        }
        lease.until = lease.until.max(Some(terms.until));
        lease.live = lease.until.is_some_and(|until| now < until);
        let keep = grant.and_then(|grant| grant.keep).unwrap_or(u64::MAX);
        let back = lease.balance().saturating_sub(keep);
        lease.returned += back;
        if back > 0 { Some(GAVE_BACK) } else { lease.lacked.then_some(LACKED) }
    }
}

const fn milli(amount: u64) -> u64 {
    amount.saturating_mul(1_000)
}

/// Forgets what was lent.
fn begin(lease: &mut Lease, ledger: u64) {
    lease.ledger = ledger;
    lease.said = None;
    (lease.until, lease.live) = (None, false);
    (lease.granted, lease.spent, lease.told, lease.returned, lease.freed_milli) = (0, 0, 0, 0, 0);
}

fn say(said: &mut Option<(u64, Claim)>, claim: Claim, report: u64, answered: u64) -> Option<Claim> {
    if said.as_ref().is_some_and(|(at, known)| *known == claim && *at <= answered) {
        return None;
    }
    // The first report that said so: any answer from then on means that it was heard.
    if said.as_ref().is_none_or(|(_, known)| *known != claim) {
        *said = Some((report, claim.clone()));
    }
    Some(claim)
}

#[expect(clippy::cast_precision_loss, reason = "a part, for people")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}
