//! Gates: whether an answer is good enough to be the answer.
//!
//! ```text
//! table::Gate --compile--> CompiledGate      when a table is loaded
//! [CompiledGate] + RequestContext + Answer --judge--> Judgement
//! ```
//! Gates run cheapest first and stop at the first failure. Missing evidence fails: a gate that cannot see what it must
//! look at does not vouch for it, unless it says `onMissing: Accept`. Of an answer with several choices every choice
//! must pass.
//!
//! An answer that fails a *required* gate (jsonSchema and toolCalls, unless told otherwise) is never returned. So such
//! gates are judged even when a gate before them failed, because the answer may become the best one there is.
//!
//! Gates that ask a model again ([`CompiledGate::asks`]) are not judged here but by [`super::second_opinion`], after all
//! of these, on an answer that passed them.
//!
//! A verdict's detail never quotes the answer: it goes into logs.

mod agreement;
mod confidence;
mod context;
mod expression;
mod finish_reason;
mod grade;
mod grounded;
mod json_schema;
mod leaves;
mod near_miss;
mod satisfiable;
mod schema_size;
mod text_match;
mod tool_calls;

use serde::Serialize;

use crate::api::escalation_path::OnMissing;
use crate::router::answer::{Answer, Choice};
use crate::routing::table::{Check, Gate};

pub use agreement::Agreement;
pub use context::RequestContext;
pub use expression::MAX_EXPRESSION_BYTES;
pub use grade::{Grade, REPLY_TOKENS};
pub use json_schema::{MAX_REQUEST_SCHEMA_BYTES, validate_request_schema};
pub use near_miss::near_miss;
pub use schema_size::MAX_SUBSCHEMAS;

use context::Content;

/// A gate, ready to judge.
#[derive(Debug)]
pub struct CompiledGate {
    kind: Kind,
    on_missing: OnMissing,
    required: bool,
}

#[derive(Debug)]
enum Kind {
    FinishReason(finish_reason::FinishReasonGate),
    Match(text_match::TextMatch),
    Confidence(confidence::Confidence),
    Grounded(grounded::Grounded),
    JsonSchema(json_schema::JsonSchemaGate),
    Expression(Box<expression::Expression>),
    Agreement(Agreement),
    Judge(Grade),
    ToolCalls,
}

/// Whom a gate asks before it can judge.
#[derive(Clone, Copy, Debug)]
pub enum Asks<'a> {
    /// The same tier, again.
    Again(&'a Agreement),
    /// Another tier, for a grade.
    Judge(&'a Grade),
}

/// What a gate decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DecidesOn {
    /// The beginning is enough.
    Prefix,
    /// How the answer ended.
    End,
    /// The whole answer.
    Whole,
}

/// What is known of a gate before there is an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description<'a> {
    /// Name of the gate as in the API.
    pub gate: &'static str,
    /// What it decides on.
    pub decides_on: DecidesOn,
    /// What it says when there is nothing to look at.
    pub on_missing: OnMissing,
    /// Whether an answer that fails it is never returned.
    pub required: bool,
    /// More answers that it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// The tier that it asks for a grade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<&'a str>,
}

/// What one gate found, also as the access log has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Name of the gate as in the API.
    pub gate: &'static str,
    /// Whether the answer passed.
    pub passed: bool,
    /// What was measured, for gates that measure; of several choices the lowest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why it failed, empty if it passed. Never a part of the answer.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub detail: &'static str,
}

/// What all gates found.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Every gate passed.
    pub accepted: bool,
    /// The gates that were judged, in the order in which they were.
    pub verdicts: Vec<Verdict>,
    /// Whether the answer may be returned for want of a better one: no required gate failed.
    pub returnable: bool,
    /// Number of verdicts that passed.
    pub passed_count: usize,
}

/// What a gate says of one choice: its score if it has one, and why it fails if it does.
pub(super) struct Finding {
    score: Option<f64>,
    failure: Option<&'static str>,
    /// The failure is that there was nothing to look at.
    missing: bool,
}

impl Finding {
    const PASS: Self = Self { score: None, failure: None, missing: false };

    const fn fail(why: &'static str) -> Self {
        Self { score: None, failure: Some(why), missing: false }
    }

    pub(super) const fn missing(what: &'static str) -> Self {
        Self { score: None, failure: Some(what), missing: true }
    }

    const fn pass_if(passes: bool, why: &'static str) -> Self {
        if passes { Self::PASS } else { Self::fail(why) }
    }
}

impl CompiledGate {
    const CONFIDENCE: &'static str = "confidence";

    /// Compiles a gate of a table.
    ///
    /// # Errors
    /// A regular expression, a schema or a CEL expression that is wrong or too large; the text says which and why.
    pub fn compile(gate: &Gate) -> Result<Self, String> {
        let Gate { check, on_missing, required } = gate;
        Ok(Self { kind: Self::kind(check)?, on_missing: *on_missing, required: *required })
    }

    /// Whether a check of a table compiles.
    ///
    /// # Errors
    /// As for [`compile`](Self::compile).
    pub fn check(check: &Check) -> Result<(), String> {
        Self::kind(check).map(drop)
    }

    fn kind(check: &Check) -> Result<Kind, String> {
        Ok(match check {
            Check::FinishReason(reasons) => Kind::FinishReason(finish_reason::FinishReasonGate(reasons.clone())),
            Check::JsonSchema { inline } => Kind::JsonSchema(json_schema::JsonSchemaGate::compile(inline.as_deref())?),
            Check::Confidence { measure, quantile, scope, at_least } => {
                Kind::Confidence(confidence::Confidence::compile(*measure, *quantile, *scope, *at_least)?)
            }
            Check::Grounded { pointers, normalize } => {
                Kind::Grounded(grounded::Grounded { pointers: pointers.clone(), normalize: *normalize })
            }
            Check::Match(regex) => Kind::Match(text_match::TextMatch::compile(regex, true)?),
            Check::NotMatch(regex) => Kind::Match(text_match::TextMatch::compile(regex, false)?),
            Check::Expression(text) => Kind::Expression(Box::new(expression::Expression::compile(text)?)),
            Check::Agreement { samples, at_least, compare } => {
                Kind::Agreement(Agreement::compile(*samples, *at_least, *compare)?)
            }
            Check::Judge { tier, rubric, at_least } => Kind::Judge(Grade::compile(tier, rubric, *at_least)?),
            Check::ToolCalls {} => Kind::ToolCalls,
        })
    }

    /// Name of the gate as in the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match &self.kind {
            Kind::FinishReason(_) => "finishReason",
            Kind::Match(gate) if gate.wanted => "match",
            Kind::Match(_) => "notMatch",
            Kind::Confidence(_) => Self::CONFIDENCE,
            Kind::Grounded(_) => "grounded",
            Kind::JsonSchema(_) => "jsonSchema",
            Kind::Expression(_) => "expression",
            Kind::Agreement(_) => "agreement",
            Kind::Judge(_) => "judge",
            Kind::ToolCalls => "toolCalls",
        }
    }

    /// Alternatives per token that must be asked for, if the gate looks at log probabilities.
    #[must_use]
    pub const fn needs_logprobs(&self) -> Option<u8> {
        match &self.kind {
            Kind::Confidence(gate) => Some(gate.alternatives()),
            _ => None,
        }
    }

    /// Whether the gate judges by the schema of the request: then
    /// [`validate_request_schema`] must be asked before the request is sent anywhere.
    #[must_use]
    pub const fn needs_request_schema(&self) -> bool {
        matches!(&self.kind, Kind::JsonSchema(gate) if gate.is_of_request())
    }

    /// Rank in the order of judging, cheapest first: sorted by this when a table is loaded, and stable, so that gates
    /// of one kind stay in the order of the manifest.
    #[must_use]
    pub const fn cost(&self) -> u8 {
        match &self.kind {
            Kind::FinishReason(_) => 0,
            Kind::Confidence(_) => 1,
            Kind::Match(_) => 2,
            Kind::JsonSchema(_) => 3,
            Kind::ToolCalls => 4,
            Kind::Grounded(_) => 5,
            Kind::Expression(_) => 6,
            Kind::Agreement(_) => 7,
            Kind::Judge(_) => 8,
        }
    }

    /// What the gate decides on. A `finishReason` speaks of an end that a committed stream is not judged by.
    #[must_use]
    pub const fn decides_on(&self) -> DecidesOn {
        match &self.kind {
            Kind::Match(gate) if !gate.wanted => DecidesOn::Prefix,
            Kind::Confidence(gate) if gate.is_of_all() => DecidesOn::Prefix,
            Kind::FinishReason(_) => DecidesOn::End,
            _ => DecidesOn::Whole,
        }
    }

    /// Whether an answer that fails this gate is never returned.
    #[must_use]
    pub const fn required(&self) -> bool {
        self.required
    }

    /// What is known of it before there is an answer.
    #[must_use]
    pub fn describe(&self) -> Description<'_> {
        let (samples, judge) = match self.asks() {
            Some(Asks::Again(agreement)) => (Some(agreement.samples), None),
            Some(Asks::Judge(grade)) => (None, Some(grade.tier.as_str())),
            None => (None, None),
        };
        Description {
            gate: self.name(),
            decides_on: self.decides_on(),
            on_missing: self.on_missing,
            required: self.required,
            samples,
            judge,
        }
    }

    /// Whom it asks before it can judge; `None` for a gate that judges by what is there.
    #[must_use]
    pub const fn asks(&self) -> Option<Asks<'_>> {
        match &self.kind {
            Kind::Agreement(agreement) => Some(Asks::Again(agreement)),
            Kind::Judge(grade) => Some(Asks::Judge(grade)),
            _ => None,
        }
    }

    fn verdict(&self, request: &RequestContext<'_>, answer: &Answer, contents: &[Content<'_>]) -> Verdict {
        let mut verdict = self.passed();
        for (choice, content) in answer.choices.iter().zip(contents) {
            self.weigh(&mut verdict, self.finding(request, answer, choice, content));
            if !verdict.passed {
                break;
            }
        }
        verdict
    }

    const fn passed(&self) -> Verdict {
        Verdict { gate: self.name(), passed: true, score: None, detail: "" }
    }

    /// Takes what it found of one choice into its verdict.
    fn weigh(&self, verdict: &mut Verdict, finding: Finding) {
        verdict.score = match (verdict.score, finding.score) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(why) = finding.failure
            && !(finding.missing && self.on_missing == OnMissing::Accept)
        {
            verdict.passed = false;
            verdict.detail = why;
        }
    }

    fn finding(
        &self,
        request: &RequestContext<'_>,
        answer: &Answer,
        choice: &Choice,
        content: &Content<'_>,
    ) -> Finding {
        match &self.kind {
            Kind::FinishReason(gate) => gate.judge(request, answer.usage, choice),
            Kind::Match(gate) => gate.judge(choice),
            Kind::Confidence(gate) => gate.judge(choice),
            Kind::Grounded(gate) => gate.judge(request, content),
            Kind::JsonSchema(gate) => gate.judge(request, choice, content),
            Kind::ToolCalls => tool_calls::judge(request, choice),
            Kind::Expression(gate) => gate.judge(request, answer.usage, choice, content),
            Kind::Agreement(_) | Kind::Judge(_) => Finding::missing("nobody was asked"),
        }
    }
}

impl Judgement {
    fn add(&mut self, gate: &CompiledGate, verdict: Verdict) {
        self.accepted &= verdict.passed;
        self.returnable &= verdict.passed || !gate.required();
        self.passed_count += usize::from(verdict.passed);
        self.verdicts.push(verdict);
    }

    /// Takes up what a gate found that asked somebody.
    pub(super) fn weigh(&mut self, gate: &CompiledGate, finding: Finding) {
        let mut verdict = gate.passed();
        gate.weigh(&mut verdict, finding);
        self.add(gate, verdict);
    }

    /// Passes over a gate that asks somebody, since another has failed: what it might require is not vouched for.
    pub(super) fn pass_over(&mut self, gate: &CompiledGate) {
        self.returnable &= !gate.required();
    }
}

/// Compiles the gates of a step, in the order in which they are judged.
///
/// # Errors
/// As for [`CompiledGate::compile`], for the first gate that is wrong.
pub fn compile_all(gates: &[Gate]) -> Result<Vec<CompiledGate>, String> {
    let mut compiled = gates.iter().map(CompiledGate::compile).collect::<Result<Vec<_>, _>>()?;
    compiled.sort_by_key(CompiledGate::cost);
    Ok(compiled)
}

/// Judges the beginning of an answer by the gates that decide on it.
#[must_use]
pub fn judge_prefix(gates: &[CompiledGate], request: &RequestContext<'_>, answer: &Answer) -> Judgement {
    judge_by(gates.iter().filter(|gate| gate.decides_on() == DecidesOn::Prefix), request, answer)
}

/// Judges an answer by gates in the order of [`compile_all`], but for those that ask somebody. No gates: accepted.
#[must_use]
pub fn judge(gates: &[CompiledGate], request: &RequestContext<'_>, answer: &Answer) -> Judgement {
    judge_by(gates.iter().filter(|gate| gate.asks().is_none()), request, answer)
}

fn judge_by<'g>(
    gates: impl Iterator<Item = &'g CompiledGate>,
    request: &RequestContext<'_>,
    answer: &Answer,
) -> Judgement {
    let verdicts = Vec::with_capacity(gates.size_hint().1.unwrap_or_default());
    let mut judgement = Judgement { accepted: true, verdicts, returnable: true, passed_count: 0 };
    let contents: Vec<Content<'_>> = answer.choices.iter().map(|choice| Content::new(&choice.content)).collect();
    for gate in gates {
        if !judgement.accepted && !gate.required() {
            continue;
        }
        judgement.add(gate, gate.verdict(request, answer, &contents));
    }
    judgement
}

#[cfg(test)]
mod tests;
