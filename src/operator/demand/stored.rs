//! What is written down of demand, so that a restart of the operator loses nothing that routers have reported: the last
//! numbers of each process, the hours, the last five minutes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::days::Hour;
use super::meter::Pod;

/// Most bytes of it: a ConfigMap has room for twice as much, and budgets are in it too.
const MOST_BYTES: usize = 512 << 10;

/// The key `demand.json` of the ConfigMap `<policy>-state`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// By pod.
    pub pods: BTreeMap<String, Pod>,
    /// By workload.
    pub workloads: BTreeMap<String, Workload>,
}

/// What is written down of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// Requests that came, by slots of ten seconds since the epoch.
    pub arrivals: BTreeMap<i64, u64>,
    /// Hours since the epoch.
    pub hours: BTreeMap<i64, Hour>,
}

impl Stored {
    /// As text. What there is no room for is left out: the pods that had news longest ago, half of them at a time, and at
    /// last everything.
    ///
    /// # Errors
    /// Never, as all of it is plain data.
    pub fn text(mut self) -> serde_json::Result<String> {
        loop {
            let text = serde_json::to_string(&self)?;
            if text.len() <= MOST_BYTES {
                return Ok(text);
            }
            if self.pods.is_empty() {
                self.workloads.clear();
                continue;
            }
            let mut ages: Vec<i64> = self.pods.values().map(|pod| pod.at).collect();
            ages.sort_unstable();
            let middle = ages.get(ages.len() / 2).copied().unwrap_or(i64::MAX);
            let before = self.pods.len();
            self.pods.retain(|_, pod| pod.at > middle);
            if self.pods.len() == before {
                self.pods.clear();
            }
        }
    }
}
