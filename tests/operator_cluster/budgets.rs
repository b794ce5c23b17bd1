//! Budgets over a real API server: routers that report through the code that real ones report with, operators that come
//! and go, and the ConfigMap in which what was granted is written down.

use k8s_openapi::api::core::v1::ConfigMap;
use smallfirst::api::routing_policy::{OnBudgetExhausted, Per};
use smallfirst::api::types::ModelClass;
use smallfirst::router::Shared;
use smallfirst::router::admission::budget::{Budget, Budgets, Purses};
use smallfirst::router::admission::budget_file::BudgetFile;
use smallfirst::router::admission::limiter::Scope;
use smallfirst::router::control::Standing;
use smallfirst::router::money::Money;
use smallfirst::routing::table;

use super::sync::{Fleet, Listening, portfolio};
use super::*;

/// In 1e-9 of the currency: 20 requests of a twentieth.
const AMOUNT: i64 = 1_000_000_000;
const PRICE: i64 = AMOUNT / 100;

fn budget(shared: &Shared) -> Arc<Budget> {
    let terms = table::Budget { amount: AMOUNT, per: Per::Month, on_exhausted: OnBudgetExhausted::Reject };
    shared.budgets.of(Scope::Workload, "chat", terms, "UTC", None)
}

/// Asks until nothing more is granted, `most` requests at most; how many were.
async fn spend(shared: &Shared, most: usize) -> usize {
    let budget = budget(shared);
    let purses = Purses([Some(&budget), None]);
    for made in 0..most {
        match purses.reserve(Money::from_nanos(u64::try_from(PRICE).unwrap()), ModelClass::Frontier).await {
            Ok(spend) => spend.settle(None),
            Err(problem) => {
                assert_eq!(problem.code, "budget_exhausted");
                return made;
            }
        }
    }
    most
}

#[test]
fn a_budget_is_shared_by_routers_and_outlives_operators() {
    let _turn = beside_others();
    server::with_server(|client| async move {
        let (ns, release) = (namespace(&client, "budget").await, namespace(&client, "budget-release").await);
        let start = || Listening::start(client.clone(), &release, Some(ns.clone()), Leader::default());
        let operator = start().await;
        let policies = portfolio(&client, &ns).await;
        let workloads = json!([{
            "name": "chat", "owner": "team", "risk": "Low", "pathRef": {"name": "way"},
            "budget": {"amount": "1", "per": "Month"},
        }]);
        let patch = Patch::Merge(json!({"spec": {"workloads": workloads}}));
        policies.patch("front", &PatchParams::default(), &patch).await.unwrap();
        let fleet = Fleet::new(&client, &ns).await;
        let sync = until("the operators' address", || async { operator.sync.borrow().clone() }).await;
        let standing = || Standing { sync: Some(sync.clone()), ..Standing::default() };
        let disk = tempfile::tempdir().unwrap();
        let kept = || Budgets::kept_in(BudgetFile::open(&disk.path().join("budgets"), 7).unwrap());
        let (tell, first) = fleet.reporting("r-0", standing(), kept());
        let (tell_second, second) = fleet.reporting("r-1", standing(), Budgets::default());
        // Both are written down before they are granted anything; a request waits for that for two seconds at most.
        for shared in [&first, &second] {
            until("a first grant", || async { (spend(shared, 1).await == 1).then_some(()) }).await;
        }
        assert_eq!((spend(&first, 29).await, spend(&second, 9).await), (29, 9));
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &ns);
        let state = maps.get("front-state").await.unwrap();
        let text = state.data.as_ref().and_then(|data| data.get("budgets.json")).unwrap();
        let stored: Value = serde_json::from_str(text).unwrap();
        let stored = &stored["workload/chat/Month"];
        assert!(stored["mark"].as_i64().unwrap() >= 40 * PRICE, "{text}");
        assert_eq!(stored["routers"].as_object().unwrap().len(), 2, "{text}");
        let owner = &state.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("RoutingPolicy", None), "it goes with its policy");
        let id = (ns.clone(), "front".to_owned());
        until("what was spent", || async {
            let known = operator.world.budgets.lock().unwrap();
            (known.get(&id)?.get("workload/chat/Month")?.spent == 40 * PRICE).then_some(())
        })
        .await;
        // The status says it, though not at once each time: written once a minute at most.
        let told = until("the status", || async { policies.get("front").await.unwrap().status?.budgets.pop() }).await;
        assert_eq!(told.name, "workload/chat");

        // A router's process is killed and comes again with its disk; the operator is replaced.
        drop((tell, first));
        operator.stop().await;
        let operator = start().await;
        let sync = until("the operators' address", || async { operator.sync.borrow().clone() }).await;
        let standing = Standing { sync: Some(sync), ..Standing::default() };
        let (_tell, first) = fleet.reporting("r-0", standing.clone(), kept());
        tell_second.send_replace(standing);
        let mut spent = 40;
        let began = Instant::now();
        // While the new leader does not know what was granted, requests are told to come again.
        while spent < 100 && began.elapsed() < Duration::from_secs(60) {
            spent += spend(&first, 3).await + spend(&second, 3).await;
        }
        assert_eq!(spent, 100, "all of it, and no more");
        assert_eq!((spend(&first, 3).await, spend(&second, 3).await), (0, 0));
        operator.stop().await;
    });
}
