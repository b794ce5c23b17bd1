//! Devices of a pool: what the API server would refuse in every pod.

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::model_tier::Pool;

/// Checks that devices, which are named with a domain, have a limit, and no request that differs from it.
pub(super) fn check(problems: &mut Problems, pool: &Pool) {
    let Some(resources) = &pool.resources else { return };
    for (name, quantity) in resources.requests.iter().filter(|(name, _)| name.contains('/')) {
        if resources.limits.get(name) != Some(quantity) {
            let field = format!("spec.pool.resources.limits[{name:?}]");
            problems.add(
                REASON_INVALID,
                field,
                format!("must be {}, like its request: devices are not shared", quantity.0),
            );
        }
    }
}
