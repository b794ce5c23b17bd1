//! An EscalationPath -> its entry in the routing table.

use std::collections::BTreeMap;

use super::problems::{Problems, names};
use super::{Invalid, Valid, tier};
use crate::api::conditions::{
    ACCEPTED, REASON_CLASS_ORDER, REASON_GATE_UNSATISFIABLE, REASON_INVALID, REASON_REF_NOT_ACCEPTED,
    REASON_REF_NOT_FOUND, RESOLVED_REFS,
};
use crate::api::escalation_path::{self as api, Entry};
use crate::api::model_tier::Capability;
use crate::api::types::{Duration, LocalRef, ModelClass};
use crate::api::{EscalationPath, ModelTier};
use crate::operator::observe::Observed;
use crate::router::gates::CompiledGate;
use crate::routing::decide;
use crate::routing::table::{self, Check, Gate};

/// Tiers that steps can resolve to, with their entries in the table.
pub(super) type Tiers = BTreeMap<String, table::Tier>;

/// The tiers of a namespace that are in force. One that became invalid keeps the entry that it has in `last`.
pub(super) fn tiers_in_force(observed: &Observed, last: Option<&table::RoutingTable>) -> Tiers {
    let entry = |name: &String, found: &ModelTier| match tier(found) {
        Ok(valid) => Some(tier::with_port_name(valid.value, observed)),
        Err(_) => last.and_then(|table| table.tiers.get(name)).cloned(),
    };
    let kept = observed.tiers.iter().filter(|(_, found)| !going(found));
    kept.filter_map(|(name, found)| Some((name.clone(), entry(name, found)?))).collect()
}

/// Whether a tier is being deleted: with foreground deletion it outlives its pods.
fn going(tier: &ModelTier) -> bool {
    tier.metadata.deletion_timestamp.is_some()
}

/// The path's entry in the routing table, as far as its tiers are there. Steps without a tier are left out.
///
/// # Errors
/// When a field of the spec is wrong, or a step goes to a lower class, or a gate can never pass.
pub fn path(path: &EscalationPath, observed: &Observed) -> Result<Valid<table::Path>, Invalid> {
    resolve(path, observed, &tiers_in_force(observed, None))
}

/// [`path`] over tiers that are already known.
pub(super) fn resolve(
    path: &EscalationPath,
    observed: &Observed,
    tiers: &Tiers,
) -> Result<Valid<table::Path>, Invalid> {
    let mut problems = Problems::default();
    let mut waiting = Problems::default();
    let spec = &path.spec;
    if spec.steps.is_empty() {
        problems.add(REASON_INVALID, "spec.steps", "at least one step is needed");
    }
    if spec.steps.first().is_some_and(|step| step.entry != Entry::Always) {
        problems.add(REASON_INVALID, "spec.steps[0].entry", "the first step must be entered Always");
    }
    let mut steps: Vec<table::Step> = Vec::new();
    // Class that the last step entered Always can answer with.
    let mut before: Option<(ModelClass, &str)> = None;
    for (i, step) in spec.steps.iter().enumerate() {
        let field = format!("spec.steps[{i}]");
        if spec.steps[..i].iter().any(|other| other.name == step.name) {
            problems.add(REASON_INVALID, format!("{field}.name"), format!("{:?} is used twice", step.name));
        }
        let resolved = resolve_step(&mut problems, &mut waiting, &field, step, observed, tiers);
        let compiled = compile_step(&mut problems, &field, step, resolved, tiers);
        for (field, judge) in judges(&field, step) {
            resolve_tier(&mut waiting, &format!("{field}.tierRef.name"), &judge.tier_ref, observed, tiers);
        }
        let Some(class) = compiled.tiers.iter().filter_map(|name| tiers.get(name)).map(|t| t.class).min() else {
            continue;
        };
        if step.entry == Entry::Always {
            if let Some((higher, name)) = before.filter(|(higher, _)| class < *higher) {
                problems.add(
                    REASON_CLASS_ORDER,
                    &field,
                    format!(
                        "step {:?} has class {class}, lower than {higher} of step {name:?} before it; put it first \
                         or give it entry: FailoverOnly",
                        step.name
                    ),
                );
            }
            before = Some((class, &step.name));
        }
        steps.push(compiled);
    }
    let mut failover_on = spec.failover.reasons.clone();
    failover_on.sort_unstable();
    failover_on.dedup();
    let mut value = table::Path {
        steps,
        deadline_ms: positive(&mut problems, "spec.deadline", &spec.deadline),
        // Nine digits before the point fit: 1e9 * 1e9 < 2^64.
        max_cost: spec
            .max_cost
            .as_ref()
            .map(|most| u64::try_from(problems.parsed("spec.maxCost", most.nanos())).unwrap_or_default()),
        failover_on,
        commit_after_tokens: commit_after(&mut problems, &spec.streaming),
        resume: spec.streaming.mode == api::StreamingMode::Commit && spec.streaming.resume,
        sticky: spec.sticky.as_ref().map(|sticky| compile_sticky(&mut problems, sticky)),
        escalation_limit: spec.escalation_limit.as_ref().map(|limit| escalation_limit(&mut problems, limit)),
        hedge: spec.hedge.as_ref().and_then(|hedge| compile_hedge(&mut problems, hedge, &spec.steps)),
        slack: None,
        cold_tier: spec.cold_tier,
        direction: spec.failover.direction,
        on_exhausted: spec.on_exhausted,
    };
    value.slack = spec.pressure.as_ref().and_then(|pressure| compile_pressure(&mut problems, pressure, &value));
    problems.into_result(ACCEPTED, Valid { value, unresolved: waiting.into_invalid(RESOLVED_REFS) })
}

fn compile_sticky(problems: &mut Problems, sticky: &api::Sticky) -> table::Sticky {
    let ttl_ms = positive(problems, "spec.sticky.ttl", &sticky.ttl);
    match (sticky.by, &sticky.header) {
        (api::StickyBy::Prefix, None) => table::Sticky::Prefix { ttl_ms },
        (api::StickyBy::Header, Some(name)) => table::Sticky::Header { name: name.to_ascii_lowercase(), ttl_ms },
        _ => {
            let problem = "must be set with by: Header, and only with it";
            problems.add(REASON_INVALID, "spec.sticky.header", problem);
            table::Sticky::Prefix { ttl_ms }
        }
    }
}

fn escalation_limit(problems: &mut Problems, limit: &api::EscalationLimit) -> table::EscalationLimit {
    const FIELD: &str = "spec.escalationLimit";
    let window_ms = problems.parsed(format!("{FIELD}.window"), limit.window.millis());
    // Below a second there is nothing to count; above a day what is refused now would be told to wait for hours.
    if !(1_000..=24 * 3_600_000).contains(&window_ms) {
        problems.add(REASON_INVALID, format!("{FIELD}.window"), format!("{} must be 1s to 24h", limit.window));
    }
    table::EscalationLimit {
        ratio: problems.parsed(format!("{FIELD}.ratio"), limit.ratio.nanos()),
        window_ms,
        on_exceeded: limit.on_exceeded,
    }
}

fn compile_pressure(problems: &mut Problems, pressure: &api::Pressure, path: &table::Path) -> Option<f64> {
    if !(0..path.steps.len()).any(|step| decide::may_give_way(path, step)) {
        let problem = "needs a step with a confidence gate that is not required, without agreement and judge, and a \
                       later step that is entered Always";
        problems.add(REASON_INVALID, "spec.pressure", problem);
    }
    let nanos = problems.parsed("spec.pressure.slack", pressure.slack.nanos());
    if !(1..=4_000_000_000).contains(&nanos) {
        let problem = format!("{} must be above 0 and at most 4", pressure.slack.0);
        problems.add(REASON_INVALID, "spec.pressure.slack", problem);
    }
    pressure.slack.0.parse().ok()
}

fn compile_hedge(problems: &mut Problems, hedge: &api::Hedge, steps: &[api::Step]) -> Option<table::Hedge> {
    if steps.iter().filter(|step| step.entry == Entry::Always).count() < 2 {
        let problem = "needs a second step that is entered Always, which starts beside the slow one";
        problems.add(REASON_INVALID, "spec.hedge", problem);
    }
    match (&hedge.after, hedge.percentile) {
        (Some(after), None) => Some(table::Hedge::After { after_ms: positive(problems, "spec.hedge.after", after) }),
        (None, Some(percentile)) => {
            let bounded = u32::try_from(percentile).ok().filter(|percentile| (50..=99).contains(percentile));
            if bounded.is_none() {
                problems.add(REASON_INVALID, "spec.hedge.percentile", format!("{percentile} must be 50 to 99"));
            }
            bounded.map(|percentile| table::Hedge::Percentile { percentile })
        }
        _ => {
            problems.add(REASON_INVALID, "spec.hedge", "exactly one of after and percentile must be set");
            None
        }
    }
}

/// The judges of a step, each with its field.
fn judges<'a>(field: &str, step: &'a api::Step) -> impl Iterator<Item = (String, &'a api::JudgeGate)> {
    let gates = step.accept.iter().enumerate();
    gates.filter_map(move |(j, gate)| Some((format!("{field}.accept[{j}].judge"), gate.judge.as_ref()?)))
}

/// What a person should know of a path that is in force all the same.
#[must_use]
pub fn path_warnings(path: &EscalationPath, observed: &Observed) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, step) in path.spec.steps.iter().enumerate() {
        for (field, judge) in judges(&format!("spec.steps[{i}]"), step) {
            let name = &judge.tier_ref.name;
            if let Some(tier) = observed.tiers.get(name).filter(|tier| tier.spec.class < ModelClass::Medium) {
                let class = tier.spec.class;
                warnings.push(format!(
                    "{field}.tierRef.name: ModelTier {name:?} is of class {class}, and models below Medium grade no \
                     better than chance"
                ));
            }
        }
    }
    warnings
}

fn commit_after(problems: &mut Problems, streaming: &api::Streaming) -> Option<u32> {
    let tokens = streaming.commit_after_tokens;
    let bounded = u32::try_from(tokens).ok().filter(|tokens| (1..=4096).contains(tokens));
    if bounded.is_none() {
        problems.add(REASON_INVALID, "spec.streaming.commitAfterTokens", format!("{tokens} must be 1 to 4096"));
    }
    bounded.filter(|_| streaming.mode == api::StreamingMode::Commit)
}

/// The path of a workload that uses one tier, or of a tier that clients name: with a step's and a path's defaults.
pub(super) fn single(tier: &str) -> table::Path {
    let failover = api::Failover::default();
    let mut failover_on = failover.reasons;
    failover_on.sort_unstable();
    table::Path {
        steps: vec![table::Step {
            name: tier.to_owned(),
            tiers: vec![tier.to_owned()],
            entry: Entry::Always,
            timeout_ms: 60_000,
            attempts: 2,
            accept: Vec::new(),
        }],
        deadline_ms: 120_000,
        max_cost: None,
        failover_on,
        commit_after_tokens: None,
        resume: false,
        sticky: None,
        escalation_limit: None,
        hedge: None,
        slack: None,
        // Nobody else could take the request.
        cold_tier: api::ColdTier::Wait,
        direction: failover.direction,
        on_exhausted: api::OnExhausted::default(),
    }
}

/// Names of the tiers of a step, in the order in which they are asked.
fn resolve_step(
    problems: &mut Problems,
    waiting: &mut Problems,
    field: &str,
    step: &api::Step,
    observed: &Observed,
    tiers: &Tiers,
) -> Vec<String> {
    match (&step.tier_ref, step.class) {
        (Some(reference), None) => {
            resolve_tier(waiting, &format!("{field}.tierRef.name"), reference, observed, tiers).into_iter().collect()
        }
        (None, Some(class)) => {
            let mut found: Vec<(&String, &table::Tier)> = tiers.iter().filter(|(_, t)| t.class == class).collect();
            // Cheapest first; the name decides between equals, so that every table has the same order.
            found.sort_by_key(|(name, tier)| (tier.input_price.saturating_add(tier.output_price), *name));
            if found.is_empty() {
                let problem = format!("no accepted ModelTier has class {class}");
                waiting.add(REASON_REF_NOT_FOUND, format!("{field}.class"), problem);
            }
            found.into_iter().map(|(name, _)| name.clone()).collect()
        }
        _ => {
            problems.add(REASON_INVALID, field, "exactly one of tierRef and class must be set");
            Vec::new()
        }
    }
}

/// The name of a tier that is in force; otherwise says what is missing. A tier that is invalid but was in force
/// before keeps its old entry, and is reported too.
pub(super) fn resolve_tier(
    waiting: &mut Problems,
    field: &str,
    reference: &LocalRef,
    observed: &Observed,
    tiers: &Tiers,
) -> Option<String> {
    let name = &reference.name;
    match observed.tiers.get(name).filter(|found| !going(found)).map(|found| tier(found)) {
        None => {
            let problem = format!("ModelTier {name:?} does not exist; known tiers: {}", names(observed.tiers.keys()));
            waiting.add(REASON_REF_NOT_FOUND, field, problem);
        }
        Some(Err(invalid)) => {
            let problem = format!("ModelTier {name:?} is not accepted: {invalid}");
            waiting.add(REASON_REF_NOT_ACCEPTED, field, problem);
        }
        Some(Ok(_)) => {}
    }
    tiers.contains_key(name).then(|| name.clone())
}

fn compile_step(
    problems: &mut Problems,
    field: &str,
    step: &api::Step,
    mut resolved: Vec<String>,
    tiers: &Tiers,
) -> table::Step {
    let mut accept = Vec::new();
    for (j, gate) in step.accept.iter().enumerate() {
        accept.extend(compile_gate(problems, &format!("{field}.accept[{j}]"), gate));
        if gate.confidence.is_none() || resolved.is_empty() {
            continue;
        }
        // Of a class, tiers that can give the evidence serve the step; one that can is enough.
        let able = |name: &String| tiers.get(name).is_some_and(|t| t.capabilities.contains(&Capability::Logprobs));
        if resolved.iter().any(able) {
            resolved.retain(able);
        } else {
            problems.add(
                REASON_GATE_UNSATISFIABLE,
                format!("{field}.accept[{j}].confidence"),
                format!(
                    "step {:?} asks for a confidence that ModelTier {:?} cannot give: its \
                     spec.model.capabilities lacks Logprobs",
                    step.name,
                    resolved.join(", ")
                ),
            );
        }
    }
    let attempts = u32::try_from(step.attempts).ok().filter(|a| (1..=10).contains(a)).unwrap_or_else(|| {
        problems.add(REASON_INVALID, format!("{field}.attempts"), format!("{} must be 1 to 10", step.attempts));
        1
    });
    table::Step {
        name: step.name.clone(),
        tiers: resolved,
        entry: step.entry,
        timeout_ms: positive(problems, &format!("{field}.timeout"), &step.timeout),
        attempts,
        accept,
    }
}

/// A duration in milliseconds that is not zero: a bound of zero would refuse everything.
pub(super) fn positive(problems: &mut Problems, field: &str, duration: &Duration) -> u64 {
    match duration.millis() {
        Ok(0) => {
            problems.add(REASON_INVALID, field, "must be more than zero");
            0
        }
        parsed => problems.parsed(field, parsed),
    }
}

fn compile_gate(problems: &mut Problems, field: &str, gate: &api::Gate) -> Option<Gate> {
    let api::Gate {
        finish_reason,
        json_schema,
        tool_calls,
        confidence,
        grounded,
        matches,
        not_match,
        expression,
        agreement,
        judge,
        on_missing,
        required,
    } = gate;
    let compiled: Vec<(&str, Check)> = [
        finish_reason.as_ref().map(|reasons| ("finishReason", Check::FinishReason(reasons.clone()))),
        json_schema.as_ref().map(|gate| ("jsonSchema.inline", compile_schema(problems, field, gate))),
        tool_calls.as_ref().map(|_| ("toolCalls", Check::ToolCalls {})),
        confidence.as_ref().map(|gate| ("confidence", compile_confidence(problems, field, gate))),
        grounded.as_ref().map(|gate| ("grounded", compile_grounded(problems, field, gate))),
        matches.as_ref().map(|gate| ("match.regex", Check::Match(gate.regex.clone()))),
        not_match.as_ref().map(|gate| ("notMatch.regex", Check::NotMatch(gate.regex.clone()))),
        expression.as_ref().map(|text| ("expression", Check::Expression(text.clone()))),
        agreement.as_ref().map(|gate| ("agreement", compile_agreement(problems, field, gate))),
        judge.as_ref().map(|gate| ("judge", compile_judge(problems, field, gate))),
    ]
    .into_iter()
    .flatten()
    .collect();
    // As the router will, so that no table is published that a router refuses.
    for (kind, check) in &compiled {
        if let Err(error) = CompiledGate::check(check) {
            problems.add(REASON_INVALID, format!("{field}.{kind}"), one_line(&error));
        }
    }
    match <[(&str, Check); 1]>::try_from(compiled) {
        Ok([(_, check)]) => {
            let required = required.unwrap_or(matches!(check, Check::JsonSchema { .. } | Check::ToolCalls {}));
            Some(Gate { check, on_missing: *on_missing, required })
        }
        Err(_) => {
            let problem = "exactly one of finishReason, jsonSchema, toolCalls, confidence, grounded, match, \
                           notMatch, expression, agreement and judge must be set";
            problems.add(REASON_INVALID, field, problem);
            None
        }
    }
}

/// Errors of the regex crate draw pictures; a condition's message is one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn compile_schema(problems: &mut Problems, field: &str, gate: &api::JsonSchemaGate) -> Check {
    if gate.from_request.is_some() == gate.inline.is_some() {
        let problem = "exactly one of fromRequest and inline must be set";
        problems.add(REASON_INVALID, format!("{field}.jsonSchema"), problem);
    }
    Check::JsonSchema { inline: gate.inline.clone() }
}

fn compile_confidence(problems: &mut Problems, field: &str, gate: &api::ConfidenceGate) -> Check {
    let field = format!("{field}.confidence");
    let needs_quantile = gate.measure == api::ConfidenceMeasure::LogprobQuantile;
    if needs_quantile != gate.quantile.is_some() {
        let problem = "must be set with measure LogprobQuantile, and only with it";
        problems.add(REASON_INVALID, format!("{field}.quantile"), problem);
    }
    Check::Confidence {
        measure: gate.measure,
        quantile: gate.quantile.as_ref().map(|q| problems.parsed(format!("{field}.quantile"), q.value())),
        scope: gate.scope,
        at_least: problems.parsed(format!("{field}.atLeast"), gate.at_least.value()),
    }
}

fn compile_agreement(problems: &mut Problems, field: &str, gate: &api::AgreementGate) -> Check {
    Check::Agreement {
        // What does not fit is refused with the gate, which names its bounds.
        samples: u32::try_from(gate.samples).unwrap_or_default(),
        at_least: problems.parsed(format!("{field}.agreement.atLeast"), gate.at_least.value()),
        compare: gate.compare,
    }
}

fn compile_judge(problems: &mut Problems, field: &str, gate: &api::JudgeGate) -> Check {
    Check::Judge {
        tier: gate.tier_ref.name.clone(),
        rubric: gate.rubric.clone(),
        at_least: problems.parsed(format!("{field}.judge.atLeast"), gate.at_least.value()),
    }
}

fn compile_grounded(problems: &mut Problems, field: &str, gate: &api::GroundedGate) -> Check {
    for (k, pointer) in gate.pointers.iter().enumerate() {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            let problem = format!("{pointer:?} is not a JSON pointer: it must be empty or start with \"/\"");
            problems.add(REASON_INVALID, format!("{field}.grounded.pointers[{k}]"), problem);
        }
    }
    Check::Grounded { pointers: gate.pointers.clone(), normalize: gate.normalize }
}
