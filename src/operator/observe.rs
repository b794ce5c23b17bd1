//! What the cluster says, as plain data: the input of `validate` and `plan`.

use std::collections::BTreeMap;

use crate::api::{EscalationPath, ModelTier, RoutingPolicy};

/// The objects of one namespace, by name.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The namespace.
    pub namespace: String,
    /// Tiers by name.
    pub tiers: BTreeMap<String, std::sync::Arc<ModelTier>>,
    /// Paths by name.
    pub paths: BTreeMap<String, std::sync::Arc<EscalationPath>>,
    /// Policies by name.
    pub policies: BTreeMap<String, std::sync::Arc<RoutingPolicy>>,
}
