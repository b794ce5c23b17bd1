//! What else could serve the same load: the policy's table, changed to what people have without smallfirst. FrontierOnly
//! and StaticFallback leave no tier alone either: each request finds out for itself.

use std::cmp::Reverse;

use super::scenario::Baseline;
use crate::api::escalation_path::{Direction, Entry, FailoverReason, OnExhausted};
use crate::api::types::ModelClass;
use crate::routing::RoutingTable;
use crate::routing::table::{Path, Step};

/// Every kind of failure: such lists go on after each of them.
const ALL: [FailoverReason; 6] = [
    FailoverReason::Unreachable,
    FailoverReason::Timeout,
    FailoverReason::RateLimited,
    FailoverReason::ServerError,
    FailoverReason::Degraded,
    FailoverReason::ContextOverflow,
];

/// The table of a baseline.
#[must_use]
pub fn table(table: &RoutingTable, baseline: Baseline) -> RoutingTable {
    let mut table = table.clone();
    if baseline == Baseline::FixedPools {
        return table;
    }
    let tiers = table.tiers.clone();
    let class = |tier: &str| tiers.get(tier).map(|tier| tier.class);
    let price = |tier: &str| tiers.get(tier).map_or(0, |tier| tier.output_price);
    let mut frontiers: Vec<&String> = tiers.keys().filter(|tier| class(tier) == Some(ModelClass::Frontier)).collect();
    frontiers.sort_by_key(|tier| price(tier));
    for path in table.paths.values_mut() {
        let own = path.steps.iter().flat_map(|step| &step.tiers).find(|tier| class(tier) == Some(ModelClass::Frontier));
        // A path without one gets the cheapest there is.
        let Some(frontier) = own.or_else(|| frontiers.first().copied()).cloned() else { continue };
        let mut others: Vec<String> = path.steps.iter().flat_map(|step| step.tiers.clone()).collect();
        others.retain(|tier| *tier != frontier);
        others.sort_by_key(|tier| Reverse(class(tier)));
        others.dedup();
        if baseline == Baseline::FrontierOnly {
            others.clear();
        }
        *path = list(path, std::iter::once(frontier).chain(others));
    }
    for workload in &mut table.workloads {
        workload.reserve = None;
    }
    for tier in table.tiers.values_mut() {
        tier.account = None;
    }
    table
}

/// A list of tiers, each asked when the one before fails: no gates, no bounds but the path's deadline.
fn list(path: &Path, tiers: impl Iterator<Item = String>) -> Path {
    let timeout_ms = path.steps.iter().map(|step| step.timeout_ms).max().unwrap_or(path.deadline_ms);
    let step = |(at, tier): (usize, String)| Step {
        name: tier.clone(),
        tiers: vec![tier],
        entry: if at == 0 { Entry::Always } else { Entry::FailoverOnly },
        timeout_ms,
        attempts: 1,
        accept: Vec::new(),
    };
    Path {
        steps: tiers.enumerate().map(step).collect(),
        failover_on: ALL.to_vec(),
        direction: Direction::UpThenDown,
        on_exhausted: OnExhausted::BestAnswer,
        escalation_limit: None,
        slack: None,
        hedge: None,
        sticky: None,
        max_cost: None,
        ..path.clone()
    }
}
