//! What users write: the three kinds of `smallfirst.dev/v1alpha1`, their shared types, conditions and CRDs.

pub mod conditions;
pub mod crd;
pub mod escalation_path;
pub mod health;
pub mod model_from;
pub mod model_tier;
pub mod pool;
pub mod quota_store;
pub mod router;
pub mod routing_policy;
pub mod scaling;
pub mod sizing;
pub mod types;

pub use escalation_path::{EscalationPath, EscalationPathSpec, EscalationPathStatus};
pub use model_tier::{ModelTier, ModelTierSpec, ModelTierStatus};
pub use routing_policy::{RoutingPolicy, RoutingPolicySpec, RoutingPolicyStatus};

/// The API group.
pub const GROUP: &str = "smallfirst.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";
