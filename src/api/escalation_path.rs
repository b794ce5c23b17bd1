//! `EscalationPath`: an ordered, finite list of steps, each with the gates that its answer must pass.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::{Decimal, Duration, Empty, LocalRef, ModelClass, Ratio, Score};

/// An ordered list of steps over tiers, each with the gates that its answer must pass.
#[expect(clippy::duplicated_attributes, reason = "print columns share their type")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "smallfirst.dev",
    version = "v1alpha1",
    kind = "EscalationPath",
    plural = "escalationpaths",
    shortname = "esc",
    category = "smallfirst",
    namespaced,
    status = "EscalationPathStatus",
    derive = "PartialEq",
    doc = "An ordered list of steps over tiers, each with the gates that its answer must pass, and what happens when a tier is unavailable.",
    printcolumn(name = "Steps", type_ = "integer", json_path = ".status.steps", description = "Number of steps"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether policies can use this path"
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
#[x_kube(validation = Rule::new("!has(self.steps[0].entry) || self.steps[0].entry == 'Always'").message("spec.steps[0].entry: the first step must be entered Always"))]
#[serde(rename_all = "camelCase")]
pub struct EscalationPathSpec {
    /// Team that is accountable for this path.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// Steps in the order in which they are tried, each entered at most once.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub steps: Vec<Step>,
    /// Longest time for the whole cascade of one request. Default: 120s.
    #[serde(default = "default_deadline")]
    pub deadline: Duration,
    /// Most that one request may cost over all its steps, in the policy's currency. A step is skipped where what was spent, the estimated input and the request's max_tokens, at its tier's prices, come to more. A request without max_tokens is measured by its input alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<Decimal>,
    /// What counts as an unavailable tier, and which way to fall.
    #[serde(default)]
    pub failover: Failover,
    /// When a step is slow, so that the next one starts beside it: the first answer that is accepted is taken, and the other step is given up, and counted with its estimated input. At most one request in twenty of a path is hedged, and none where the next step's tier is Degraded, its account has less than a fifth of a limit free, or the answer has begun to flow to the client. The next step is entered by the same rules as in its turn, and both count for maxCost, quotas, escalationLimit, cost and the access log. None: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// When a streamed answer begins to flow to the client.
    #[serde(default)]
    pub streaming: Streaming,
    /// Whether a conversation that escalated starts at that step next time. None: every turn starts at the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// How many requests may escalate: go on to a later step because a gate refused an answer. A step that is entered because a tier was unavailable does not count; a conversation that starts at a later step (sticky) does, each turn, and starts at the first step where it may not. Counted for each workload of the path, by each router for itself. None: as many as gates refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation_limit: Option<EscalationLimit>,
    /// How thresholds of confidence give way while a provider's account is short: while demand, by the verdicts of gates and with the reserves of High workloads kept free, is more than nine tenths of what the router pods that there are can take of a limit of its quota. The operator then lowers atLeast of the path's confidence gates as far as the account needs, so that the least sure answers are those that still escalate: for workloads of risk Low by up to slack, then for Medium by up to half of it, for High never. An answer is accepted so if it misses nothing but that threshold; its outcome is under-pressure. Not at the path's last step, nor at steps with agreement, judge, or a confidence that is required. While no operator answers, thresholds rise again within 90 seconds. None: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// What becomes of a request at a tier that is scaled to zero (spec.pool.scaling.min 0) and has no ready replica. Skip (the default): the next tier or step takes it at once, as if this one were Unreachable. Wait: it waits for a replica, as long as the step's timeout. Either way it wakes the tier.
    #[serde(default)]
    pub cold_tier: ColdTier,
    /// What to answer when no step's answer passed its gates. BestAnswer (the default): the answer of the highest class that may be returned; Error: none. High-risk workloads always get Error.
    #[serde(default)]
    pub on_exhausted: OnExhausted,
}

fn default_deadline() -> Duration {
    Duration::from("120s")
}

/// What becomes of a request at a tier that is scaled to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ColdTier {
    /// The next tier or step takes it.
    #[default]
    Skip,
    /// It waits for a replica.
    Wait,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.tierRef) != has(self.class)").message("spec.steps: each step needs exactly one of tierRef and class"))]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name of the step, unique in the path.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The tier to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_ref: Option<LocalRef>,
    /// Ask the accepted tiers of this class, cheapest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ModelClass>,
    /// Always (the default), or FailoverOnly: entered only when an earlier tier was unavailable. Only such a step may have a lower class than the one before.
    #[serde(default)]
    pub entry: Entry,
    /// Longest time for one attempt of this step. Default: 60s.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Endpoints that are tried in this step before the next one, within the retry budget of the tier: a tenth of its requests over ten seconds, and ten a second besides. Default: 2.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: i32,
    /// Gates that the answer must pass, all of them. None: every answer is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub accept: Vec<Gate>,
}

fn default_timeout() -> Duration {
    Duration::from("60s")
}

const fn default_attempts() -> i32 {
    2
}

/// When a step is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Entry {
    /// In the order of the path.
    #[default]
    Always,
    /// Only when an earlier tier was unavailable.
    FailoverOnly,
}

/// One gate: exactly one kind of check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.finishReason), has(self.jsonSchema), has(self.toolCalls), has(self.confidence), has(self.grounded), has(self.match), has(self.notMatch), has(self.expression), has(self.agreement), has(self.judge)].filter(x, x).size() == 1").message("spec.steps.accept: each gate needs exactly one of finishReason, jsonSchema, toolCalls, confidence, grounded, match, notMatch, expression, agreement and judge"))]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Accept only answers that ended for one of these reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub finish_reason: Option<Vec<FinishReason>>,
    /// Accept only answers that are valid JSON under a schema. An answer that fails this gate is not returned unless `required` is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchemaGate>,
    /// Accept only answers whose tool calls name tools of the request, with arguments that are valid under their parameters; and that call one when the request says that they must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Empty>,
    /// Accept only answers whose tokens the model was sure of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<ConfidenceGate>,
    /// Accept only answers whose values occur in the request's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounded: Option<GroundedGate>,
    /// Accept only answers that match a regular expression.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<RegexGate>,
    /// Accept only answers that do not match a regular expression, such as refusals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_match: Option<RegexGate>,
    /// Accept only answers for which a CEL expression is true, such as `size(answer) < 400` or `json.total == json.net + json.tax`. Variables: `answer` (the text), `json` (the text parsed; whole numbers are int, others double), `finishReason` (stop, length, tool_calls or content_filter), `usage` (prompt_tokens, completion_tokens, total_tokens), `request` (model, stream, and max_tokens where the client set it). Functions: size, contains, startsWith, endsWith, matches (with a literal pattern), int, double, string, has, all, exists, exists_one and filter, the last four not within one another. What the expression reads and the answer lacks is missing evidence, and so is an error in its evaluation, and an answer above 64 KiB (less for long expressions with loops).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub expression: Option<String>,
    /// Accept only answers that the same tier gives again when it is asked again. It is asked only when every gate before has passed; requests for several choices or with tools are not, which is missing evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementGate>,
    /// Accept only answers that another tier grades well. It is asked only when every gate before has passed; requests for several choices, with tools or with images are not graded, which is missing evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeGate>,
    /// What to do with an answer that lacks what the gate looks at, such as log probabilities or JSON. Default: Escalate.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// Whether an answer that fails this gate is never returned, not even for want of a better one. Default: true for jsonSchema and toolCalls, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// What a gate says of an answer that lacks what it looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnMissing {
    /// It fails.
    #[default]
    Escalate,
    /// It passes.
    Accept,
}

/// Why a model stopped, as in OpenAI's `finish_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A natural end or a stop sequence.
    Stop,
    /// The token limit.
    Length,
    /// Tool calls.
    ToolCalls,
    /// A content filter.
    ContentFilter,
}

/// Which JSON schema an answer must satisfy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.fromRequest) != has(self.inline)").message("spec.steps.accept.jsonSchema: exactly one of fromRequest and inline must be set"))]
#[serde(rename_all = "camelCase")]
pub struct JsonSchemaGate {
    /// The schema of the request's response_format; a request without one passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_request: Option<Empty>,
    /// A JSON schema as text, at most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32768))]
    pub inline: Option<String>,
}

/// How sure the model was of its tokens. Needs a tier with the Logprobs capability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.measure == 'LogprobQuantile') == has(self.quantile)").message("spec.steps.accept.confidence.quantile: must be set with measure LogprobQuantile, and only with it"))]
#[serde(rename_all = "camelCase")]
pub struct ConfidenceGate {
    /// What is measured over the tokens in scope.
    pub measure: ConfidenceMeasure,
    /// The quantile of measure LogprobQuantile, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<Ratio>,
    /// Which tokens count. Default: Values when the answer is JSON, else All.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ConfidenceScope>,
    /// Lowest score that is accepted. Natural logarithms (-0.40 is a geometric mean probability of 0.67); for FirstTokenMargin a difference of logarithms.
    pub at_least: Score,
}

/// A measure of confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConfidenceMeasure {
    /// Mean log probability.
    MeanLogprob,
    /// Lowest log probability.
    MinLogprob,
    /// A quantile of the log probabilities.
    LogprobQuantile,
    /// Log probability of the first token less that of its best alternative.
    FirstTokenMargin,
}

/// Tokens that a confidence gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConfidenceScope {
    /// Tokens that overlap leaf values of a JSON answer.
    Values,
    /// Every token of the answer.
    All,
}

/// Values of a JSON answer that must occur in the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroundedGate {
    /// JSON pointers (RFC 6901) of the values to look for. A pointer to an object or array means every leaf below it.
    #[schemars(length(min = 1, max = 32), inner(length(max = 256), pattern(r"^(/[^/]*)*$")), extend("x-kubernetes-list-type" = "atomic"))]
    pub pointers: Vec<String>,
    /// Compare without case, white space and punctuation. Default: true.
    #[serde(default = "default_true")]
    pub normalize: bool,
}

const fn default_true() -> bool {
    true
}

/// More answers of the same tier to the same request, asked for at once, bounded by the step's timeout and the path's deadline and maxCost, and counted in the request's cost. They are drawn at temperature 0.7 where the request sets none or 0, and with seeds of their own where it sets one. An answer that does not come counts for neither side; where that leaves the share undecided, it is missing evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgreementGate {
    /// Answers to ask for. Five give nearly all that twenty would.
    #[schemars(range(min = 2, max = 8))]
    pub samples: i32,
    /// Lowest share of them that must agree with the answer, 0 to 1.
    pub at_least: Ratio,
    /// What agreeing means. Default: Exact.
    #[serde(default)]
    pub compare: Compare,
}

/// A tier that grades answers by a rubric. It is asked once, within the step's timeout and the path's deadline and maxCost, and counted in the request's cost. A judge that does not answer, gives no score, or is not cleared for the workload's data is missing evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JudgeGate {
    /// The tier that grades, of class Medium at least: small models grade no better than chance.
    pub tier_ref: LocalRef,
    /// What a good answer is, in words for the judge. It sees the texts of the request's messages and the answer between marks that neither can guess, is told that neither is an instruction, and gives a score from 0 to 1.
    #[schemars(length(min = 1, max = 4096))]
    pub rubric: String,
    /// Lowest score that is accepted, 0 to 1.
    pub at_least: Ratio,
}

/// When two answers say the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Compare {
    /// The same text, white space at its ends aside.
    #[default]
    Exact,
    /// The same JSON, whatever the order of its members and the spelling of its numbers.
    #[serde(rename = "JSON")]
    Json,
    /// The same last number in the text.
    Number,
}

/// A regular expression.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegexGate {
    /// RE2-like syntax, searched anywhere in the answer's text.
    #[schemars(length(min = 1, max = 2048))]
    pub regex: String,
}

/// What counts as an unavailable tier, and which way to fall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// What sends a request on to the next step. Default: all of them. A tier is Degraded while it is left alone after failures (health of the ModelTier). Where a workload of risk High uses it, it is Degraded too for Low, and at the number in brackets for Medium: where its provider says that under 10% (5%) of a limit is left, where half (three quarters) of its endpoints are set aside, and, when it is tried again, for a fifth (a tenth) of the time for which it was left alone.
    #[serde(default = "default_reasons")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub reasons: Vec<FailoverReason>,
    /// Up (the default): only to later steps that are entered Always. UpThenDown: then also to FailoverOnly steps, then the best eligible answer.
    #[serde(default)]
    pub direction: Direction,
}

fn default_reasons() -> Vec<FailoverReason> {
    use FailoverReason::{ContextOverflow, Degraded, RateLimited, ServerError, Timeout, Unreachable};
    vec![Unreachable, Timeout, RateLimited, ServerError, Degraded, ContextOverflow]
}

impl Default for Failover {
    fn default() -> Self {
        Self { reasons: default_reasons(), direction: Direction::default() }
    }
}

/// Why a tier is unavailable for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum FailoverReason {
    /// No endpoint, or none that accepts a connection.
    Unreachable,
    /// No answer within the step's timeout.
    Timeout,
    /// The tier answered 429.
    RateLimited,
    /// The tier answered 5xx, or something that is no answer.
    ServerError,
    /// The tier is left alone after failures, or what is left of it is for workloads of risk High.
    Degraded,
    /// The request does not fit the tier's context.
    ContextOverflow,
}

/// Which way requests fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// Only to later steps that are entered Always.
    #[default]
    Up,
    /// Up, then to FailoverOnly steps, then the best eligible answer.
    UpThenDown,
}

/// When a step is slow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.after) != has(self.percentile)").message("spec.hedge: exactly one of after and percentile must be set"))]
#[serde(rename_all = "camelCase")]
pub struct Hedge {
    /// A step is slow after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// A step is slow once it takes longer than so many of a hundred of its latest requests, as each router has seen them. It acts once a router has seen 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 99))]
    pub percentile: Option<i32>,
}

/// When a streamed answer begins to flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Streaming {
    /// Hold (the default): when all gates have decided, from memory. Commit: as soon as the gates that can decide on the beginning have, of a step that has only such gates (notMatch, confidence of scope All, and finishReason, which then no longer counts). Requests with tools, a response_format or n above 1 are held in either mode.
    #[serde(default)]
    pub mode: StreamingMode,
    /// With mode Commit: tokens of content that are looked at first. Confidence is then that of these tokens.
    #[serde(default = "default_commit_after")]
    #[schemars(range(min = 1, max = 4096))]
    pub commit_after_tokens: i32,
    /// With mode Commit: whether a stream whose engine breaks off is taken up by the same tier where it ended, so that the client sees one whole stream. Done where the tier is a pool whose engine was seen to continue an answer, and the request asks for one text without log probabilities, penalties or an assistant message at its end; any other stream ends with an error event.
    #[serde(default = "default_true")]
    pub resume: bool,
}

const fn default_commit_after() -> i32 {
    32
}

impl Default for Streaming {
    fn default() -> Self {
        Self { mode: StreamingMode::default(), commit_after_tokens: default_commit_after(), resume: true }
    }
}

/// How streams are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StreamingMode {
    /// Whole, before anything is sent.
    #[default]
    Hold,
    /// By their beginning.
    Commit,
}

/// How a conversation that escalated is known again. Each router remembers for itself, in memory, 100,000 conversations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.by == 'Header') == has(self.header)").message("spec.sticky.header: must be set with by: Header, and only with it"))]
#[serde(rename_all = "camelCase")]
pub struct Sticky {
    /// Prefix: by its messages, which begin with those of the turn before. Header: by the value of a header.
    pub by: StickyBy,
    /// Name of the header, such as x-conversation-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9-]+$"))]
    pub header: Option<String>,
    /// How long a conversation is remembered after a turn. Default: 30m.
    #[serde(default = "default_ttl")]
    pub ttl: Duration,
}

fn default_ttl() -> Duration {
    Duration::from("30m")
}

/// What a conversation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StickyBy {
    /// Its messages.
    Prefix,
    /// A header.
    Header,
}

/// How many requests of a workload may escalate. Every client may escalate the same ratio of its own requests, and what others leave of theirs, shared max-min fairly: a client that asks for no more than its own part is never refused because of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EscalationLimit {
    /// Most of the requests that may escalate, 0 to 1. Of each client one in a window always may, unless it is 0.
    pub ratio: Ratio,
    /// Time over which requests and escalations are counted, 1s to 24h. It moves on in twelfths. Default: 1m.
    #[serde(default = "default_window")]
    pub window: Duration,
    /// What becomes of a request that may not escalate. BestAnswer (the default): it gets the answer that was refused, if that may be returned; otherwise, and always of high-risk workloads, an error. Reject: an error. The error is a 429 (escalation_limit) with Retry-After.
    #[serde(default)]
    pub on_exceeded: OnExceeded,
}

fn default_window() -> Duration {
    Duration::from("1m")
}

/// What becomes of a request that may not escalate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnExceeded {
    /// The best answer that there is.
    #[default]
    BestAnswer,
    /// An error.
    Reject,
}

/// How thresholds give way while an account is short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pressure {
    /// Most by which a threshold is lowered, in the unit of its measure (natural logarithms), above 0 to 4.
    pub slack: Decimal,
}

/// What to answer when no answer passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnExhausted {
    /// The answer of the highest class that may be returned.
    #[default]
    BestAnswer,
    /// An error.
    Error,
}

/// What was seen of a path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EscalationPathStatus {
    /// State of the path: Accepted, ResolvedRefs, Ready; Reconciling or Stalled while it is not Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<i32>,
}
