//! `ModelTier`: one model, served one way: a pool in the cluster, an outside provider, or an existing Service.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::health::Health;
use super::model_from::ModelFrom;
use super::pool::{Disruption, Rollout};
use super::quota_store::QuotaStore;
use super::scaling::Scaling;
use super::sizing::{QuotaStatus, Sizing, SizingStatus};
use super::types::{DataClass, Decimal, LocalRef, ModelClass, Ratio, Resources, SecretKeyRef};

/// One model, served one way, with its class, owner, prices and data class.
#[expect(clippy::duplicated_attributes, reason = "print columns share their type")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "smallfirst.dev",
    version = "v1alpha1",
    kind = "ModelTier",
    plural = "modeltiers",
    shortname = "mt",
    category = "smallfirst",
    namespaced,
    status = "ModelTierStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.pool.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    doc = "One model, served one way: a pool in the cluster, an outside provider, or an existing Service.",
    printcolumn(
        name = "Class",
        type_ = "string",
        json_path = ".spec.class",
        description = "Class of the model, in the order of escalation"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.model.name",
        description = "Model that the backend is asked for"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the spec is rolled out"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Reason of the Ready condition"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.replicas",
        description = "Replicas of the pool"
    ),
    printcolumn(
        name = "Floor",
        type_ = "integer",
        json_path = ".status.sizing.floor",
        description = "Replicas that the pool needs"
    ),
    printcolumn(
        name = "Cost/H",
        type_ = "string",
        json_path = ".status.costPerHour",
        description = "Cost of its replicas an hour"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    )
)]
#[x_kube(validation = Rule::new("(has(self.pool) ? 1 : 0) + (has(self.provider) ? 1 : 0) + (has(self.service) ? 1 : 0) == 1").message("spec: exactly one of pool, provider and service must be set"))]
#[x_kube(validation = Rule::new("!has(self.provider) || (has(self.prices) && size(self.prices) > 0)").message("spec.prices: a tier with a provider needs at least one price"))]
#[x_kube(validation = Rule::new("!has(self.replicaHour) || has(self.pool)").message("spec.replicaHour: only a tier with a pool has replicas"))]
#[x_kube(validation = Rule::new("!has(self.pool) || !has(self.pool.sizing) || !has(self.pool.sizing.hourlyBudget) || has(self.replicaHour)").message("spec.pool.sizing.hourlyBudget: needs spec.replicaHour"))]
#[serde(rename_all = "camelCase")]
pub struct ModelTierSpec {
    /// Class of the model. Requests escalate from a lower class to a higher one: Small, Medium, Large, Frontier.
    pub class: ModelClass,
    /// Team that is accountable for this tier.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// Whether clients may name this tier as `model`. Internal (the default): only through a path.
    #[serde(default)]
    pub exposure: Exposure,
    /// The most sensitive data this tier may see. Default: Restricted for a pool or service, Internal for a provider. The value in force is in status.dataClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_class: Option<DataClass>,
    /// The model and what it can do.
    pub model: Model,
    /// What tokens cost, in the policy's currency. One for a provider, at most one for any tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1), extend("x-kubernetes-list-type" = "atomic"))]
    pub prices: Vec<Price>,
    /// What a replica of the pool costs an hour, idle or not, in the policy's currency. Default: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_hour: Option<Decimal>,
    /// When routers leave the tier or one of its endpoints alone, each by what it saw itself, and how it is tried again. Of several endpoints the one that fails is set aside, always after failures in a row without any answer; by errorRatio, or for late answers, at most half of them ever are. Requests that are themselves wrong are no failures. Default: every field's own.
    #[serde(default)]
    pub health: Health,
    /// Serve the model in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// Call an outside provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// Call a model server that already runs in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceBackend>,
}

/// Who may name a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// Only paths use the tier.
    #[default]
    Internal,
    /// Clients may name the tier as `model`.
    Public,
}

/// The model of a tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// What the backend is asked for (`model` in the request).
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Revision of the model, for people and for rollouts: a new one restarts the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub revision: Option<String>,
    /// Context window in tokens. Requests that do not fit skip the tier.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_tokens: i64,
    /// What the model can do. A request that needs a missing one skips the tier; a gate that needs Logprobs is refused on a tier without it. Default: Chat, Streaming.
    #[serde(default = "default_capabilities")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub capabilities: Vec<Capability>,
}

fn default_capabilities() -> Vec<Capability> {
    vec![Capability::Chat, Capability::Streaming]
}

/// Something a model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Capability {
    /// Chat completions.
    Chat,
    /// Tool calls.
    Tools,
    /// Answers constrained by a JSON schema or JSON mode.
    #[serde(rename = "JSONSchema")]
    JsonSchema,
    /// Images in messages.
    Vision,
    /// Token log probabilities in answers.
    Logprobs,
    /// Streamed answers.
    Streaming,
}

/// Prices of tokens, per million, in the policy's currency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// Price of a million input tokens.
    pub input_per_million: Decimal,
    /// Price of a million output tokens.
    pub output_per_million: Decimal,
    /// Price of a million input tokens read from the provider's cache. Default: the input price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_per_million: Option<Decimal>,
}

/// A pool of model servers in this cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.sizing) || has(self.perReplica)").message("spec.pool.sizing: needs perReplica.concurrency"))]
#[x_kube(validation = Rule::new("!has(self.scaling) || (has(self.scaling.autoscaler) && self.scaling.autoscaler == 'External') || has(self.perReplica)").message("spec.pool.scaling: needs perReplica.concurrency, unless autoscaler is External"))]
#[x_kube(validation = Rule::new("self.engine != 'Custom' || (has(self.image) && has(self.port))").message("spec.pool: engine Custom needs image and port"))]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Engine that serves the model: gives default image, port, probes, and how the model is passed.
    pub engine: EngineName,
    /// Container image. Default: the engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Arguments after those that the engine needs. With engine Custom they may use $(MODEL_PATH), $(MODEL_NAME) and $(PORT).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)), extend("x-kubernetes-list-type" = "atomic"))]
    pub args: Vec<String>,
    /// Environment variables with plain values. For Secrets use template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Port of the OpenAI-compatible server. Default: the engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// CPU, memory and devices of a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Where the model's files are.
    pub model_from: ModelFrom,
    /// Number of replicas, which `kubectl scale modeltier` sets. 0 switches the pool off on purpose. Read only without scaling, or where its autoscaler is External: leave it out of manifests then. Default: 1.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Who changes the number of replicas, and between which bounds. Default: nobody but replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// How pods are replaced when the pod template changes. Default: every field's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What voluntary disruptions may do. Default: one pod at a time may be evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Disruption>,
    /// What one replica can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_replica: Option<PerReplica>,
    /// What the pool is sized for. How many replicas that needs, and why, is in status.sizing; the condition Sized says whether scaling.max, or replicas without scaling, is enough. Default: it is not sized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<Sizing>,
    /// A partial pod template (metadata, spec) that is deep-merged last, for what has no field here. serviceAccountName, hostPath, host namespaces and privileged containers are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<RawTemplate>,
}

const fn default_replicas() -> i32 {
    1
}

/// An engine whose settings are known (see `operator/plan/engines.rs`), or Custom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EngineName {
    /// vLLM's OpenAI server.
    #[serde(rename = "VLLM")]
    Vllm,
    /// SGLang's OpenAI server.
    #[serde(rename = "SGLang")]
    SgLang,
    /// llama.cpp's server.
    LlamaCpp,
    /// Any OpenAI-compatible server: image, port and args say how.
    Custom,
}

/// An environment variable with a plain value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its value. Default: empty.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// What one replica can take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerReplica {
    /// Requests that one replica works on at a time: passed to the engine as its batch limit, and what routers send it at most before they prefer another replica.
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: i32,
}

/// A partial pod template, kept as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawTemplate(pub serde_json::Map<String, serde_json::Value>);

impl JsonSchema for RawTemplate {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawTemplate".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// An outside provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new(r"self.baseURL.startsWith('https://') || self.baseURL.matches('^http://[-a-z0-9.]+[.]svc([.]cluster[.]local)?(:[0-9]+)?(/.*)?$')").message("spec.provider.baseURL: must be https, or http only to a Service of the cluster (*.svc or *.svc.cluster.local)"))]
#[x_kube(validation = Rule::new("!has(self.quota) || !has(self.quota.store) || has(self.account)").message("spec.provider.account: must be set with quota.store: it names the account there"))]
#[x_kube(validation = Rule::new("!self.baseURL.matches('^[a-z]+://[^/]*@')").message("spec.provider.baseURL: must not hold credentials; use spec.provider.credential"))]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    /// Dialect of the provider's API.
    pub api: ProviderApi,
    /// Base of the provider's API including its version, such as `https://api.example.com/v1`. https, or http only to a Service of the cluster.
    #[serde(rename = "baseURL")]
    #[schemars(length(min = 1, max = 512), pattern(r"^https?://[^\s?#]+$"))]
    pub base_url: String,
    /// Where the key is.
    pub credential: Credential,
    /// Name of the provider's account: tiers of one account share its quota. Default: one account per key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub account: Option<String>,
    /// What the account may take. Where several tiers of an account declare a limit, the smallest is in force for all of them. Default: none is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

/// What a provider's account may take, so that the router holds back before the provider does. All router pods of the namespace share it: the operator lends it to them as they need it; while none answers, each has a quarter of the limit, divided by the most pods that there may be (one more for each RoutingPolicy) and rounded down. Where others use the account too, declare a share. A request without room waits: of High risk up to 10s (at most 128 requests for one account and pod), of Medium up to 2s (64), of Low not at all, and none longer than half of what is left of its path's deadline. Then the tier counts as RateLimited for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.requestsPerMinute) || has(self.tokensPerMinute) || has(self.inputTokensPerMinute) || has(self.outputTokensPerMinute) || has(self.maxConcurrent)").message("spec.provider.quota: at least one of requestsPerMinute, tokensPerMinute, inputTokensPerMinute, outputTokensPerMinute and maxConcurrent must be set"))]
#[x_kube(validation = Rule::new("!has(self.tokensPerMinute) || !(has(self.inputTokensPerMinute) || has(self.outputTokensPerMinute))").message("spec.provider.quota.tokensPerMinute: must not be set beside inputTokensPerMinute and outputTokensPerMinute"))]
#[x_kube(validation = Rule::new("!has(self.store) || has(self.share)").message("spec.provider.quota.share: must be set with store: it is what this cluster keeps to while the store is away"))]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Requests a minute. Routers that an operator lends to send no more than so many in any minute, evenly; one on its own (`smallfirst local`) so many at once, and so many a minute from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests_per_minute: Option<i64>,
    /// Tokens a minute, input and output. The estimated input and max_tokens (1024 where the request states none) are reserved, and settled by the answer's usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub tokens_per_minute: Option<i64>,
    /// Tokens of input a minute, where the provider counts them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub input_tokens_per_minute: Option<i64>,
    /// Tokens of output a minute, where the provider counts them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub output_tokens_per_minute: Option<i64>,
    /// Requests that the account works on at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent: Option<i32>,
    /// This cluster's part of every limit, above 0. With a store, where it must be said: what the cluster keeps to while the store is away, and what sizing reckons with; while the store answers, all clusters share the whole of each limit. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Ratio>,
    /// Where the use of the account is counted for all clusters, as they ask, so that together they never take more than each limit. Routers ask it before they send a request, for 50 ms at most; while it does not answer they live on what the operator lends them of this cluster's share. Tiers of one account that declare a quota must name the same store. Default: nowhere, and each cluster keeps to its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<QuotaStore>,
}

/// Dialect of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProviderApi {
    /// OpenAI's chat completions.
    #[serde(rename = "OpenAI")]
    OpenAi,
}

/// The key of a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Sent as a bearer token.
    pub secret_key_ref: SecretKeyRef,
}

/// A model server that already runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.serviceRef) != has(self.inferencePoolRef)").message("spec.service: exactly one of serviceRef and inferencePoolRef must be set"))]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackend {
    /// An OpenAI-compatible Service of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceRef>,
    /// An InferencePool (inference.networking.k8s.io/v1) of this namespace: routers balance over its pods themselves, by a headless Service with its selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_pool_ref: Option<LocalRef>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRef {
    /// The Service's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The Service's port number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// What was seen of a tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelTierStatus {
    /// State of the tier: Accepted, Available, Sized where it is asked for, WithinQuota where there is a quota, ScalingActive where the operator's HorizontalPodAutoscaler scales it, Ready; Reconciling or Stalled while it is not Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of the pool, those on their way in and out included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Labels of the pool's pods, for autoscalers that scale the tier itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,
    /// Replicas of the pool that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// What `replicas` cost an hour at spec.replicaHour, idle ones included, in the currency of that. None without replicaHour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_hour: Option<Decimal>,
    /// Name of the ControllerRevision that holds the pod template of the spec. An operator of another version keeps using it; delete it to have the template made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub current_revision: Option<String>,
    /// How many replicas the pool needs, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<SizingStatus>,
    /// How the quota of the provider's account stands against demand, once something was asked of it. Written anew when a measure begins or ends, and a minute apart at least when demand is another by more than a fifth of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaStatus>,
    /// The most sensitive data this tier may see, after defaulting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_class: Option<DataClass>,
}

impl ModelTierSpec {
    /// The data class in force: the declared one, or Restricted for what runs in the cluster and Internal for a provider.
    #[must_use]
    pub fn effective_data_class(&self) -> DataClass {
        self.data_class.unwrap_or(if self.provider.is_some() { DataClass::Internal } else { DataClass::Restricted })
    }
}
