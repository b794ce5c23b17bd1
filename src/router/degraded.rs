//! Tiers of which little is left: it serves workloads of risk High, and the others give way. Low first, then Medium.
//!
//! | what is left | Low gives way | Medium too |
//! | --- | --- | --- |
//! | of a limit, as the provider says in its replies | under 10 % | under 5 % |
//! | endpoints that are not set aside, of several | half or fewer | a quarter or fewer |
//! | a tier that was left alone is tried again | a fifth of its pause later than High | a tenth later |
//!
//! Only where a workload of risk High uses the tier: else nobody would be served by it. Nobody gives way for ever, though
//! there may be no request of High risk to find out: a pause ends, and a limit fills again (ADR 12).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::endpoints::{Endpoint, millis};
use super::snapshot::Upstream;
use crate::api::types::Risk;

/// Shares of a provider's limit below which Low and Medium give way.
pub const SHARES: [f64; 2] = [0.10, 0.05];

/// Until when little is left of a provider's limit: for Low and for Medium, as [`millis`]. Shared by all cores.
#[derive(Debug, Default)]
pub struct Scarce([AtomicU64; 2]);

impl Scarce {
    /// Notes what a reply says: for how long there is less than each of [`SHARES`].
    pub fn note(&self, shortages: [Duration; 2], now: Instant) {
        for (until, shortage) in self.0.iter().zip(shortages) {
            let end = if shortage.is_zero() { 0 } else { millis(now + shortage) };
            until.store(end, Ordering::Relaxed);
        }
    }

    /// How much longer there is too little for a risk; `None` if there is enough.
    fn to(&self, risk: Risk, now: Instant) -> Option<Duration> {
        let [low, medium] = &self.0;
        let until = match risk {
            Risk::Low => low,
            Risk::Medium => medium,
            Risk::High => return None,
        };
        let left = until.load(Ordering::Relaxed).checked_sub(millis(now))?;
        (left > 0).then(|| Duration::from_millis(left))
    }
}

/// A request gives way: what is left of the tier is for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivesWay {
    /// For so long, where it is for a limit that fills again.
    pub limited_for: Option<Duration>,
}

/// Whether a request of a risk gives way.
#[must_use]
pub fn gives_way(upstream: &Upstream, endpoints: &[Arc<Endpoint>], risk: Risk) -> Option<GivesWay> {
    if !upstream.serves_high || risk == Risk::High {
        return None;
    }
    let now = Instant::now();
    let scarce = upstream.scarce.to(risk, now);
    let circuit = upstream.circuit();
    (scarce.is_some() || few(endpoints, risk, now) || circuit.spares(risk, now))
        .then(|| GivesWay { limited_for: scarce.max(circuit.limited_for(now)) })
}

/// Whether the tier is left alone, or Low would give way: no time for what is not needed.
#[must_use]
pub fn is_degraded(upstream: &Upstream, endpoints: &[Arc<Endpoint>]) -> bool {
    let now = Instant::now();
    upstream.circuit().is_open() || upstream.scarce.to(Risk::Low, now).is_some() || few(endpoints, Risk::Low, now)
}

fn few(endpoints: &[Arc<Endpoint>], risk: Risk, now: Instant) -> bool {
    // Of one the tier's circuit says it all.
    if endpoints.len() < 2 {
        return false;
    }
    let now = millis(now);
    let left = endpoints.iter().filter(|endpoint| !endpoint.is_aside(now)).count();
    match risk {
        Risk::Low => left * 2 <= endpoints.len(),
        Risk::Medium => left * 4 <= endpoints.len(),
        Risk::High => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn low_gives_way_at_half_of_the_endpoints_and_medium_at_a_quarter() {
        let now = Instant::now();
        let all: Vec<_> = (1..=4).map(|n| Arc::new(Endpoint::of_pod(SocketAddr::from(([10, 0, 0, n], 80))))).collect();
        let mut given = Vec::new();
        for endpoint in &all {
            given.push([Risk::Low, Risk::Medium, Risk::High].map(|risk| few(&all, risk, now)));
            endpoint.circuit().open(now, Duration::from_secs(5));
        }
        assert_eq!(given, [[false, false, false], [false, false, false], [true, false, false], [true, true, false]]);
        // A pause that is over: somebody must find out.
        assert!(!few(&all, Risk::Low, now + Duration::from_secs(5)));
        assert!(!few(&all[..1], Risk::Low, now));
    }

    #[test]
    fn a_shortage_lasts_as_long_as_was_said_or_until_something_else_is() {
        let (scarce, now) = (Scarce::default(), Instant::now());
        let to = |at| [Risk::Low, Risk::Medium, Risk::High].map(|risk| scarce.to(risk, at).is_some());
        assert_eq!(to(now), [false, false, false]);
        scarce.note([Duration::from_secs(9), Duration::from_secs(4)], now);
        assert_eq!(to(now), [true, true, false]);
        assert_eq!(to(now + Duration::from_secs(5)), [true, false, false]);
        assert_eq!(to(now + Duration::from_secs(10)), [false, false, false]);
        scarce.note([Duration::from_secs(9), Duration::ZERO], now);
        assert_eq!(to(now), [true, false, false]);
    }
}
