//! Which requests are tried again. Demand is what clients want, not how often they ask for it while they do not get it.
//!
//! The clients of OpenAI and Anthropic say in a header how often they have tried. That is a hint that anybody can send, so
//! it is believed only of a request that was not answered before: of those a hash is kept, for so many at a time.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName};

/// How often the client has tried.
static HEADER: HeaderName = HeaderName::from_static("x-stainless-retry-count");
/// Hashes that are kept.
const KEPT: usize = 4096;
/// Bytes at either end of a body that are looked at: long ones are told apart by their ends and their length.
const ENDS: usize = 8 << 10;

/// Requests that were not answered. Shared by all cores.
pub struct Tries {
    hashes: Box<[AtomicU64]>,
    /// Of this process: nobody can choose bodies that share a place.
    keys: RandomState,
}

impl Default for Tries {
    fn default() -> Self {
        Self { hashes: (0..KEPT).map(|_| AtomicU64::new(0)).collect(), keys: RandomState::new() }
    }
}

impl Tries {
    /// Notes that a client's request was not answered.
    pub fn unanswered(&self, client: Option<usize>, body: &[u8]) {
        let hash = self.hash(client, body);
        if let Some(place) = self.place(hash) {
            place.store(hash, Ordering::Relaxed);
        }
    }

    /// Whether a request was noted before and its client tries it again.
    #[must_use]
    pub fn is_again(&self, headers: &HeaderMap, client: Option<usize>, body: &[u8]) -> bool {
        let tried = headers.get(&HEADER).is_some_and(|count| count.as_bytes() != b"0");
        tried && {
            let hash = self.hash(client, body);
            self.place(hash).is_some_and(|place| place.load(Ordering::Relaxed) == hash)
        }
    }

    fn hash(&self, client: Option<usize>, body: &[u8]) -> u64 {
        let mut hasher = self.keys.build_hasher();
        (client, body.len()).hash(&mut hasher);
        hasher.write(body.get(..ENDS).unwrap_or(body));
        hasher.write(body.get(body.len().saturating_sub(ENDS)..).unwrap_or_default());
        // 0 is nobody's.
        hasher.finish().max(1)
    }

    fn place(&self, hash: u64) -> Option<&AtomicU64> {
        self.hashes.get(usize::try_from(hash % (KEPT as u64)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(count: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HEADER.clone(), http::HeaderValue::from_static(count))])
    }

    #[test]
    fn only_what_was_not_answered_and_says_so_is_tried_again() {
        let tries = Tries::default();
        tries.unanswered(Some(1), b"body");
        assert!(tries.is_again(&tried("1"), Some(1), b"body"));
        assert!(tries.is_again(&tried("2"), Some(1), b"body"), "and again");
        assert!(!tries.is_again(&tried("0"), Some(1), b"body"), "a first try");
        assert!(!tries.is_again(&HeaderMap::new(), Some(1), b"body"), "by a client that does not say");
        assert!(!tries.is_again(&tried("1"), Some(2), b"body"), "of another client");
        assert!(!tries.is_again(&tried("1"), Some(1), b"other"), "a lie");
    }

    #[test]
    fn long_bodies_differ_by_their_ends_and_length() {
        let tries = Tries::default();
        let long = |first: u8, last: u8, length: usize| {
            let mut body = vec![b' '; length];
            body[0] = first;
            body[length - 1] = last;
            body
        };
        tries.unanswered(None, &long(1, 1, 100_000));
        for (first, last, length, again) in
            [(1, 1, 100_000, true), (2, 1, 100_000, false), (1, 2, 100_000, false), (1, 1, 100_001, false)]
        {
            assert_eq!(tries.is_again(&tried("1"), None, &long(first, last, length)), again);
        }
    }
}
