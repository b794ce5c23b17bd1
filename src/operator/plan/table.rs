//! RoutingPolicy, EscalationPaths and ModelTiers -> the routing table. Also what `smallfirst local` runs.

use crate::api::conditions::{ACCEPTED, REASON_INVALID};
use crate::operator::observe::Observed;
use crate::operator::validate::{self, Invalid, Valid};
use crate::routing::RoutingTable;

/// The table of one policy, with what it had to leave out.
///
/// # Errors
/// When there is no such policy, or it or a path that it uses is wrong or missing.
pub fn compile(observed: &Observed, policy: &str) -> Result<Valid<RoutingTable>, Invalid> {
    let Some(found) = observed.policies.get(policy) else {
        let known: Vec<&str> = observed.policies.keys().map(String::as_str).collect();
        return Err(Invalid {
            condition: ACCEPTED,
            reason: REASON_INVALID,
            message: format!("RoutingPolicy {policy:?} does not exist; known policies: {}", known.join(", ")),
        });
    };
    validate::policy(found, observed)
}
