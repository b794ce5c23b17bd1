//! Reserves of workloads, checked against the accounts that they are of.

use std::collections::{BTreeMap, BTreeSet};

use super::path::Tiers;
use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::routing_policy::{RoutingPolicySpec, Workload};
use crate::api::types::Risk;
use crate::routing::table::{self, Path};

/// The whole of an account, in the unit of parts.
const ONE: u64 = 1_000_000_000;

/// Most of an account that may be reserved, in 1e-9: something must be left for everybody else.
const MOST: u64 = 900_000_000;

/// A workload's reserve in 1e-9, checked by itself.
pub(super) fn reserve(problems: &mut Problems, field: &str, spec: &RoutingPolicySpec, w: &Workload) -> Option<u64> {
    let field = format!("{field}.reserve");
    let nanos = problems.parsed(&field, w.reserve.as_ref()?.nanos());
    if nanos == 0 {
        problems.add(REASON_INVALID, &field, "must be above 0");
    }
    if w.risk != Risk::High {
        problems.add(REASON_INVALID, &field, format!("only a workload of risk High can have one, not {}", w.risk));
    }
    let listed = |names: &Option<Vec<String>>| names.iter().flatten().any(|name| *name == w.name);
    if !spec.clients.iter().flatten().any(|client| listed(&client.workloads)) {
        let problem = format!("a workload with a reserve needs a client that lists it: no workloads hold {:?}", w.name);
        problems.add(REASON_INVALID, &field, problem);
    }
    Some(nanos)
}

/// Every reserve must be of something, and all of one account leave a tenth of it, and a request and a place: else nobody of
/// Low risk would ever be admitted. Paths that are `incomplete` may yet get the tier that a reserve is of.
pub(super) fn check(
    problems: &mut Problems,
    workloads: &[table::Workload],
    paths: &BTreeMap<String, Path>,
    incomplete: &BTreeSet<String>,
    tiers: &Tiers,
) {
    let (mut sums, mut last) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, usize>::new());
    for (i, workload) in workloads.iter().enumerate() {
        let (Some(nanos), Some(path)) = (workload.reserve, paths.get(&workload.path)) else { continue };
        let accounts = table::reserved(path, tiers);
        if accounts.is_empty() && !incomplete.contains(&workload.path) {
            let problem = "no Frontier tier of the workload's path has a provider with a quota: there is nothing to \
                           reserve of";
            problems.add(REASON_INVALID, format!("spec.workloads[{i}].reserve"), problem);
        }
        for account in accounts {
            let sum = sums.entry(account).or_default();
            *sum = sum.saturating_add(nanos);
            if *sum > MOST && *sum - nanos <= MOST {
                let problem = format!(
                    "the reserves of account {account} come to more than 0.9: lower them, something must be left to others"
                );
                problems.add(REASON_INVALID, format!("spec.workloads[{i}].reserve"), problem);
            }
            last.insert(account, i);
        }
    }
    for (account, quota) in tiers.values().filter_map(|tier| tier.account.as_ref()).map(|a| (a.name.as_str(), a.quota))
    {
        // All of its tiers have the same quota by now.
        let (Some(sum), Some(i)) = (sums.get(account).filter(|sum| **sum <= MOST), last.remove(account)) else {
            continue;
        };
        let limits =
            [("requestsPerMinute", quota.requests_per_minute), ("maxConcurrent", quota.max_concurrent.map(u64::from))];
        for (name, limit) in limits.into_iter().filter_map(|(name, limit)| Some((name, limit?))) {
            // One that comes to nothing is told already.
            if limit > 0 && limit.saturating_mul(ONE - sum) < ONE {
                let problem = format!(
                    "the reserves of account {account} leave less than one of {name}: {limit} to others: lower them or \
                     raise the quota"
                );
                problems.add(REASON_INVALID, format!("spec.workloads[{i}].reserve"), problem);
            }
        }
    }
}
