//! Who is set aside for a failure: an endpoint, or the tier.
//!
//! Of several endpoints those that give no answer at all are always set aside. One that fails often or answers late may
//! only be the busiest, or have got the harder requests: of such as many stay as have gone, because what is taken from
//! them the others must carry.

use std::sync::Arc;
use std::time::Instant;

use super::breaker::Fault;
use super::endpoints::Endpoint;
use super::snapshot::Upstream;

/// One of the tier's endpoints failed.
pub(super) fn endpoint_failed(
    upstream: &Upstream,
    all: &[Arc<Endpoint>],
    endpoint: &Endpoint,
    fault: Fault,
    now: Instant,
    jitter: f64,
) {
    let rules = &upstream.rules;
    let should_go = endpoint.circuit().failure(rules, fault, now, jitter);
    if should_go {
        // One at a time: two that look at once would both go.
        let _tier = upstream.circuit();
        let gone = all.iter().filter(|other| other.circuit().is_open()).count();
        let mut circuit = endpoint.circuit();
        if !circuit.is_open() && (gone + 1) * 2 <= all.len() {
            circuit.eject(rules, now, jitter);
        }
    }
}

/// The tier failed as a whole.
pub(super) fn tier_failed(upstream: &Upstream, fault: Fault, now: Instant, jitter: f64) {
    let mut circuit = upstream.circuit();
    if circuit.failure(&upstream.rules, fault, now, jitter) {
        circuit.eject(&upstream.rules, now, jitter);
    }
}
