//! Objects that can't be read: said once for each thing that is wrong, in the log and as an Event on the object.
//!
//! Such an object has no status that could say it: a status is derived from what was read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource};

use super::queue::{Ending, Key, Kind};
use super::{REPORTER, Reconciled};
use crate::api::{EscalationPath, ModelTier, RoutingPolicy};
use crate::operator::apply::guarded;
use crate::operator::metrics::Metrics;
use crate::operator::observe::guard;
use crate::operator::observe::world::World;
use crate::runtime::events;
use crate::runtime::leader::Leader;

/// Reason of the Event, and result of such a reconcile.
const REASON: &str = "Malformed";

/// What was said about objects that can't be read.
pub struct Malformed {
    client: Client,
    leader: Leader,
    metrics: Arc<Metrics>,
    said: Mutex<HashMap<Key, Said>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Said {
    uid: Option<String>,
    error: String,
    /// Whether the Event exists.
    published: bool,
}

/// The object, if it is one that can't be read.
pub fn find(world: &World, key: &Key) -> Option<guard::Malformed> {
    match key.kind {
        Kind::Tier => world.tiers.get(&key.id)?.0.as_ref().err().cloned(),
        Kind::Path => world.paths.get(&key.id)?.0.as_ref().err().cloned(),
        Kind::Policy => world.policies.get(&key.id)?.0.as_ref().err().cloned(),
    }
}

impl Malformed {
    /// Nothing was said yet.
    pub fn new(client: Client, leader: Leader, metrics: Arc<Metrics>) -> Self {
        Self { client, leader, metrics, said: Mutex::default() }
    }

    fn put(&self, key: &Key, said: Said) -> Option<Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), said)
    }

    /// The object can be read, or is gone.
    pub fn forget(&self, key: &Key) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Says what is wrong, unless it was said.
    pub async fn say(&self, key: &Key, object: &guard::Malformed) -> Reconciled {
        let guard::Malformed { error, metadata } = object;
        let said = Said { uid: metadata.uid.clone(), error: error.clone(), published: true };
        let before = self.put(key, said.clone());
        if before.as_ref() == Some(&said) {
            return Reconciled { ending: Ending::Done, result: REASON };
        }
        let said = Said { published: false, ..said };
        if before.as_ref() != Some(&said) {
            tracing::warn!(%key, %error, "an object can't be read; what it made before is left as it is");
        }
        let event = Event {
            type_: EventType::Warning,
            reason: REASON.to_owned(),
            note: Some(format!(
                "{error}. The operator can't read this object, and leaves what it made of it before as it is. Mend \
                 the field, or run an operator that knows it"
            )),
            action: "Read".to_owned(),
            secondary: None,
        };
        let regarding = reference(key, object);
        let publish = events::once(&self.client, REPORTER, &regarding, event);
        let ending = match guarded(&self.leader, "Event", publish).await {
            Ok(()) => {
                self.metrics.write("Event", "create");
                Ending::Done
            }
            Err(error) => {
                tracing::warn!(%key, %error, "an event was not published");
                self.put(key, said);
                Ending::Retry
            }
        };
        Reconciled { ending, result: REASON }
    }
}

fn reference(key: &Key, object: &guard::Malformed) -> ObjectReference {
    let api_version = match key.kind {
        Kind::Tier => ModelTier::api_version(&()),
        Kind::Path => EscalationPath::api_version(&()),
        Kind::Policy => RoutingPolicy::api_version(&()),
    };
    ObjectReference {
        api_version: Some(api_version.into_owned()),
        kind: Some(key.kind.name().to_owned()),
        namespace: Some(key.id.0.clone()),
        name: Some(key.id.1.clone()),
        uid: object.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
