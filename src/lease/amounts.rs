//! The operator's side of one limit a minute: its bucket, and the balances that it lent out of it.
//!
//! What the bucket gains, and what bucket and balances hold together at most, say [`Parts`]: where they hold as much,
//! nothing is gained. A balance counts in full until its router says that it spent it, so it counts for no less
//! than it is.
//!
//! What a router says was freed (see [`Claim::freed_milli`]) happened some time ago. Had the bucket known at once, it would
//! have been full earlier, and have gained less. So it takes no more of it than there was room all the time since.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::parts::{Count, Parts};
use super::reserve::{OfPolicy, Reserves};
use super::{Claim, bucket, share};

/// One of what is counted, in levels: a thousandth a minute gains one a nanosecond.
const ONE: i128 = 60_000_000_000 * 1_000;
/// One of them in levels of a [`Bucket`](bucket::Bucket), in which reserves are counted.
const FINE: i128 = bucket::ONE / ONE;
/// Steps of time for which the least room is known: a router that lacks something reports after two of them.
const STEP: Duration = Duration::from_millis(125);
/// How many of them are known: eight seconds, more than any router is silent for.
const KNOWN: usize = 64;

/// What the reporting router gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub ledger: u64,
    pub granted: u64,
    pub keep: Option<u64>,
    pub free: u8,
}

/// When a report was written and heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// The leader's time of hearing it.
    pub now: Instant,
    /// The leader's time at which the router's last report had not been written yet; `None` if that is not known.
    pub since: Option<Instant>,
    /// The router's time of writing it, in milliseconds.
    pub stamp_ms: u64,
}

/// A limit a minute.
#[derive(Debug)]
pub(super) struct Amounts {
    parts: Parts,
    level: i128,
    at: Instant,
    /// Balances that routers may hold.
    lent: u64,
    least: Least,
    holders: BTreeMap<u32, Holder>,
    reserves: Reserves,
}

#[derive(Debug, Default)]
struct Holder {
    ledger: u64,
    granted: u64,
    spent: u64,
    returned: u64,
    freed_milli: u64,
    wanted: u64,
    /// The part of that which comes first.
    urgent: u64,
    unit: u64,
    /// The part of its balance that requests of Low risk leave to reserves.
    kept: u64,
    /// What it said that workloads with a reserve used.
    reserved: BTreeMap<String, i64>,
    /// Since when it lacks something.
    hungry: Option<Instant>,
    /// Balances of ledgers that it has not heard of, each with the router's stamp from which on it can't use it.
    lost: Vec<(u64, u64)>,
}

impl Holder {
    const fn balance(&self) -> u64 {
        self.granted.saturating_sub(self.spent).saturating_sub(self.returned)
    }

    fn lent(&self) -> u64 {
        self.lost.iter().fold(self.balance(), |sum, (amount, _)| sum + amount)
    }

    const fn lacks(&self) -> u64 {
        self.wanted.saturating_sub(self.balance())
    }

    /// The part of what it lacks that comes first.
    fn lacks_first(&self) -> u64 {
        self.urgent.saturating_sub(self.balance()).min(self.lacks())
    }

    fn needs(&self) -> u64 {
        self.unit.max(1).saturating_sub(self.balance())
    }
}

impl Amounts {
    /// An empty bucket.
    pub(super) fn new(parts: Parts, reserves: &[OfPolicy], now: Instant) -> Self {
        let (holders, least) = (BTreeMap::new(), Least::new(now));
        let mut new = Self { parts, level: 0, at: now, lent: 0, least, holders, reserves: Reserves::default() };
        new.reserves.set(reserves, parts, now);
        new
    }

    /// A changed limit, or other reserves: what is lent stays so.
    pub(super) fn resize(&mut self, parts: Parts, reserves: &[OfPolicy], now: Instant) {
        self.fill(now);
        self.parts = parts;
        self.reserves.set(reserves, parts, now);
        self.least = Least::new(now);
        self.level = self.level.min(self.full());
        self.least.note(now, self.full() - self.level);
    }

    /// The level at which it gains nothing more.
    fn full(&self) -> i128 {
        (i128::from(self.parts.bucket) - i128::from(self.lent)) * ONE
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).min(Duration::from_secs(120));
        self.at = self.at.max(now);
        self.reserves.fill(now);
        let gained = self.parts.rate * i128::try_from(elapsed.as_nanos()).unwrap_or_default();
        let full = self.full();
        self.level = (self.level + gained).min(full.max(self.level));
        self.least.note(now, full - self.level);
    }

    /// What of its level is lent for requests of High risk only: what is left of reserves, but for what routers hold for them.
    fn reserved(&self) -> i128 {
        let held = self.holders.values().map(|holder| holder.kept.min(holder.balance())).sum::<u64>();
        (self.reserves.left() / FINE - i128::from(held) * ONE).max(0)
    }

    /// Nothing of a router is known any more: what it was lent is void, and spent as far as anybody knows.
    pub(super) fn forget(&mut self, router: u32, now: Instant) {
        self.fill(now);
        if let Some(holder) = self.holders.remove(&router) {
            self.lent -= holder.lent();
        }
    }

    /// Takes in what a router of a policy says of this limit. `ledger` makes a number that no ledger has had.
    pub(super) fn hear(
        &mut self,
        (router, policy): (u32, &str),
        claim: &Claim,
        heard: Heard,
        ledger: impl FnOnce() -> u64,
    ) {
        self.fill(heard.now);
        let holder = self.holders.entry(router).or_default();
        self.reserves.hear(policy, claim, &mut holder.reserved);
        let before = holder.lent();
        holder.lost.retain(|(_, until)| heard.stamp_ms < *until);
        let (mut gained, mut freed) = (0, 0);
        if claim.ledger == holder.ledger && claim.ledger != 0 {
            gained = i128::from(claim.returned.saturating_sub(holder.returned));
            freed = i128::from(claim.freed_milli.saturating_sub(holder.freed_milli));
            holder.spent = holder.spent.max(claim.spent);
            holder.returned = holder.returned.max(claim.returned);
            holder.freed_milli = holder.freed_milli.max(claim.freed_milli);
            // A debt is paid at once, and first.
            let owed = (holder.spent + holder.returned).saturating_sub(holder.granted);
            holder.granted += owed;
            gained -= i128::from(owed);
        } else {
            let lost = (holder.balance(), heard.stamp_ms.saturating_add(5_000));
            let Holder { lost: before, reserved, .. } = std::mem::take(holder);
            *holder = Holder { ledger: ledger(), lost: before, reserved, ..Holder::default() };
            holder.lost.extend((lost.0 > 0).then_some(lost));
        }
        (holder.wanted, holder.unit) = (claim.wanted.min(self.parts.bucket), claim.unit.min(self.parts.bucket));
        (holder.urgent, holder.kept) = (claim.urgent.min(holder.wanted), claim.kept);
        self.lent = self.lent - before + holder.lent();
        let most = i128::from(self.parts.bucket) * ONE;
        self.level = (self.level + gained * ONE).clamp(-most, self.full().max(-most));
        if let Some(since) = heard.since.filter(|_| freed > 0) {
            let taken = self.least.take(since, heard.now, freed * (ONE / 1_000));
            self.level += taken;
        }
        self.least.note(heard.now, self.full() - self.level);
    }

    /// What it gets now.
    pub(super) fn give(&mut self, router: u32, now: Instant, quiet: bool) -> Option<Given> {
        self.fill(now);
        let whole = |level: i128| u64::try_from(level.max(0) / ONE).unwrap_or_default();
        let (there_is, reserved) = (whole(self.level), self.reserved());
        // What anybody may have.
        let common = whole(self.level - reserved);
        let asked = self.holders.values().map(Holder::lacks).sum::<u64>();
        let routers = u64::try_from(self.holders.len()).unwrap_or(1).max(1);
        let hungry = |holder: &Holder| holder.hungry.filter(|_| holder.lacks() > 0);
        let me = self.holders.get(&router)?;
        // What is urgent is shared first, and what is left of that then. What it takes of reserves is not missed by others.
        let first = share::level(there_is, self.holders.values().map(Holder::lacks_first));
        let has_first = |holder: &Holder| holder.lacks_first().min(first);
        let left = there_is - self.holders.values().map(has_first).sum::<u64>();
        let left_to_all = left.min(common);
        let more = |holder: &Holder| holder.lacks() - has_first(holder);
        let level = share::level(left_to_all, self.holders.values().map(more));
        let mut granted = has_first(me) + more(me).min(level);
        if granted == 0 && me.lacks() > 0 {
            // Too little for one each: what is urgent comes first, then who has waited longest.
            let is_first = |holder: &Holder| holder.lacks_first() > has_first(holder);
            let place = |id: u32, holder: &Holder| (!is_first(holder), hungry(holder).unwrap_or(now), id);
            let mine = place(router, me);
            let before = self.holders.iter().filter(|(id, holder)| more(holder) > 0 && place(**id, holder) < mine);
            let left = if is_first(me) { left } else { left_to_all };
            granted = u64::from(u64::try_from(before.count()).is_ok_and(|before| before < left));
        }
        // What nobody asks for lies with all, so that a first request finds something: half of it.
        let stock = (self.parts.bucket.saturating_sub(self.reserves.most()) / 2 / routers).max(1);
        let short = stock.saturating_sub(me.balance() + granted);
        granted += short.min(common.saturating_sub(asked.max(granted)));
        if quiet {
            granted = 0;
        }
        // Who has waited longest, with what is urgent first, may need more than can ever be gained while so much is lent; of a
        // few seconds' worth all lies idle that others hold in stock.
        let place = |id: u32, holder: &Holder| Some((holder.lacks_first() == 0, hungry(holder)?, id));
        let waiting = self.holders.iter().filter_map(|(id, holder)| Some((place(*id, holder)?, holder)));
        let oldest = waiting.min_by_key(|(place, _)| *place).filter(|((.., id), _)| *id != router);
        let few = self.parts.count == Count::Minute;
        let room = self.full();
        let never = |holder: &Holder| {
            let room = if holder.lacks_first() > 0 { room } else { room - reserved };
            whole(room) < holder.needs()
        };
        let stuck = oldest.is_some_and(|(_, holder)| few || never(holder));
        let me = self.holders.get_mut(&router)?;
        me.granted += granted;
        self.lent += granted;
        self.level -= i128::from(granted) * ONE;
        let enough = me.needs() == 0 || me.lacks() == 0;
        me.hungry = if enough { None } else { me.hungry.or(Some(now)) };
        // Of what can't serve what was asked for nothing is kept. Of a few seconds' worth who asks for nothing keeps no more
        // than its part of the stock: else all of it may lie with one, and all others' first requests wait. Where so much is
        // lent that reserves can't be full, nobody keeps more than it asks for.
        let keep = if stuck {
            Some(if enough { me.wanted } else { 0 })
        } else if room < reserved {
            Some(me.wanted)
        } else {
            (few && me.wanted == 0).then_some(stock)
        };
        let left = self.level.max(0) * 100 / (i128::from(self.parts.full.max(1)) * ONE);
        Some(Given { ledger: me.ledger, granted: me.granted, keep, free: u8::try_from(left / 10 * 10).unwrap_or(100) })
    }
}

/// The least room that there was, by steps.
#[derive(Debug)]
struct Least {
    begin: Instant,
    /// The last step that was noted.
    step: u64,
    room: [i128; KNOWN],
}

impl Least {
    const fn new(begin: Instant) -> Self {
        Self { begin, step: 0, room: [i128::MAX; KNOWN] }
    }

    fn step(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begin).as_millis() / STEP.as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    fn note(&mut self, now: Instant, room: i128) {
        let step = self.step(now).max(self.step);
        let at = |step: u64| usize::try_from(step).unwrap_or_default() % KNOWN;
        // Room only shrinks while nothing is heard: what it is now is the least of the steps that nobody noted.
        for skipped in (self.step + 1..=step).rev().take(KNOWN) {
            self.room[at(skipped)] = room;
        }
        self.step = step;
        let noted = &mut self.room[at(step)];
        *noted = room.min(*noted);
    }

    /// Takes what was free all the time since then.
    fn take(&mut self, since: Instant, now: Instant, wanted: i128) -> i128 {
        let (first, last) = (self.step(since), self.step(now));
        if last - first.min(last) >= KNOWN as u64 {
            return 0;
        }
        let steps = first..=last;
        let at = |step: u64| usize::try_from(step).unwrap_or_default() % KNOWN;
        let least = steps.clone().map(|step| self.room[at(step)]).min().unwrap_or_default();
        let taken = wanted.min(least).max(0);
        for step in steps {
            self.room[at(step)] -= taken;
        }
        taken
    }
}
