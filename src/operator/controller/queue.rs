//! Which object is looked at next.
//!
//! An object is worked on by one worker at a time. What happens to it meanwhile makes it due again once. Events
//! are gathered for [`DEBOUNCE`]; an object that failed waits by itself, longer each time, so that it never
//! slows another. `State` is pure: it is told the time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long events of one object are gathered.
pub const DEBOUNCE: Duration = Duration::from_millis(5);
/// First wait after a failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const LAST_BACKOFF: Duration = Duration::from_secs(300);

/// One of the three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ModelTier.
    Tier,
    /// EscalationPath.
    Path,
    /// RoutingPolicy.
    Policy,
}

impl Kind {
    /// The kind as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tier => "ModelTier",
            Self::Path => "EscalationPath",
            Self::Policy => "RoutingPolicy",
        }
    }
}

/// An object to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub id: (String, String),
}

impl Key {
    /// A key of its parts.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, id: (namespace.to_owned(), name.to_owned()) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.id.0, self.id.1)
    }
}

/// How a reconcile ended, as far as the queue cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing to do until something changes.
    Done,
    /// Something is to be done after this time.
    Later(Duration),
    /// Try again, later each time.
    Retry,
}

#[derive(Debug, Default)]
struct State {
    due: HashMap<Key, Instant>,
    order: BTreeSet<(Instant, Key)>,
    running: HashSet<Key>,
    /// Running, and due again when they end.
    again: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

impl State {
    fn add(&mut self, key: Key, at: Instant) {
        if self.running.contains(&key) {
            self.again.insert(key);
            return;
        }
        match self.due.get(&key) {
            Some(due) if *due <= at => return,
            Some(due) => {
                self.order.remove(&(*due, key.clone()));
            }
            None => {}
        }
        self.order.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// The next object that is due, or the instant at which one will be.
    fn next(&mut self, now: Instant) -> Result<Key, Option<Instant>> {
        let Some((at, key)) = self.order.first().cloned() else { return Err(None) };
        if at > now {
            return Err(Some(at));
        }
        self.order.pop_first();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Ok(key)
    }

    fn end(&mut self, key: Key, ending: Ending, now: Instant) {
        self.running.remove(&key);
        let again = self.again.remove(&key);
        match ending {
            Ending::Done => {
                self.failures.remove(&key);
            }
            Ending::Later(wait) => {
                self.failures.remove(&key);
                self.add(key.clone(), now + wait);
            }
            Ending::Retry => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                let wait = backoff(*failures, jitter(&key, *failures));
                self.add(key.clone(), now + wait);
            }
        }
        if again {
            self.add(key, now + DEBOUNCE);
        }
    }
}

/// The wait after so many failures in a row: it doubles from 1 s to 5 min, less up to half of it by `jitter`
/// (0 to 1), so that what failed together is not tried together.
#[must_use]
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
    doubled.min(LAST_BACKOFF).mul_f64(1.0 - 0.5 * jitter.clamp(0.0, 1.0))
}

/// Spread by the object's name: no randomness is needed for objects to differ.
fn jitter(key: &Key, failures: u32) -> f64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (key, failures).hash(&mut hasher);
    f64::from(u16::try_from(hasher.finish() & 0xffff).unwrap_or_default()) / f64::from(u16::MAX)
}

/// The queue of all objects.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    news: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Objects of which something changed.
    pub fn add_all(&self, keys: impl IntoIterator<Item = Key>) {
        let at = Instant::now() + DEBOUNCE;
        let mut state = self.state();
        keys.into_iter().for_each(|key| state.add(key, at));
        drop(state);
        self.news.notify_one();
    }

    /// Waits for an object that is due.
    pub async fn next(&self) -> Key {
        loop {
            let wake = match self.state().next(Instant::now()) {
                Ok(key) => return key,
                Err(at) => at,
            };
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep_until(wake.unwrap_or(far)) => {}
            }
        }
    }

    /// An object was looked at.
    pub fn end(&self, key: Key, ending: Ending) {
        self.state().end(key, ending, Instant::now());
        self.news.notify_one();
    }

    /// Something went wrong with an object that nobody is looking at: look again later.
    pub fn retry(&self, key: Key) {
        let mut state = self.state();
        if !state.running.contains(&key) {
            state.end(key, Ending::Retry, Instant::now());
        }
        drop(state);
        self.news.notify_one();
    }

    /// Number of objects that wait to be looked at, those that back off included.
    pub fn depth(&self) -> usize {
        self.state().due.len()
    }

    /// Whether an object is due or being looked at.
    pub fn busy(&self) -> bool {
        let state = self.state();
        let soon = Instant::now() + DEBOUNCE;
        !state.running.is_empty() || state.order.first().is_some_and(|(at, _)| *at <= soon)
    }

    /// Forgets what was due: a process that does not lead works on nothing.
    pub fn clear(&self) {
        let mut state = self.state();
        state.due.clear();
        state.order.clear();
        state.again.clear();
        state.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(Kind::Tier, "ns", name)
    }

    #[test]
    fn events_are_gathered_and_a_running_object_runs_once_more() {
        let mut state = State::default();
        let start = Instant::now();
        state.add(key("a"), start);
        state.add(key("a"), start + DEBOUNCE);
        assert_eq!(state.next(start), Ok(key("a")));
        assert_eq!(state.next(start), Err(None));
        state.add(key("a"), start);
        state.add(key("a"), start);
        assert_eq!(state.next(start), Err(None), "one worker an object");
        state.end(key("a"), Ending::Done, start);
        assert_eq!(state.next(start), Err(Some(start + DEBOUNCE)));
        assert_eq!(state.next(start + DEBOUNCE), Ok(key("a")));
        state.end(key("a"), Ending::Done, start);
        assert_eq!(state.next(start + DEBOUNCE), Err(None));
    }

    #[test]
    fn a_broken_object_waits_longer_each_time_and_slows_no_other() {
        let mut state = State::default();
        let mut now = Instant::now();
        let mut last = Duration::ZERO;
        state.add(key("broken"), now);
        for _ in 0..4 {
            assert_eq!(state.next(now), Ok(key("broken")));
            state.end(key("broken"), Ending::Retry, now);
            let Err(Some(at)) = state.next(now) else { panic!("it waits") };
            assert!(at - now > last.mul_f64(0.9), "{:?} after {last:?}", at - now);
            last = at - now;
            state.add(key("fine"), now);
            assert_eq!(state.next(now), Ok(key("fine")));
            state.end(key("fine"), Ending::Done, now);
            now = at;
        }
        // What changes is looked at at once, however long it had to wait.
        state.add(key("broken"), now - last);
        assert_eq!(state.next(now - last), Ok(key("broken")));
    }

    #[test]
    fn what_is_due_later_is_looked_at_earlier_when_it_changes() {
        let mut state = State::default();
        let now = Instant::now();
        let later = Duration::from_secs(60);
        state.add(key("a"), now);
        assert_eq!(state.next(now), Ok(key("a")));
        state.end(key("a"), Ending::Later(later), now);
        assert_eq!(state.next(now), Err(Some(now + later)));
        state.add(key("a"), now + DEBOUNCE);
        assert_eq!(state.next(now + DEBOUNCE), Ok(key("a")));
        state.end(key("a"), Ending::Done, now);
        assert_eq!(state.next(now + later), Err(None), "once");
    }

    #[test]
    fn waits_are_between_half_a_second_and_five_minutes() {
        assert_eq!(backoff(1, 0.0), Duration::from_secs(1));
        assert_eq!(backoff(1, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(4, 0.0), Duration::from_secs(8));
        assert_eq!(backoff(9, 0.0), Duration::from_secs(256));
        assert_eq!(backoff(u32::MAX, 0.0), Duration::from_secs(300));
    }
}
