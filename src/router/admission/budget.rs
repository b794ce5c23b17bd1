//! Budgets: what a client or a workload may still spend, before a tier is asked and after it has answered.
//!
//! ```text
//! request --reserve: input and max_tokens at full price--> asked --settle: what it used--> purse
//!      \--> not enough here: wait for the operator's grant, a moment --> skipped, SmallOnly, or 429
//! ```
//! A router spends from its [`Purse`], which the operator fills; where there is none it holds an equal part of the budget.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::{Notify, watch};

use super::budget_file::{BudgetFile, Slot};
use super::limiter::Scope;
use crate::api::routing_policy::OnBudgetExhausted;
use crate::api::types::ModelClass;
use crate::lease::budget::book::key;
use crate::lease::budget::period::{Period, zone};
use crate::lease::budget::purse::Purse;
use crate::lease::budget::{Claim, Grant};
use crate::router::errors::Problem;
use crate::router::money::Money;
use crate::routing::table;

/// Longest wait for a grant: two exchanges with the operator.
const PATIENCE: Duration = Duration::from_secs(2);
/// Units of [`Money`] in one of a purse.
const NANO: i128 = 1_000_000;

/// An amount as purses count it, rounded up: what is counted is never less than what is spent.
fn nanos(money: Money) -> i64 {
    i64::try_from(money.0.max(0).saturating_add(NANO - 1) / NANO).unwrap_or(i64::MAX)
}

/// A budget in force.
#[derive(Debug)]
pub struct Budget {
    scope: Scope,
    name: String,
    state: Mutex<State>,
    slot: Option<Slot>,
    /// Rung when there may be more.
    granted: Notify,
    /// Changes when somebody waits for more.
    short: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    terms: table::Budget,
    zone: TimeZone,
    purse: Purse,
    /// This router's part, where nobody grants any.
    own: Option<i64>,
}

impl State {
    /// Begins the period by itself, where no operator does.
    fn begin(&mut self, now: Instant) {
        let Some(own) = self.own else { return };
        if self.purse.ends_in(now).is_some_and(|left| !left.is_zero()) && self.purse.kept.granted == own {
            return;
        }
        let time = Timestamp::now();
        let Period { begin, end } = Period::of(self.terms.per, &self.zone, time);
        let millis = end.saturating_mul(1_000).saturating_sub(time.as_millisecond());
        let same = begin == self.purse.kept.period;
        let from = if same { self.purse.kept.granted } else { 0 };
        let ends_in_ms = u64::try_from(millis).unwrap_or_default();
        let grant = Grant { period: begin, ends_in_ms, from, granted: own, keep: i64::MAX, last: true };
        self.purse.apply(&grant, now);
    }
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, state: &State) {
        self.slot.iter().for_each(|slot| slot.keep(state.purse.kept));
    }

    /// What the operator is told, and of which budget; `None` where it has nothing to say.
    fn claim(&self, closed: bool, now: Instant) -> Option<(String, Claim)> {
        let mut state = self.state();
        let key = key(self.scope.name(), &self.name, state.terms.per);
        state.own.is_none().then(|| (key, state.purse.claim(closed, now)))
    }

    /// Takes what the operator grants, unless it is for the budget as it was before.
    fn apply(&self, grants: &BTreeMap<String, Grant>, now: Instant) {
        let mut state = self.state();
        let Some(grant) = grants.get(&key(self.scope.name(), &self.name, state.terms.per)) else { return };
        let before = state.purse.kept;
        state.purse.apply(grant, now);
        if state.purse.kept != before {
            self.keep(&state);
        }
        drop(state);
        self.granted.notify_waiters();
    }

    /// 429 if nothing is left and requests are refused then.
    ///
    /// # Errors
    /// The problem.
    pub fn check(&self, now: Instant) -> Result<(), Problem> {
        let mut state = self.state();
        state.begin(now);
        let refuses =
            state.terms.on_exhausted == OnBudgetExhausted::Reject && state.purse.is_spent(state.terms.amount, now);
        if refuses { Err(self.spent(&state, now)) } else { Ok(()) }
    }

    fn spent(&self, state: &State, now: Instant) -> Problem {
        let (scope, name, per) = (self.scope.name(), &self.name, state.terms.per);
        let wait = state.purse.ends_in(now).filter(|_| state.purse.is_last(now)).unwrap_or(Duration::from_secs(1));
        let amount = Money(i128::from(state.terms.amount) * NANO);
        let budget = format!("its budget of {amount} a {}", format!("{per:?}").to_lowercase());
        let message = if state.purse.is_spent(state.terms.amount, now) {
            format!("{scope} {name} has spent {budget}")
        } else if state.purse.is_last(now) {
            format!("{scope} {name}: the request may cost more than is left of {budget}; lower max_tokens")
        } else {
            format!("{scope} {name}: this router waits for more of {budget}")
        };
        Problem::new(http::StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "budget_exhausted", message).after(wait)
    }

    /// Takes an amount for a tier of a class, and gives the period that it is of.
    async fn reserve(self: &Arc<Self>, amount: i64, class: ModelClass) -> Result<i64, Problem> {
        let begin = tokio::time::Instant::now();
        let mut first = true;
        loop {
            let granted = self.granted.notified();
            let mut granted = std::pin::pin!(granted);
            granted.as_mut().enable();
            let problem = {
                let mut state = self.state();
                let now = Instant::now();
                state.begin(now);
                let there = if std::mem::take(&mut first) {
                    state.purse.reserve(amount, now)
                } else {
                    state.purse.reserve_again(amount, now)
                };
                let small = state.terms.on_exhausted == OnBudgetExhausted::SmallOnly && class == ModelClass::Small;
                if !there && small {
                    state.purse.charge(amount);
                }
                if there || small {
                    self.keep(&state);
                    return Ok(state.purse.kept.period);
                }
                let hopeless = state.purse.is_last(now);
                let problem = self.spent(&state, now);
                if hopeless || begin.elapsed() >= PATIENCE {
                    return Err(problem);
                }
                problem
            };
            self.short.send_replace(());
            if tokio::time::timeout_at(begin + PATIENCE, granted).await.is_err() {
                return Err(problem);
            }
        }
    }

    fn settle(&self, period: i64, reserved: i64, used: i64) {
        if reserved == used {
            return;
        }
        let mut state = self.state();
        state.purse.settle(period, reserved, used);
        self.keep(&state);
    }
}

/// The budgets that a request counts against: its client's and its workload's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Purses<'a>(pub [Option<&'a Arc<Budget>>; 2]);

impl Purses<'_> {
    /// 429 if one of them is spent and refuses.
    ///
    /// # Errors
    /// The problem.
    pub fn check(&self) -> Result<(), Problem> {
        self.0.iter().flatten().try_for_each(|budget| budget.check(Instant::now()))
    }

    /// Whether there is no budget.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Takes an amount from all of them or from none.
    ///
    /// # Errors
    /// One has not enough.
    pub async fn reserve(&self, most: Money, class: ModelClass) -> Result<Spend, Problem> {
        let mut spend = Spend { parts: Vec::with_capacity(2), reserved: nanos(most) };
        for budget in self.0.into_iter().flatten() {
            match budget.reserve(spend.reserved, class).await {
                Ok(period) => spend.parts.push((budget.clone(), period)),
                Err(problem) => {
                    spend.settle(Some(Money(0)));
                    return Err(problem);
                }
            }
        }
        Ok(spend)
    }
}

/// What is reserved for a call. It is spent when this is dropped, unless it is settled before.
#[derive(Debug)]
pub struct Spend {
    parts: Vec<(Arc<Budget>, i64)>,
    reserved: i64,
}

impl Spend {
    /// The call came to this. Without a number what was reserved is what it cost.
    pub fn settle(mut self, cost: Option<Money>) {
        let used = cost.map_or(self.reserved, nanos);
        for (budget, period) in self.parts.drain(..) {
            budget.settle(period, self.reserved, used);
        }
    }

    /// The same budgets, for what follows in the same answer: nothing is reserved for it.
    #[must_use]
    pub fn rest(&self) -> Self {
        Self { parts: self.parts.clone(), reserved: 0 }
    }
}

/// All budgets of a router. They outlive tables: what was spent stays spent.
#[derive(Debug, Default)]
pub struct Budgets {
    all: Mutex<BTreeMap<(&'static str, String), Arc<Budget>>>,
    file: Option<Arc<BudgetFile>>,
    short: watch::Sender<()>,
    closed: AtomicBool,
}

impl Budgets {
    /// Budgets whose numbers are kept in a file.
    #[must_use]
    pub fn kept_in(file: Arc<BudgetFile>) -> Self {
        Self { file: Some(file), ..Self::default() }
    }

    /// Changes when somebody waits for a grant.
    #[must_use]
    pub fn short(&self) -> watch::Receiver<()> {
        self.short.subscribe()
    }

    /// Whose purses these are, over restarts of the process; `None` where nothing outlives it.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        self.file.as_ref().map(|file| file.id())
    }

    fn each(&self) -> Vec<Arc<Budget>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// This router takes no more requests, and has none in flight: what it has not spent is for others. False: nobody
    /// need be told.
    pub fn close(&self) -> bool {
        self.closed.store(true, Ordering::Release);
        self.short.send_replace(());
        self.each().iter().any(|budget| budget.state().own.is_none())
    }

    /// What the operator is told.
    #[must_use]
    pub fn claims(&self, now: Instant) -> BTreeMap<String, Claim> {
        let closed = self.closed.load(Ordering::Acquire);
        self.each().iter().filter_map(|budget| budget.claim(closed, now)).collect()
    }

    /// Takes what the operator grants.
    pub fn apply(&self, grants: &BTreeMap<String, Grant>, now: Instant) {
        if !grants.is_empty() {
            self.each().iter().for_each(|budget| budget.apply(grants, now));
        }
    }

    /// The budget of a client or workload. `own`: the part of it that this router holds without being granted any.
    #[must_use]
    pub fn of(&self, scope: Scope, name: &str, terms: table::Budget, time_zone: &str, own: Option<i64>) -> Arc<Budget> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let zone = zone(time_zone).unwrap_or(TimeZone::UTC);
        let budget = all.entry((scope.name(), name.to_owned())).or_insert_with(|| {
            let slot = self.file.as_ref().and_then(|file| file.slot(scope.name(), name));
            let (slot, kept) = slot.map_or((None, None), |(slot, kept)| (Some(slot), Some(kept)));
            let purse = kept.map_or_else(Purse::default, Purse::resumed);
            let state = Mutex::new(State { terms, zone: zone.clone(), purse, own });
            Arc::new(Budget {
                scope,
                name: name.to_owned(),
                state,
                slot,
                granted: Notify::new(),
                short: self.short.clone(),
            })
        });
        let mut state = budget.state();
        if state.terms.per != terms.per {
            // Another budget: its periods have nothing to do with those before.
            state.purse = Purse::default();
        }
        (state.terms, state.zone, state.own) = (terms, zone, own);
        drop(state);
        budget.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routing_policy::Per;

    fn terms(amount: i64, on_exhausted: OnBudgetExhausted) -> table::Budget {
        table::Budget { amount, per: Per::Month, on_exhausted }
    }

    fn cents(nanos: i64) -> Money {
        Money(i128::from(nanos) * NANO)
    }

    #[tokio::test]
    async fn a_request_takes_of_both_budgets_or_of_none() {
        let budgets = Budgets::default();
        let reject = OnBudgetExhausted::Reject;
        let client = budgets.of(Scope::Client, "a", terms(100, reject), "UTC", Some(100));
        let workload = budgets.of(Scope::Workload, "a", terms(60, reject), "UTC", Some(60));
        let purses = Purses([Some(&client), Some(&workload)]);
        let spend = purses.reserve(cents(50), ModelClass::Frontier).await.expect("room");
        let problem = purses.reserve(cents(20), ModelClass::Frontier).await.expect_err("no room");
        assert_eq!((problem.status.as_u16(), problem.code), (429, "budget_exhausted"));
        assert_eq!(client.state().purse.balance(), 50, "the client gets back what the workload refused");
        spend.settle(Some(cents(10)));
        let spend = purses.reserve(Money(1), ModelClass::Frontier).await.expect("room");
        assert_eq!(workload.state().purse.balance(), 49, "rounded up");
        drop(spend);
        assert_eq!(workload.state().purse.balance(), 49, "what nobody settles is spent");
        assert!(Purses::default().is_empty() && !purses.is_empty());
    }

    #[tokio::test]
    async fn what_is_spent_is_refused_or_small_only() {
        let budgets = Budgets::default();
        let refuses = budgets.of(Scope::Client, "a", terms(100, OnBudgetExhausted::Reject), "UTC", Some(100));
        let small = budgets.of(Scope::Client, "b", terms(100, OnBudgetExhausted::SmallOnly), "UTC", Some(100));
        for budget in [&refuses, &small] {
            let purses = Purses([Some(budget), None]);
            assert!(purses.check().is_ok());
            purses.reserve(cents(100), ModelClass::Frontier).await.expect("room").settle(None);
            assert!(purses.reserve(cents(1), ModelClass::Frontier).await.is_err());
        }
        let problem = refuses.check(Instant::now()).expect_err("spent");
        assert!(problem.message.contains("client a has spent its budget of 0.0000001 a month"), "{}", problem.message);
        assert!(problem.retry_after.is_some_and(|wait| wait > 1 || wait <= 32 * 86_400));
        assert!(small.check(Instant::now()).is_ok());
        let purses = Purses([Some(&small), None]);
        assert!(purses.reserve(cents(1), ModelClass::Small).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_grant_for_a_moment() {
        let budgets = Budgets::default();
        let budget = budgets.of(Scope::Workload, "w", terms(1_000, OnBudgetExhausted::Reject), "UTC", None);
        let purses = Purses([Some(&budget), None]);
        let mut short = budgets.short();
        let grants = async {
            short.changed().await.expect("it waits");
            let claims = budgets.claims(Instant::now());
            assert_eq!(claims["workload/w/Month"].need, 30);
            let grant = Grant { period: 5, ends_in_ms: 60_000, granted: 40, keep: i64::MAX, ..Grant::default() };
            let grants = BTreeMap::from([("workload/w/Month".to_owned(), grant)]);
            budgets.apply(&grants, Instant::now());
            budgets.apply(&grants, Instant::now());
        };
        let (reserved, ()) = tokio::join!(purses.reserve(cents(30), ModelClass::Frontier), grants);
        reserved.expect("it was granted").settle(Some(cents(5)));
        assert_eq!(budget.state().purse.balance(), 35);
        let begin = tokio::time::Instant::now();
        let problem = purses.reserve(cents(50), ModelClass::Frontier).await.expect_err("nobody grants");
        assert_eq!((begin.elapsed(), problem.retry_after), (PATIENCE, Some(1)));
    }
}
