//! Typed children -> what is applied.

use kube::core::{ApiResource, Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;

/// An object that should exist, as it is sent in server-side apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Where the API server has objects of this kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// The whole apply configuration: apiVersion, kind, metadata and the fields that this operator owns.
    pub body: Value,
}

impl Desired {
    /// The apply configuration of a typed object: absent fields are left out, so that no field is owned without
    /// a value.
    #[must_use]
    pub fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            name: object.name_any(),
            body: serde_json::to_value(object).unwrap_or_default(),
        }
    }
}
