//! How budgets stand, as a policy's status has it: what the leader knows, else what was said last.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::RoutingPolicy;
use crate::api::routing_policy::{Budget, BudgetStatus};
use crate::api::types::Decimal;
use crate::lease::budget::book::{Standing, key};

/// The budgets of a policy, in the order of their names.
pub(super) fn budgets(policy: &RoutingPolicy, known: Option<&BTreeMap<String, Standing>>) -> Vec<BudgetStatus> {
    let stored = policy.status.iter().flat_map(|status| &status.budgets);
    let stored: BTreeMap<&str, &BudgetStatus> = stored.map(|budget| (budget.name.as_str(), budget)).collect();
    let budget = |(scope, name, budget): (&str, &str, &Budget)| {
        let short = format!("{scope}/{name}");
        let told = known.and_then(|known| known.get(&key(scope, name, budget.per)));
        told.map(|standing| said(short.clone(), standing)).or_else(|| stored.get(short.as_str()).copied().cloned())
    };
    let mut budgets: Vec<BudgetStatus> = policy.spec.budgets().filter_map(budget).collect();
    budgets.sort_by(|a, b| a.name.cmp(&b.name));
    budgets
}

fn said(name: String, standing: &Standing) -> BudgetStatus {
    let Standing { amount, spent, ends } = *standing;
    BudgetStatus {
        name,
        spent: decimal(spent),
        left: decimal(amount.saturating_sub(spent).max(0)),
        period_ends: Time(Timestamp::from_second(ends).unwrap_or(Timestamp::MAX)),
    }
}

/// Units of 1e-9 as a decimal without trailing zeros.
pub(super) fn decimal(nanos: i64) -> Decimal {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    Decimal(text.trim_end_matches('0').trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_short() {
        for (nanos, text) in [(0, "0"), (1, "0.000000001"), (2_500_000_000, "2.5"), (10_000_000_000, "10")] {
            assert_eq!(decimal(nanos).0, text);
        }
    }
}
