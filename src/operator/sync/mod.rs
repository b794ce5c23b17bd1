//! What routers tell: the server that they report to, on every operator pod, and who they are.
//!
//! ```text
//!   keeper: Secret smallfirst-sync-ca --> certificate of this process, CA for the tables
//!   router --TLS, token--> server --> tokens (TokenReview) --> routers (an index) --> queue: the policy is looked at
//! ```
//! Every operator listens, the leader and those that wait to lead: a new leader knows the world at once.

pub mod authority;
pub mod books;
pub mod keeper;
pub mod lending;
pub mod routers;
pub mod server;
pub mod state;
pub mod tokens;

/// The Secret in the operator's own namespace that holds the authority's key.
pub const SECRET: &str = "smallfirst-sync-ca";
/// Name in the certificates of operators.
pub const SERVER_NAME: &str = "smallfirst-sync";
