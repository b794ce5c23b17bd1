//! What a router lacks -> Events on its policy.
//!
//! The policy of telling. Nothing is told before it lasted [`Pace::grace`]: a new Secret's name rolls the routers, and
//! those that go must not complain of what those that come have. What lasts is told again before the API server
//! forgets it. Of a long list only the first are told: the rest is in the log, and mending begins somewhere.
//! A failure is tried again later and hurts nobody: this is a task of its own, and requests never wait for it.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::time::Instant;

use super::events;
use crate::api::RoutingPolicy;
use crate::router::control::Standing;
use crate::router::secret_problem::SecretProblem;

/// Who tells.
const REPORTER: &str = "smallfirst.dev/router";
/// Problems that are told of one list.
const MOST: usize = 20;

/// When problems are told.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a problem lasts before it is told.
    pub grace: Duration,
    /// When it is told again. Events are kept for an hour, if the API server is not told otherwise.
    pub again: Duration,
    /// Wait after a failure.
    pub retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { grace: Duration::from_secs(15), again: Duration::from_secs(20 * 60), retry: Duration::from_secs(60) }
    }
}

/// Tells the problems of a policy's router until the sender is gone.
pub async fn tell(
    client: Client,
    namespace: String,
    policy: String,
    mut standing: watch::Receiver<Standing>,
    pace: Pace,
) {
    let mut agenda = Agenda::default();
    loop {
        let known = standing.borrow_and_update().problems.clone();
        agenda.update(&known, Instant::now() + pace.grace);
        for problem in agenda.due(Instant::now()) {
            let told = publish(&client, &namespace, &policy, &problem).await;
            let wait = match told {
                Ok(()) => pace.again,
                Err(error) => {
                    tracing::warn!(%error, "an event was not published; it is tried again");
                    pace.retry
                }
            };
            agenda.put(problem, Instant::now() + wait);
        }
        let far = Instant::now() + pace.again;
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(agenda.next().unwrap_or(far)) => {}
        }
    }
}

/// When each problem is told next. Pure: it is told the time.
#[derive(Debug, Default)]
struct Agenda(HashMap<SecretProblem, Instant>);

impl Agenda {
    /// Forgets what is mended, and plans what is new.
    fn update(&mut self, problems: &[SecretProblem], first: Instant) {
        let problems = problems.get(..MOST).unwrap_or(problems);
        self.0.retain(|problem, _| problems.contains(problem));
        for problem in problems {
            self.0.entry(problem.clone()).or_insert(first);
        }
    }

    fn due(&self, now: Instant) -> Vec<SecretProblem> {
        self.0.iter().filter(|(_, at)| **at <= now).map(|(problem, _)| problem.clone()).collect()
    }

    fn put(&mut self, problem: SecretProblem, at: Instant) {
        self.0.insert(problem, at);
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }
}

async fn publish(client: &Client, namespace: &str, policy: &str, problem: &SecretProblem) -> kube::Result<()> {
    let event = Event {
        type_: EventType::Warning,
        reason: problem.reason.to_owned(),
        note: Some(problem.message.clone()),
        action: "Load".to_owned(),
        secondary: None,
    };
    events::once(client, REPORTER, &regarding(client, namespace, policy).await?, event).await
}

/// The policy. `kubectl describe` finds Events by UID, which the owner reference of the table knows: the router may
/// not read policies.
async fn regarding(client: &Client, namespace: &str, policy: &str) -> kube::Result<ObjectReference> {
    let tables: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = format!("{policy}-table");
    let request = tables.get_metadata(&name);
    let table = tokio::time::timeout(events::TIMEOUT, request)
        .await
        .map_err(|_| kube::Error::Service("no answer from the API server".into()))??;
    let owner = table.metadata.owner_references.into_iter().flatten().find(|owner| owner.name == policy);
    Ok(ObjectReference {
        api_version: Some(RoutingPolicy::api_version(&()).into_owned()),
        kind: Some(RoutingPolicy::kind(&()).into_owned()),
        name: Some(policy.to_owned()),
        namespace: Some(namespace.to_owned()),
        uid: owner.map(|owner| owner.uid),
        ..ObjectReference::default()
    })
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::api::types::SecretKeyRef;
    use crate::testkit::apiserver::{FakeApiServer, Fault, FaultKind};

    const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/ml/events";

    fn problem(key: &str) -> SecretProblem {
        SecretProblem::absent(
            "RoutingPolicy front: spec.clients[x].apiKey.secretKeyRef",
            &SecretKeyRef { name: "keys".into(), key: key.into() },
        )
    }

    fn server() -> FakeApiServer {
        let server = FakeApiServer::default();
        let owner = json!({"apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy", "name": "front",
            "uid": "uid-front", "controller": true});
        let table = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"ownerReferences": [owner]}});
        server.put("/api/v1/namespaces/ml/configmaps/front-table", table);
        server
    }

    fn lacking(problems: Vec<SecretProblem>) -> Standing {
        Standing { problems, ..Standing::default() }
    }

    fn start(server: &FakeApiServer, standing: &watch::Sender<Standing>, pace: Pace) {
        tokio::spawn(tell(server.client(), "ml".into(), "front".into(), standing.subscribe(), pace));
    }

    async fn pause(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    const QUICK: Pace =
        Pace { grace: Duration::from_millis(100), again: Duration::from_millis(200), retry: Duration::from_millis(50) };

    #[tokio::test]
    async fn what_lasts_is_one_event_of_all_routers_however_often_it_is_told() {
        let server = server();
        let (problems, _keep) = watch::channel(lacking(vec![problem("a")]));
        start(&server, &problems, QUICK);
        start(&server, &problems, QUICK);
        pause(20).await;
        assert_eq!(server.count(EVENTS), 0, "it may be mended by itself");
        pause(800).await;
        let writes = server.take_writes();
        assert!(writes.iter().all(|w| w.method == "POST") && writes.len() > 3, "{writes:#?}");
        assert_eq!(server.count(EVENTS), 1, "{writes:#?}");
        let path = writes.iter().find(|w| w.code == 200).map(|w| w.path.clone()).expect("a write");
        assert_eq!(path, EVENTS);
        problems.send(lacking(vec![problem("a"), problem("b")])).expect("it runs");
        pause(300).await;
        assert_eq!(server.count(EVENTS), 2, "one problem does not hide another");
        // What is mended is not told any more.
        problems.send(lacking(Vec::new())).expect("it runs");
        pause(100).await;
        let _ = server.take_writes();
        pause(400).await;
        assert_eq!(server.take_writes(), []);
    }

    #[tokio::test]
    async fn the_event_names_the_policy_that_describe_looks_for() {
        let regarding = regarding(&server().client(), "ml", "front").await.expect("an answer");
        assert_eq!(regarding.uid.as_deref(), Some("uid-front"));
        assert_eq!(regarding.kind.as_deref(), Some("RoutingPolicy"));
        assert_eq!(regarding.api_version.as_deref(), Some("smallfirst.dev/v1alpha1"));
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_asked_again_later() {
        let server = server();
        server.fail(Fault { method: Method::POST, path: EVENTS.into(), times: Some(2), kind: FaultKind::Code(403) });
        let (problems, _keep) = watch::channel(lacking(vec![problem("a")]));
        start(&server, &problems, QUICK);
        pause(500).await;
        assert_eq!(server.count(EVENTS), 1);
    }

    #[test]
    fn of_a_long_list_the_first_are_told() {
        let all: Vec<SecretProblem> = (0..100).map(|n| problem(&n.to_string())).collect();
        let mut agenda = Agenda::default();
        let now = Instant::now();
        agenda.update(&all, now + Duration::from_secs(1));
        assert_eq!(agenda.due(now), []);
        assert_eq!(agenda.due(now + Duration::from_secs(1)).len(), MOST);
        agenda.update(&all[..1], now);
        assert_eq!(agenda.due(now + Duration::from_secs(1)), &all[..1]);
    }
}
