//! Gates that ask a model before they judge: `agreement` asks the tier that answered for more answers.
//!
//! They come last, on an answer that passed every other gate: each costs calls. What they ask is bounded by the step's
//! timeout and the path's deadline and `maxCost`, goes through circuits like any call, and is counted with the step. Who
//! does not answer is missing evidence. Texts are compared: several choices and tools are missing evidence too.

use std::time::Instant;

use futures::future::join_all;

use super::answer::Answer;
use super::attempts::{Call, call_tier};
use super::call::{CallError, Wants};
use super::cascade::at_most;
use super::gates::{Agreement, Asks, Finding, Judgement};
use super::money::Money;
use super::trace::{Opinion, StepTrace};
use crate::api::escalation_path::FailoverReason;

/// How the answers to what gates ask are read.
const WANTS: Wants = Wants { stream: false, commit_after: None, alternatives: false };

/// Judges an answer by the gates of a step that ask somebody.
pub(super) async fn judge<'s>(
    call: &Call<'_, 's>,
    answer: &Answer,
    judgement: &mut Judgement,
    entry: &mut StepTrace<'s>,
) {
    for gate in call.stage.gates.iter() {
        let Some(asks) = gate.asks() else { continue };
        if !judgement.accepted {
            judgement.pass_over(gate);
            continue;
        }
        let begin = Instant::now();
        let mut opinion = Opinion::new(gate.name(), &call.upstream.name);
        let finding = match (text(call, answer), asks) {
            (Err(what), _) => Finding::missing(what),
            (Ok(text), Asks::Again(agreement)) => {
                let left = call.left.map(|left| left - entry.all_cost());
                again(call, agreement, text, left, &mut opinion).await
            }
        };
        if opinion.calls > 0 {
            opinion.latency = begin.elapsed();
            entry.opinions.push(opinion);
        }
        judgement.weigh(gate, finding);
    }
}

/// The one text of an answer.
fn text<'a>(call: &Call<'_, '_>, answer: &'a Answer) -> Result<&'a str, &'static str> {
    match answer.choices.as_slice() {
        [only] if call.asked.peek.n == 1 && !call.asked.peek.tools && only.tool_calls.is_empty() => Ok(only.text()),
        _ => Err("several choices or tools"),
    }
}

/// Asks the tier that answered for more answers, all at once.
async fn again(
    call: &Call<'_, '_>,
    agreement: &Agreement,
    answer: &str,
    left: Option<Money>,
    opinion: &mut Opinion<'_>,
) -> Finding {
    let (peek, tier) = (call.asked.peek, &call.upstream.tier);
    let most: Money = (0..agreement.samples).map(|_| at_most(peek, tier)).sum();
    if left.is_some_and(|left| most > left) {
        return Finding::missing("it may cost more than the path allows");
    }
    let call = Call { wants: WANTS, ..*call };
    let sample = async |index| {
        let body =
            peek.sample(&tier.model, index).ok_or(CallError::blameless(FailoverReason::ServerError, "unreadable"))?;
        call_tier(&call, &body).await
    };
    let answers = join_all((0..agreement.samples).map(sample)).await;
    let mut samples = Vec::with_capacity(answers.len());
    for result in answers {
        let sample = result.ok().map(|(sample, _)| sample);
        opinion.count(sample.as_ref().map(|sample| sample.usage.unwrap_or_default()), tier);
        samples
            .push(sample.and_then(|sample| sample.choices.into_iter().next()).map(|choice| choice.text().to_owned()));
    }
    agreement.judge(answer, &samples)
}
