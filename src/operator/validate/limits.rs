//! Limits of clients and workloads -> their entries in the routing table.

use super::problems::Problems;
use crate::api::conditions::REASON_INVALID;
use crate::api::routing_policy as api;
use crate::routing::table;

/// The limits at `field`.
pub(super) fn limits(problems: &mut Problems, field: &str, limits: Option<&api::Limits>) -> Option<table::Limits> {
    let api::Limits { requests_per_minute, tokens_per_minute, max_concurrent } = limits?;
    if requests_per_minute.is_none() && tokens_per_minute.is_none() && max_concurrent.is_none() {
        let problem = "at least one of requestsPerMinute, tokensPerMinute and maxConcurrent must be set";
        problems.add(REASON_INVALID, field, problem);
    }
    let mut checked = |name: &str, limit: i64| {
        if limit < 1 {
            problems.add(REASON_INVALID, format!("{field}.{name}"), format!("{limit} must be at least 1"));
        }
        u64::try_from(limit).unwrap_or_default()
    };
    Some(table::Limits {
        requests_per_minute: requests_per_minute.map(|limit| checked("requestsPerMinute", limit)),
        tokens_per_minute: tokens_per_minute.map(|limit| checked("tokensPerMinute", limit)),
        max_concurrent: max_concurrent
            .map(|limit| u32::try_from(checked("maxConcurrent", limit.into())).unwrap_or_default()),
    })
}
