//! Endpoints of tiers: who can be asked, how busy each is, and which one to ask.
//!
//! Two are drawn and the less busy one is taken (power of two choices): near the best of all, without looking at all.
//! An endpoint that works on as many requests as it declared is taken only when every other does too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, Uri};

use super::answer::Usage;
use super::breaker::Circuit;
use super::crowd::Crowd;
use super::tally::Tally;

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A pod.
    Pod(SocketAddr),
    /// A host by name, with TLS or without.
    Host {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Whether TLS is spoken.
        tls: bool,
    },
}

/// One place that answers for a tier. Shared by all cores.
#[derive(Debug)]
pub struct Endpoint {
    /// Its number, never given twice: what connections are kept by.
    pub id: u64,
    /// Where it is.
    pub address: Address,
    /// `host` of requests to it.
    pub host: HeaderValue,
    /// Requests that it works on for this router.
    pub in_flight: AtomicUsize,
    /// How many those were, over time.
    crowd: Mutex<Crowd>,
    /// Whether it answers.
    pub circuit: Mutex<Circuit>,
    /// Until when its circuit is open, as [`millis`]; 0 if it is closed. Read without the lock.
    aside_until: AtomicU64,
    /// When it was last heard on any connection, in milliseconds since [`epoch`].
    heard: AtomicU64,
    /// When it was last asked whether it lives, and whether it did.
    pub(super) probed: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

/// What times are counted from that cores tell each other.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// A time in milliseconds since the [`epoch`]: a number fits an atomic.
#[must_use]
pub(super) fn millis(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch()).as_millis()).unwrap_or(u64::MAX)
}

/// An endpoint's circuit, locked.
pub struct Held<'a> {
    circuit: MutexGuard<'a, Circuit>,
    aside_until: &'a AtomicU64,
}

impl Deref for Held<'_> {
    type Target = Circuit;
    fn deref(&self) -> &Circuit {
        &self.circuit
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Circuit {
        &mut self.circuit
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.aside_until.store(self.circuit.open_until().map_or(0, millis), Ordering::Relaxed);
    }
}

/// Namespace, Service, and name of its port, which is empty for a port without one.
pub type Port = (String, String, String);

/// Endpoints of every Service.
#[derive(Debug, Default)]
pub struct Endpoints {
    by_port: BTreeMap<Port, Vec<Arc<Endpoint>>>,
}

/// Ready addresses of every Service: what a watch says.
pub type Addresses = BTreeMap<Port, Vec<SocketAddr>>;

impl Endpoint {
    /// A pod that nothing is known of.
    #[must_use]
    pub fn of_pod(at: SocketAddr) -> Self {
        // Digits, dots, colons and brackets are a header's value.
        let host = HeaderValue::try_from(at.to_string()).unwrap_or(HeaderValue::from_static(""));
        Self::new(Address::Pod(at), host)
    }

    fn new(address: Address, host: HeaderValue) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            address,
            host,
            in_flight: AtomicUsize::new(0),
            crowd: Mutex::new(Crowd::new(Instant::now())),
            circuit: Mutex::default(),
            aside_until: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            probed: tokio::sync::Mutex::default(),
        }
    }

    /// The endpoint of a base URL, if it names a host.
    #[must_use]
    pub fn of_url(url: &Uri) -> Option<Self> {
        let tls = url.scheme_str() != Some("http");
        let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let authority = HeaderValue::from_str(url.authority()?.as_str()).ok()?;
        Some(Self::new(Address::Host { host, port, tls }, authority))
    }

    /// Its circuit.
    pub fn circuit(&self) -> Held<'_> {
        let circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        Held { circuit, aside_until: &self.aside_until }
    }

    /// Whether it is set aside at a time, which is given as [`millis`].
    pub(super) fn is_aside(&self, now: u64) -> bool {
        self.aside_until.load(Ordering::Relaxed) > now
    }

    /// Notes that it was heard.
    pub fn heard(&self) {
        self.heard.store(millis(Instant::now()), Ordering::Relaxed);
    }

    /// For how long it has not been heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        epoch().elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// Counts a request as in flight until the guard is dropped.
    #[must_use]
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        Occupied { endpoint: self.clone(), since: now, found: self.crowd().enter(now) }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that it works on for this router.
    pub(super) fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// A request in flight at an endpoint.
#[derive(Debug)]
pub struct Occupied {
    endpoint: Arc<Endpoint>,
    /// When it came,
    since: Instant,
    /// and how many there were then, itself included.
    found: usize,
}

impl Occupied {
    /// Where it is.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Counts it as a call that was answered whole just now, of so many tokens.
    pub fn answered(&self, tally: &Tally, usage: Usage) {
        let now = Instant::now();
        let passed = self.endpoint.crowd().take(now);
        tally.answered(self.found, now.saturating_duration_since(self.since), usage, &passed);
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.crowd().leave(Instant::now());
    }
}

impl Endpoints {
    /// Endpoints for what a watch said; those that were known keep their state.
    #[must_use]
    pub fn from_addresses(addresses: &Addresses, before: &Self) -> Self {
        let by_port = addresses
            .iter()
            .map(|(key, list)| {
                let known = before.by_port.get(key).map_or(&[][..], Vec::as_slice);
                let endpoint = |at: &SocketAddr| {
                    let old = known.iter().find(|e| e.address == Address::Pod(*at));
                    old.cloned().unwrap_or_else(|| Arc::new(Endpoint::of_pod(*at)))
                };
                (key.clone(), list.iter().map(endpoint).collect())
            })
            .collect();
        Self { by_port }
    }

    /// Ready endpoints of a Service's port.
    #[must_use]
    pub fn of(&self, port: &Port) -> &[Arc<Endpoint>] {
        self.by_port.get(port).map_or(&[], Vec::as_slice)
    }
}

/// Chooses an endpoint that was not tried yet and whose circuit lets it; `random` draws below a bound.
pub fn choose(
    endpoints: &[Arc<Endpoint>],
    tried: &[Arc<Endpoint>],
    concurrency: Option<u32>,
    now: Instant,
    mut random: impl FnMut(usize) -> usize,
) -> Option<Arc<Endpoint>> {
    let mut left: Vec<&Arc<Endpoint>> = endpoints.iter().filter(|e| !tried.iter().any(|t| Arc::ptr_eq(t, e))).collect();
    let busy = |e: &Endpoint| concurrency.is_some_and(|most| e.load() >= usize::try_from(most).unwrap_or(usize::MAX));
    while !left.is_empty() {
        let index = less_busy(left.len(), |index| (busy(left[index]), left[index].load()), &mut random);
        let chosen = left.swap_remove(index);
        if chosen.circuit().admit(now) {
            return Some(chosen.clone());
        }
    }
    None
}

/// The less busy of two that are drawn of so many, at least one. `rank`: whether it is busy, and its load. With one busy
/// draw and a free one elsewhere, the least busy of all.
pub fn less_busy(
    count: usize,
    rank: impl Fn(usize) -> (bool, usize),
    random: &mut impl FnMut(usize) -> usize,
) -> usize {
    let (a, b) = two(count, random);
    let index = if rank(b) < rank(a) { b } else { a };
    if rank(index).0 { (0..count).min_by_key(|i| rank(*i)).unwrap_or(index) } else { index }
}

/// Two different indices below a bound, where there are two: of few endpoints, the same one drawn twice would get a
/// request too often, however busy it is.
fn two(bound: usize, random: &mut impl FnMut(usize) -> usize) -> (usize, usize) {
    let first = random(bound);
    let second = random(bound.saturating_sub(1).max(1));
    (first, if second < first { second } else { (second + 1).min(bound - 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Arc<Endpoint>> {
        (1..=3).map(|n| Arc::new(Endpoint::of_pod(SocketAddr::from(([10, 0, 0, n], 80))))).collect()
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let all = three();
        let _busy = [all[0].occupy(), all[0].occupy(), all[1].occupy()];
        let mut draws = [0, 0].into_iter();
        let chosen = choose(&all, &[], None, Instant::now(), |_| draws.next().unwrap());
        assert!(Arc::ptr_eq(&chosen.unwrap(), &all[1]));
    }

    #[test]
    fn two_draws_differ_and_reach_everybody() {
        for (bound, pairs) in [(1, 1), (2, 2), (3, 6), (4, 12)] {
            let mut seen = std::collections::BTreeSet::new();
            for draw in 0..bound * bound {
                let mut draws = [draw % bound, draw / bound].into_iter();
                let (a, b) = two(bound, &mut |bound| draws.next().unwrap() % bound);
                assert!(a < bound && b < bound && (bound == 1 || a != b), "{a} {b} of {bound}");
                seen.insert((a, b));
            }
            assert_eq!(seen.len(), pairs);
        }
    }

    #[test]
    fn a_full_endpoint_is_taken_only_when_all_are() {
        let all = three();
        let _busy = [all[0].occupy(), all[1].occupy()];
        let chosen = choose(&all, &[], Some(1), Instant::now(), |_| 0);
        assert!(Arc::ptr_eq(&chosen.unwrap(), &all[2]));
    }

    #[test]
    fn tried_and_open_endpoints_are_left_out() {
        let (all, now) = (three(), Instant::now());
        all[1].circuit().open(now, Duration::from_secs(5));
        let chosen = choose(&all, &all[..1], None, now, |_| 0);
        assert!(Arc::ptr_eq(&chosen.unwrap(), &all[2]));
        assert!(choose(&all[..2], &all[..1], None, now, |_| 0).is_none());
    }
}
