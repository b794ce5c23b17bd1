//! Turns of the statuses that nobody waits for: so many a second, whatever their number, and to each object its own, so that
//! nobody comes again before it is its turn.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::Key;

/// Time between two: five a second.
const BETWEEN: Duration = Duration::from_millis(200);

/// Who is to write when.
#[derive(Debug, Default)]
pub struct Turns {
    /// The first turn that is free.
    next: Option<Instant>,
    /// Those that objects wait for.
    given: HashMap<Key, Instant>,
}

impl Turns {
    /// For how long an object must wait for its turn; `None`: now it is, and the next one is another.
    pub fn wait(&mut self, key: &Key, now: Instant) -> Option<Duration> {
        let next = &mut self.next;
        let at = *self.given.entry(key.clone()).or_insert_with(|| {
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + BETWEEN);
            at
        });
        let wait = at.saturating_duration_since(now);
        if wait.is_zero() {
            self.give_up(key);
            return None;
        }
        Some(wait)
    }

    /// The object has nothing to write any more.
    pub fn give_up(&mut self, key: &Key) {
        self.given.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Kind;
    use super::*;

    #[test]
    fn five_a_second_and_each_in_its_turn() {
        let (mut turns, begin) = (Turns::default(), Instant::now());
        let key = |n: u32| Key::new(Kind::Policy, "ml", &n.to_string());
        let waits: Vec<_> = (0..50).map(|n| turns.wait(&key(n), begin)).collect();
        assert_eq!(waits[0], None);
        for (n, wait) in (1..).zip(&waits[1..]) {
            assert_eq!(*wait, Some(BETWEEN * n), "{n}");
        }
        let later = begin + BETWEEN * 10;
        assert_eq!(turns.wait(&key(9), later), None, "late is in time");
        assert_eq!(turns.wait(&key(11), later), Some(BETWEEN), "as it was told");
        turns.give_up(&key(11));
        assert_eq!(turns.wait(&key(9), later), Some(BETWEEN * 40), "after all others");
        assert_eq!(turns.wait(&key(0), begin + Duration::from_secs(60)), None, "when nobody waits");
    }
}
