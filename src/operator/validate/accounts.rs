//! Quotas of providers -> what the tiers of one account may take together.

use std::collections::BTreeMap;

use super::path::Tiers;
use super::problems::Problems;
use super::quota_store::store;
use crate::api::conditions::REASON_INVALID;
use crate::api::model_tier::{Provider, Quota};
use crate::routing::table;

/// The account of a provider and the quota that this tier declares for it.
pub(super) fn account(problems: &mut Problems, provider: &Provider) -> table::Account {
    let key = &provider.credential.secret_key_ref;
    let name = provider.account.clone().unwrap_or_else(|| format!("{}/{}", key.name, key.key));
    let Some(declared) = &provider.quota else {
        return table::Account { name, quota: table::Quota::default(), store: None };
    };
    let share = match &declared.share {
        Some(share) => problems.parsed(format!("{FIELD}.share"), share.nanos()),
        None => WHOLE,
    };
    let quota = quota(problems, declared, share);
    let store = declared.store.as_ref().map(|declared_store| {
        if provider.account.is_none() {
            let problem = "must be set with quota.store: it names the account there";
            problems.add(REASON_INVALID, "spec.provider.account", problem);
        }
        if declared.share.is_none() {
            let problem = "must be set with store: it is what this cluster keeps to while the store is away";
            problems.add(REASON_INVALID, format!("{FIELD}.share"), problem);
        }
        // What is wrong with a limit has been said of the share.
        let whole = self::quota(&mut Problems::default(), declared, WHOLE);
        store(problems, declared_store, whole)
    });
    table::Account { name, quota, store }
}

const FIELD: &str = "spec.provider.quota";
/// The whole, in the unit of shares.
const WHOLE: u64 = 1_000_000_000;

/// A share, in 1e-9, of each limit.
fn quota(problems: &mut Problems, declared: &Quota, nanos: u64) -> table::Quota {
    let Quota {
        requests_per_minute,
        tokens_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        max_concurrent,
        share,
        store: _,
    } = declared;
    let apart = input_tokens_per_minute.is_some() || output_tokens_per_minute.is_some();
    if tokens_per_minute.is_some() && apart {
        let problem = "must not be set beside inputTokensPerMinute and outputTokensPerMinute";
        problems.add(REASON_INVALID, format!("{FIELD}.tokensPerMinute"), problem);
    }
    if requests_per_minute.is_none() && tokens_per_minute.is_none() && !apart && max_concurrent.is_none() {
        let problem = "at least one of requestsPerMinute, tokensPerMinute, inputTokensPerMinute, \
                       outputTokensPerMinute and maxConcurrent must be set";
        problems.add(REASON_INVALID, FIELD, problem);
    }
    let mut part = |name: &str, limit: i64| {
        let part = u128::try_from(limit).unwrap_or_default() * u128::from(nanos) / u128::from(WHOLE);
        if part < 1 {
            let share = share.as_ref().map(|share| format!(" with a share of {share}")).unwrap_or_default();
            let problem = format!("{limit}{share} comes to less than 1");
            problems.add(REASON_INVALID, format!("{FIELD}.{name}"), problem);
        }
        u64::try_from(part).unwrap_or_default()
    };
    table::Quota {
        requests_per_minute: requests_per_minute.map(|limit| part("requestsPerMinute", limit)),
        tokens_per_minute: tokens_per_minute.map(|limit| part("tokensPerMinute", limit)),
        input_tokens_per_minute: input_tokens_per_minute.map(|limit| part("inputTokensPerMinute", limit)),
        output_tokens_per_minute: output_tokens_per_minute.map(|limit| part("outputTokensPerMinute", limit)),
        max_concurrent: max_concurrent
            .map(|limit| u32::try_from(part("maxConcurrent", limit.into())).unwrap_or_default()),
    }
}

/// Gives all tiers of an account its quota: of each limit the smallest that one of them declares. Tiers of an account
/// without one have none to keep.
pub(super) fn share_quotas(tiers: &mut Tiers) {
    let mut quotas: BTreeMap<String, (table::Quota, Option<table::QuotaStore>)> = BTreeMap::new();
    for account in tiers.values().filter_map(|tier| tier.account.as_ref()) {
        let (quota, store) = quotas.entry(account.name.clone()).or_default();
        *quota = smaller(*quota, account.quota);
        let known = store.take().or_else(|| account.store.clone());
        *store = known.map(|known| {
            let whole = account.store.as_ref().map(|store| store.quota).unwrap_or_default();
            table::QuotaStore { quota: smaller(known.quota, whole), ..known }
        });
    }
    for tier in tiers.values_mut() {
        if let Some(account) = &mut tier.account {
            (account.quota, account.store) = quotas.get(&account.name).cloned().unwrap_or_default();
        }
        tier.account.take_if(|account| account.quota == table::Quota::default());
    }
}

/// Accounts whose tiers declare quotas and do not agree on a store, with what is wrong: what some of them take would not be
/// counted.
pub(super) fn split(tiers: &Tiers) -> BTreeMap<String, String> {
    let mut first: BTreeMap<&str, (&String, Option<table::QuotaStore>)> = BTreeMap::new();
    let mut split = BTreeMap::new();
    for (name, account) in tiers.iter().filter_map(|(name, tier)| Some((name, tier.account.as_ref()?))) {
        if account.quota == table::Quota::default() {
            continue;
        }
        // Their limits may differ: the smaller one counts.
        let place = account.store.clone().map(|store| table::QuotaStore { quota: table::Quota::default(), ..store });
        let (other, known) = first.entry(&account.name).or_insert_with(|| (name, place.clone()));
        if *known != place {
            let problem = format!(
                "is not that of ModelTier {other}, which is of the same account {}: declare the same in both",
                account.name
            );
            split.entry(account.name.clone()).or_insert(format!("ModelTier {name}: {FIELD}.store: {problem}"));
        }
    }
    split
}

fn smaller(a: table::Quota, b: table::Quota) -> table::Quota {
    fn less<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
        // Of two that are set the smaller: `None` is below every number.
        if a.is_some() && b.is_some() { a.min(b) } else { a.max(b) }
    }
    table::Quota {
        requests_per_minute: less(a.requests_per_minute, b.requests_per_minute),
        tokens_per_minute: less(a.tokens_per_minute, b.tokens_per_minute),
        input_tokens_per_minute: less(a.input_tokens_per_minute, b.input_tokens_per_minute),
        output_tokens_per_minute: less(a.output_tokens_per_minute, b.output_tokens_per_minute),
        max_concurrent: less(a.max_concurrent, b.max_concurrent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_quotas_each_limit_is_the_smaller_one() {
        let a = table::Quota { requests_per_minute: Some(5), max_concurrent: Some(2), ..table::Quota::default() };
        let b = table::Quota { requests_per_minute: Some(3), tokens_per_minute: Some(9), ..table::Quota::default() };
        let both = table::Quota { requests_per_minute: Some(3), tokens_per_minute: Some(9), ..a };
        assert_eq!((smaller(a, b), smaller(b, a)), (both, both));
        assert_eq!(smaller(a, table::Quota::default()), a);
    }
}
