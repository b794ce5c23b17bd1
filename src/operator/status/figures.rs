//! What requests came to, as a policy's status has it: what the leader measured, else what was said last.

use std::collections::BTreeMap;

use super::budgets::decimal;
use crate::api::RoutingPolicy;
use crate::api::routing_policy::WorkloadStatus;
use crate::api::types::{Decimal, Ratio};
use crate::operator::demand::Figures;

/// Figures of a policy.
pub(super) struct Said {
    /// Of its workloads, in the order of its spec.
    pub(super) workloads: Vec<WorkloadStatus>,
    /// Of all requests together.
    pub(super) cost_per_transaction: Option<Decimal>,
}

/// The figures of a policy.
pub(super) fn figures(policy: &RoutingPolicy, known: Option<&BTreeMap<String, Figures>>) -> Said {
    let names = policy.spec.workloads.iter().map(|workload| &workload.name);
    let Some(known) = known.filter(|known| !known.is_empty()) else {
        let stored = policy.status.clone().unwrap_or_default();
        let workloads = names.filter_map(|name| stored.workloads.iter().find(|said| said.name == *name).cloned());
        return Said { workloads: workloads.collect(), cost_per_transaction: stored.cost_per_transaction };
    };
    let all = known.values().fold(Figures::default(), |all, each| all.and(*each));
    let workloads = names.map(|name| said(name, known.get(name).copied().unwrap_or_default()));
    Said { workloads: workloads.collect(), cost_per_transaction: money(all) }
}

fn said(name: &str, figures: Figures) -> WorkloadStatus {
    let ratio = figures.escalation_ratio().map(|thousandths| Ratio(decimal(thousandths_to_nanos(thousandths)).0));
    WorkloadStatus {
        name: name.to_owned(),
        requests: count(figures.0.offered),
        cost_per_transaction: money(figures),
        escalation_ratio: ratio,
        accepted_under_pressure: (figures.0.under_pressure > 0).then(|| count(figures.0.under_pressure)),
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(three_digits(number)).unwrap_or(i64::MAX)
}

fn money(figures: Figures) -> Option<Decimal> {
    let nanos = figures.cost_per_transaction()?;
    Some(decimal(count(nanos)))
}

fn thousandths_to_nanos(thousandths: u64) -> i64 {
    i64::try_from(thousandths.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

/// A number rounded to its first three digits, half up: what comes after them changes all the time.
fn three_digits(number: u64) -> u64 {
    let mut unit = 1_u64;
    while number / unit >= 1000 {
        unit = unit.saturating_mul(10);
    }
    number.saturating_add(unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::demand::Sums;

    #[test]
    fn three_digits_are_said() {
        for (number, said) in
            [(0, 0), (7, 7), (999, 999), (1004, 1000), (1005, 1010), (12_345, 12_300), (999_999, 1_000_000)]
        {
            assert_eq!(three_digits(number), said, "{number}");
        }
    }

    fn policy(status: serde_json::Value) -> RoutingPolicy {
        let workload = |name: &str| json!({"name": name, "owner": "o", "pathRef": {"name": "p"}});
        serde_json::from_value(json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {"name": "front"},
            "spec": {"anonymous": {}, "workloads": [workload("chat"), workload("intent")], "default": {"workload": "chat"}},
            "status": status,
        }))
        .expect("a policy")
    }

    #[test]
    fn what_was_measured_is_said_of_every_workload_and_else_what_was_said_before() {
        let under_pressure = 1_234;
        let sums = Sums {
            offered: 12_345,
            answered: 10_000,
            cost: 4_236_000_000,
            judged: 9_000,
            failed: 1_600,
            under_pressure,
        };
        let public = Sums { offered: 10_000, answered: 10_000, cost: 0, ..Sums::default() };
        let known = [("chat", sums), ("gone", Sums::default()), ("tier/large", public)];
        let known = known.map(|(name, sums)| (name.to_owned(), Figures(sums))).into();
        let new = figures(&policy(json!({})), Some(&known));
        let said = serde_json::to_value(&new.workloads).expect("JSON");
        assert_eq!(
            said,
            json!([
                {"name": "chat", "requests": 12_300, "costPerTransaction": "0.000424", "escalationRatio": "0.177",
                 "acceptedUnderPressure": 1_230},
                {"name": "intent", "requests": 0},
            ])
        );
        assert_eq!(new.cost_per_transaction, Some(Decimal("0.000212".to_owned())));
        // Another operator does not know yet; and a workload that is gone has no figures.
        let stored =
            policy(json!({"workloads": [said[0], {"name": "gone", "requests": 3}], "costPerTransaction": "0.5"}));
        let kept = figures(&stored, None);
        assert_eq!(serde_json::to_value(kept.workloads).expect("JSON"), json!([said[0]]));
        assert_eq!(kept.cost_per_transaction, Some(Decimal("0.5".to_owned())));
    }
}
