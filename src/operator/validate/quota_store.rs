//! A store that clusters share -> where routers find it.

use super::problems::Problems;
use super::tier::forbidden_host;
use crate::api::conditions::REASON_INVALID;
use crate::api::quota_store::{QuotaStore, RedisStore};
use crate::routing::table;

const URL: &str = "spec.provider.quota.store.redis.url";

/// Checks a store and gives its place in the table, with the quota of all clusters.
pub(super) fn store(problems: &mut Problems, declared: &QuotaStore, quota: table::Quota) -> table::QuotaStore {
    let RedisStore { url, credential, ca, key_prefix } = &declared.redis;
    if let Some(problem) = wrong(url, credential.is_some()) {
        // The URL is not quoted: it may hold a secret.
        problems.add(REASON_INVALID, URL, problem);
    }
    if ca.is_some() && !url.starts_with("rediss://") {
        problems.add(
            REASON_INVALID,
            "spec.provider.quota.store.redis.ca",
            "only a rediss URL has a certificate; remove it, or use rediss",
        );
    }
    table::QuotaStore {
        url: url.clone(),
        username: credential.as_ref().and_then(|credential| credential.username.clone()),
        password: credential.as_ref().map(|credential| credential.secret_key_ref.clone()),
        ca: ca.as_ref().map(|ca| ca.secret_key_ref.clone()),
        key_prefix: key_prefix.clone(),
        quota,
    }
}

fn wrong(url: &str, logs_in: bool) -> Option<&'static str> {
    const FORM: &str = "must be rediss://HOST[:PORT][/DATABASE] or redis://HOST[:PORT][/DATABASE]";
    let Ok(uri) = url.parse::<http::Uri>() else { return Some(FORM) };
    let (Some(scheme @ ("redis" | "rediss")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Some(FORM);
    };
    if authority.as_str().contains('@') {
        return Some("must not hold credentials; use credential");
    }
    let database = uri.path().trim_start_matches('/');
    let number = database.is_empty() || database.len() <= 4 && database.bytes().all(|b| b.is_ascii_digit());
    if authority.host().is_empty() || !number || uri.query().is_some() || url.contains('#') {
        return Some(FORM);
    }
    let host = authority.host().to_ascii_lowercase();
    if forbidden_host(&host) {
        return Some("is a link-local or metadata address");
    }
    let in_cluster = host.ends_with(".svc") || host.ends_with(".svc.cluster.local");
    (scheme == "redis" && logs_in && !in_cluster).then_some(
        "must be rediss where there is a credential, or redis only to a Service of the cluster (*.svc or \
         *.svc.cluster.local)",
    )
}
