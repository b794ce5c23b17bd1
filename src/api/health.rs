//! When a tier, or one of its endpoints, is left alone, and how it is tried again.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Duration, Ratio};

/// When a tier, or one of its endpoints, is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.errorRatio) || !self.errorRatio.matches('^0([.]0+)?$')").message("spec.health.errorRatio: must be above 0"))]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Failures in a row after which it is left alone. Default: 5.
    #[serde(default = "default_consecutive_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: i32,
    /// Share of failures after which it is left alone, above 0 and at most 1, of at least ten requests within the window. Default: 0.5.
    #[serde(default = "default_error_ratio")]
    pub error_ratio: Ratio,
    /// Time over which the share is taken, up to the present moment. Default: 30s.
    #[serde(default = "default_window")]
    pub window: Duration,
    /// An answer that begins later counts as a failure of whoever gave it; it is used all the same. A stream begins with its first event, which is the time to the first token. An answer in one piece begins with the head of its reply, which most engines send when all of it is made. Default: none, only the step's timeout counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_limit: Option<Duration>,
    /// How it is tried again: by one request at a time, first by those of workloads with risk High where such use the tier.
    #[serde(default)]
    pub recovery: Recovery,
}

/// How what was left alone is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// First time for which it is left alone; each failed try doubles it. A longer or shorter pause that the upstream asks for is obeyed. Default: 5s.
    #[serde(default = "default_after")]
    pub after: Duration,
    /// Longest time for which it is left alone, up to a fifth more to spread the tries. At least `after`. Default: 2m.
    #[serde(default = "default_max_after")]
    pub max_after: Duration,
    /// Tries in a row that must succeed before it takes requests as before. Default: 1.
    #[serde(default = "default_probes")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: i32,
}

const fn default_consecutive_failures() -> i32 {
    5
}

fn default_error_ratio() -> Ratio {
    Ratio::from("0.5")
}

fn default_window() -> Duration {
    Duration::from("30s")
}

fn default_after() -> Duration {
    Duration::from("5s")
}

fn default_max_after() -> Duration {
    Duration::from("2m")
}

const fn default_probes() -> i32 {
    1
}

impl Default for Health {
    fn default() -> Self {
        Self {
            consecutive_failures: default_consecutive_failures(),
            error_ratio: default_error_ratio(),
            window: default_window(),
            latency_limit: None,
            recovery: Recovery::default(),
        }
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self { after: default_after(), max_after: default_max_after(), probes: default_probes() }
    }
}
