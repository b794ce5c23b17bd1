//! The tables of a cluster -> the limits that its operator lends.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::{Limits, Quota, RoutingTable, reserved};
use crate::lease::ledger::Limit;
use crate::lease::reserve::{OfPolicy, Reserve};
use crate::lease::{Key, Kind, Scope};

/// The reserves of a table, by account.
#[must_use]
pub fn reserves(table: &RoutingTable) -> BTreeMap<&str, Vec<Reserve>> {
    let mut reserves: BTreeMap<&str, Vec<Reserve>> = BTreeMap::new();
    for (workload, nanos) in table.workloads.iter().filter_map(|w| Some((w, w.reserve?))) {
        let path = table.paths.get(&workload.path);
        for account in path.map(|path| reserved(path, &table.tiers)).unwrap_or_default() {
            reserves.entry(account).or_default().push(Reserve { workload: workload.name.clone(), nanos });
        }
    }
    reserves
}

/// All limits of these tables, and the longest time for which a request of theirs may be at work. Tables whose routers hold
/// parts have none. Of what two tables say of one account the smaller limit counts, and the greater number of routers;
/// each table's reserves are kept.
#[must_use]
pub fn limits<'t>(tables: impl IntoIterator<Item = &'t RoutingTable>) -> (Vec<Limit>, Duration) {
    let mut all: BTreeMap<(String, Option<String>, Key), Limit> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    let mut kept: BTreeMap<(String, String), Vec<OfPolicy>> = BTreeMap::new();
    for table in tables {
        let Some(leases) = table.leases else { continue };
        longest = longest.max(table.longest());
        let mut add = |scope, name: &str, kind, limit: Option<u64>, most| {
            let Some(limit) = limit else { return };
            let policy = (scope != Scope::Account).then(|| table.policy.clone());
            let key = Key { scope, name: name.to_owned(), kind };
            let new = Limit { namespace: table.namespace.clone(), policy, key, limit, most, reserves: Vec::new() };
            let place = (new.namespace.clone(), new.policy.clone(), new.key.clone());
            let known = all.entry(place).or_insert(new);
            (known.limit, known.most) = (known.limit.min(limit), known.most.max(most));
        };
        let clients = table.clients.iter().flatten().map(|client| (Scope::Client, &client.name, client.limits));
        let workloads = table.workloads.iter().map(|workload| (Scope::Workload, &workload.name, workload.limits));
        for (scope, name, limits) in clients.chain(workloads) {
            let Some(Limits { requests_per_minute, tokens_per_minute, max_concurrent }) = limits else { continue };
            add(scope, name, Kind::Requests, requests_per_minute, leases.most);
            add(scope, name, Kind::Tokens, tokens_per_minute, leases.most);
            add(scope, name, Kind::Concurrency, max_concurrent.map(u64::from), leases.most);
        }
        for account in table.tiers.values().filter_map(|tier| tier.account.as_ref()) {
            let Quota {
                requests_per_minute,
                tokens_per_minute,
                input_tokens_per_minute,
                output_tokens_per_minute,
                max_concurrent,
            } = account.quota;
            let most = leases.most_of_accounts;
            add(Scope::Account, &account.name, Kind::Requests, requests_per_minute, most);
            add(Scope::Account, &account.name, Kind::Tokens, tokens_per_minute, most);
            add(Scope::Account, &account.name, Kind::InputTokens, input_tokens_per_minute, most);
            add(Scope::Account, &account.name, Kind::OutputTokens, output_tokens_per_minute, most);
            add(Scope::Account, &account.name, Kind::Concurrency, max_concurrent.map(u64::from), most);
        }
        for (account, reserves) in reserves(table) {
            let of = kept.entry((table.namespace.clone(), account.to_owned())).or_default();
            of.extend(reserves.into_iter().map(|reserve| (table.policy.clone(), reserve)));
        }
    }
    for limit in all.values_mut().filter(|limit| limit.key.scope == Scope::Account) {
        let reserves = kept.get(&(limit.namespace.clone(), limit.key.name.clone()));
        limit.reserves = reserves.cloned().unwrap_or_default();
    }
    (all.into_values().collect(), longest)
}
