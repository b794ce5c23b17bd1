//! The APIService through which the API server finds the metrics API. The chart makes it and takes it away, so that none is
//! left behind that blocks the deletion of namespaces. The leader writes one field of it, the authority of our certificates,
//! if it names our Service. That of another is left alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;

use super::{GROUP, VERSION};
use crate::operator::apply::guarded;
use crate::operator::controller::{Queue, triggers};
use crate::operator::observe::Availability;
use crate::operator::observe::world::World;
use crate::routing::table::SyncAddress;
use crate::runtime::leader::Leader;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Bound on a read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For how long the API server must not have reached it until that is told: longer than an operator takes to be replaced.
const PATIENCE: Duration = Duration::from_secs(30);
/// Field manager.
const MANAGER: &str = "smallfirst-metrics-api";

/// Keeps the APIService.
pub struct Registration {
    api: Api<APIService>,
    leader: Leader,
    world: Arc<World>,
    queue: Arc<Queue>,
    /// Namespace and name of our Service.
    service: (String, String),
    /// Says which authority signs our certificates.
    authority: watch::Receiver<Option<SyncAddress>>,
}

/// What an APIService asks for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// This is how it stands.
    Stands(Availability),
    /// It is ours, and the API server does not reach us, for this reason.
    Unreached(String),
    /// Our authority.
    Lacks,
}

impl Registration {
    /// A keeper of the APIService that names this Service, which tells `world` how it stands, and the tiers of which that is
    /// said to `queue`.
    #[must_use]
    pub fn new(
        client: Client,
        leader: Leader,
        world: Arc<World>,
        queue: Arc<Queue>,
        service: (String, String),
        authority: watch::Receiver<Option<SyncAddress>>,
    ) -> Self {
        world.set_metrics_api(Availability::Unknown);
        Self { api: Api::all(client), leader, world, queue, service, authority }
    }

    /// Keeps for ever.
    pub async fn run(mut self) {
        let mut reach = Reach::default();
        loop {
            let stands = match self.look().await {
                Ok(found) => found.and_then(|found| reach.told(found, Instant::now())),
                // It is as it was, as far as we know.
                Err(error) => {
                    tracing::warn!(%error, "APIService {}; it is tried again", name());
                    None
                }
            };
            if let Some(stands) = stands
                && self.world.set_metrics_api(stands.clone())
            {
                match &stands {
                    Availability::Unavailable(problem) => {
                        tracing::warn!(problem, "autoscalers can't read the metrics API");
                    }
                    Availability::Available => tracing::info!("autoscalers can read the metrics API"),
                    Availability::Off | Availability::Unknown => {}
                }
                self.queue.add_all(triggers::metrics_api(&self.world));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = self.authority.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What there is, when there is nothing to do about it.
    async fn look(&mut self) -> anyhow::Result<Option<Found>> {
        let authority = self.authority.borrow_and_update().as_ref().map(|sync| sync.ca.clone());
        let Some(authority) = authority else { return Ok(None) };
        let found = tokio::time::timeout(TIMEOUT, self.api.get_opt(&name())).await??;
        match judge(found.as_ref(), &self.service, &authority) {
            found @ (Found::Stands(_) | Found::Unreached(_)) => Ok(Some(found)),
            Found::Lacks if self.leader.leads(tokio::time::Instant::now()) => {
                let version = found.and_then(|found| found.metadata.resource_version);
                // The version: if it is another's since, nothing is written.
                let patch = json!({
                    "metadata": {"resourceVersion": version},
                    "spec": {"caBundle": ByteString(authority.into_bytes())},
                });
                let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
                let object = format!("APIService {}", name());
                let patch = Patch::Merge(&patch);
                guarded(&self.leader, &object, self.api.patch(&name(), &params, &patch)).await?;
                Ok(None)
            }
            Found::Lacks => Ok(None),
        }
    }
}

/// Since when the API server was seen not to reach us.
#[derive(Default)]
struct Reach(Option<Instant>);

impl Reach {
    /// What to tell of what was found. `None`: nothing new yet.
    fn told(&mut self, found: Found, now: Instant) -> Option<Availability> {
        match found {
            Found::Unreached(problem) => {
                let since = *self.0.get_or_insert(now);
                (now.duration_since(since) >= PATIENCE).then_some(Availability::Unavailable(problem))
            }
            Found::Stands(stands) => {
                self.0 = None;
                Some(stands)
            }
            Found::Lacks => None,
        }
    }
}

fn name() -> String {
    format!("{VERSION}.{GROUP}")
}

fn judge(found: Option<&APIService>, service: &(String, String), authority: &str) -> Found {
    let unavailable = |problem: String| Found::Stands(Availability::Unavailable(problem));
    let Some(found) = found else {
        return unavailable(format!("There is no APIService {}: set metricsApi.enabled of the chart", name()));
    };
    let spec = found.spec.as_ref();
    let theirs = spec.and_then(|spec| spec.service.as_ref());
    let theirs = theirs.map(|theirs| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (text(&theirs.namespace), text(&theirs.name))
    });
    if theirs.as_ref() != Some(service) {
        let whose = theirs.map_or_else(
            || "the API server itself".to_owned(),
            |(namespace, name)| format!("Service {namespace}/{name}"),
        );
        let mend = "choose KEDA as the autoscaler of tiers, or remove the other";
        return unavailable(format!("APIService {} is of {whose}, and not taken over: {mend}", name()));
    }
    if spec.and_then(|spec| spec.ca_bundle.as_ref()).is_none_or(|bundle| bundle.0 != authority.as_bytes()) {
        return Found::Lacks;
    }
    let conditions = found.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let available = conditions.into_iter().find(|condition| condition.type_ == "Available");
    match available {
        Some(condition) if condition.status == "True" => Found::Stands(Availability::Available),
        Some(condition) if condition.status == "False" => {
            // Not its message, which is another each time.
            let reason = condition.reason.as_deref().unwrap_or("Unknown");
            Found::Unreached(format!(
                "The API server does not reach the operator ({reason}): its condition Available of APIService {} says why",
                name()
            ))
        }
        _ => Found::Stands(Availability::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: serde_json::Value, status: &str) -> APIService {
        let condition = json!({
            "type": "Available", "status": status, "reason": "MissingEndpoints", "message": "no route",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let object = json!({"metadata": {"name": name()}, "spec": spec, "status": {"conditions": [condition]}});
        serde_json::from_value(object).expect("an APIService")
    }

    fn judged(object: Option<&APIService>) -> Found {
        judge(object, &("sys".to_owned(), "ours".to_owned()), "CA")
    }

    #[test]
    fn only_our_own_is_written_to_and_only_what_it_lacks() {
        let spec = |namespace: &str, bundle: &str| {
            let service = json!({"namespace": namespace, "name": "ours"});
            let bundle = ByteString(bundle.as_bytes().to_vec());
            json!({"service": service, "caBundle": bundle, "groupPriorityMinimum": 1, "versionPriority": 1})
        };
        let problem = |found: Found| match found {
            Found::Stands(Availability::Unavailable(problem)) => problem,
            other => panic!("{other:?}"),
        };
        assert!(problem(judged(None)).contains("metricsApi.enabled"));
        let theirs = problem(judged(Some(&object(spec("keda", "CA"), "True"))));
        assert!(theirs.contains("is of Service keda/ours, and not taken over"), "{theirs}");
        let local = json!({"groupPriorityMinimum": 1, "versionPriority": 1});
        assert!(problem(judged(Some(&object(local, "True")))).contains("of the API server itself"));
        assert_eq!(judged(Some(&object(spec("sys", "other"), "True"))), Found::Lacks);
        let available = |status| judged(Some(&object(spec("sys", "CA"), status)));
        assert_eq!(available("True"), Found::Stands(Availability::Available));
        assert_eq!(available("Unknown"), Found::Stands(Availability::Unknown));
        let Found::Unreached(problem) = available("False") else { panic!("it is not reached") };
        assert!(problem.contains("(MissingEndpoints)") && !problem.contains("no route"), "{problem}");
    }

    #[test]
    fn a_restart_is_not_told_and_an_outage_is() {
        let (mut reach, begin) = (Reach::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let unreached = || Found::Unreached("why".to_owned());
        let available = || Found::Stands(Availability::Available);
        for (found, second, told) in [
            (available(), 0, Some(Availability::Available)),
            (unreached(), 10, None),
            (unreached(), 39, None),
            (available(), 39, Some(Availability::Available)),
            (unreached(), 40, None),
            (unreached(), 69, None),
            (unreached(), 70, Some(Availability::Unavailable("why".to_owned()))),
            (unreached(), 80, Some(Availability::Unavailable("why".to_owned()))),
        ] {
            assert_eq!(reach.told(found, at(second)), told, "after {second} s");
        }
    }
}
