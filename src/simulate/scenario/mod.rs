//! What the manifests and the trace do not say: how fast tiers are, whose requests the trace's rows are, how often gates
//! refuse, what fails and when. A YAML document; every field is documented here, and unknown ones are refused.
//!
//! Names are those of the manifests where these have the same thing.

mod check;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::types::{Duration, Ratio};
use crate::routing::table::Quota;
use crate::yaml;

/// The document.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Where randomness begins: the same seed gives the same run. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// How much of the trace is played, and how often.
    #[serde(default)]
    pub load: Load,
    /// How the tiers behave, by name; each tier of the policy must be there.
    pub tiers: BTreeMap<String, Tier>,
    /// Kinds of requests: who sends the rows of the trace.
    pub requests: Vec<Kind>,
    /// Tiers that fail, and when.
    #[serde(default)]
    pub outages: Vec<Outage>,
    /// What the same load is given to besides, for comparison.
    #[serde(default)]
    pub compare: Vec<Baseline>,
}

/// How a trace becomes load.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Load {
    /// Requests for each row of the trace; a fraction is a chance. Default: 1.
    pub scale: f64,
    /// How long the load lasts; a shorter trace begins again. Default: as long as the trace.
    pub duration: Option<Duration>,
    /// Copies of a row come within this time after it. Default: 1s.
    pub spread: Duration,
    /// Factors of `scale` over the duration, at equal distances from its beginning to its end, with straight lines
    /// between them: the shape of a day. Default: 1 throughout.
    pub shape: Vec<f64>,
}

impl Default for Load {
    fn default() -> Self {
        Self { scale: 1.0, duration: None, spread: Duration::from("1s"), shape: Vec::new() }
    }
}

/// How a tier behaves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tier {
    /// How long requests take.
    pub curve: Curve,
    /// Requests that a replica works on at a time. Default: the manifest's perReplica.concurrency. Not for providers.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Replicas at the beginning. Default: the manifest's, else 1. Not for providers.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// Time from the decision to add a replica until it serves. Default: 60s.
    #[serde(default = "minute")]
    pub pod_start: Duration,
    /// What the provider really grants, for all tiers of its account. Default: what the manifests declare.
    #[serde(default)]
    pub quota: Option<Quota>,
}

fn minute() -> Duration {
    Duration::from("60s")
}

/// How long requests take, in seconds: `overhead + gamma * input tokens + output tokens * (alpha + beta * b)`, with b
/// requests in the batch. For a provider b is 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Whatever the request.
    #[serde(default)]
    pub overhead: f64,
    /// A token of output.
    pub alpha: f64,
    /// More of it for each request in the batch.
    #[serde(default)]
    pub beta: f64,
    /// A token of input.
    #[serde(default)]
    pub gamma: f64,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kind {
    /// Its part of the rows that do not say their kind, in proportion to the others'. Default: 1.
    #[serde(default = "one")]
    pub share: f64,
    /// Only rows of at least so many tokens of input. Default: 0.
    #[serde(default)]
    pub min_input_tokens: u32,
    /// Only rows of at most so many tokens of input. Default: all.
    #[serde(default)]
    pub max_input_tokens: Option<u32>,
    /// Client that sends it; must not be set where the policy takes requests of anyone.
    #[serde(default)]
    pub client: Option<String>,
    /// `model` of the request.
    pub model: String,
    /// Headers of the request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `max_tokens` of the request: an answer ends there. Default: none.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// What it needs of a tier.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// How often gates refuse its answers, by the step's name; each step with gates must be there.
    #[serde(default)]
    pub steps: BTreeMap<String, Gates>,
}

const fn one() -> f64 {
    1.0
}

/// What a request needs of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Need {
    /// It offers tools.
    Tools,
    /// It holds images.
    Vision,
    /// It asks for JSON.
    #[serde(rename = "JSONSchema")]
    JsonSchema,
    /// It asks for log probabilities.
    Logprobs,
}

/// How often the gates of a step refuse an answer. At least one of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gates {
    /// Part of the answers that they refuse; with `scores`, that the gates without a score refuse. A row's own score wins.
    #[serde(default)]
    pub refused: Option<Ratio>,
    /// Recorded scores, one of which each answer has: its confidence gate judges it by its threshold.
    #[serde(default)]
    pub scores: Vec<f64>,
}

/// A tier that fails for a while.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outage {
    /// The tier.
    pub tier: String,
    /// When it begins, from the beginning of the load.
    pub from: Duration,
    /// When it ends.
    pub to: Duration,
    /// How it looks. Default: ServerError.
    #[serde(default)]
    pub looks: Looks,
}

/// How an outage looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Looks {
    /// Every request is answered at once with 503.
    #[default]
    ServerError,
    /// No connection is taken.
    Unreachable,
    /// No request is ever answered.
    Silent,
}

/// Something else that could serve the same load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
pub enum Baseline {
    /// Every request goes to a Frontier tier, without a quota of our own.
    FrontierOnly,
    /// A Frontier tier first, and the path's other tiers when it fails or is at its limit: an ordered list without gates,
    /// reserves or quotas of our own, over pools of the size that they begin with.
    StaticFallback,
    /// As declared, but each pool has as many replicas throughout as it had on average, rounded up.
    FixedPools,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each, with the field and what it must be; `name` is that of the file.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<String>> {
        let wrong = |problem: String| vec![format!("{name}: {problem}")];
        let mut documents = yaml::documents(text).map_err(|error| wrong(error.to_string()))?;
        if documents.len() != 1 {
            return Err(wrong(format!("must be one YAML document, has {}", documents.len())));
        }
        let document = documents.swap_remove(0);
        let scenario: Self = serde_path_to_error::deserialize(document).map_err(|error| {
            let place = error.path().to_string();
            wrong(format!("{place}: {}", error.into_inner()))
        })?;
        let problems = scenario.problems();
        if problems.is_empty() {
            return Ok(scenario);
        }
        Err(problems.into_iter().map(|problem| format!("{name}: {problem}")).collect())
    }
}

#[cfg(test)]
mod tests;
