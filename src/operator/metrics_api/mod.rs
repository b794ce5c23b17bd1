//! The metrics API: what a HorizontalPodAutoscaler reads, served behind the API server's aggregation layer.
//!
//! ```text
//!   HPA --> API server --TLS, its front proxy's certificate--> server --> callers: who is it
//!             |  APIService, caBundle <-- registration                     access: may they (SubjectAccessReview)
//!             +-- ConfigMap extension-apiserver-authentication --> trust   world: how many requests has the tier
//! ```
//! One metric, [`METRIC`], of one tier at a time. Every operator pod answers, and never 0 for what it does not know.

pub mod access;
pub mod callers;
pub mod documents;
pub mod registration;
pub mod request;
pub mod server;
pub mod trust;

/// API group that is served.
pub const GROUP: &str = "external.metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";
/// The metric: requests that a tier has at a time.
pub const METRIC: &str = "smallfirst_tier_concurrency";
