//! What is said of the pools that are to be sized. Every [`PERIOD`](crate::sizing::PERIOD) they are sized anew; something new
//! is said only when it is worth a write: when a bound changes, or when another number of replicas is needed for certain.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::observe::cache::Id;
use super::validate;
use crate::api::ModelTier;
use crate::api::sizing::SizingStatus;
use crate::api::types::{Decimal, Ratio};
use crate::sizing::input::Portfolio;
use crate::sizing::output::{Band, Binding, PoolSize, Sizes};
use crate::sizing::steady::{Standing, settle};

/// Time of less demand after which the floor of a pool falls that nobody scales.
const STABILIZATION: Duration = Duration::from_secs(300);

/// The floors that stand, of all namespaces.
#[derive(Debug, Default)]
pub struct Planner(Mutex<HashMap<Id, Planned>>);

#[derive(Debug)]
struct Planned {
    standing: Standing,
    said: SizingStatus,
}

impl Planner {
    fn planned(&self) -> MutexGuard<'_, HashMap<Id, Planned>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the sizes of a namespace's pools, `now` since any moment. Gives the tiers of which there is something new to
    /// say.
    pub fn look(
        &self,
        namespace: &str,
        tiers: &BTreeMap<String, Arc<ModelTier>>,
        portfolio: &Portfolio,
        sizes: &Sizes,
        now: Duration,
    ) -> Vec<Id> {
        let mut planned = self.planned();
        planned.retain(|(of, tier), _| of != namespace || portfolio.pools.contains_key(tier));
        let mut news = Vec::new();
        for (tier, size) in &sizes.pools {
            let min = portfolio.pools.get(tier).map_or(0, |pool| pool.min);
            let scaling = tiers.get(tier).and_then(|tier| validate::scaling(tier));
            let stabilization = scaling.map_or(STABILIZATION, |scaling| scaling.stabilization);
            let id = (namespace.to_owned(), tier.clone());
            // After a restart what was said last stands.
            let stored = || tiers.get(&id.1)?.status.as_ref()?.sizing.clone();
            let before = planned.remove(&id);
            let (standing, said) = match before {
                Some(before) => (Some(before.standing), Some(before.said)),
                None => {
                    let said: Option<SizingStatus> = stored();
                    let floor = said.as_ref().and_then(|said| u32::try_from(said.floor).ok());
                    (floor.map(Standing::at), said)
                }
            };
            let standing = settle(standing, size, min, stabilization, now);
            let new = status(size, standing.floor);
            let said = match said {
                Some(said) if !is_news(&said, &new, size.band) => said,
                _ => {
                    news.push(id.clone());
                    new
                }
            };
            planned.insert(id, Planned { standing, said });
        }
        news
    }

    /// What is said of a tier. `None`: nothing yet.
    #[must_use]
    pub fn said(&self, tier: &Id) -> Option<SizingStatus> {
        self.planned().get(tier).map(|planned| planned.said.clone())
    }

    /// Forgets everything: another operator sizes now.
    pub fn clear(&self) {
        self.planned().clear();
    }
}

fn status(size: &PoolSize, floor: u32) -> SizingStatus {
    let count = |replicas: u32| i32::try_from(replicas).unwrap_or(i32::MAX);
    SizingStatus {
        requests_per_second: Decimal(format!("{:.2}", size.own_rate)),
        escalation_ratio: Ratio(format!("{:.3}", size.escalation)),
        slots: i64::try_from(size.slots.all).unwrap_or(i64::MAX),
        needed: count(size.replicas),
        floor: count(floor),
        ceiling: count(size.ceiling),
        binding: size.binding,
        message: match floor == size.floor {
            true => size.sentence.clone(),
            false => format!("{floor} for now; {}", size.sentence),
        },
    }
}

/// Whether a person should be told. Rates change all the time; what is needed changed when what was said is for certain not
/// it any more. What was said stands while nothing is known, as after a restart.
fn is_news(said: &SizingStatus, new: &SizingStatus, band: Band) -> bool {
    let bounds = (said.floor, said.ceiling) != (new.floor, new.ceiling);
    match (said.binding, new.binding) {
        (Binding::Unknown, Binding::Unknown) => bounds,
        (Binding::Unknown, _) => true,
        (_, Binding::Unknown) => false,
        _ => bounds || u32::try_from(said.needed).map_or(true, |needed| !(band.low..=band.high).contains(&needed)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operator::observe::Observed;
    use crate::operator::plan::portfolio::{Known, portfolio};
    use crate::operator::plan::table::compile;
    use crate::routing::RoutingTable;
    use crate::routing::source::manifests::{Source, parse};
    use crate::sizing::input::{Escalation, Offered, Service, Takes, Variation};
    use crate::sizing::{PERIOD, size};

    /// Requests of a second each, so many a second.
    struct Fixed(f64);

    impl Known for Fixed {
        fn offered(&self, _policy: &str, workload: &str, _seconds: f64) -> Offered {
            let rate = if workload == "draft" { self.0 / 2.0 } else { self.0 };
            Offered { rate, dispersion: 1.0, window: 300.0 }
        }

        fn escalation(&self, _policy: &str, _workload: &str, step: &str) -> Option<Escalation> {
            (step == "first").then(|| Escalation { ratio: 0.25, ..Escalation::default() })
        }

        fn takes(&self, _policy: &str, _workload: &str, _tier: &str) -> Option<Takes> {
            Some(Takes { input_tokens: 100.0, output_tokens: 50.0, variation: Variation::UNKNOWN, seconds: 2.0 })
        }

        fn service(&self, tier: &str, _concurrency: Option<u32>) -> Option<Service> {
            (tier == "llama").then_some(Service::Constant { seconds: 1.0 })
        }
    }

    fn observed(replicas: u32) -> Observed {
        let tier = |name: &str, class: &str, rest: serde_json::Value| {
            let mut tier = json!({
                "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": name, "namespace": "ml"},
                "spec": {"class": class, "owner": "o", "model": {"name": "m", "contextTokens": 1000}}
            });
            let spec = tier["spec"].as_object_mut().unwrap();
            spec.extend(rest.as_object().unwrap().clone());
            tier
        };
        let pool = json!({"pool": {
            "engine": "LlamaCpp", "modelFrom": {"path": "/m"}, "replicas": replicas, "perReplica": {"concurrency": 8},
            "sizing": {"against": [{"name": "vast"}], "absorb": "0.5", "waitTarget": {"within": "200ms"}}
        }});
        let provider = json!({
            "prices": [{"inputPerMillion": "2", "outputPerMillion": "4"}],
            "provider": {"api": "OpenAI", "baseURL": "https://vast.test/v1", "quota": {"requestsPerMinute": 6000},
                         "credential": {"secretKeyRef": {"name": "s", "key": "k"}}}
        });
        let path = |name: &str, steps: serde_json::Value| {
            json!({
                "apiVersion": "smallfirst.dev/v1alpha1", "kind": "EscalationPath", "metadata": {"name": name, "namespace": "ml"},
                "spec": {"owner": "o", "steps": steps, "failover": {"direction": "UpThenDown"}}
            })
        };
        let policy = json!({
            "apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {"name": "front", "namespace": "ml"},
            "spec": {"anonymous": {}, "default": {"workload": "intent"}, "workloads": [
                {"name": "intent", "owner": "o", "match": {"models": ["i"]}, "pathRef": {"name": "up"}},
                {"name": "draft", "owner": "o", "match": {"models": ["d"]}, "pathRef": {"name": "down"}},
            ]}
        });
        let objects = [
            tier("llama", "Small", pool),
            tier("vast", "Frontier", provider),
            path(
                "up",
                json!([
                    {"name": "first", "tierRef": {"name": "llama"}, "accept": [{"finishReason": ["stop"]}]},
                    {"name": "then", "tierRef": {"name": "vast"}},
                ]),
            ),
            path(
                "down",
                json!([
                    {"name": "best", "tierRef": {"name": "vast"}},
                    {"name": "else", "tierRef": {"name": "llama"}, "entry": "FailoverOnly"},
                ]),
            ),
            policy,
        ];
        let text = objects.map(|object| object.to_string()).join("\n---\n");
        let mut observed = parse(&[Source { name: "objects".into(), text }]).unwrap();
        let table = compile(&observed, "front").unwrap();
        assert_eq!(table.unresolved, None);
        observed.tables.insert("front".into(), Arc::new(table.value));
        observed
    }

    fn look(planner: &Planner, observed: &Observed, rate: f64, now: Duration) -> Vec<Id> {
        let portfolio = portfolio(&observed.tables, &observed.tiers, &Fixed(rate));
        planner.look("ml", &observed.tiers, &portfolio, &size(&portfolio), now)
    }

    fn id() -> Id {
        ("ml".into(), "llama".into())
    }

    #[test]
    fn a_portfolio_is_what_the_tables_and_tiers_say() {
        let observed = observed(40);
        let portfolio = portfolio(&observed.tables, &observed.tiers, &Fixed(20.0));
        let [intent, draft] = &portfolio.workloads[..] else { panic!("{portfolio:?}") };
        assert_eq!(
            (intent.name.as_str(), intent.offered.rate, intent.steps[0].escalation.ratio),
            ("intent", 20.0, 0.25)
        );
        assert_eq!((intent.steps[1].tiers[0].as_str(), intent.steps[1].escalation.ratio), ("vast", 0.0));
        assert_eq!(draft.steps.len(), 2);
        let (account, pool) = (portfolio.accounts.values().next().unwrap(), &portfolio.pools["llama"]);
        assert_eq!((account.quota.requests_per_minute, pool.max, pool.asked.absorb), (Some(6000.0), 40, 0.5));
        assert_eq!((pool.asked.within, pool.asked.percentile), (0.2, 0.95));
        let sizes = size(&portfolio);
        assert_eq!((sizes.pools["llama"].own_rate, sizes.pools["llama"].fallback_rate), (20.0, 10.0));
    }

    /// A workload's data never goes to a tier that is not cleared for it, nor is it sized for it.
    #[test]
    fn what_a_tier_may_not_see_it_is_not_sized_for() {
        let mut observed = observed(40);
        let mut table = RoutingTable::clone(&observed.tables["front"]);
        table.workloads[1].data_class = crate::api::types::DataClass::Restricted;
        table.tiers.get_mut("llama").unwrap().data_class = crate::api::types::DataClass::Internal;
        observed.tables.insert("front".into(), Arc::new(table));
        let sizes = size(&portfolio(&observed.tables, &observed.tiers, &Fixed(20.0)));
        assert_eq!(sizes.pools["llama"].fallback_rate, 0.0);
    }

    #[test]
    fn something_is_said_once_and_again_when_it_changes() {
        let (planner, observed) = (Planner::default(), observed(40));
        let look = |rate, period: u32| look(&planner, &observed, rate, PERIOD * period);
        assert_eq!(look(20.0, 0), [id()]);
        let first = planner.said(&id()).unwrap();
        assert!(first.floor > 0 && first.floor == first.needed && first.ceiling == 40, "{first:?}");
        assert!(first.message.contains("take over half of vast's 10 req/s"), "{first:?}");
        assert_eq!(look(20.1, 1), []);
        assert_eq!(planner.said(&id()).unwrap(), first);
        assert_eq!(look(100.0, 2), [id()]);
        assert!(planner.said(&id()).unwrap().floor > 2 * first.floor);
        planner.clear();
        assert_eq!(planner.said(&id()), None);
    }

    #[test]
    fn a_pool_that_is_scaled_is_sized_between_its_bounds_and_falls_when_it_says() {
        let mut observed = observed(40);
        let mut tier = ModelTier::clone(&observed.tiers["llama"]);
        let scaling = json!({"min": 3, "max": 12, "scaleDownStabilization": "60s"});
        tier.spec.pool.as_mut().unwrap().scaling = Some(serde_json::from_value(scaling).unwrap());
        observed.tiers.insert("llama".into(), Arc::new(tier));
        let planner = Planner::default();
        let look = |rate, seconds| {
            look(&planner, &observed, rate, Duration::from_secs(seconds));
            planner.said(&id()).map(|said| (said.floor, said.ceiling))
        };
        assert_eq!(look(1000.0, 0), Some((12, 12)));
        assert_eq!(look(0.1, 15), Some((12, 12)));
        assert_eq!(look(0.1, 74), Some((12, 12)));
        assert_eq!(look(0.1, 75), Some((3, 12)));
    }

    #[test]
    fn what_was_said_last_stands_after_a_restart() {
        let mut observed = observed(40);
        let mut tier = ModelTier::clone(&observed.tiers["llama"]);
        let planner = Planner::default();
        look(&planner, &observed, 100.0, Duration::ZERO);
        let said = planner.said(&id());
        let floor = said.as_ref().unwrap().floor;
        tier.status = Some(crate::api::ModelTierStatus { sizing: said, ..Default::default() });
        observed.tiers.insert("llama".into(), Arc::new(tier));
        let after = Planner::default();
        let look = |seconds| look(&after, &observed, 1.0, Duration::from_secs(seconds));
        look(0);
        assert_eq!(after.said(&id()).unwrap().floor, floor);
        look(300);
        assert!(after.said(&id()).unwrap().floor < floor);
    }

    #[test]
    fn a_tier_that_is_not_to_be_sized_any_more_is_forgotten() {
        let (planner, mut observed) = (Planner::default(), observed(40));
        look(&planner, &observed, 1.0, Duration::ZERO);
        observed.tiers.clear();
        assert_eq!(look(&planner, &observed, 1.0, PERIOD), []);
        assert_eq!(planner.said(&id()), None);
    }
}
