//! Names, labels and owner references of children.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

/// Label: what a child is for: `pool` or `router`.
pub const COMPONENT: &str = "smallfirst.dev/component";
/// Label: name of the tier that a child belongs to.
pub const TIER: &str = "smallfirst.dev/tier";
/// Label: name of the policy that a child belongs to.
pub const POLICY: &str = "smallfirst.dev/policy";
/// Label that says who made an object, with the value `smallfirst`.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Annotation of a Deployment: an autoscaler owns its number of replicas.
pub const AUTOSCALED: &str = "smallfirst.dev/autoscaled";
/// Annotation of a table's ConfigMap: [`crate::routing::table::hash`] of its content.
pub const TABLE_HASH: &str = "smallfirst.dev/table-hash";

/// Who owns a child, and under which labels.
pub(super) struct Owner<'a> {
    namespace: Option<String>,
    reference: Option<OwnerReference>,
    /// Label that names the owner.
    label: &'static str,
    name: &'a str,
    component: &'static str,
}

impl<'a> Owner<'a> {
    pub(super) fn new<K: Resource<DynamicType = ()>>(
        owner: &'a K,
        label: &'static str,
        component: &'static str,
    ) -> Self {
        Self {
            namespace: owner.meta().namespace.clone(),
            // Without blockOwnerDeletion: a child never keeps its owner from going.
            reference: owner.controller_owner_ref(&()),
            label,
            name: owner.meta().name.as_deref().unwrap_or_default(),
            component,
        }
    }

    /// Name of the owner.
    pub(super) fn name(&self) -> &'a str {
        self.name
    }

    /// The namespace of owner and children.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// Labels that select the pods. They can never change: a Deployment's selector is immutable.
    pub(super) fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(COMPONENT.into(), self.component.into()), (self.label.into(), self.name.into())])
    }

    /// The same as text.
    pub(super) fn selector_text(&self) -> String {
        self.selector().iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }

    /// All labels of a child.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let common = [
            ("app.kubernetes.io/name", self.component),
            ("app.kubernetes.io/instance", self.name),
            ("app.kubernetes.io/component", self.component),
            ("app.kubernetes.io/part-of", "smallfirst"),
            (MANAGED_BY, "smallfirst"),
        ];
        let mut labels = self.selector();
        labels.extend(common.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels
    }

    /// Metadata of a child.
    pub(super) fn meta(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: self.namespace.clone(),
            labels: Some(self.labels()),
            owner_references: self.reference.clone().map(|r| vec![r]),
            ..ObjectMeta::default()
        }
    }
}
