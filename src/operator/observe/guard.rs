//! An object that may not be readable: one of them never stops a watch.
//!
//! Like kube's `DeserializeGuard`, but the error names the field, which is what a person has to look for.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};

/// An object, or why it can't be read.
#[derive(Clone, Debug)]
pub struct Guard<K>(pub Result<K, Malformed>);

/// An object that the API server accepted and this program can't read.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// The field and what is wrong with it.
    pub error: String,
    /// What could be read.
    pub metadata: ObjectMeta,
}

impl<'de, K: DeserializeOwned + Resource> Deserialize<'de> for Guard<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let error = match serde_path_to_error::deserialize::<_, K>(&value) {
            Ok(object) => return Ok(Self(Ok(object))),
            Err(error) => error.to_string(),
        };
        let PartialObjectMeta { metadata, .. } =
            PartialObjectMeta::<K>::deserialize(value).map_err(D::Error::custom)?;
        Ok(Self(Err(Malformed { error, metadata })))
    }
}

impl<K: Resource> Resource for Guard<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|malformed| &malformed.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|malformed| &mut malformed.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::ModelTier;

    #[test]
    fn a_malformed_object_keeps_its_name_and_names_the_field() {
        let object = json!({
            "metadata": {"name": "odd", "namespace": "ml"},
            "spec": {"class": "Small", "owner": "o", "model": {"name": "m", "contextTokens": "many"}},
        });
        let guard: Guard<ModelTier> = serde_json::from_value(object).expect("a guard");
        assert_eq!(guard.meta().name.as_deref(), Some("odd"));
        let error = guard.0.expect_err("it is malformed").error;
        assert!(error.starts_with("spec.model.contextTokens: ") && error.contains("many"), "{error}");
    }
}
