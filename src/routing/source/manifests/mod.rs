//! Manifests on disk -> the objects of one namespace, as if an API server had taken them.
//!
//! What the API server would refuse is refused here too ([`admission`]), with the file and the number of the
//! document, so that a laptop and a cluster agree. Documents of other API groups are skipped: a folder of
//! manifests also holds Secrets, Services and namespaces.

pub mod admission;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{EscalationPath, GROUP, ModelTier, RoutingPolicy};
use crate::operator::observe::Observed;
use crate::yaml;

/// Everything that is wrong with a set of manifests, a line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ManifestError(pub Vec<String>);

/// Text with a name for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where the text is from.
    pub name: String,
    /// YAML documents.
    pub text: String,
}

/// Reads files, and the `.yaml`, `.yml` and `.json` files of folders in the order of their names.
///
/// # Errors
/// When a file cannot be read, or as for [`parse`].
pub fn read(paths: &[PathBuf]) -> Result<Observed, ManifestError> {
    parse(&sources(paths)?)
}

/// The text of files, and of the manifests in folders.
///
/// # Errors
/// When a file cannot be read.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, ManifestError> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let files = if path.is_dir() { manifests_in(path) } else { Ok(vec![path.clone()]) };
        let read = files.and_then(|files| files.iter().map(|file| read_file(file)).collect::<Result<Vec<_>, _>>());
        match read {
            Ok(read) => sources.extend(read),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(sources) } else { Err(ManifestError(problems)) }
}

fn read_file(path: &Path) -> Result<Source, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Source { name: path.display().to_string(), text })
}

fn manifests_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let error = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let wanted = path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|wanted| e == *wanted));
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The objects of the documents. They must be of one namespace; none means `default`.
///
/// # Errors
/// Every document that is not YAML or that the API server would refuse, two objects of one kind and name,
/// and objects of more than one namespace.
pub fn parse(sources: &[Source]) -> Result<Observed, ManifestError> {
    let mut reading = Reading::default();
    for Source { name, text } in sources {
        match yaml::documents(text) {
            Ok(documents) => {
                for (i, document) in documents.into_iter().enumerate() {
                    reading.document(&format!("{name}: document {}", i + 1), document);
                }
            }
            Err(error) => reading.problems.push(format!("{name}: {error}")),
        }
    }
    let Reading { mut observed, mut problems, namespaces } = reading;
    if namespaces.len() > 1 {
        let named: Vec<String> = namespaces.into_iter().map(|(ns, place)| format!("{ns} ({place})")).collect();
        problems.push(format!("the objects are of more than one namespace: {}", named.join(", ")));
    } else if let Some((namespace, _)) = namespaces.into_iter().next() {
        observed.namespace = namespace;
    }
    if problems.is_empty() { Ok(observed) } else { Err(ManifestError(problems)) }
}

#[derive(Default)]
struct Reading {
    observed: Observed,
    problems: Vec<String>,
    /// Namespaces that were named, with the first place of each.
    namespaces: BTreeMap<String, String>,
}

impl Reading {
    fn document(&mut self, place: &str, mut document: Value) {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        if api_version.split('/').next() != Some(GROUP) {
            return;
        }
        let place = format!("{place} ({kind} {name})");
        let refused = admission::problems(&document);
        if !refused.is_empty() {
            self.problems.extend(refused.into_iter().map(|problem| format!("{place}: {problem}")));
            return;
        }
        let named = text("/metadata/namespace");
        let namespace = if named.is_empty() { "default".to_owned() } else { named };
        if let Some(metadata) = document.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), Value::String(namespace.clone()));
        }
        self.namespaces.entry(namespace).or_insert_with(|| place.clone());
        let Self { observed, problems, .. } = self;
        match kind.as_str() {
            "ModelTier" => keep::<ModelTier>(&mut observed.tiers, problems, &place, document),
            "EscalationPath" => keep::<EscalationPath>(&mut observed.paths, problems, &place, document),
            _ => keep::<RoutingPolicy>(&mut observed.policies, problems, &place, document),
        }
    }
}

fn keep<K: DeserializeOwned + ResourceExt>(
    objects: &mut BTreeMap<String, Arc<K>>,
    problems: &mut Vec<String>,
    place: &str,
    document: Value,
) {
    match serde_json::from_value::<K>(document) {
        Ok(object) => {
            if objects.insert(object.name_any(), Arc::new(object)).is_some() {
                problems.push(format!("{place}: another document has the same kind and name"));
            }
        }
        Err(error) => problems.push(format!("{place}: {error}")),
    }
}

#[cfg(test)]
mod tests;
