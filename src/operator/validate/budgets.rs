//! Budgets of clients and workloads -> their entries in the routing table.

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::routing_policy as api;
use crate::lease::budget::period::zone;
use crate::routing::table;

/// The budget at `field`.
pub(super) fn budget(problems: &mut Problems, field: &str, budget: Option<&api::Budget>) -> Option<table::Budget> {
    let api::Budget { amount, per, on_exhausted } = budget?;
    let nanos = problems.parsed(format!("{field}.amount"), amount.nanos());
    // Nine digits before the point and nine after it fit.
    let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
    if nanos < 1 {
        problems.add(REASON_INVALID, format!("{field}.amount"), format!("{amount} must be above 0"));
    }
    Some(table::Budget { amount: nanos, per: *per, on_exhausted: *on_exhausted })
}

/// The time zone of budgets must be one that is known.
pub(super) fn time_zone(problems: &mut Problems, name: &str) {
    if zone(name).is_none() {
        let problem = format!("{name:?} is no time zone of the IANA database, such as UTC or Europe/Berlin");
        problems.add(REASON_INVALID, "spec.timeZone", problem);
    }
}
