//! YAML in and out. The only module that names the YAML crate: it is unmaintained upstream, and one file is all that a replacement must touch.

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

/// A YAML document that does not parse, or not as the type that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(#[from] serde_yaml::Error);

/// Parses every document of a stream; empty documents are left out.
///
/// # Errors
/// When a document is not YAML; the message has line and column.
pub fn documents(text: &str) -> Result<Vec<serde_json::Value>, Error> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// Parses one document.
///
/// # Errors
/// When the text is not YAML of the type.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    Ok(serde_yaml::from_str(text)?)
}

/// Writes one document.
///
/// # Errors
/// When the value has no YAML form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    Ok(serde_yaml::to_string(value)?)
}
