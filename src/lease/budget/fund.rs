//! One budget, as the operator keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Claim, Grant, is_little};

/// A new leader grants nothing for so long: by then all routers that live have spoken,
const QUIET: Duration = crate::lease::GONE;
/// and for so long if all have: by then no answer of the leader before is under way.
const ANSWERS: Duration = Duration::from_millis(3_100);
/// Time between two writes of what changes all the time, and of what a router waits for.
const WRITES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));
/// A claim's `wanted` is of two seconds; the mark is set this many times as far ahead.
const AHEAD: i64 = 15;
/// A router that was not heard from for so long is taken off the list: what it had is spent.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// What is written down of a budget: in the ConfigMap `<policy>-state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Begin of the period.
    pub period: i64,
    /// No more than this was granted.
    pub mark: i64,
    /// What was granted to routers that are on no list any more.
    #[serde(default)]
    pub lost: i64,
    /// By router: what it was granted and what it had spent.
    pub routers: BTreeMap<String, [i64; 2]>,
}

/// A budget in force.
#[derive(Clone, Debug)]
pub struct Fund {
    limit: i64,
    period: i64,
    routers: BTreeMap<String, Router>,
    lost: i64,
    /// As it is written down.
    stored: Stored,
    written: Option<Instant>,
    /// Since when this leader leads; `None` once it knows what was granted.
    quiet_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Router {
    granted: i64,
    spent: i64,
    wanted: i64,
    sequence: u64,
    closed: bool,
    heard: Option<Instant>,
}

impl Fund {
    /// A budget of `limit`, as it was written down, for a leader that leads since `now`.
    #[must_use]
    pub fn new(limit: i64, period: i64, stored: Option<Stored>, now: Instant) -> Self {
        let stored = stored.unwrap_or_default();
        let router = |[granted, spent]: [i64; 2]| Router { granted, spent, ..Router::default() };
        let routers = stored.routers.iter().map(|(id, numbers)| (id.clone(), router(*numbers))).collect();
        let lost = stored.lost;
        // Where nothing was granted there is nothing to hear of.
        let quiet_since = (stored.mark > 0).then_some(now);
        let mut fund = Self { limit, period: stored.period, routers, lost, stored, written: None, quiet_since };
        fund.begin(period);
        fund
    }

    /// The amount of the budget.
    #[must_use]
    pub const fn limit(&self) -> i64 {
        self.limit
    }

    /// The amount of the budget, which may change at any time.
    pub fn set_limit(&mut self, limit: i64) {
        self.limit = limit;
    }

    /// Begins a period, if it is a new one: nothing of it was granted.
    pub fn begin(&mut self, period: i64) {
        if period > self.period {
            self.period = period;
            self.lost = 0;
            for router in self.routers.values_mut() {
                (router.granted, router.spent) = (0, 0);
            }
            self.quiet_since = None;
        }
    }

    fn granted(&self) -> i64 {
        self.routers.values().map(|router| router.granted).fold(self.lost, i64::saturating_add)
    }

    /// What was spent in this period, as far as it is known; never less than what was.
    #[must_use]
    pub fn spent(&self, now: Instant) -> i64 {
        let spent = |router: &Router| {
            let known = router.closed || router.heard.is_some_and(|heard| now.duration_since(heard) < QUIET);
            if known { router.spent } else { router.granted.max(router.spent) }
        };
        let sum = self.routers.values().map(spent).fold(self.lost, i64::saturating_add);
        // Before all have spoken, what was granted at most.
        if self.quiet_since.is_some() { sum.max(self.mark()) } else { sum }
    }

    /// The same for a period that may have begun since.
    #[must_use]
    pub fn spent_in(&self, period: i64, now: Instant) -> i64 {
        if period > self.period { 0 } else { self.spent(now) }
    }

    /// The mark that is written down, if it is this period's.
    const fn mark(&self) -> i64 {
        if self.stored.period == self.period { self.stored.mark } else { 0 }
    }

    /// Ends the quiet time: what was granted beyond what is known is lost, unless all have spoken.
    fn look(&mut self, now: Instant) {
        let Some(since) = self.quiet_since else { return };
        let all = self.routers.values().all(|router| router.heard.is_some());
        let quiet = if all && !self.routers.is_empty() { ANSWERS } else { QUIET };
        if now.duration_since(since) >= quiet {
            if !all {
                self.lost += (self.mark() - self.granted()).max(0);
            }
            self.quiet_since = None;
        }
    }

    /// A router speaks; `sequence` rises with each of its reports.
    pub fn report(&mut self, id: &str, sequence: u64, claim: &Claim, ends_in: Duration, now: Instant) -> Grant {
        let router = self.routers.entry(id.to_owned()).or_default();
        let mut grant = Grant {
            period: self.period,
            ends_in_ms: u64::try_from(ends_in.as_millis()).unwrap_or(u64::MAX),
            from: claim.granted,
            granted: claim.granted,
            keep: i64::MAX,
            last: false,
        };
        if sequence <= router.sequence {
            return grant;
        }
        // It speaks of another period: of this one it has nothing.
        let claim = if claim.period == self.period { *claim } else { Claim { granted: 0, spent: 0, ..*claim } };
        (grant.from, grant.granted) = (claim.granted, claim.granted);
        *router = Router {
            granted: if claim.closed { claim.spent } else { claim.granted.max(claim.spent) },
            spent: claim.spent,
            wanted: claim.wanted,
            sequence,
            closed: claim.closed,
            heard: Some(now),
        };
        self.look(now);
        let free = self.limit.saturating_sub(self.granted());
        let plenty = free > self.limit / 20;
        let balance = claim.granted.saturating_sub(claim.spent);
        let chunk = self.limit / 100;
        // Something for the first request of those who have asked for nothing yet, while there is plenty.
        let wanted = claim.wanted.min(chunk).max(claim.need).max(if plenty { chunk / 10 } else { 0 });
        grant.keep = if plenty { chunk.max(claim.need) } else { wanted };
        grant.last = is_little(free, self.limit);
        let known = self.stored.period == self.period && self.stored.routers.contains_key(id);
        if self.quiet_since.is_none() && known && !claim.closed {
            let most = free.min(self.mark().saturating_sub(self.granted()));
            let more = wanted.saturating_sub(balance).min(most).max(0);
            grant.granted = grant.granted.saturating_add(more);
            if let Some(router) = self.routers.get_mut(id) {
                router.granted = router.granted.saturating_add(more);
            }
        }
        grant
    }

    /// What must be written down now; `None` if nothing must.
    #[must_use]
    pub fn to_store(&mut self, now: Instant) -> Option<Stored> {
        self.look(now);
        self.forget(now);
        // Before it knows what was granted, a leader has nothing to write.
        if self.quiet_since.is_some() {
            return None;
        }
        let granted = self.granted();
        let wanted = self.routers.values().map(|router| router.wanted).fold(0, i64::saturating_add);
        let step = wanted.saturating_mul(AHEAD).max(self.limit / 50).max(1);
        let near = self.mark() < self.limit && self.mark() - granted < step / 2;
        let mark = if near { granted.saturating_add(step).min(self.limit) } else { self.mark() }.max(granted);
        let routers: BTreeMap<String, [i64; 2]> =
            self.routers.iter().map(|(id, router)| (id.clone(), [router.granted, router.spent])).collect();
        let new = Stored { period: self.period, mark, lost: self.lost, routers };
        let listed = |stored: &Stored| stored.routers.keys().cloned().collect::<BTreeSet<_>>();
        let urgent = new.period != self.stored.period
            || new.mark > self.stored.mark && self.mark() - granted < wanted
            || !listed(&new).is_subset(&listed(&self.stored));
        let (seldom, soon) = WRITES;
        let pause = if urgent { soon } else { seldom };
        let due = self.written.is_none_or(|written| now.duration_since(written) >= pause);
        (due && new != self.stored).then_some(new)
    }

    /// It was written down.
    pub fn stored(&mut self, stored: Stored, now: Instant) {
        self.stored = stored;
        self.written = Some(now);
    }

    /// Takes routers off the list that went long ago.
    fn forget(&mut self, now: Instant) {
        let gone = |router: &Router| router.heard.is_some_and(|heard| now.duration_since(heard) >= FORGOTTEN);
        let Self { routers, lost, .. } = self;
        routers.retain(|_, router| {
            let gone = gone(router);
            if gone {
                *lost += router.granted;
            }
            !gone
        });
    }
}

#[cfg(test)]
mod tests;
