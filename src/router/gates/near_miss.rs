//! By how little an answer missed its threshold, where that is all that it missed.

use super::context::Content;
use super::{CompiledGate, DecidesOn, Judgement, Kind, RequestContext};
use crate::router::answer::Answer;

/// How far the least sure choice of a refused answer is below the threshold, in the unit of the gate's score, if the answer
/// passes every other gate: those too that were not judged because that one had failed. `prefix`: the judgement is that
/// of [`judge_prefix`](super::judge_prefix). For gates that ask nobody.
#[must_use]
pub fn near_miss(
    gates: &[CompiledGate],
    prefix: bool,
    request: &RequestContext<'_>,
    answer: &Answer,
    judgement: &Judgement,
) -> Option<f64> {
    let missed_more =
        judgement.verdicts.iter().any(|verdict| !verdict.passed && verdict.gate != CompiledGate::CONFIDENCE);
    if judgement.accepted || !judgement.returnable || missed_more {
        return None;
    }
    let contents: Vec<Content<'_>> = answer.choices.iter().map(|choice| Content::new(&choice.content)).collect();
    let mut missed = 0.0_f64;
    for gate in gates.iter().filter(|gate| !prefix || gate.decides_on() == DecidesOn::Prefix) {
        if let Kind::Confidence(confidence) = &gate.kind {
            for choice in &answer.choices {
                missed = missed.max(confidence.missed(choice, gate.on_missing)?);
            }
        } else {
            // What was judged has passed.
            let judged = missed <= 0.0 || gate.required();
            if !judged && !gate.verdict(request, answer, &contents).passed {
                return None;
            }
        }
    }
    Some(missed)
}

#[cfg(test)]
mod tests;
