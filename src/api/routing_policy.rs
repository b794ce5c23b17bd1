//! `RoutingPolicy`: which requests are which workload, which path each workload takes, and who may ask.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::router::{RouterGateway, RouterScaling, RouterService, RouterServiceAccount, RouterTls};
use super::types::{DataClass, Decimal, Empty, LocalRef, Ratio, Resources, Risk, SecretKeyRef};

/// Workload classes and the path each takes, for one router and its clients.
#[expect(clippy::duplicated_attributes, reason = "print columns share their type")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "smallfirst.dev",
    version = "v1alpha1",
    kind = "RoutingPolicy",
    plural = "routingpolicies",
    shortname = "rp",
    category = "smallfirst",
    namespaced,
    status = "RoutingPolicyStatus",
    derive = "PartialEq",
    doc = "Workload classes and the path each takes, for one router and its clients.",
    printcolumn(
        name = "Workloads",
        type_ = "integer",
        json_path = ".status.workloadCount",
        description = "Number of workloads"
    ),
    printcolumn(
        name = "Routers",
        type_ = "integer",
        json_path = ".status.routers.ready",
        description = "Router pods that are ready"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status",
        description = "Whether every ready router serves the published table"
    ),
    printcolumn(
        name = "Cost/Txn",
        type_ = "string",
        json_path = ".status.costPerTransaction",
        description = "What an answered request costs on average, in the policy's currency"
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
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    )
)]
#[x_kube(validation = Rule::new("has(self.clients) != has(self.anonymous)").message("spec: exactly one of clients and anonymous must be set"))]
#[x_kube(validation = Rule::new("!has(self.default.workload) || self.workloads.exists(w, w.name == self.default.workload)").message("spec.default.workload: must be the name of one of spec.workloads"))]
#[serde(rename_all = "camelCase")]
pub struct RoutingPolicySpec {
    /// Currency of every price that this policy's tiers declare, as an ISO 4217 code. Default: USD.
    #[serde(default = "default_currency")]
    #[schemars(length(max = 3), pattern(r"^[A-Z]{3}$"))]
    pub currency: String,
    /// Time zone in which the hours, days and months of budgets begin, as an IANA name such as Europe/Berlin. Default: UTC.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"))]
    pub time_zone: String,
    /// The router's pods.
    #[serde(default)]
    pub router: Router,
    /// Who may ask. Exactly one of clients and anonymous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clients: Option<Vec<Client>>,
    /// Anyone who reaches the router may ask, as the client `anonymous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Empty>,
    /// Workload classes. A request belongs to the first one that matches.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub workloads: Vec<Workload>,
    /// What happens to a request that no workload matches.
    pub default: DefaultRoute,
    /// The log of requests. Prompts and answers are never in it.
    #[serde(default)]
    pub access_log: AccessLog,
}

impl RoutingPolicySpec {
    /// Every budget: whose it is (`client` or `workload`), that one's name, and the budget.
    pub fn budgets(&self) -> impl Iterator<Item = (&'static str, &str, &Budget)> {
        let clients = self.clients.iter().flatten();
        let clients = clients.filter_map(|client| Some(("client", client.name.as_str(), client.budget.as_ref()?)));
        let workloads = self.workloads.iter();
        clients.chain(workloads.filter_map(|each| Some(("workload", each.name.as_str(), each.budget.as_ref()?))))
    }
}

fn default_currency() -> String {
    "USD".into()
}

fn default_time_zone() -> String {
    "UTC".into()
}

/// The router's pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.gateway) || !has(self.tls)").message("spec.router.gateway: must not be set beside spec.router.tls: a Gateway speaks plain HTTP to the routers"))]
#[x_kube(validation = Rule::new("!has(self.maxBufferedBytes) || self.maxBufferedBytes >= (has(self.maxBodyBytes) ? self.maxBodyBytes : 33554432)").message("spec.router.maxBufferedBytes: must be at least maxBodyBytes, which is 33554432 by default"))]
#[serde(rename_all = "camelCase")]
pub struct Router {
    /// Number of router pods. They share every limit: the operator lends it to them as they need it. Not looked at with scaling. Default: 2.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// As many router pods as are needed. Needs metrics-server or another source of the pods' CPU. Default: replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RouterScaling>,
    /// Image of the router pods. Default: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// CPU and memory of a router pod. Default: requests of 100m and 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The Service of the routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<RouterService>,
    /// The ServiceAccount of the routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<RouterServiceAccount>,
    /// HTTPS on the traffic port, at port 443 of the Service instead of 80. Default: plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
    /// An HTTPRoute for the routers, where the cluster has Gateway API. A Gateway speaks plain HTTP to them, so not beside tls. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<RouterGateway>,
    /// Largest body of a request, in bytes; a larger one gets 413. Default: 33554432, which is 32 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub max_body_bytes: Option<i64>,
    /// Most bytes of request bodies that a router pod holds at a time, from their first byte to the end of their answers; what has no room gets 503 with Retry-After. At least maxBodyBytes. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_099_511_627_776_i64))]
    pub max_buffered_bytes: Option<i64>,
}

const fn default_replicas() -> i32 {
    2
}

impl Default for Router {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            scaling: None,
            image: None,
            resources: None,
            service: None,
            service_account: None,
            tls: None,
            gateway: None,
            max_body_bytes: None,
            max_buffered_bytes: None,
        }
    }
}

impl Router {
    /// The most router pods that there are at a time, but for those that replace others.
    #[must_use]
    pub fn most(&self) -> i32 {
        self.scaling.as_ref().map_or(self.replicas, |scaling| scaling.max)
    }
}

/// One caller of the router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Name of the client, unique in the policy.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The key that the client sends as a bearer token.
    pub api_key: ApiKey,
    /// Names of the workloads that the client may use. Default: all that have no reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub workloads: Option<Vec<String>>,
    /// What the client may take, over all workloads. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What the client may spend, over all workloads. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Money that may be spent in a period, in the policy's currency, over all router pods. The estimated input and max_tokens (1024 where the request states none) are reserved at full price before a tier is asked, and settled by what it used; of a request whose end nobody saw the whole reservation is spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// The amount, above 0.
    pub amount: Decimal,
    /// The period, by the calendar of spec.timeZone. What is left at its end is gone.
    pub per: Per,
    /// What becomes of requests when nothing is left. Default: Reject.
    #[serde(default)]
    pub on_exhausted: OnBudgetExhausted,
}

/// Period of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Per {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// What becomes of requests when a budget is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBudgetExhausted {
    /// They are refused with 429 and the code budget_exhausted until the period ends.
    #[default]
    Reject,
    /// Only tiers of class Small are asked. What these cost is spent beyond the budget.
    SmallOnly,
}

/// What may be taken of all the router's pods together. The operator lends it to them as they need it; while none answers, each has a quarter of the limit, divided by one more than there are pods and rounded down. What has no room gets 429 with Retry-After.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.requestsPerMinute) || has(self.tokensPerMinute) || has(self.maxConcurrent)").message("limits: at least one of requestsPerMinute, tokensPerMinute and maxConcurrent must be set"))]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests a minute: so many at once, and so many a minute from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests_per_minute: Option<i64>,
    /// Tokens a minute, input and output. The estimated input and max_tokens (1024 where the request states none) are reserved, and settled by the usage of the last tier that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub tokens_per_minute: Option<i64>,
    /// Requests that are worked on at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent: Option<i32>,
}

/// An API key in a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Where the key is.
    pub secret_key_ref: SecretKeyRef,
}

/// A class of requests and the path it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.pathRef) != has(self.tierRef)").message("spec.workloads: each workload needs exactly one of pathRef and tierRef"))]
#[x_kube(validation = Rule::new("!has(self.reserve) || (has(self.risk) && self.risk == 'High')").message("spec.workloads.reserve: only a workload of risk High can have one"))]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Name of the workload, unique in the policy.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Team that is accountable for this workload.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// What the workload may do when capacity is short or no answer passed its gates. Default: Medium.
    #[serde(default)]
    pub risk: Risk,
    /// How sensitive the workload's data is. Steps whose tier is not cleared for it are skipped. Default: Internal.
    #[serde(default = "default_data_class")]
    pub data_class: DataClass,
    /// Which requests belong to the workload. Everything that is set must match.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<Match>,
    /// The path that the workload takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_ref: Option<LocalRef>,
    /// The only tier that the workload uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_ref: Option<LocalRef>,
    /// What all clients together may take of the workload. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What the workload may spend, over all clients. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Part of the quota of every Frontier account on its path that requests of Low risk must leave to this workload, as far as it has not used it; above 0. Only with risk High. The reserves of one account come to at most 0.9. Only clients that list the workload may use it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Ratio>,
}

const fn default_data_class() -> DataClass {
    DataClass::Internal
}

/// Which requests belong to a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.models) || has(self.headers) || has(self.clients)").message("spec.workloads.match: at least one of models, headers and clients must be set"))]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Values of the request's `model`: the workload's aliases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub models: Vec<String>,
    /// Headers that the request must carry, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<HeaderMatch>,
    /// Names of clients, any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub clients: Vec<String>,
}

/// A header with an exact value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderMatch {
    /// Name of the header, in any case. Headers that start with x-smallfirst- are the router's own.
    #[schemars(length(min = 1, max = 256), pattern(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: String,
    /// The exact value.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// What happens to a request that no workload matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.workload) != has(self.reject)").message("spec.default: exactly one of workload and reject must be set"))]
pub struct DefaultRoute {
    /// It belongs to this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub workload: Option<String>,
    /// It is refused with 404 and the names that are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<Empty>,
}

/// The log of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AccessLog {
    /// Form of a line on standard output. Default: JSON.
    #[serde(default)]
    pub format: AccessLogFormat,
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    #[default]
    #[serde(rename = "JSON")]
    Json,
    /// One line for people.
    Text,
    /// No log.
    None,
}

/// What was seen of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutingPolicyStatus {
    /// State of the policy: Accepted, ResolvedRefs, Programmed, Ready; Reconciling or Stalled while it is not Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_count: Option<i32>,
    /// What the requests of each workload came to in the 24 hours up to its last one, by the hour. Written every 30 seconds at most, and only while there are requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub workloads: Vec<WorkloadStatus>,
    /// The same as costPerTransaction of workloads, over all requests of the policy, those for Public tiers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_transaction: Option<Decimal>,
    /// The router's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routers: Option<RoutersStatus>,
    /// The routing table that was published last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableStatus>,
    /// How the budgets of clients and workloads stand, written once a minute at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 320), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub budgets: Vec<BudgetStatus>,
}

/// What the requests of a workload came to. Figures have three digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Name of the workload.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Requests that clients offered, rejected ones too. One that a client tries again because it got no answer counts once, where the client says so as those of OpenAI and Anthropic do.
    pub requests: i64,
    /// What an answered request costs on average, in the policy's currency: everything that was spent, on answers that failed a gate or were not waited for too, over the requests that were answered. None while none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_transaction: Option<Decimal>,
    /// Answers that gates refused, over the answers that gates judged, 0 to 1: by their verdicts, whether or not the request could then go on to another step. None while none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation_ratio: Option<Ratio>,
    /// Answers that a gate refused and that were given all the same to spare an account: because pressure.slack lowered a threshold, or because escalationLimit held the request back. No bound of their risk is known. None while there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_under_pressure: Option<i64>,
}

/// How a budget stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// Whose it is: `client/NAME` or `workload/NAME`.
    #[schemars(length(max = 72))]
    pub name: String,
    /// Spent in this period, in the policy's currency, with what is reserved for requests in flight. What routers had that were lost counts as spent.
    pub spent: Decimal,
    /// Left of it.
    pub left: Decimal,
    /// When the period ends.
    #[schemars(extend("maxLength" = 64))]
    pub period_ends: Time,
}

/// The router's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoutersStatus {
    /// Pods that are wanted.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
}

/// The routing table that was published last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TableStatus {
    /// SHA-256 of the table, the first 16 hexadecimal digits. It depends on tiers and paths too, not only on the policy.
    #[schemars(length(max = 64))]
    pub hash: String,
}
