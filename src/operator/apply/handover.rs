//! Pure: how a Deployment's `spec.replicas` changes hands between the spec and an autoscaler.
//!
//! Server-side apply resets a field that its only owner no longer asks for: a Deployment whose replicas are left to
//! an autoscaler would fall to 1. So another manager takes the field first, with the value that it has; the
//! autoscaler takes it from there. On the way back the same manager takes it from the autoscaler, which would be a
//! conflict otherwise, and lets go of it once it is the operator's.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::operator::plan::AUTOSCALED;

/// Field manager that holds the replicas in between.
pub(super) const MANAGER: &str = "smallfirst-handover";

/// What the manager in between applies.
#[derive(Debug, PartialEq)]
pub(super) struct Handover {
    /// Before the Deployment is applied.
    pub take: Value,
    /// After it.
    pub release: Option<Value>,
}

/// `None`: the replicas stay in the hands in which they are.
pub(super) fn replicas(seen: &DynamicObject, body: &Value) -> Option<Handover> {
    let wanted = body.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(AUTOSCALED).is_some());
    if body["kind"] != "Deployment" || wanted == seen.annotations().contains_key(AUTOSCALED) {
        return None;
    }
    let nothing = json!({
        "apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {"name": body["metadata"]["name"]},
    });
    let mut take = nothing.clone();
    let from = if wanted { &seen.data["spec"]["replicas"] } else { &body["spec"]["replicas"] };
    take["spec"] = json!({"replicas": from});
    Some(Handover { take, release: (!wanted).then_some(nothing) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(autoscaled: bool, replicas: Value) -> Value {
        let mut deployment =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "front-router"}});
        if autoscaled {
            deployment["metadata"]["annotations"] = json!({AUTOSCALED: "true"});
        }
        if !replicas.is_null() {
            deployment["spec"] = json!({"replicas": replicas});
        }
        deployment
    }

    fn between(seen: Value, wanted: &Value) -> Option<Handover> {
        replicas(&serde_json::from_value(seen).expect("an object"), wanted)
    }

    #[test]
    fn an_autoscaler_begins_with_the_replicas_that_there_are() {
        let handover = between(deployment(false, json!(3)), &deployment(true, Value::Null)).expect("a handover");
        assert_eq!(handover, Handover { take: deployment(false, json!(3)), release: None });
    }

    #[test]
    fn the_spec_takes_the_replicas_back_and_holds_them_alone() {
        let handover = between(deployment(true, json!(7)), &deployment(false, json!(2))).expect("a handover");
        assert_eq!(handover.take, deployment(false, json!(2)));
        assert_eq!(handover.release, Some(deployment(false, Value::Null)));
    }

    #[test]
    fn nothing_changes_hands_otherwise() {
        assert_eq!(between(deployment(false, json!(3)), &deployment(false, json!(4))), None);
        assert_eq!(between(deployment(true, json!(3)), &deployment(true, Value::Null)), None);
    }
}
