//! A table's text <-> the ConfigMap that holds it.
//!
//! A person can read a table with kubectl as long as it is small: it is text then. A large one is compressed, with a
//! summary beside it: a ConfigMap holds 1 MiB, and every router is sent all of it with each change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;

use super::table::RoutingTable;

/// Key of a table as text.
pub const TEXT: &str = "table.json";
/// Key of a compressed table.
pub const GZIP: &str = "table.json.gz";
/// Key of what a compressed table has in it, for people.
pub const SUMMARY: &str = "summary.txt";

/// Longest text that is not compressed, in bytes.
pub const READABLE: usize = 256 << 10;
/// Most that is kept, in bytes: the API server takes 1 MiB of data.
pub const LARGEST: usize = 1_000_000;
/// Longest text that a router unpacks, in bytes.
pub const LONGEST: usize = 16 << 20;
/// Longest summary, in bytes.
const LONGEST_SUMMARY: usize = 16 << 10;

/// A table does not fit. Bytes as text, and compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// As text.
    pub text: usize,
    /// Compressed.
    pub packed: usize,
}

/// Puts a table and its text into a ConfigMap.
///
/// # Errors
/// When it does not fit.
pub fn pack(map: &mut ConfigMap, table: &RoutingTable, json: String) -> Result<(), TooLarge> {
    if json.len() <= READABLE {
        map.data = Some([(TEXT.to_owned(), json)].into());
        return Ok(());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to a Vec cannot fail.
    let packed = encoder.write_all(json.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
    let summary = summary(table, json.len());
    if json.len() > LONGEST || packed.len() + summary.len() > LARGEST {
        return Err(TooLarge { text: json.len(), packed: packed.len() });
    }
    map.binary_data = Some([(GZIP.to_owned(), ByteString(packed))].into());
    map.data = Some([(SUMMARY.to_owned(), summary)].into());
    Ok(())
}

/// The text of the table in a ConfigMap; `None` if there is none.
///
/// # Errors
/// When it is compressed and can't be unpacked.
pub fn unpack(
    data: Option<&BTreeMap<String, String>>,
    binary: Option<&BTreeMap<String, ByteString>>,
) -> Option<std::io::Result<String>> {
    if let Some(text) = data.and_then(|data| data.get(TEXT)) {
        return Some(Ok(text.clone()));
    }
    let packed = binary?.get(GZIP)?;
    let mut text = String::new();
    let mut decoder = GzDecoder::new(packed.0.as_slice()).take(LONGEST as u64 + 1);
    Some(decoder.read_to_string(&mut text).and_then(|_| match text.len() {
        ..=LONGEST => Ok(text),
        _ => Err(std::io::Error::other(format!("it has more than {LONGEST} bytes"))),
    }))
}

fn summary(table: &RoutingTable, bytes: usize) -> String {
    let RoutingTable { namespace, policy, workloads, paths, tiers, .. } = table;
    let mut text = format!(
        "The routing table of {policy}, {bytes} bytes: too long to be text here. To read it:\n  kubectl get configmap \
         {policy}-table --namespace {namespace} --output jsonpath='{{.binaryData.table\\.json\\.gz}}' | base64 -d | \
         gunzip\n{} workloads, {} paths, {} tiers\n",
        workloads.len(),
        paths.len(),
        tiers.len()
    );
    for workload in workloads {
        let steps = paths.get(&workload.path).map(|path| path.steps.as_slice()).unwrap_or_default();
        let steps: Vec<String> = steps.iter().map(|step| format!("{} [{}]", step.name, step.tiers.join(" "))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}: {}", workload.name, workload.path, steps.join(" > "));
    }
    let end = (0..=LONGEST_SUMMARY.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
