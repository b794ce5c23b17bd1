//! Six routers and one account: what they take together, in virtual time, with the operator's ledger and without.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::account::{Account, Asker, Order, Permit};
use super::limiter::Demand;
use super::share::Share;
use crate::api::types::Risk;
use crate::lease::ledger::Ledger;
use crate::lease::lessee::Lessee;
use crate::lease::{Grants, Key, PERIOD, RouterId};
use crate::router::metrics::Metrics;
use crate::routing::lent::limits;
use crate::routing::table::Quota;

const ROUTERS: u32 = 6;
const LONGEST: Duration = Duration::from_secs(10);

struct Router {
    id: RouterId,
    account: Arc<Account>,
    lessee: Lessee,
    answered: u64,
    next: Instant,
}

impl Router {
    fn apply(&mut self, grants: &Grants, now: Instant) {
        let Some(terms) = self.lessee.read(grants) else { return };
        self.answered = terms.answers;
        let grant = |key: &Key| terms.grants.iter().find(|grant| grant.key == *key);
        let soon = self.account.apply(grant, &terms, now);
        self.next = now + soon.unwrap_or(PERIOD);
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What was admitted in so many seconds, of tries by each router per tick of 100 ms. Nothing may exceed the quota.
async fn admitted(
    routers: &mut [Router],
    ledger: &mut Option<Ledger>,
    seconds: u64,
    tries: [u32; 6],
    provider: &mut Provider,
) -> u32 {
    let mut count = 0;
    for _ in 0..seconds * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        provider.open.retain_mut(|(until, permit)| {
            let open = now() < *until;
            if !open && let Some(permit) = permit.take() {
                permit.settle(None);
            }
            open
        });
        for (place, router) in routers.iter_mut().enumerate() {
            if let Some(ledger) = ledger.as_mut().filter(|_| router.next <= now()) {
                let mut claims = Vec::new();
                router.account.claim((router.lessee.next(), router.answered), now(), &mut claims);
                let report = router.lessee.report(claims, now());
                let grants = ledger.report(&router.id, &report, now());
                router.apply(&grants, now());
            }
            for _ in 0..tries[place] {
                let order = Order { input: 1, output: Demand { stated: 1, assumed: 0 } };
                let asker = Asker { risk: Risk::Low, movable: false, reserve: None };
                // It has no time to wait.
                let now = tokio::time::Instant::now();
                if let Ok(permit) = router.account.admit(order, asker, now, || ()).await {
                    count += 1;
                    provider.take(permit);
                }
            }
        }
    }
    count
}

/// The provider, which counts what comes over the quota.
struct Provider {
    /// When it was asked, in the last minute.
    minute: VecDeque<Instant>,
    requests: usize,
    places: usize,
    open: Vec<(Instant, Option<Permit>)>,
}

impl Provider {
    fn take(&mut self, permit: Permit) {
        while self.minute.pop_front_if(|at| now() - *at >= Duration::from_secs(60)).is_some() {}
        self.minute.push_back(now());
        assert!(self.minute.len() <= self.requests, "over the quota of requests");
        self.open.push((now() + Duration::from_secs(2), Some(permit)));
        assert!(self.open.len() <= self.places, "over the quota of places");
    }
}

#[tokio::test(start_paused = true)]
async fn routers_use_nearly_all_of_an_account_and_never_more() {
    let quota = Quota { requests_per_minute: Some(120), max_concurrent: Some(8), ..Quota::default() };
    let share = Share::Lease { most: ROUTERS + 1, longest: LONGEST };
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let mut routers: Vec<Router> = (0..ROUTERS)
        .map(|number| Router {
            id: RouterId { namespace: "ml".into(), policy: "front".into(), pod: number.to_string(), incarnation: 1 },
            account: Account::new("provider", quota, share, Vec::new(), None, None, &metrics),
            lessee: Lessee::new(now()),
            answered: 0,
            next: now() + Duration::from_millis(u64::from(number) * 100),
        })
        .collect();
    let table = serde_json::json!({
        "formatVersion": 1, "namespace": "ml", "policy": "front", "currency": "USD", "clients": null, "paths": {},
        "workloads": [], "defaultWorkload": null, "accessLog": "JSON", "leases": {"most": 7, "mostOfAccounts": 7},
        "tiers": {"frontier": {
            "class": "Frontier", "dataClass": "Internal", "public": false, "model": "m", "contextTokens": 1,
            "capabilities": [], "inputPrice": 0, "cachedInputPrice": 0, "outputPrice": 0, "concurrency": null,
            "account": {"name": "provider", "quota": {"requestsPerMinute": 120, "maxConcurrent": 8}},
            "backend": {"url": {"baseUrl": "https://provider.example/v1", "credential": null}}
        }}
    });
    let table = serde_json::from_value(table).expect("a table");
    let (lent, _) = limits([&table]);
    assert_eq!(lent.len(), 2);
    let mut ledger = Some(Ledger::new(now(), 1));
    ledger.iter_mut().for_each(|ledger| ledger.set_limits(lent.clone(), LONGEST, now()));
    let mut provider = Provider { minute: VecDeque::new(), requests: 120, places: 8, open: Vec::new() };
    let skewed = [3, 1, 0, 0, 0, 1];
    let begin = admitted(&mut routers, &mut ledger, 60, skewed, &mut provider).await;
    let used = admitted(&mut routers, &mut ledger, 300, skewed, &mut provider).await;
    assert!(used >= 540, "{used} of 600");
    let mut text = String::new();
    encode(&mut text, &registry).expect("metrics");
    for (source, taken) in [("lease", begin + used), ("floor", 0)] {
        let labels = format!(r#"scope="account",name="provider",limit="requestsPerMinute",source="{source}""#);
        assert!(text.contains(&format!("smallfirst_router_lease_taken_total{{{labels}}} {taken}\n")), "{text}");
    }
    // Load that moves is followed.
    let moved = [0, 0, 0, 5, 0, 0];
    admitted(&mut routers, &mut ledger, 5, moved, &mut provider).await;
    let used = admitted(&mut routers, &mut ledger, 120, moved, &mut provider).await;
    assert!(used >= 216, "{used} of 240");
    // Without an operator there is only what was carved out, and of 8 places for 7 routers that is none.
    admitted(&mut routers, &mut None, 60, skewed, &mut provider).await;
    let used = admitted(&mut routers, &mut None, 60, skewed, &mut provider).await;
    assert_eq!(used, 0);
    ledger = Some(Ledger::new(now(), 2));
    ledger.iter_mut().for_each(|ledger| ledger.set_limits(lent.clone(), LONGEST, now()));
    admitted(&mut routers, &mut ledger, 10, skewed, &mut provider).await;
    let used = admitted(&mut routers, &mut ledger, 60, skewed, &mut provider).await;
    assert!(used >= 108, "{used} of 120");
}
