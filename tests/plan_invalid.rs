//! Bad input, a row each: what is wrong, and the condition, reason and words that say so. Every message names
//! its field. The documents go round the CRD's own checks, as objects of an older CRD would.
#![expect(clippy::unwrap_used, reason = "tests")]

mod edits;

use std::collections::BTreeMap;
use std::sync::Arc;

use edits::put;
use serde_json::{Value, json};
use smallfirst::operator::observe::Observed;
use smallfirst::operator::validate::{self, Invalid};
use smallfirst::yaml;

const QUICKSTART: &str = include_str!("../deploy/samples/quickstart.yaml");

/// One document of the quickstart with a value put in (or, with null, taken out).
struct Row {
    /// Whose verdict counts.
    of: &'static str,
    /// Where: object, JSON pointer, new value.
    edits: Vec<(&'static str, &'static str, Value)>,
    /// Condition, reason, and a part of the message. `None`: in force.
    wanted: Option<(&'static str, &'static str, &'static str)>,
}

fn row(
    of: &'static str,
    edits: Vec<(&'static str, &'static str, Value)>,
    wanted: (&'static str, &'static str, &'static str),
) -> Row {
    Row { of, edits, wanted: Some(wanted) }
}

fn accepted(of: &'static str, edits: Vec<(&'static str, &'static str, Value)>) -> Row {
    Row { of, edits, wanted: None }
}

fn observed(edits: &[(&str, &str, Value)]) -> Observed {
    let mut documents: BTreeMap<String, Value> = yaml::documents(QUICKSTART)
        .unwrap()
        .into_iter()
        .map(|d| (format!("{}/{}", d["kind"].as_str().unwrap(), d["metadata"]["name"].as_str().unwrap()), d))
        .collect();
    for (object, pointer, value) in edits {
        if pointer.is_empty() {
            documents.remove(*object).unwrap();
        } else {
            put(documents.get_mut(*object).unwrap(), pointer, value.clone());
        }
    }
    let mut observed = Observed { namespace: "ai".into(), ..Observed::default() };
    for (key, document) in documents {
        let (kind, name) = key.split_once('/').unwrap();
        match kind {
            "ModelTier" => {
                observed.tiers.insert(name.into(), Arc::new(serde_json::from_value(document).unwrap()));
            }
            "EscalationPath" => {
                observed.paths.insert(name.into(), Arc::new(serde_json::from_value(document).unwrap()));
            }
            _ => {
                observed.policies.insert(name.into(), Arc::new(serde_json::from_value(document).unwrap()));
            }
        }
    }
    observed
}

fn verdict(of: &str, observed: &Observed) -> Result<(), Invalid> {
    let (kind, name) = of.split_once('/').unwrap();
    let unresolved = match kind {
        "ModelTier" => validate::tier(&observed.tiers[name])?.unresolved,
        "EscalationPath" => validate::path(&observed.paths[name], observed)?.unresolved,
        _ => validate::policy(&observed.policies[name], observed)?.unresolved,
    };
    unresolved.map_or(Ok(()), Err)
}

const COMPACT: &str = "ModelTier/compact";
const FRONTIER: &str = "ModelTier/frontier";
const PATH: &str = "EscalationPath/small-first";
const POLICY: &str = "RoutingPolicy/assistants";

fn judged_by(tier: &str) -> Value {
    json!({"judge": {"tierRef": {"name": tier}, "rubric": "It is polite.", "atLeast": "0.5"}})
}

#[test]
fn a_small_judge_is_a_warning_and_any_other_is_none() {
    let warnings = |tier: &str| {
        let observed = observed(&[(PATH, "/spec/steps/0/accept/0", judged_by(tier))]);
        validate::path_warnings(&observed.paths["small-first"], &observed)
    };
    let small = warnings("compact");
    assert_eq!(small.len(), 1);
    assert!(small[0].contains("spec.steps[0].accept[0].judge.tierRef.name: ModelTier \"compact\" is of class Small"));
    assert_eq!((warnings("frontier").len(), warnings("none").len()), (0, 0));
}

fn template(spec: Value) -> Vec<(&'static str, &'static str, Value)> {
    vec![(COMPACT, "/spec/pool/template", json!({"spec": spec}))]
}

/// A reserve of contract-review, of a frontier account that has a quota.
fn reserve(part: &str, more: &[(&'static str, &'static str, Value)]) -> Vec<(&'static str, &'static str, Value)> {
    let mut edits = vec![
        (FRONTIER, "/spec/provider/quota", json!({"requestsPerMinute": 60})),
        (POLICY, "/spec/workloads/2/reserve", json!(part)),
    ];
    edits.extend_from_slice(more);
    edits
}

fn tier_rows() -> Vec<Row> {
    const INVALID: &str = "Invalid";
    let compact = |pointer, value, text| row(COMPACT, vec![(COMPACT, pointer, value)], ("Accepted", INVALID, text));
    let frontier = |pointer, value, text| row(FRONTIER, vec![(FRONTIER, pointer, value)], ("Accepted", INVALID, text));
    let stored = |url, text| {
        let redis = json!({
            "url": url, "credential": {"secretKeyRef": {"name": "valkey", "key": "password"}},
            "ca": {"secretKeyRef": {"name": "valkey", "key": "ca.crt"}}
        });
        frontier("/spec/provider/quota", json!({"requestsPerMinute": 60, "store": {"redis": redis}}), text)
    };
    let refused = |spec, text| row(COMPACT, template(spec), ("Accepted", INVALID, text));
    vec![
        accepted(COMPACT, vec![]),
        accepted(FRONTIER, vec![]),
        accepted(FRONTIER, vec![(FRONTIER, "/spec/provider/baseURL", json!("https://api.example.com"))]),
        accepted(COMPACT, template(json!({"hostNetwork": false, "volumes": [{"name": "a", "emptyDir": {}}]}))),
        compact("/metadata/name", json!("a.b"), "metadata.name: \"a.b\" must be a letter followed by"),
        compact("/metadata/name", json!("x".repeat(57)), "at most 56 characters"),
        compact(
            "/spec/prices/0/inputPerMillion",
            json!("1,5"),
            "spec.prices[0].inputPerMillion: \"1,5\" is not a decimal",
        ),
        compact("/spec/prices/0/outputPerMillion", json!("1e3"), "spec.prices[0].outputPerMillion: "),
        compact("/spec/prices/0/cachedInputPerMillion", json!("-1"), "spec.prices[0].cachedInputPerMillion: "),
        compact("/spec/prices/-", json!({"inputPerMillion": "1", "outputPerMillion": "1"}), "spec.prices: at most one"),
        compact("/spec/model/contextTokens", json!(0), "spec.model.contextTokens: 0 must be at least 1"),
        compact("/spec/pool/perReplica/concurrency", json!(-1), "spec.pool.perReplica.concurrency: -1"),
        compact("/spec/pool/replicas", json!(-2), "spec.pool.replicas: -2 must be 0 to 1000"),
        compact(
            "/spec/pool/scaling",
            json!({"min": 5, "max": 2}),
            "spec.pool.scaling.min: 5 must be at most max, which is 2",
        ),
        compact("/spec/pool/scaling", json!({"min": -1, "max": 2}), "spec.pool.scaling.min: -1 must be 0 to 1000"),
        compact("/spec/pool/scaling", json!({"min": 0, "max": 0}), "spec.pool.scaling.max: 0 must be 1 to 1000"),
        compact(
            "/spec/pool/scaling",
            json!({"max": 2, "targetUtilization": "0.0"}),
            "spec.pool.scaling.targetUtilization: must be above 0",
        ),
        compact(
            "/spec/pool/scaling",
            json!({"max": 2, "scaleDownStabilization": "2h"}),
            "spec.pool.scaling.scaleDownStabilization: 2h must be at most 1h",
        ),
        compact(
            "/spec/pool/scaling",
            json!({"max": 2, "idleAfter": "5s"}),
            "spec.pool.scaling.idleAfter: 5s must be 10s to 24h",
        ),
        row(
            COMPACT,
            vec![(COMPACT, "/spec/pool/perReplica", Value::Null), (COMPACT, "/spec/pool/scaling", json!({"max": 2}))],
            ("Accepted", INVALID, "spec.pool.scaling: needs perReplica.concurrency, unless autoscaler is External"),
        ),
        accepted(COMPACT, vec![(COMPACT, "/spec/pool/scaling", json!({"min": 0, "max": 2, "autoscaler": "KEDA"}))]),
        compact("/spec/pool/port", json!(70000), "spec.pool.port: 70000 must be a port"),
        compact("/spec/pool/engine", json!("Custom"), "spec.pool: engine Custom needs image and port"),
        compact("/spec/pool/modelFrom/path", Value::Null, "spec.pool.modelFrom: exactly one of path,"),
        compact(
            "/spec/pool/modelFrom",
            json!({"persistentVolumeClaim": {"claimName": "c", "path": "a/../../b"}}),
            "spec.pool.modelFrom.persistentVolumeClaim.path: \"a/../../b\" must stay within the volume",
        ),
        compact(
            "/spec/pool/modelFrom",
            json!({"image": {"reference": "a", "path": "../b"}}),
            "spec.pool.modelFrom.image.path: \"../b\" must stay within the volume",
        ),
        compact(
            "/spec/pool/modelFrom",
            json!({"huggingFace": {"repository": "a/b", "revision": "main"}}),
            "spec.pool.modelFrom.huggingFace.revision: engine LlamaCpp can't ask for a revision",
        ),
        compact(
            "/spec/pool",
            json!({"engine": "VLLM", "modelFrom": {"huggingFace": {"repository": "a/b:Q4"}}}),
            "spec.pool.modelFrom.huggingFace.repository: \"a/b:Q4\" must not name a quantisation",
        ),
        compact(
            "/spec/pool/resources",
            json!({"requests": {"nvidia.com/gpu": 1}}),
            "spec.pool.resources.limits[\"nvidia.com/gpu\"]: must be 1, like its request",
        ),
        compact(
            "/spec/pool/rollout",
            json!({"maxSurge": "0%", "maxUnavailable": 0}),
            "spec.pool.rollout: maxSurge and maxUnavailable must not both be 0",
        ),
        compact(
            "/spec/pool/rollout",
            json!({"progressDeadline": "0ms"}),
            "spec.pool.rollout.progressDeadline: must be above 0s",
        ),
        compact(
            "/spec/pool/disruption",
            json!({"maxUnavailable": "half"}),
            "spec.pool.disruption.maxUnavailable: \"half\" is not a number from 0 to 1000 or a percentage",
        ),
        compact(
            "/spec/pool/sizing",
            json!({"absorb": "0.5"}),
            "spec.pool.sizing: against and absorb must be set together",
        ),
        compact(
            "/spec/pool/sizing",
            json!({"waitTarget": {"percentile": "1"}}),
            "spec.pool.sizing.waitTarget.percentile: must be above 0 and below 1",
        ),
        compact(
            "/spec/pool/sizing",
            json!({"waitTarget": {"within": "0s"}}),
            "spec.pool.sizing.waitTarget.within: must be more than zero",
        ),
        compact(
            "/spec/pool/sizing",
            json!({"hourlyBudget": "1"}),
            "spec.pool.sizing.hourlyBudget: needs spec.replicaHour",
        ),
        compact("/spec/replicaHour", json!("a lot"), "spec.replicaHour: \"a lot\" is not a decimal"),
        compact("/spec/pool", Value::Null, "spec: exactly one of pool, provider and service must be set"),
        compact(
            "/spec/service",
            json!({"serviceRef": {"name": "a", "port": 1}}),
            "spec: exactly one of pool, provider and service must be set",
        ),
        compact(
            "/spec/health",
            json!({"consecutiveFailures": 0}),
            "spec.health.consecutiveFailures: 0 must be 1 to 1000",
        ),
        compact("/spec/health", json!({"errorRatio": "0.0"}), "spec.health.errorRatio: must be above 0"),
        compact("/spec/health", json!({"errorRatio": "2"}), "spec.health.errorRatio: \"2\" is not a ratio"),
        compact("/spec/health", json!({"window": "0s"}), "spec.health.window: must be more than zero"),
        compact("/spec/health", json!({"latencyLimit": "0s"}), "spec.health.latencyLimit: must be more than zero"),
        compact(
            "/spec/health",
            json!({"recovery": {"probes": 101}}),
            "spec.health.recovery.probes: 101 must be 1 to 100",
        ),
        compact(
            "/spec/health",
            json!({"recovery": {"after": "3m"}}),
            "spec.health.recovery.maxAfter: 2m must be at least spec.health.recovery.after, which is 3m",
        ),
        frontier("/spec/prices", Value::Null, "spec.prices: a tier with a provider needs a price"),
        frontier("/spec/provider/quota", json!({"share": "0.5"}), "spec.provider.quota: at least one of requestsPerMi"),
        frontier(
            "/spec/provider/quota",
            json!({"tokensPerMinute": 5, "inputTokensPerMinute": 5}),
            "spec.provider.quota.tokensPerMinute: must not be set beside inputTokensPerMinute",
        ),
        frontier(
            "/spec/provider/quota",
            json!({"maxConcurrent": 3, "share": "0.3"}),
            "spec.provider.quota.maxConcurrent: 3 with a share of 0.3 comes to less than 1",
        ),
        frontier(
            "/spec/provider/quota",
            json!({"maxConcurrent": 3, "share": "2"}),
            "spec.provider.quota.share: \"2\" is",
        ),
        stored("rediss://:pw@valkey.example.com", "redis.url: must not hold credentials; use credential"),
        stored("https://valkey.example.com", "redis.url: must be rediss://HOST[:PORT][/DATABASE] or redis://HOST"),
        stored(
            "redis://valkey.example.com:6379/a",
            "redis.url: must be rediss://HOST[:PORT][/DATABASE] or redis://HOST",
        ),
        stored("redis://valkey.example.com", "redis.url: must be rediss where there is a credential, or redis only to"),
        stored("rediss://169.254.169.254", "redis.url: is a link-local or metadata address"),
        stored("redis://valkey.data.svc", "redis.ca: only a rediss URL has a certificate; remove it, or use rediss"),
        stored("rediss://valkey.example.com", "spec.provider.quota.share: must be set with store: it is what this"),
        stored("rediss://valkey.example.com", "spec.provider.account: must be set with quota.store: it names the acc"),
        frontier("/spec/provider/baseURL", json!("http://api.example.com/v1"), "spec.provider.baseURL: must be https"),
        frontier("/spec/provider/baseURL", json!("https://user:pw@example.com"), "must not hold credentials"),
        frontier("/spec/provider/baseURL", json!("https://169.254.169.254/v1"), "link-local or metadata address"),
        frontier("/spec/provider/baseURL", json!("https://[fe80::1]/v1"), "link-local or metadata address"),
        frontier("/spec/provider/baseURL", json!("https://[::ffff:169.254.1.1]/v1"), "link-local or metadata address"),
        frontier("/spec/provider/baseURL", json!("https://metadata.google.internal/"), "link-local or metadata"),
        frontier("/spec/provider/baseURL", json!("https://a b"), "spec.provider.baseURL: not a URL"),
        frontier("/spec/provider/baseURL", json!("https://a/v1?key=1"), "must not have a query"),
        refused(json!({"serviceAccountName": "admin"}), "spec.pool.template.spec.serviceAccountName: refused"),
        refused(json!({"serviceAccount": "admin"}), "spec.pool.template.spec.serviceAccount: refused"),
        refused(json!({"hostNetwork": true}), "spec.pool.template.spec.hostNetwork: refused"),
        refused(json!({"hostPID": true}), "spec.pool.template.spec.hostPID: refused"),
        refused(json!({"hostIPC": true}), "spec.pool.template.spec.hostIPC: refused"),
        refused(
            json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/"}}]}),
            "spec.pool.template.spec.volumes[1].hostPath: refused",
        ),
        refused(
            json!({"containers": [{"name": "engine", "securityContext": {"privileged": true}}]}),
            "spec.pool.template.spec.containers[0].securityContext.privileged: refused",
        ),
        refused(
            json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
            "spec.pool.template.spec.initContainers[0].securityContext.privileged: refused",
        ),
        refused(
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "spec.pool.template.spec.securityContext.windowsOptions.hostProcess: refused",
        ),
        refused(
            json!({"containers": [{"name": "engine", "ports": [{"containerPort": 1, "hostPort": 1}]}]}),
            "spec.pool.template.spec.containers[0].ports[0].hostPort: refused",
        ),
        refused(json!({"containers": [{"image": "a"}]}), "spec.pool.template.spec.containers[0].name: must be set"),
        refused(json!({"containers": {"name": "a"}}), "spec.pool.template.spec.containers: must be a list"),
        refused(json!({"nodeSelector": "ssd"}), "spec.pool.template: not a pod template: "),
        compact("/spec/pool/template", json!({"sepc": {}}), "spec.pool.template.sepc: only metadata and spec"),
        compact("/spec/pool/template", json!({"spec": 1}), "spec.pool.template.spec: must be an object"),
        compact(
            "/spec/pool/template",
            json!({"metadata": {"labels": {"smallfirst.dev/tier": "other"}}}),
            "spec.pool.template.metadata.labels[\"smallfirst.dev/tier\"]: belongs to the operator",
        ),
        compact(
            "/spec/pool/template",
            json!({"metadata": {"name": "x"}}),
            "spec.pool.template.metadata.name: only labels and annotations",
        ),
    ]
}

fn path_rows() -> Vec<Row> {
    let path = |pointer, value, reason, text| row(PATH, vec![(PATH, pointer, value)], ("Accepted", reason, text));
    let invalid = |pointer, value, text| path(pointer, value, "Invalid", text);
    let gate = |value, text| path("/spec/steps/0/accept/0", value, "Invalid", text);
    vec![
        accepted(PATH, vec![]),
        accepted("EscalationPath/frontier-then-compact", vec![]),
        accepted(PATH, vec![(COMPACT, "/spec/model/capabilities", json!(["Chat", "Logprobs"]))]),
        row(
            PATH,
            vec![(PATH, "/spec/steps/0/tierRef/name", json!("missing"))],
            (
                "ResolvedRefs",
                "RefNotFound",
                "spec.steps[0].tierRef.name: ModelTier \"missing\" does not exist; known tiers: compact, frontier",
            ),
        ),
        row(
            PATH,
            vec![(COMPACT, "/spec/pool/engine", json!("Custom")), (COMPACT, "/spec/pool/image", Value::Null)],
            ("ResolvedRefs", "RefNotAccepted", "ModelTier \"compact\" is not accepted: spec.pool: engine Custom"),
        ),
        row(
            PATH,
            vec![(FRONTIER, "", Value::Null)],
            ("ResolvedRefs", "RefNotFound", "spec.steps[1].class: no accepted ModelTier has class Frontier"),
        ),
        invalid(
            "/spec/escalationLimit",
            json!({"ratio": "0.2", "window": "999ms"}),
            "spec.escalationLimit.window: 999ms must",
        ),
        invalid(
            "/spec/escalationLimit",
            json!({"ratio": "0.2", "window": "25h"}),
            "spec.escalationLimit.window: 25h must be",
        ),
        invalid("/spec/escalationLimit", json!({"ratio": "2"}), "spec.escalationLimit.ratio: \"2\" is"),
        accepted(PATH, vec![(PATH, "/spec/escalationLimit", json!({"ratio": "0.2"}))]),
        invalid("/spec/pressure", json!({"slack": "0"}), "spec.pressure.slack: 0 must be above 0 and at most 4"),
        invalid("/spec/pressure", json!({"slack": "4.1"}), "spec.pressure.slack: 4.1 must be above 0 and at most 4"),
        // Foreground deletion keeps an object until its children are gone.
        row(
            PATH,
            vec![(COMPACT, "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))],
            ("ResolvedRefs", "RefNotFound", "spec.steps[0].tierRef.name: ModelTier \"compact\" does not exist"),
        ),
        row(
            PATH,
            vec![(COMPACT, "/spec/model/capabilities", json!(["Chat"]))],
            (
                "Accepted",
                "GateUnsatisfiable",
                "spec.steps[0].accept[2].confidence: step \"compact\" asks for a confidence that ModelTier \
                 \"compact\" cannot give",
            ),
        ),
        row(
            "EscalationPath/frontier-then-compact",
            vec![("EscalationPath/frontier-then-compact", "/spec/steps/1/entry", json!("Always"))],
            ("Accepted", "ClassOrder", "spec.steps[1]: step \"compact\" has class Small, lower than Frontier"),
        ),
        invalid("/spec/steps/0/entry", json!("FailoverOnly"), "spec.steps[0].entry: the first step must be entered"),
        invalid("/spec/steps/0/class", json!("Small"), "spec.steps[0]: exactly one of tierRef and class must be set"),
        invalid("/spec/steps/0/tierRef", Value::Null, "spec.steps[0]: exactly one of tierRef and class must be set"),
        invalid("/spec/steps/1/name", json!("compact"), "spec.steps[1].name: \"compact\" is used twice"),
        invalid("/spec/steps/0/timeout", json!("10"), "spec.steps[0].timeout: \"10\" is not a duration"),
        invalid("/spec/steps/0/timeout", json!("0s"), "spec.steps[0].timeout: must be more than zero"),
        invalid("/spec/steps/0/attempts", json!(0), "spec.steps[0].attempts: 0 must be 1 to 10"),
        invalid("/spec/steps", json!([]), "spec.steps: at least one step is needed"),
        invalid("/spec/streaming", json!({"commitAfterTokens": 0}), "spec.streaming.commitAfterTokens: 0 must be 1"),
        invalid("/spec/hedge", json!({}), "spec.hedge: exactly one of after and percentile must be set"),
        invalid("/spec/hedge", json!({"after": "0s"}), "spec.hedge.after: must be more than zero"),
        invalid("/spec/hedge", json!({"percentile": 100}), "spec.hedge.percentile: 100 must be 50 to 99"),
        row(
            "EscalationPath/frontier-then-compact",
            vec![("EscalationPath/frontier-then-compact", "/spec/hedge", json!({"after": "1s"}))],
            ("Accepted", "Invalid", "spec.hedge: needs a second step that is entered Always"),
        ),
        invalid("/spec/maxCost", json!("1 USD"), "spec.maxCost: \"1 USD\" is not a decimal"),
        invalid("/spec/deadline", json!("1d"), "spec.deadline: \"1d\" is not a duration"),
        gate(json!({}), "spec.steps[0].accept[0]: exactly one of finishReason, jsonSchema, toolCalls, confidence"),
        gate(
            json!({"finishReason": ["stop"], "match": {"regex": "a"}}),
            "spec.steps[0].accept[0]: exactly one of finishReason",
        ),
        gate(json!({"match": {"regex": "(a"}}), "spec.steps[0].accept[0].match.regex: "),
        gate(json!({"notMatch": {"regex": "a{9999999}"}}), "spec.steps[0].accept[0].notMatch.regex: "),
        gate(json!({"expression": "size(answer)"}), "spec.steps[0].accept[0].expression: expression: must be true or"),
        gate(
            json!({"judge": {"tierRef": {"name": "frontier"}, "rubric": " ", "atLeast": "0.5"}}),
            "spec.steps[0].accept[0].judge: judge: rubric must say what a good answer is",
        ),
        row(
            PATH,
            vec![(PATH, "/spec/steps/0/accept/0", judged_by("none"))],
            (
                "ResolvedRefs",
                "RefNotFound",
                "spec.steps[0].accept[0].judge.tierRef.name: ModelTier \"none\" does not exist",
            ),
        ),
        gate(
            json!({"agreement": {"samples": 9, "atLeast": "0.5"}}),
            "spec.steps[0].accept[0].agreement: agreement: samples must be 2 to 8",
        ),
        gate(
            json!({"agreement": {"samples": 3, "atLeast": "2"}}),
            "spec.steps[0].accept[0].agreement.atLeast: \"2\" is not a ratio",
        ),
        gate(json!({"jsonSchema": {}}), "spec.steps[0].accept[0].jsonSchema: exactly one of fromRequest and inline"),
        gate(json!({"jsonSchema": {"inline": "{"}}), "spec.steps[0].accept[0].jsonSchema.inline: "),
        gate(
            json!({"jsonSchema": {"inline": "{\"type\": \"objekt\"}"}}),
            "spec.steps[0].accept[0].jsonSchema.inline: ",
        ),
        gate(
            json!({"confidence": {"measure": "MeanLogprob", "quantile": "0.1", "atLeast": "-1"}}),
            "spec.steps[0].accept[0].confidence.quantile: must be set with measure LogprobQuantile, and only",
        ),
        gate(
            json!({"confidence": {"measure": "LogprobQuantile", "quantile": "1.5", "atLeast": "-1"}}),
            "spec.steps[0].accept[0].confidence.quantile: \"1.5\" is not a ratio",
        ),
        gate(
            json!({"confidence": {"measure": "MeanLogprob", "atLeast": "low"}}),
            "spec.steps[0].accept[0].confidence.atLeast: \"low\" is not a score",
        ),
        gate(json!({"grounded": {"pointers": ["a"]}}), "spec.steps[0].accept[0].grounded.pointers[0]: \"a\" is not"),
    ]
}

fn policy_rows() -> Vec<Row> {
    let policy = |pointer, value, text| row(POLICY, vec![(POLICY, pointer, value)], ("Accepted", "Invalid", text));
    vec![
        accepted(POLICY, vec![]),
        row(
            POLICY,
            vec![(POLICY, "/spec/workloads/0/pathRef/name", json!("none"))],
            (
                "ResolvedRefs",
                "RefNotFound",
                "spec.workloads[0].pathRef.name: EscalationPath \"none\" does not exist; known paths: frontier-then",
            ),
        ),
        row(
            POLICY,
            vec![(PATH, "/spec/deadline", json!("x"))],
            ("ResolvedRefs", "RefNotAccepted", "EscalationPath \"small-first\" is not accepted: spec.deadline: "),
        ),
        row(
            POLICY,
            vec![(POLICY, "/spec/workloads/2/tierRef/name", json!("none"))],
            ("ResolvedRefs", "RefNotFound", "spec.workloads[2].tierRef.name: ModelTier \"none\" does not exist"),
        ),
        row(
            POLICY,
            vec![(POLICY, "/spec/workloads/2/dataClass", json!("Restricted"))],
            (
                "Accepted",
                "DataClassNotAllowed",
                "spec.workloads[2].dataClass: no tier of workload \"contract-review\" may see Restricted data: \
                 frontier (Confidential)",
            ),
        ),
        // The step may see what its judge may not.
        row(
            POLICY,
            vec![
                (POLICY, "/spec/workloads/0/dataClass", json!("Restricted")),
                (PATH, "/spec/steps/0/accept/0", judged_by("frontier")),
            ],
            (
                "Accepted",
                "DataClassNotAllowed",
                "has Restricted data, which its judge may not see: frontier; grade by a tier that may",
            ),
        ),
        // Restricted data may be seen by the Small tier, but that step is only entered after a failure.
        row(
            POLICY,
            vec![(POLICY, "/spec/workloads/1/dataClass", json!("Restricted"))],
            ("Accepted", "DataClassNotAllowed", "spec.workloads[1].dataClass: no tier of workload \"drafts\""),
        ),
        accepted(POLICY, vec![(POLICY, "/spec/workloads/0/dataClass", json!("Restricted"))]),
        policy("/metadata/name", json!("1st"), "metadata.name: "),
        policy("/spec/router/replicas", json!(0), "spec.router.replicas: 0 must be 1 to 100"),
        policy(
            "/spec/clients/0/budget",
            json!({"amount": "0.0", "per": "Day"}),
            "spec.clients[0].budget.amount: 0.0 must be above 0",
        ),
        policy(
            "/spec/workloads/0/budget",
            json!({"amount": "1e3", "per": "Day"}),
            "spec.workloads[0].budget.amount: \"1e3\" is not a decimal",
        ),
        policy("/spec/timeZone", json!("Mars/Olympus"), "spec.timeZone: \"Mars/Olympus\" is no time zone"),
        policy(
            "/spec/router",
            json!({"scaling": {"min": 3, "max": 2}}),
            "spec.router.scaling.min: 3 must be at most max, which is 2",
        ),
        policy(
            "/spec/router",
            json!({"scaling": {"max": 3, "targetUtilization": "0"}}),
            "spec.router.scaling.targetUtilization: must be above 0",
        ),
        policy(
            "/spec/router",
            json!({"scaling": {"max": 3, "scaleDownStabilization": "61m"}}),
            "spec.router.scaling.scaleDownStabilization: 61m must be at most 1h",
        ),
        policy(
            "/spec/router",
            json!({"scaling": {"max": 3}, "resources": {"requests": {"memory": "1Gi"}}}),
            "spec.router.resources.requests: must have cpu",
        ),
        policy("/spec/router/maxBodyBytes", json!(1), "spec.router.maxBodyBytes: 1 must be 1024 to 1073741824 bytes"),
        policy(
            "/spec/router",
            json!({"maxBodyBytes": 4096, "maxBufferedBytes": 2048}),
            "spec.router.maxBufferedBytes: 2048 must be at least maxBodyBytes, which is 4096",
        ),
        policy(
            "/spec/router/service",
            json!({"annotations": {"smallfirst.dev/a": "b"}}),
            "spec.router.service.annotations[\"smallfirst.dev/a\"]: belongs to the operator",
        ),
        policy("/spec/clients/0/limits", json!({}), "spec.clients[0].limits: at least one of requestsPerMinute"),
        accepted(POLICY, vec![(POLICY, "/spec/clients/0/limits", json!({"maxConcurrent": 1}))]),
        policy(
            "/spec/workloads/0/limits",
            json!({"tokensPerMinute": 0}),
            "spec.workloads[0].limits.tokensPerMinute: 0 must be at least 1",
        ),
        policy(
            "/spec/workloads/0/reserve",
            json!("0.5"),
            "spec.workloads[0].reserve: only a workload of risk High can",
        ),
        policy("/spec/workloads/2/reserve", json!("0"), "spec.workloads[2].reserve: must be above 0"),
        policy(
            "/spec/workloads/2/reserve",
            json!("0.5"),
            "spec.workloads[2].reserve: no Frontier tier of the workload's",
        ),
        accepted(POLICY, reserve("0.9", &[])),
        // Its judge's account is one too.
        accepted(
            POLICY,
            reserve(
                "0.9",
                &[
                    (POLICY, "/spec/workloads/2/tierRef", Value::Null),
                    (POLICY, "/spec/workloads/2/pathRef", json!({"name": "small-first"})),
                    (POLICY, "/spec/workloads/2/dataClass", Value::Null),
                    (
                        PATH,
                        "/spec/steps",
                        json!([{"name": "compact", "tierRef": {"name": "compact"}, "accept": [judged_by("frontier")]}]),
                    ),
                ],
            ),
        ),
        row(
            POLICY,
            reserve("0.9", &[(POLICY, "/spec/clients/0/workloads", json!(["ticket-intent"]))]),
            (
                "Accepted",
                "Invalid",
                "spec.workloads[2].reserve: a workload with a reserve needs a client that lists it",
            ),
        ),
        row(
            POLICY,
            reserve("0.5", &[(POLICY, "/spec/clients", Value::Null), (POLICY, "/spec/anonymous", json!({}))]),
            (
                "Accepted",
                "Invalid",
                "spec.workloads[2].reserve: a workload with a reserve needs a client that lists it",
            ),
        ),
        row(
            POLICY,
            reserve("0.8", &[(FRONTIER, "/spec/provider/quota", json!({"maxConcurrent": 4}))]),
            ("Accepted", "Invalid", "leave less than one of maxConcurrent: 4 to others"),
        ),
        accepted(POLICY, reserve("0.5", &[(FRONTIER, "/spec/provider/quota", json!({"maxConcurrent": 4}))])),
        row(
            POLICY,
            reserve("0.91", &[]),
            ("Accepted", "Invalid", "spec.workloads[2].reserve: the reserves of account "),
        ),
        row(
            POLICY,
            reserve(
                "0.5",
                &[
                    (POLICY, "/spec/workloads/1/risk", json!("High")),
                    (POLICY, "/spec/workloads/1/reserve", json!("0.5")),
                ],
            ),
            ("Accepted", "Invalid", "come to more than 0.9"),
        ),
        accepted(
            POLICY,
            vec![(FRONTIER, "/spec/provider/quota", json!({"requestsPerMinute": 60, "maxConcurrent": 1}))],
        ),
        row(
            POLICY,
            vec![
                (FRONTIER, "/spec/provider/account", json!("main")),
                (FRONTIER, "/spec/provider/quota", json!({"requestsPerMinute": 60})),
                (COMPACT, "/spec/pool", Value::Null),
                (
                    COMPACT,
                    "/spec/provider",
                    json!({
                        "api": "OpenAI", "baseURL": "https://api.example.com/v1", "account": "main",
                        "credential": {"secretKeyRef": {"name": "frontier-key", "key": "token"}},
                        "quota": {"requestsPerMinute": 60, "share": "1", "store": {"redis": {"url": "rediss://valkey.example.com"}}}
                    }),
                ),
            ],
            (
                "ResolvedRefs",
                "RefNotAccepted",
                "ModelTier frontier: spec.provider.quota.store: is not that of ModelTier compact, which is of the same",
            ),
        ),
        policy("/spec/anonymous", json!({}), "spec: exactly one of clients and anonymous must be set"),
        policy("/spec/clients", Value::Null, "spec: exactly one of clients and anonymous must be set"),
        policy(
            "/spec/workloads/1/name",
            json!("ticket-intent"),
            "spec.workloads[1].name: \"ticket-intent\" is used twice",
        ),
        policy(
            "/spec/clients/-",
            json!({"name": "finance", "apiKey": {"secretKeyRef": {"name": "a", "key": "b"}}}),
            "spec.clients[1].name: \"finance\" is used twice",
        ),
        policy("/spec/clients/0/workloads/0", json!("nope"), "spec.clients[0].workloads[0]: there is no workload"),
        policy("/spec/workloads/0/match/clients", json!(["nobody"]), "spec.workloads[0].match.clients[0]: there is no"),
        policy("/spec/default/workload", json!("nope"), "spec.default.workload: there is no workload \"nope\"; known"),
        policy("/spec/default/reject", json!({}), "spec.default: exactly one of workload and reject must be set"),
        policy("/spec/workloads/1/match", Value::Null, "spec.workloads[1].match: must be set, or the workload named"),
        policy(
            "/spec/workloads/0/tierRef",
            json!({"name": "compact"}),
            "spec.workloads[0]: exactly one of pathRef and",
        ),
        policy(
            "/spec/workloads/0/match/headers",
            json!([{"name": "X-Smallfirst-Tier", "value": "a"}]),
            "spec.workloads[0].match.headers[0].name: headers that start with x-smallfirst-",
        ),
        policy(
            "/spec/workloads/0/match/headers",
            json!([{"name": "X-A", "value": "a"}, {"name": "x-a", "value": "b"}]),
            "spec.workloads[0].match.headers[1].name: \"x-a\" is used twice",
        ),
    ]
}

#[test]
fn bad_input_is_refused_in_words_that_name_the_field() {
    let mut wrong = Vec::new();
    let rows: Vec<Row> = tier_rows().into_iter().chain(path_rows()).chain(policy_rows()).collect();
    for Row { of, edits, wanted } in &rows {
        let got = verdict(of, &observed(edits));
        let fits = match (&got, wanted) {
            (Ok(()), None) => true,
            (Err(got), Some((condition, reason, text))) => {
                got.condition == *condition && got.reason == *reason && got.message.contains(text)
            }
            _ => false,
        };
        if !fits {
            wrong.push(format!("{of} {edits:?}\n  wanted {wanted:?}\n  got    {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn all_problems_are_told_at_once_and_waiting_is_told_from_wrong() {
    let edits = [
        (PATH, "/spec/deadline", json!("x")),
        (PATH, "/spec/steps/0/timeout", json!("y")),
        (PATH, "/spec/steps/1/attempts", json!(99)),
    ];
    let wrong = verdict(PATH, &observed(&edits)).unwrap_err();
    assert_eq!(wrong.condition, "Accepted");
    for field in ["spec.deadline: ", "spec.steps[0].timeout: ", "spec.steps[1].attempts: "] {
        assert!(wrong.message.contains(field), "{wrong}");
    }
    let missing = verdict(PATH, &observed(&[(COMPACT, "", Value::Null)])).unwrap_err();
    assert_eq!((missing.condition, missing.reason), ("ResolvedRefs", "RefNotFound"));
}
