//! The APIService through which the API server finds the metrics API. The chart makes it and takes it away, so that none is
//! left behind that blocks the deletion of namespaces. The leader writes one field of it, the authority of our certificates,
//! if it names our Service. That of another is left alone.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;

use super::{GROUP, VERSION};
use crate::operator::apply::guarded;
use crate::operator::observe::world::World;
use crate::routing::table::SyncAddress;
use crate::runtime::leader::Leader;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Bound on a read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Field manager.
const MANAGER: &str = "smallfirst-metrics-api";

/// Whether autoscalers can read the metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It is not served.
    #[default]
    Off,
    /// It is not known yet.
    Unknown,
    /// They can.
    Available,
    /// They can't, for this reason.
    Unavailable(String),
}

/// Keeps the APIService.
pub struct Registration {
    api: Api<APIService>,
    leader: Leader,
    world: Arc<World>,
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
    /// Our authority.
    Lacks,
}

impl Registration {
    /// A keeper of the APIService that names this Service, which tells `world` how it stands.
    #[must_use]
    pub fn new(
        client: Client,
        leader: Leader,
        world: Arc<World>,
        service: (String, String),
        authority: watch::Receiver<Option<SyncAddress>>,
    ) -> Self {
        world.set_metrics_api(Availability::Unknown);
        Self { api: Api::all(client), leader, world, service, authority }
    }

    /// Keeps for ever.
    pub async fn run(mut self) {
        loop {
            let stands = match self.look().await {
                Ok(stands) => stands,
                // It is as it was, as far as we know.
                Err(error) => {
                    tracing::warn!(%error, "APIService {}; it is tried again", name());
                    None
                }
            };
            if let Some(stands) = stands {
                match (&stands, self.world.set_metrics_api(stands.clone())) {
                    (Availability::Unavailable(problem), true) => {
                        tracing::warn!(problem, "autoscalers can't read the metrics API");
                    }
                    (Availability::Available, true) => tracing::info!("autoscalers can read the metrics API"),
                    _ => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = self.authority.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn look(&mut self) -> anyhow::Result<Option<Availability>> {
        let authority = self.authority.borrow_and_update().as_ref().map(|sync| sync.ca.clone());
        let Some(authority) = authority else { return Ok(None) };
        let found = tokio::time::timeout(TIMEOUT, self.api.get_opt(&name())).await??;
        match judge(found.as_ref(), &self.service, &authority) {
            Found::Stands(stands) => Ok(Some(stands)),
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

fn name() -> String {
    format!("{VERSION}.{GROUP}")
}

fn judge(found: Option<&APIService>, service: &(String, String), authority: &str) -> Found {
    let unavailable = |problem: String| Found::Stands(Availability::Unavailable(problem));
    let Some(found) = found else {
        return unavailable(format!("there is no APIService {}: set metricsApi.enabled of the chart", name()));
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
            let message = condition.message.as_deref().unwrap_or_default();
            unavailable(format!("the API server can't reach it: {message}"))
        }
        _ => Found::Stands(Availability::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: serde_json::Value, status: &str) -> APIService {
        let condition = json!({
            "type": "Available", "status": status, "message": "no route", "lastTransitionTime": "2026-01-01T00:00:00Z",
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
        assert!(problem(available("False")).ends_with("no route"));
    }
}
