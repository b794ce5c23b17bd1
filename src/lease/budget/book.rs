//! All budgets of one policy, as the leader keeps them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::fund::{Fund, Stored};
use super::period::{Period, zone};
use super::{Claim, Grant};
use crate::api::routing_policy::Per;

/// What a budget is known by on the wire and on disk: `workload/intent/Day`. Of another period it is another budget.
#[must_use]
pub fn key(scope: &str, name: &str, per: Per) -> String {
    format!("{scope}/{name}/{per:?}")
}

/// A budget's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its [`key`].
    pub key: String,
    /// In 1e-9 of the currency.
    pub amount: i64,
    /// Its period.
    pub per: Per,
}

/// The budgets of a policy.
#[derive(Debug)]
pub struct Book {
    since: Instant,
    zone: TimeZone,
    funds: BTreeMap<String, (Per, Fund)>,
    /// As it was written down, budgets that the policy has no more among it: they may come back.
    stored: BTreeMap<String, Stored>,
}

/// How a budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Amount of the period, in 1e-9 of the currency.
    pub amount: i64,
    /// Spent in it.
    pub spent: i64,
    /// When it ends, in seconds since 1970.
    pub ends: i64,
}

/// Time after which what was written of a budget that the policy has no more is dropped: no period is longer.
const LONGEST: i64 = 32 * 86_400;

impl Book {
    /// The book of a leader that leads since `since`, as it was written down.
    #[must_use]
    pub const fn new(stored: BTreeMap<String, Stored>, since: Instant) -> Self {
        Self { since, zone: TimeZone::UTC, funds: BTreeMap::new(), stored }
    }

    fn period(zone: &TimeZone, per: Per, time: Timestamp) -> Period {
        Period::of(per, zone, time)
    }

    /// The budgets in force.
    pub fn set(&mut self, terms: &[Terms], time_zone: &str, time: Timestamp) {
        self.zone = zone(time_zone).unwrap_or(TimeZone::UTC);
        self.funds.retain(|key, _| terms.iter().any(|terms| terms.key == *key));
        for Terms { key, amount, per } in terms {
            let period = Self::period(&self.zone, *per, time).begin;
            let fund = self.funds.entry(key.clone()).or_insert_with(|| {
                let stored = self.stored.get(key).cloned();
                (*per, Fund::new(*amount, period, stored, self.since))
            });
            fund.1.set_limit(*amount);
        }
    }

    /// A router speaks of its purses.
    pub fn report<'c>(
        &mut self,
        router: &str,
        sequence: u64,
        claims: impl IntoIterator<Item = (&'c String, &'c Claim)>,
        now: Instant,
        time: Timestamp,
    ) -> BTreeMap<String, Grant> {
        let mut grants = BTreeMap::new();
        for (key, claim) in claims {
            let Some((per, fund)) = self.funds.get_mut(key) else { continue };
            let period = Self::period(&self.zone, *per, time);
            fund.begin(period.begin);
            let left = period.end.saturating_mul(1_000).saturating_sub(time.as_millisecond());
            let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
            grants.insert(key.clone(), fund.report(router, sequence, claim, left, now));
        }
        grants
    }

    /// What must be written down now; `None` if nothing must.
    #[must_use]
    pub fn to_store(&mut self, now: Instant, time: Timestamp) -> Option<BTreeMap<String, Stored>> {
        let mut new = self.stored.clone();
        let mut due = false;
        for (key, (_, fund)) in &mut self.funds {
            if let Some(stored) = fund.to_store(now) {
                new.insert(key.clone(), stored);
                due = true;
            }
        }
        let oldest = time.as_second() - LONGEST;
        new.retain(|key, stored| self.funds.contains_key(key) || stored.period >= oldest);
        due.then_some(new)
    }

    /// What was written down last.
    #[must_use]
    pub const fn kept(&self) -> &BTreeMap<String, Stored> {
        &self.stored
    }

    /// It was written down.
    pub fn stored(&mut self, stored: BTreeMap<String, Stored>, now: Instant) {
        for (key, (_, fund)) in &mut self.funds {
            if let Some(new) = stored.get(key).filter(|new| self.stored.get(key) != Some(new)) {
                fund.stored(new.clone(), now);
            }
        }
        self.stored = stored;
    }

    /// How the budgets stand, by key.
    #[must_use]
    pub fn standings(&self, now: Instant, time: Timestamp) -> BTreeMap<String, Standing> {
        let standing = |(per, fund): &(Per, Fund)| {
            let period = Self::period(&self.zone, *per, time);
            Standing { amount: fund.limit(), spent: fund.spent_in(period.begin, now), ends: period.end }
        };
        self.funds.iter().map(|(key, fund)| (key.clone(), standing(fund))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(name: &str, amount: i64, per: Per) -> Terms {
        Terms { key: key("workload", name, per), amount, per }
    }

    #[test]
    fn a_policy_s_budgets_are_apart_and_survive_the_leader() {
        let (now, noon) = (Instant::now(), "2026-11-24T12:00:00Z".parse::<Timestamp>().expect("a time"));
        let mut book = Book::new(BTreeMap::new(), now);
        let both = [terms("a", 1_000_000, Per::Day), terms("b", 500, Per::Month)];
        book.set(&both, "UTC", noon);
        let (a, b) = (both[0].key.clone(), both[1].key.clone());
        assert_eq!(a, "workload/a/Day");
        let claim = |grant: Option<&Grant>, need| match grant {
            None => Claim { need, ..Claim::default() },
            Some(grant) => Claim { period: grant.period, granted: grant.granted, need, ..Claim::default() },
        };
        let claims = BTreeMap::from([(a.clone(), claim(None, 70)), ("workload/c/Day".into(), claim(None, 70))]);
        let first = book.report("r", 1, &claims, now, noon);
        assert_eq!((first.len(), first[&a].granted, first[&a].ends_in_ms), (1, 0, 12 * 3_600_000), "{first:?}");
        let stored = book.to_store(now, noon).expect("the router must be written down");
        book.stored(stored.clone(), now);
        assert!(book.to_store(now, noon).is_none());
        let claims = BTreeMap::from([(a.clone(), claim(first.get(&a), 70))]);
        let granted = book.report("r", 2, &claims, now, noon)[&a];
        assert!(granted.granted >= 70, "{granted:?}");
        assert_eq!(book.standings(now, noon)[&a].spent, 0);
        // The next leader; one budget is gone, and comes back.
        let mut book = Book::new(stored, now);
        book.set(&both[1..], "UTC", noon);
        let stored = book.to_store(now + Duration::from_secs(6), noon).unwrap_or_else(|| book.stored.clone());
        assert!(stored.contains_key(&a) && !first.contains_key(&b));
        book.set(&both, "UTC", noon);
        let standing = book.standings(now, noon)[&a];
        assert_eq!((standing.amount, standing.spent), (1_000_000, stored[&a].mark), "what was granted at most");
        // The next day.
        let later = noon + jiff::SignedDuration::from_hours(24);
        assert_eq!(book.standings(now, later)[&a].spent, 0);
        assert_eq!(book.standings(now, later)[&a].ends, later.as_second() + 12 * 3_600);
    }
}
