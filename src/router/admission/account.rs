//! The quota of a provider's account: what all tiers with one credential may take together.
//!
//! ```text
//! request --room?--> taken
//!             \----> waits by risk, until there is room or its patience ends --> not taken
//! ```
//! Where clusters share a [`store`](super::store) it says whether there is room, and what is lent here counts while it is away.
//!
//! What is reserved is the estimated input and the output that the request allows; it is settled by the answer's usage,
//! and what that gives back may let the next one in.

mod stored;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ASSUMED_TOKENS;
use super::lent::Lent;
use super::limiter::{Demand, Kind};
use super::queue::Ticket;
use super::room::{Again, Amounts, COUNTED, Entry, Lack, Room};
pub use super::room::{Asker, Order};
use super::share::Share;
use super::store::{Counted, Store, Terms as StoreTerms};
use crate::lease::holding::{Holding, Taken, Waiting as Waits};
use crate::lease::lessee::Terms;
use crate::lease::reserve::Reserve;
use crate::lease::{self, Claim, Grant, Key, Scope};
use crate::router::answer::Usage;
use crate::router::body::Peek;
use crate::router::metrics::{AccountMetrics, LeaseMetrics, Metrics};
use crate::routing::table::Quota;

/// An account in force.
pub struct Account {
    name: String,
    /// This router's part, or all where it is lent.
    quota: Quota,
    share: Share,
    reserves: Vec<Reserve>,
    /// Shared with the account of the table before, where an operator lends what it holds.
    state: Arc<Mutex<Room>>,
    store: Option<Arc<Store>>,
    metrics: AccountMetrics,
    /// Of what is lent.
    taken: [Option<LeaseMetrics>; 4],
}

impl Order {
    /// What a request takes.
    #[must_use]
    pub fn of(peek: &Peek<'_>) -> Self {
        let choices = u64::from(peek.n);
        let output = match peek.max_tokens {
            Some(most) => Demand { stated: most.saturating_mul(choices), assumed: 0 },
            None => Demand { stated: 0, assumed: ASSUMED_TOKENS * choices },
        };
        Self { input: peek.input_tokens_estimate(), output }
    }
}

impl Account {
    /// A full quota, or the one before if it is the same: a new table must not fill what was used. What is lent outlives
    /// every change.
    #[must_use]
    pub fn new(
        name: &str,
        quota: Quota,
        share: Share,
        reserves: Vec<Reserve>,
        store: Option<StoreTerms>,
        before: Option<&Arc<Self>>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let part = |limit: Option<u64>| limit.map(|limit| share.of(limit));
        let quota = Quota {
            requests_per_minute: part(quota.requests_per_minute),
            tokens_per_minute: part(quota.tokens_per_minute),
            input_tokens_per_minute: part(quota.input_tokens_per_minute),
            output_tokens_per_minute: part(quota.output_tokens_per_minute),
            max_concurrent: quota.max_concurrent.map(|most| share.of_places(most)),
        };
        let known = before.filter(|before| before.reserves == reserves).and_then(|before| before.store.clone());
        let known = known.filter(|known| store.as_ref().is_some_and(|terms| known.is_of(terms)));
        let same = |before: &&Arc<Self>| {
            let same_store = known.is_some() || store.is_none() && before.store.is_none();
            before.quota == quota && before.share == share && before.reserves == reserves && same_store
        };
        if let Some(same) = before.filter(same) {
            return same.clone();
        }
        let now = tokio::time::Instant::now().into_std();
        let before = before.filter(|before| share.is_lent() && before.share.is_lent());
        let state = before.map(|before| before.state.clone()).unwrap_or_default();
        lock(&state).set(&quota, share, &reserves, now);
        let lent = |limit: Option<u64>| limit.filter(|_| share.is_lent());
        let taken = COUNTED.map(|it| lent((it.limit)(&quota)).map(|_| metrics.lease("account", name, it.kind)));
        let kinds = COUNTED.map(|it| it.kind).into_iter().chain([Kind::Concurrency, Kind::Reserve, Kind::Queue]);
        let store = known.or_else(|| store.map(|terms| Store::new(name, terms, &reserves, metrics)));
        let metrics = metrics.account(name, kinds);
        Arc::new(Self { name: name.to_owned(), quota, share, reserves, state, store, metrics, taken })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether so many percent of each limit are free, and nobody waits.
    #[must_use]
    pub fn has_free(&self, percent: u32, now: Instant) -> bool {
        let mut state = self.state();
        let Room { amounts, places, in_flight, queue, .. } = &mut *state;
        if let Some(free) = self.store.as_ref().and_then(|store| store.free()) {
            return free >= percent && queue.is_empty();
        }
        places.iter_mut().for_each(|held| held.fill(now));
        let used = u64::from(*in_flight) * 100;
        let fills = |held: &mut Holding| {
            held.fill(now);
            held.has_free(percent)
        };
        places.as_ref().is_none_or(|held| used <= u64::from(held.most()) * u64::from(100_u32.saturating_sub(percent)))
            && queue.is_empty()
            && amounts.iter_mut().flatten().all(fills)
    }

    fn lent<'s>(
        &'s self,
        room: &'s mut Room,
    ) -> Lent<'s, impl Iterator<Item = (lease::Kind, &'s mut Option<Holding>)>> {
        let amounts = COUNTED.into_iter().map(|it| it.lent).zip(&mut room.amounts);
        Lent { scope: Scope::Account, name: &self.name, amounts, places: &mut room.places }
    }

    /// What a report says of what is lent; see [`Holding::claim`].
    pub fn claim(&self, numbers: (u64, u64), now: Instant, claims: &mut Vec<Claim>) {
        if !self.share.is_lent() {
            return;
        }
        let mut state = self.state();
        let few = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let waiting = Waits { all: few(state.queue.len()), urgent: few(state.queue.urgent()) };
        let in_flight = state.in_flight;
        self.lent(&mut state).claim(numbers, (in_flight, waiting), now, claims);
    }

    /// Puts what the leader answers in force, which may let in who waits here. Returns in what time to report again, if that
    /// is to be soon.
    pub fn apply<'g>(
        &self,
        grant: impl Fn(&Key) -> Option<&'g Grant>,
        terms: &Terms<'_>,
        now: Instant,
    ) -> Option<Duration> {
        if !self.share.is_lent() {
            return None;
        }
        let mut state = self.state();
        let soon = self.lent(&mut state).apply(grant, terms, now);
        state.queue.ring();
        soon
    }

    /// The router is about to stop: it lives on what it was lent.
    pub fn drain(&self) {
        self.lent(&mut self.state()).drain();
    }

    /// The place of a workload's reserve.
    #[must_use]
    pub fn reserve_of(&self, workload: &str) -> Option<usize> {
        self.reserves.iter().position(|reserve| reserve.workload == workload)
    }

    fn state(&self) -> MutexGuard<'_, Room> {
        lock(&self.state)
    }

    /// Of a request that goes by what is held here.
    fn permit(self: &Arc<Self>, reserve: Option<usize>, amounts: Amounts, taken: [Taken; 4]) -> Permit {
        let counted = self.store.as_ref().map(|store| store.note(amounts, reserve));
        for (metrics, taken) in self.taken.iter().zip(taken) {
            metrics.iter().for_each(|metrics| metrics.taken(taken));
        }
        self.metrics.admissions.admitted();
        Permit { account: self.clone(), reserve, amounts, counted, open: true }
    }

    /// Notes how long a request waited, if it did.
    fn waited(&self, did: bool, begin: tokio::time::Instant) {
        if did {
            self.metrics.wait.observe(begin.elapsed().as_secs_f64());
        }
    }

    fn refuse(&self, lack: &Lack) -> Duration {
        self.metrics.admissions.refused(lack.kind);
        // What never fits is told to come back when the account is as full as it gets.
        lack.wait.unwrap_or(Duration::from_secs(60))
    }

    /// Takes what a request needs, waiting for it as long as its risk and the deadline allow. `lacks` is called once if it waits
    /// for what an operator may lend.
    ///
    /// # Errors
    /// There is no room; with the time until there may be some.
    pub async fn admit(
        self: &Arc<Self>,
        order: Order,
        asker: Asker,
        deadline: tokio::time::Instant,
        lacks: impl FnOnce(),
    ) -> Result<Permit, Duration> {
        if let Some(store) = &self.store
            && let Some(answer) = self.admit_stored(store, order, asker, deadline).await
        {
            return answer;
        }
        let begin = tokio::time::Instant::now();
        let (amounts, ticket, give_up) = {
            let mut state = self.state();
            let amounts = state.amounts(order, asker);
            match state.enter(amounts, asker, begin.into_std(), deadline.into_std()) {
                Entry::In(taken) => return Ok(self.permit(asker.reserve, amounts, taken)),
                Entry::Refused(lack) => return Err(self.refuse(&lack)),
                Entry::Waits(ticket, give_up) => (amounts, ticket, give_up),
            }
        };
        self.metrics.waiting.inc();
        let waiting = Waiting { account: self, ticket };
        if self.share.is_lent() {
            lacks();
        }
        loop {
            let now = tokio::time::Instant::now().into_std();
            let next = self.state().again(&waiting.ticket, give_up, amounts, asker, now);
            let look_again = match next {
                Again::Waits(look_again) => tokio::time::Instant::from_std(look_again),
                Again::In(taken) => {
                    self.waited(true, begin);
                    return Ok(self.permit(asker.reserve, amounts, taken));
                }
                Again::GivenUp(lack) => {
                    self.waited(true, begin);
                    return Err(self.refuse(&lack));
                }
            };
            tokio::select! {
                () = waiting.ticket.rung() => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }
}

fn lock(state: &Mutex<Room>) -> MutexGuard<'_, Room> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the queue. It is left when this is dropped, by whoever is served and by whoever gives up.
struct Waiting<'a> {
    account: &'a Account,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.account.state().queue.leave(&self.ticket);
        self.account.metrics.waiting.dec();
    }
}

/// A request's part of an account. It is one of those in flight until this is dropped.
pub struct Permit {
    account: Arc<Account>,
    reserve: Option<usize>,
    /// What was taken of what is held here.
    amounts: Amounts,
    /// What its store counts.
    counted: Option<Counted>,
    open: bool,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("account", &self.account.name).finish_non_exhaustive()
    }
}

impl Permit {
    /// Nobody was asked: as if it had not been taken.
    pub fn cancel(mut self) {
        self.close(Some([0; 4]));
    }

    /// The request was made and used so much. Without a number what was reserved is what it used.
    pub fn settle(mut self, usage: Option<Usage>) {
        let used = usage.map(|usage| {
            let both = usage.prompt.saturating_add(usage.completion);
            [1, both, usage.prompt, usage.completion]
        });
        self.close(used);
    }

    fn close(&mut self, used: Option<Amounts>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let Some(counted) = &self.counted else {
            let used = used.unwrap_or(self.amounts);
            return self.account.state().close(self.reserve, self.amounts, used);
        };
        let mut used = used.unwrap_or(counted.amounts);
        counted.end(used);
        for ((used, taken), counted) in used.iter_mut().zip(self.amounts).zip(counted.amounts) {
            // What was not there to be taken is not given back, nor owed.
            *used = if taken < counted { taken.min(*used) } else { *used };
        }
        self.account.state().close(self.reserve, self.amounts, used);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.close(None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::types::Risk;
    use crate::lease::bucket::Bucket;
    use crate::router::admission::tests::metrics;

    fn account(change: impl FnOnce(&mut Quota)) -> Arc<Account> {
        let mut quota = Quota::default();
        change(&mut quota);
        Account::new("provider", quota, Share::ALL, Vec::new(), None, None, &metrics())
    }

    fn order(input: u64, output: u64) -> Order {
        Order { input, output: Demand { stated: output, assumed: 0 } }
    }

    fn none() {}

    fn of(risk: Risk) -> Asker {
        Asker { risk, movable: false, reserve: None }
    }

    fn soon() -> tokio::time::Instant {
        tokio::time::Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn input_and_output_are_counted_apart_and_settled() {
        let account = account(|q| (q.input_tokens_per_minute, q.output_tokens_per_minute) = (Some(100), Some(50)));
        let permit = account.admit(order(10, 50), of(Risk::Low), soon(), none).await.unwrap();
        let wait = account.admit(order(10, 1), of(Risk::Low), soon(), none).await.unwrap_err();
        assert_eq!(wait.as_millis(), 1_200);
        permit.settle(Some(Usage { prompt: 90, cached: 0, completion: 20 }));
        assert!(
            account.admit(order(11, 1), of(Risk::Low), soon(), none).await.is_err(),
            "more input was used than estimated"
        );
        assert!(account.admit(order(10, 30), of(Risk::Low), soon(), none).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_is_free_or_is_not() {
        let now = || tokio::time::Instant::now().into_std();
        let account = account(|q| (q.requests_per_minute, q.max_concurrent) = (Some(100), Some(5)));
        let held = account.admit(order(1, 1), of(Risk::Low), soon(), none).await.unwrap();
        for _ in 0..79 {
            assert!(account.has_free(20, now()));
            account.admit(order(1, 1), of(Risk::Low), soon(), none).await.unwrap().settle(None);
        }
        assert!(account.has_free(20, now()) && !account.has_free(21, now()));
        tokio::time::advance(Duration::from_secs(30)).await;
        let mut held = vec![held];
        for _ in 0..3 {
            held.push(account.admit(order(1, 1), of(Risk::Low), soon(), none).await.unwrap());
        }
        assert!(account.has_free(20, now()));
        held.push(account.admit(order(1, 1), of(Risk::Low), soon(), none).await.unwrap());
        assert!(!account.has_free(20, now()));
    }

    #[tokio::test(start_paused = true)]
    async fn high_risk_is_served_first_and_low_does_not_wait() {
        let account = account(|q| q.max_concurrent = Some(1));
        let first = account.admit(order(1, 1), of(Risk::Low), soon(), none).await.unwrap();
        assert!(account.admit(order(1, 1), of(Risk::Low), soon(), none).await.is_err());
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for risk in [Risk::Medium, Risk::High] {
            let (account, served) = (account.clone(), served.clone());
            tasks.push(tokio::spawn(async move {
                let permit = account.admit(order(1, 1), of(risk), soon(), none).await.unwrap();
                served.lock().unwrap().push(risk);
                permit.settle(None);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(account.state().queue.len(), 2);
        first.settle(None);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [Risk::High, Risk::Medium]);
        assert!(account.state().queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_patience_or_the_deadline_and_leaves_the_queue() {
        let account = account(|q| q.max_concurrent = Some(1));
        let _held = account.admit(order(1, 1), of(Risk::Low), soon(), none).await.unwrap();
        let waited = async |risk, most| {
            let begin = tokio::time::Instant::now();
            assert!(account.admit(order(1, 1), of(risk), begin + Duration::from_secs(most), none).await.is_err());
            begin.elapsed().as_secs()
        };
        assert_eq!((waited(Risk::High, 60).await, waited(Risk::Medium, 60).await), (10, 2));
        assert_eq!((waited(Risk::High, 6).await, waited(Risk::Low, 60).await), (3, 0));
        let leaves = account.admit(order(1, 1), of(Risk::High), soon(), none);
        assert!(tokio::time::timeout(Duration::from_secs(1), leaves).await.is_err());
        assert!(account.state().queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_cannot_come_in_time() {
        let account = account(|q| (q.requests_per_minute, q.tokens_per_minute) = (Some(1), Some(100)));
        assert!(account.admit(order(99, 2), of(Risk::High), soon(), none).await.is_err(), "more than it ever holds");
        account.admit(order(1, 1), of(Risk::High), soon(), none).await.unwrap().cancel();
        account.admit(order(1, 1), of(Risk::High), soon(), none).await.unwrap().settle(None);
        let begin = tokio::time::Instant::now();
        let wait = account.admit(order(1, 1), of(Risk::High), soon(), none).await.unwrap_err();
        assert!(begin.elapsed().is_zero() && wait > Duration::from_secs(59), "{wait:?}");
    }

    /// An account with these limits of requests, tokens and concurrency, and the reserves of workloads `0` and `1`.
    fn reserved(limits: (u64, u64, u32), parts: [u64; 2]) -> Arc<Account> {
        let (requests, tokens, concurrent) = limits;
        let quota = Quota {
            requests_per_minute: Some(requests),
            tokens_per_minute: Some(tokens),
            max_concurrent: Some(concurrent),
            ..Quota::default()
        };
        let reserve = |(at, nanos): (usize, u64)| Reserve { workload: at.to_string(), nanos };
        Account::new(
            "provider",
            quota,
            Share::ALL,
            parts.into_iter().enumerate().map(reserve).collect(),
            None,
            None,
            &metrics(),
        )
    }

    /// As [`Account::admit`] for one that does not wait, at a time of the test's own.
    fn try_admit(account: &Arc<Account>, order: Order, asker: Asker, now: Instant) -> Option<Permit> {
        let mut state = account.state();
        let amounts = state.amounts(order, asker);
        state.lack(asker, amounts, now).is_none().then(|| {
            let taken = state.take(asker.reserve, amounts);
            account.permit(asker.reserve, amounts, taken)
        })
    }

    #[test]
    fn low_leaves_what_high_has_reserved_and_medium_need_not() {
        let (account, now) = (reserved((10, 1_000, 10), [300_000_000, 0]), Instant::now());
        let low = Asker { risk: Risk::Low, movable: false, reserve: None };
        let high = Asker { risk: Risk::High, movable: false, reserve: Some(0) };
        let mut held: Vec<Permit> = (0..20).filter_map(|_| try_admit(&account, order(1, 1), low, now)).collect();
        assert_eq!(held.len(), 7);
        held.extend((0..20).filter_map(|_| try_admit(&account, order(1, 1), high, now)));
        assert_eq!(held.len(), 10);
        drop(held);
        let (account, medium) = (reserved((10, 1_000, 10), [300_000_000, 0]), of(Risk::Medium));
        assert_eq!(
            (0..20).filter_map(|_| try_admit(&account, order(1, 1), medium, now)).map(Permit::cancel).count(),
            20
        );
        let held: Vec<Permit> = (0..20).filter_map(|_| try_admit(&account, order(1, 1), medium, now)).collect();
        assert_eq!(held.len(), 10);
    }

    proptest! {
        /// A workload of High risk that stays within its reserve is always admitted, whatever Low does.
        #[test]
        fn high_always_gets_its_reserve(
            limits in (1_u64..100, 1_u64..5_000, 1_u32..30),
            parts in (0_u64..450_000_000, 0_u64..450_000_000),
            events in prop::collection::vec(
                (0_u64..3_000, 0_usize..6, 0_u64..300, 0_u64..300, 0_u64..101, any::<bool>()),
                1..300,
            ),
        ) {
            let (requests, tokens, concurrent) = limits;
            let parts = [parts.0, parts.1];
            let account = reserved(limits, parts);
            let mut now = Instant::now();
            // What each workload has left of its reserve, counted apart.
            let mut own = parts.map(|nanos| (Bucket::part_of(requests, requests, nanos, now), Bucket::part_of(tokens, tokens, nanos, now), 0_u64));
            let mut open: Vec<(Permit, Option<usize>, u64)> = Vec::new();
            for (pause, who, input, output, part, ends) in events {
                now += Duration::from_millis(pause);
                let (reserve, risk) = if who < 2 { (Some(who), Risk::High) } else { (None, Risk::Low) };
                let amount = input + output;
                let within = reserve.is_some_and(|at| {
                    let (requests, tokens, in_flight) = &mut own[at];
                    requests.fill(now);
                    tokens.fill(now);
                    let fits = |bucket: &Bucket, amount| bucket.wait(amount) == Some(Duration::ZERO);
                    let places = u64::from(concurrent) * parts[at] / 1_000_000_000;
                    fits(requests, 1) && fits(tokens, amount) && *in_flight < places
                });
                // Beyond their reserves workloads of High risk take from each other: that is not what is tested.
                if reserve.is_some() && !within {
                    continue;
                }
                let permit = try_admit(&account, order(input, output), Asker { risk, movable: false, reserve }, now);
                prop_assert!(!within || permit.is_some());
                if let (Some(at), Some(_)) = (reserve, &permit) {
                    own[at].0.take(1);
                    own[at].1.take(amount);
                    own[at].2 += 1;
                }
                open.extend(permit.map(|permit| (permit, reserve, amount)));
                if ends && !open.is_empty() {
                    let (permit, reserve, amount) = open.swap_remove(usize::try_from(part).unwrap() % open.len());
                    let used = amount * part / 100;
                    if let Some(at) = reserve {
                        own[at].1.put(amount - used);
                        own[at].2 -= 1;
                    }
                    permit.settle(Some(Usage { prompt: used, cached: 0, completion: 0 }));
                }
            }
        }
    }
}
