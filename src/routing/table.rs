//! The document that a RoutingPolicy compiles to. Plain data: no behaviour beyond its hash and its text form.
//!
//! Every map is ordered and every field is written, so that the same inputs give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::escalation_path::{
    ColdTier, Compare, ConfidenceMeasure, ConfidenceScope, Direction, Entry, FailoverReason, FinishReason, OnExceeded,
    OnExhausted, OnMissing,
};
use crate::api::model_tier::Capability;
use crate::api::routing_policy::{AccessLogFormat, OnBudgetExhausted, Per};
use crate::api::types::{DataClass, ModelClass, Risk, SecretKeyRef};

/// Format that this build writes and the highest it reads. A router refuses a higher one.
pub const FORMAT_VERSION: u32 = 1;

/// Default bound on a request's body, in bytes.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// Folder under which routers find mounted Secrets: `<folder>/<secret>/<key>`.
pub const SECRETS_DIR: &str = "/etc/smallfirst/secrets";

/// Seconds between a router's failing readiness and the closing of its port, if it is not told otherwise.
pub const LAME_DUCK_SECONDS: u32 = 3;
/// Longest time that a router then waits for requests in flight, in seconds: a cascade's default deadline. The operator
/// gives its pods this much.
pub const DRAIN_SECONDS: u32 = 120;

/// All that a router needs to know of one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoutingTable {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Namespace of the policy and of everything it names.
    pub namespace: String,
    /// Name of the policy.
    pub policy: String,
    /// ISO 4217 code that prices and costs are in.
    pub currency: String,
    /// Who may ask. `None`: anyone, as the client `anonymous`.
    pub clients: Option<Vec<Client>>,
    /// Tiers by name, only those that a path of this table uses or that are Public.
    pub tiers: BTreeMap<String, Tier>,
    /// Paths by name. A workload with a `tierRef` and a Public tier have paths of their own, named by [`tier_path`].
    pub paths: BTreeMap<String, Path>,
    /// Workloads in the policy's order; the first that matches wins.
    pub workloads: Vec<Workload>,
    /// Workload of requests that nothing matches. `None`: 404.
    pub default_workload: Option<String>,
    /// Form of the access log.
    pub access_log: AccessLogFormat,
    /// IANA name of the time zone in which periods of budgets begin.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Routers that share the limits of this table.
    #[serde(default = "one")]
    pub routers: u32,
    /// Operators that routers report to. `None`: nobody.
    #[serde(default)]
    pub sync: Option<SyncAddress>,
    /// Limits are lent by an operator, as routers need them. `None`: each router holds an equal part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Leases>,
}

/// Where routers find the operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyncAddress {
    /// Host and port. The host's name has an address for every operator pod.
    pub address: String,
    /// Name in the operators' certificates.
    pub server_name: String,
    /// The authority that signs them, as PEM.
    pub ca: String,
}

/// How many routers limits are lent to. Each has a floor without asking, so it must be known how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Leases {
    /// The most routers of this table at a time: one more than there are, while pods are replaced.
    pub most: u32,
    /// The same of all tables of the namespace: an account may be used by all of them.
    pub most_of_accounts: u32,
}

const fn one() -> u32 {
    1
}

fn utc() -> String {
    "UTC".into()
}

/// What a client or workload may spend in a period, over all routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// In 1e-9 of the currency.
    pub amount: i64,
    /// The period.
    pub per: Per,
    /// What becomes of requests when nothing is left.
    pub on_exhausted: OnBudgetExhausted,
}

/// Limits of a client or workload, over all routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, input and output.
    pub tokens_per_minute: Option<u64>,
    /// Requests at a time.
    pub max_concurrent: Option<u32>,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Client {
    /// Name for logs and metrics.
    pub name: String,
    /// Where the key is mounted.
    pub api_key: SecretKeyRef,
    /// Workloads that the client may use. `None`: all that have no reserve.
    pub workloads: Option<Vec<String>>,
    /// What the client may take, over all workloads.
    pub limits: Option<Limits>,
    /// What the client may spend, over all workloads.
    #[serde(default)]
    pub budget: Option<Budget>,
}

/// A tier as routers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tier {
    /// Class of the model.
    pub class: ModelClass,
    /// The most sensitive data that the tier may see (in force, after defaulting).
    pub data_class: DataClass,
    /// Whether clients may name the tier as `model`.
    pub public: bool,
    /// `model` in the request to the backend.
    pub model: String,
    /// Context window in tokens.
    pub context_tokens: u64,
    /// What the model can do, sorted.
    pub capabilities: Vec<Capability>,
    /// Price of a million input tokens, in 1e-9 of the currency.
    pub input_price: u64,
    /// Price of a million cached input tokens, in 1e-9 of the currency.
    pub cached_input_price: u64,
    /// Price of a million output tokens, in 1e-9 of the currency.
    pub output_price: u64,
    /// Requests that one endpoint works on at a time, where declared.
    pub concurrency: Option<u32>,
    /// The provider's account, where it has a quota to keep: the same for all tiers of the account.
    pub account: Option<Account>,
    /// Whether it may have no replica on purpose, because nobody asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scales_to_zero: bool,
    /// When the tier or one of its endpoints is left alone.
    #[serde(default)]
    pub health: Health,
    /// Where requests go.
    pub backend: Backend,
}

/// When a tier or one of its endpoints is left alone, and how it is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Share of failures, above 0 to 1.
    pub error_ratio: f64,
    /// Time over which the share is taken, in milliseconds.
    pub window_ms: u64,
    /// An answer that begins later is a failure, in milliseconds.
    pub latency_limit_ms: Option<u64>,
    /// First time for which it is left alone, in milliseconds.
    pub recovery_after_ms: u64,
    /// Longest such time, in milliseconds.
    pub recovery_max_after_ms: u64,
    /// Tries in a row that must succeed.
    pub recovery_probes: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            error_ratio: 0.5,
            window_ms: 30_000,
            latency_limit_ms: None,
            recovery_after_ms: 5_000,
            recovery_max_after_ms: 120_000,
            recovery_probes: 1,
        }
    }
}

/// An account of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Account {
    /// Its name, or the Secret and key of its credential with a slash between.
    pub name: String,
    /// What its tiers may take together, of this cluster.
    pub quota: Quota,
    /// Where all clusters count what they take. `None`: each keeps to its quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<QuotaStore>,
}

/// A Redis or Valkey server that counts for several clusters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaStore {
    /// `redis://` or `rediss://`, without credentials.
    pub url: String,
    /// As whom to log in, where that is not the default user.
    pub username: Option<String>,
    /// Where the password is mounted.
    pub password: Option<SecretKeyRef>,
    /// Where the authority of its certificate is mounted. `None`: those that the system knows.
    pub ca: Option<SecretKeyRef>,
    /// What names of keys begin with.
    pub key_prefix: String,
    /// What the account may take, of all clusters together.
    pub quota: Quota,
}

/// What an account may take, over all routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, input and output.
    pub tokens_per_minute: Option<u64>,
    /// Tokens of input a minute.
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens of output a minute.
    pub output_tokens_per_minute: Option<u64>,
    /// Requests at a time.
    pub max_concurrent: Option<u32>,
}

/// Where a tier's requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Backend {
    /// The ready endpoints of a Service of the table's namespace, found by its EndpointSlices. Paths start at `/v1`.
    Service {
        /// Name of the Service.
        name: String,
        /// Port number of the Service.
        port: u16,
        /// Name of the Service's port when it has one: EndpointSlices are keyed by it.
        port_name: Option<String>,
        /// Path that the engine answers while it lives. `None`: a silent endpoint can't be told from a busy one.
        health: Option<String>,
        /// How the engine is asked to continue an answer. `None`: it can't.
        #[serde(default)]
        continuation: Option<Continuation>,
        /// Revision of the model: what was seen of one does not hold for another.
        #[serde(default)]
        revision: Option<String>,
    },
    /// A base URL, such as `https://api.example.com/v1`.
    Url {
        /// The base; `/chat/completions` is appended.
        base_url: String,
        /// Bearer token, where one is needed.
        credential: Option<SecretKeyRef>,
    },
}

/// How an engine is asked to continue an assistant message that a request ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Continuation {
    /// It does so unasked (llama.cpp).
    Prefill,
    /// With `continue_final_message` (vLLM, SGLang).
    ContinueFinalMessage,
}

/// An ordered list of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Path {
    /// Steps in the order in which they are tried.
    pub steps: Vec<Step>,
    /// Bound on the whole cascade, in milliseconds.
    pub deadline_ms: u64,
    /// Most that a request may cost, in 1e-9 of the currency.
    pub max_cost: Option<u64>,
    /// What counts as unavailable, sorted.
    pub failover_on: Vec<FailoverReason>,
    /// Tokens of content after which a stream is judged by its beginning. `None`: it is held to its end.
    pub commit_after_tokens: Option<u32>,
    /// Whether a committed stream that breaks is taken up where it ended.
    #[serde(default)]
    pub resume: bool,
    /// How a conversation that escalated is known again, so that it starts there.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// How many requests of a workload may escalate.
    #[serde(default)]
    pub escalation_limit: Option<EscalationLimit>,
    /// When the next step starts beside one that is slow.
    #[serde(default)]
    pub hedge: Option<Hedge>,
    /// Most by which thresholds of confidence are lowered while an account is short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<f64>,
    /// What becomes of a request at a tier that is scaled to zero. Skip where none of its tiers can be.
    #[serde(default, skip_serializing_if = "skips")]
    pub cold_tier: ColdTier,
    /// Which way to fall.
    pub direction: Direction,
    /// What to answer when nothing passed.
    pub on_exhausted: OnExhausted,
}

fn skips(cold_tier: &ColdTier) -> bool {
    *cold_tier == ColdTier::Skip
}

/// How many requests of a workload may escalate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EscalationLimit {
    /// Most of its requests, in 1e-9.
    pub ratio: u64,
    /// Time over which they are counted, in milliseconds.
    pub window_ms: u64,
    /// What becomes of a request that may not.
    pub on_exceeded: OnExceeded,
}

/// When a step is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Hedge {
    /// After a time.
    After {
        /// In milliseconds.
        after_ms: u64,
    },
    /// When it takes longer than most of its requests do.
    Percentile {
        /// So many of a hundred.
        percentile: u32,
    },
}

/// What a conversation is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Sticky {
    /// Its messages.
    Prefix {
        /// How long it is remembered after a turn, in milliseconds.
        ttl_ms: u64,
    },
    /// A header.
    Header {
        /// Name, in lower case.
        name: String,
        /// How long it is remembered after a turn, in milliseconds.
        ttl_ms: u64,
    },
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// Name of the step.
    pub name: String,
    /// Names of the tiers to ask, in order; the next one only when the one before was unavailable.
    pub tiers: Vec<String>,
    /// When the step is entered.
    pub entry: Entry,
    /// Bound on one attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Endpoints to try per tier.
    pub attempts: u32,
    /// Gates, all of which an answer must pass.
    pub accept: Vec<Gate>,
}

impl Step {
    /// Names of the tiers that grade its answers.
    pub fn judges(&self) -> impl Iterator<Item = &String> {
        self.accept.iter().filter_map(|gate| match &gate.check {
            Check::Judge { tier, .. } => Some(tier),
            _ => None,
        })
    }
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// What it looks at.
    pub check: Check,
    /// What it says when there is nothing to look at.
    pub on_missing: OnMissing,
    /// Whether an answer that fails it is never returned.
    pub required: bool,
}

/// What a gate looks at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Check {
    /// The answer ended for one of these reasons.
    FinishReason(Vec<FinishReason>),
    /// The answer is valid under a schema. `None`: the request's own, if it has one.
    JsonSchema {
        /// The schema as JSON text.
        inline: Option<String>,
    },
    /// The model was sure of its tokens.
    Confidence {
        /// What is measured.
        measure: ConfidenceMeasure,
        /// Of measure LogprobQuantile.
        quantile: Option<f64>,
        /// `None`: Values when the answer is JSON, else All.
        scope: Option<ConfidenceScope>,
        /// Lowest score that passes.
        at_least: f64,
    },
    /// Tool calls are what the request's tools allow.
    ToolCalls {},
    /// Values occur in the request.
    Grounded {
        /// JSON pointers.
        pointers: Vec<String>,
        /// Ignore case, white space and punctuation.
        normalize: bool,
    },
    /// The text matches.
    Match(String),
    /// The text does not match.
    NotMatch(String),
    /// A CEL expression is true.
    Expression(String),
    /// More answers of the same tier agree.
    Agreement {
        /// How many more.
        samples: u32,
        /// Lowest share that passes.
        at_least: f64,
        /// What agreeing means.
        compare: Compare,
    },
    /// Another tier grades the answer.
    Judge {
        /// Name of the tier. One that is not in the table never grades.
        tier: String,
        /// What a good answer is.
        rubric: String,
        /// Lowest score that passes.
        at_least: f64,
    },
}

/// A class of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Name for logs and metrics.
    pub name: String,
    /// Accountable team, for the access log.
    pub owner: String,
    /// What it may do when no answer passed.
    pub risk: Risk,
    /// How sensitive its data is: steps whose tier is not cleared for it are skipped at run time too.
    pub data_class: DataClass,
    /// Aliases: values of the request's `model`. Empty: any.
    pub models: Vec<String>,
    /// Headers that must be present with these values, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Clients, any of them. Empty: any.
    pub clients: Vec<String>,
    /// Whether the workload has no `match` at all and is reached only as the default.
    pub only_by_default: bool,
    /// Name of the path.
    pub path: String,
    /// What all clients together may take of the workload.
    pub limits: Option<Limits>,
    /// What all clients together may spend on the workload.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// What requests of Low risk must leave it of each account that it [reserves](reserved), in 1e-9.
    #[serde(default)]
    pub reserve: Option<u64>,
}

impl RoutingTable {
    /// The table as JSON text: what the ConfigMap holds.
    ///
    /// # Panics
    /// Never: the type has no map with keys that are not strings and no float that is not finite.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Longest time for which a request may be at work: the longest deadline of a path, and no less than a path's default.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let deadlines = self.paths.values().map(|path| path.deadline_ms);
        Duration::from_millis(deadlines.max().unwrap_or_default()).max(Duration::from_secs(DRAIN_SECONDS.into()))
    }

    /// Secrets that a router must have mounted, sorted and without repeats.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let clients = self.clients.iter().flatten().map(|c| c.api_key.name.clone());
        let tiers = self.tiers.values().filter_map(|t| match &t.backend {
            Backend::Url { credential: Some(secret), .. } => Some(secret.name.clone()),
            _ => None,
        });
        let stores = self.tiers.values().filter_map(|tier| tier.account.as_ref()?.store.as_ref());
        let stores = stores.flat_map(|store| [&store.password, &store.ca]).flatten().map(|secret| secret.name.clone());
        let mut names: Vec<String> = clients.chain(tiers).chain(stores).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Accounts that a workload with a reserve on this path has a part of: those with a quota, of Frontier tiers, whether they
/// answer or judge.
#[must_use]
pub fn reserved<'t>(path: &Path, tiers: &'t BTreeMap<String, Tier>) -> BTreeSet<&'t str> {
    let named = path.steps.iter().flat_map(|step| step.tiers.iter().chain(step.judges()));
    let tiers = named.filter_map(|name| tiers.get(name));
    let frontier = tiers.filter(|tier| tier.class == ModelClass::Frontier);
    frontier.filter_map(|tier| Some(tier.account.as_ref()?.name.as_str())).collect()
}

/// Name of the path that is one tier alone. No EscalationPath can have it: names of objects have no slash.
#[must_use]
pub fn tier_path(tier: &str) -> String {
    format!("tier/{tier}")
}

/// Name of a table's content: the first 16 hexadecimal digits of the SHA-256 of its text.
#[must_use]
pub fn hash(json: &str) -> String {
    Sha256::digest(json.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}
