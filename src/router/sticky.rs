//! Conversations that escalated: their next turns start where the last answer came from, because a switch back would lose
//! the prompt cache and the thread.
//!
//! A conversation is known by a header, or by its messages: those of a turn are the messages of the turn before, its
//! answer, and something new. What is kept is a keyed hash, in memory, of this router alone, and bounded: when there is no
//! room, conversations that were not seen again go first.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::{Duration, Instant};

use http::HeaderMap;
use quick_cache::sync::Cache;

use super::body::Peek;
use super::route::Route;
use super::trace::{Ending, Trace};
use crate::routing::table::Sticky as Rule;

/// Conversations that are remembered: about 10 MiB.
const MOST: usize = 100_000;

/// Where conversations start.
pub struct Sticky {
    starts: Cache<u64, (usize, Instant)>,
    hash: RandomState,
}

impl Default for Sticky {
    fn default() -> Self {
        Self { starts: Cache::new(MOST), hash: RandomState::new() }
    }
}

/// A turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The step that it starts at.
    pub start: usize,
    /// What the next turn will be known by.
    next: u64,
    ttl: Duration,
}

impl Sticky {
    /// The turn that a request is, where its path remembers conversations and it is of one.
    #[must_use]
    pub fn turn(&self, route: &Route, client: Option<usize>, peek: &Peek<'_>, headers: &HeaderMap) -> Option<Turn> {
        let rule = route.path.sticky.as_ref()?;
        let (before, next) = match rule {
            Rule::Header { name, .. } => {
                let id = self.key(route, client, &[headers.get(name)?.as_bytes()]);
                (Some(id), id)
            }
            Rule::Prefix { .. } => {
                let (messages, answered) = peek.conversation();
                let of = |messages: &[&[u8]]| self.key(route, client, messages);
                (answered.and_then(|count| messages.get(..count)).map(of), of(&messages))
            }
        };
        let (Rule::Header { ttl_ms, .. } | Rule::Prefix { ttl_ms }) = rule;
        let ttl = Duration::from_millis(*ttl_ms);
        let known = before.and_then(|key| self.starts.get(&key)).filter(|(_, since)| since.elapsed() < ttl);
        let start = known.map_or(0, |(start, _)| start).min(route.path.steps.len().saturating_sub(1));
        Some(Turn { start, next, ttl })
    }

    /// Remembers a turn that was answered by a step after the first one, because of what an earlier answer was.
    pub fn answered(&self, route: &Route, turn: Turn, trace: &Trace<'_>) {
        let escalated = trace.0.iter().any(|step| matches!(step.ending, Ending::Escalated(_)));
        let Some(last) = trace.0.last().filter(|last| last.ending == Ending::Accepted) else { return };
        let at = route.path.steps.iter().position(|step| step.name == last.leg.step).unwrap_or_default();
        if at > 0 && at >= turn.start && (escalated || turn.start > 0) && !turn.ttl.is_zero() {
            self.starts.insert(turn.next, (at, Instant::now()));
        }
    }

    /// A path that has other steps than it had is another path.
    fn key(&self, route: &Route, client: Option<usize>, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hash.build_hasher();
        (&route.workload, client, parts).hash(&mut hasher);
        route.path.steps.iter().for_each(|step| step.name.hash(&mut hasher));
        hasher.finish()
    }
}
