//! What a router has of a budget.

use std::time::{Duration, Instant};

use super::{Claim, Grant, is_little};

/// Time whose demand a router wants to have in its purse: two exchanges with the operator, and some.
const AHEAD: Duration = Duration::from_secs(2);
/// Time over which demand is taken.
const SMOOTH: Duration = Duration::from_secs(5);

/// What a router has of a budget in the period in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Purse {
    /// What outlives the process: the numbers of this period.
    pub kept: Kept,
    /// When the period ends; `None` before the first grant.
    ends: Option<Instant>,
    /// Money a second that was asked for lately, and when that was reckoned.
    rate: f64,
    asked: i64,
    since: Option<Instant>,
    need: i64,
    last: bool,
}

/// The numbers of a period that must not be lost when the process is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Begin of the period.
    pub period: i64,
    /// What was granted, less what was given back.
    pub granted: i64,
    /// What was spent, with what is reserved.
    pub spent: i64,
}

impl Purse {
    /// A purse as it was left.
    #[must_use]
    pub fn resumed(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// What can be spent; below zero what was spent beyond it.
    #[must_use]
    pub const fn balance(&self) -> i64 {
        self.kept.granted.saturating_sub(self.kept.spent)
    }

    /// Whether no more comes in this period.
    #[must_use]
    pub fn is_last(&self, now: Instant) -> bool {
        self.last && self.ends.is_some_and(|ends| now < ends)
    }

    /// Whether nothing worth a request is left of an amount, here or anywhere.
    #[must_use]
    pub fn is_spent(&self, amount: i64, now: Instant) -> bool {
        self.is_last(now) && is_little(self.balance(), amount)
    }

    /// Time until the period ends, where it is known.
    #[must_use]
    pub fn ends_in(&self, now: Instant) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(now))
    }

    /// Takes an amount if it is there. What is asked for counts as demand either way.
    pub fn reserve(&mut self, amount: i64, now: Instant) -> bool {
        self.reckon(now);
        self.asked = self.asked.saturating_add(amount);
        let there = self.ends.is_some_and(|ends| now < ends) && amount <= self.balance();
        if there {
            self.kept.spent = self.kept.spent.saturating_add(amount);
        } else {
            self.need = self.need.max(amount);
        }
        there
    }

    /// The same for one who has waited: that is no new demand.
    pub fn reserve_again(&mut self, amount: i64, now: Instant) -> bool {
        let asked = self.asked;
        let there = self.reserve(amount, now);
        self.asked = asked;
        there
    }

    /// Takes an amount, whether it is there or not.
    pub fn charge(&mut self, amount: i64) {
        self.kept.spent = self.kept.spent.saturating_add(amount);
    }

    /// Corrects a reservation of a period to what was used. That of an earlier period is past.
    pub fn settle(&mut self, period: i64, reserved: i64, used: i64) {
        if period == self.kept.period {
            self.kept.spent = self.kept.spent.saturating_sub(reserved).saturating_add(used).max(0);
        }
    }

    fn reckon(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since).as_secs_f64();
        if elapsed >= 0.5 {
            let weight = (elapsed / SMOOTH.as_secs_f64()).min(1.0);
            self.rate += weight * (amount(self.asked) / elapsed - self.rate);
            (self.asked, self.since) = (0, Some(now));
        }
    }

    /// What the operator is told.
    pub fn claim(&mut self, closed: bool, now: Instant) -> Claim {
        self.reckon(now);
        let wanted = whole(self.rate * AHEAD.as_secs_f64()).max(self.asked);
        let Kept { period, granted, spent } = self.kept;
        Claim { period, granted, spent, wanted, need: self.need, closed }
    }

    /// Takes what the operator grants. An answer to something else than what stands is none.
    pub fn apply(&mut self, grant: &Grant, now: Instant) {
        if grant.period < self.kept.period {
            return;
        }
        if grant.period > self.kept.period {
            self.kept = Kept { period: grant.period, granted: 0, spent: 0 };
        }
        self.ends = Some(now + Duration::from_millis(grant.ends_in_ms));
        self.last = grant.last;
        if grant.from != self.kept.granted {
            return;
        }
        self.kept.granted = grant.granted;
        // What is too much is given back by not having been granted.
        let surplus = self.balance().saturating_sub(grant.keep.max(self.need)).max(0);
        self.kept.granted = self.kept.granted.saturating_sub(surplus);
        // Who still waits asks again.
        self.need = 0;
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate of demand")]
fn amount(nanos: i64) -> f64 {
    nanos as f64
}

#[expect(clippy::cast_possible_truncation, reason = "an estimate of demand; the cast saturates")]
fn whole(nanos: f64) -> i64 {
    nanos.max(0.0) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(from: i64, granted: i64) -> Grant {
        Grant { period: 100, ends_in_ms: 10_000, from, granted, keep: i64::MAX, last: false }
    }

    #[test]
    fn what_is_there_can_be_reserved_until_the_period_ends() {
        let (mut purse, now) = (Purse::default(), Instant::now());
        assert!(!purse.reserve(1, now));
        assert_eq!(purse.claim(false, now), Claim { need: 1, wanted: 1, ..Claim::default() });
        purse.apply(&granted(0, 50), now);
        assert!(purse.reserve(30, now) && !purse.reserve(30, now));
        purse.settle(100, 30, 10);
        assert!(purse.reserve_again(30, now) && purse.balance() == 10);
        purse.settle(99, 30, 0);
        assert_eq!(purse.balance(), 10, "a request of the period before");
        assert!(!purse.reserve(1, now + Duration::from_secs(10)), "the period is over");
        purse.apply(&Grant { period: 200, from: 50, ..granted(50, 60) }, now);
        assert_eq!(purse.kept, Kept { period: 200, granted: 0, spent: 0 }, "a grant to another period's purse is none");
    }

    #[test]
    fn a_grant_is_taken_once_and_only_as_the_answer_to_what_stands() {
        let (mut purse, now) = (Purse::default(), Instant::now());
        purse.apply(&granted(0, 50), now);
        purse.apply(&granted(0, 50), now);
        purse.apply(&granted(0, 90), now);
        assert_eq!(purse.balance(), 50);
        purse.apply(&Grant { keep: 20, ..granted(50, 50) }, now);
        assert_eq!(purse.kept.granted, 20, "the rest is given back");
        purse.apply(&granted(50, 100), now);
        assert_eq!(purse.kept.granted, 20, "it crossed with that");
        purse.charge(25);
        purse.apply(&Grant { last: true, ..granted(20, 20) }, now);
        assert!(purse.is_spent(100, now) && !purse.is_spent(100, now + Duration::from_secs(10)));
        purse.apply(&Grant { last: true, ..granted(20, 40) }, now);
        assert!(purse.is_last(now) && !purse.is_spent(100, now) && purse.balance() == 15);
    }

    #[test]
    fn demand_is_what_was_asked_for_lately() {
        let (mut purse, begin) = (Purse::default(), Instant::now());
        for tenth in 0..300 {
            purse.reserve(10, begin + Duration::from_millis(tenth * 100));
        }
        let wanted = purse.claim(false, begin + Duration::from_secs(30)).wanted;
        assert!((150..=210).contains(&wanted), "two seconds of 100 a second: {wanted}");
        let idle = purse.claim(false, begin + Duration::from_secs(90)).wanted;
        assert_eq!(idle, 0);
    }
}
