//! What routers tell operators, and what they are answered: one request a second to every operator pod, and one at once
//! when what it would say changes.
//!
//! Both ways a field that is not known is ignored and one that is missing has a default, so that a router and an
//! operator of different versions understand each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use crate::lease::{Claims, Grants, budget};

/// Format that this build writes.
pub const FORMAT_VERSION: u32 = 1;

/// Audience of the token that a router shows.
pub const AUDIENCE: &str = "smallfirst-sync";

/// Folder and name of the file in which the kubelet keeps that token.
pub const TOKEN_DIR: &str = "/var/run/secrets/smallfirst.dev/sync";
/// See [`TOKEN_DIR`].
pub const TOKEN_FILE: &str = "/var/run/secrets/smallfirst.dev/sync/token";

/// Path of the request.
pub const PATH: &str = "/sync";

/// Largest body of a report or an answer, in bytes.
pub const MAX_BYTES: usize = 2 << 20;

/// Milliseconds between reports when nothing changes.
pub const EVERY_MS: u64 = 1000;

/// What a router says of itself. Whose router it is says its token, never the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of its pod.
    pub pod: String,
    /// Which process of the pod: a later one has a higher number.
    pub incarnation: u64,
    /// Number of the report, over all operators: of two, the one with the lower number is older.
    pub sequence: u64,
    /// The router's clock when it wrote this, in milliseconds since it began. It never goes back.
    pub stamp_ms: u64,
    /// Version of the program.
    pub version: String,
    /// Highest format of a routing table that it reads.
    pub table_format: u32,
    /// Hash of the table in force; none before the first.
    pub table_hash: Option<String>,
    /// The table that it was given last, if it refuses that.
    pub refused: Option<RefusedTable>,
    /// Keys that the table in force needs and that are not mounted or can't be used: object, field, Secret, key, fix.
    pub missing: Vec<String>,
    /// Whether it stops and takes no more requests.
    pub draining: bool,
    /// Requests that it works on.
    pub in_flight: u64,
    /// Whose purses the claims are of: a pod keeps them over restarts of its process.
    pub purses: u64,
    /// What it says of budgets, by their keys.
    pub budgets: BTreeMap<String, budget::Claim>,
    /// What it says of limits that are lent to it, to the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases: Option<Claims>,
    /// What it has counted since this process began.
    pub counts: Counts,
}

/// A table that a router refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedTable {
    /// Hash of its text.
    pub hash: String,
    /// What is wrong with it.
    pub message: String,
}

/// Numbers by workload and step, in 1e-9. What is not there is 0.
pub type PerStep = BTreeMap<String, BTreeMap<String, u64>>;

/// What gives way while accounts are short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivesWay {
    /// By how much thresholds are lowered, in the unit of their score.
    pub lowered: PerStep,
    /// The part of a step's requests that goes to a pool instead.
    pub moved: PerStep,
}

/// What an operator answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reply {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Whether this operator leads.
    pub leader: bool,
    /// The stamp of the report that is answered.
    pub stamp_ms: u64,
    /// When to report again at the latest, in milliseconds. 0: as before.
    pub next_ms: u64,
    /// What it is granted of budgets, by their keys.
    pub budgets: BTreeMap<String, budget::Grant>,
    /// By how much thresholds are lowered while accounts are short, in the unit of their score. `None`: it does not know yet, or
    /// does not lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowered: Option<PerStep>,
    /// The part of a step's requests that goes to a pool instead, if it says what is lowered.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub moved: PerStep,
    /// What the leader lends of limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leases: Option<Grants>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_understand_each_other() {
        let newer = r#"{"formatVersion": 9, "pod": "a", "tableHash": "h", "claims": [{"key": 1}], "refused": null}"#;
        let read: Report = serde_json::from_str(newer).expect("a report");
        assert_eq!((read.pod.as_str(), read.table_hash.as_deref(), read.draining), ("a", Some("h"), false));
        let older: Reply = serde_json::from_str("{}").expect("a reply");
        assert_eq!(older, Reply::default());
    }
}
