//! The children of a policy.

use super::{Invalid, PolicyPlan, Settings};
use crate::api::RoutingPolicy;
use crate::routing::table::{self, RoutingTable};

pub(super) fn plan(
    _policy: &RoutingPolicy,
    table: &RoutingTable,
    unresolved: Option<Invalid>,
    _settings: &Settings,
) -> Result<PolicyPlan, Invalid> {
    let json = table.to_json();
    Ok(PolicyPlan {
        table: Default::default(),
        service_account: Default::default(),
        role: Default::default(),
        role_binding: Default::default(),
        network_policy: Default::default(),
        service: Default::default(),
        disruption_budget: Default::default(),
        deployment: Default::default(),
        table_hash: table::hash(&json),
        unresolved,
    })
}
