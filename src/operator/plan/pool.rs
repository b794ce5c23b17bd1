//! The children of a pool.

use super::PoolPlan;
use crate::api::ModelTier;
use crate::api::model_tier::Pool;
use crate::routing::table;

pub(super) fn plan(_tier: &ModelTier, spec: &Pool, _entry: &table::Tier) -> PoolPlan {
    PoolPlan {
        service_account: Default::default(),
        network_policy: Default::default(),
        service: Default::default(),
        disruption_budget: Default::default(),
        deployment: Default::default(),
        template: spec.template.clone().map(|t| t.0),
    }
}
