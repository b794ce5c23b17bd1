//! The ConfigMap `<policy>-state`: what must outlive operators.

use std::collections::BTreeMap;

use kube::Resource;
use serde_json::{Value, json};

use crate::api::RoutingPolicy;

/// Its field manager.
pub const MANAGER: &str = "smallfirst-state";
/// Its key with what was granted of budgets.
pub const BUDGETS: &str = "budgets.json";
/// Its key with what was counted.
pub const DEMAND: &str = "demand.json";

/// The ConfigMap. It goes with its policy, but is none of the children that a plan makes and prunes.
#[must_use]
pub fn body(owner: &RoutingPolicy, name: &str, text: &BTreeMap<&'static str, String>, version: Option<&str>) -> Value {
    let mut reference = owner.owner_ref(&());
    if let Some(reference) = &mut reference {
        reference.controller = None;
    }
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/part-of": "smallfirst"},
            "ownerReferences": reference.into_iter().collect::<Vec<_>>(),
        },
        "data": text,
    });
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = version.into();
    }
    body
}
