//! Gates that ask a model before they judge: `agreement` asks the tier that answered for more answers, `judge` another tier
//! for a grade.
//!
//! They come last, on an answer that passed every other gate: each costs calls. What they ask is bounded by the step's
//! timeout and the path's deadline and `maxCost`, goes through circuits like any call, and is counted with the step. Who
//! does not answer is missing evidence. Texts are compared: several choices and tools are missing evidence too.

use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;

use super::admission::account::Asker;
use super::answer::{Answer, Usage};
use super::attempts::{Call, call_tier};
use super::call::{CallError, Wants};
use super::cascade::at_most;
use super::gates::{Agreement, Asks, Finding, Grade, Judgement, REPLY_TOKENS, RequestContext};
use super::money::Money;
use super::trace::{Opinion, StepTrace};
use crate::api::escalation_path::FailoverReason;
use crate::api::model_tier::Capability;
use crate::api::types::DataClass;
use crate::routing::decide::{self, Needs, Skip};

/// How the answers to what gates ask are read.
const WANTS: Wants = Wants { stream: false, commit_after: None, alternatives: false };

const TOO_DEAR: &str = "it may cost more than the path allows";

/// Judges an answer by the gates of a step that ask somebody.
pub(super) async fn judge<'s>(
    call: &Call<'_, 's>,
    data_class: DataClass,
    context: &RequestContext<'_>,
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
        let left = call.left.map(|left| left - entry.all_cost());
        let (finding, opinion) = match (text(call, answer), asks) {
            (Err(what), _) => (Finding::missing(what), None),
            (Ok(text), Asks::Again(agreement)) => {
                let mut opinion = Opinion::new(gate.name(), &call.upstream.name);
                (again(call, agreement, text, left, &mut opinion).await, Some(opinion))
            }
            (Ok(text), Asks::Judge(grade)) => match call.stage.judges.iter().find(|judge| judge.name == grade.tier) {
                None => (Finding::missing("the judge's tier is not there"), None),
                Some(upstream) => {
                    let mut opinion = Opinion::new(gate.name(), &upstream.name);
                    // A reserve is of the accounts of steps.
                    let asker = Asker { movable: false, reserve: None, ..call.asker };
                    let asked = Call { upstream, wants: WANTS, left, asker, ..*call };
                    (graded(&asked, data_class, context, grade, text, &mut opinion).await, Some(opinion))
                }
            },
        };
        if let Some(mut opinion) = opinion.filter(|opinion| opinion.calls > 0) {
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
    let most: Money = (0..agreement.samples).map(|_| at_most(peek, tier, 0)).sum();
    if left.is_some_and(|left| most > left) {
        return Finding::missing(TOO_DEAR);
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

/// Asks a judge for a grade. Fails closed on the data class, as steps do.
async fn graded(
    call: &Call<'_, '_>,
    data_class: DataClass,
    context: &RequestContext<'_>,
    grade: &Grade,
    answer: &str,
    opinion: &mut Opinion<'_>,
) -> Finding {
    let (peek, tier, random) = (call.asked.peek, &call.upstream.tier, call.world.random);
    if peek.vision {
        return Finding::missing("the judge can't see the request's images");
    }
    let nonce = (0..4).fold(0_u64, |nonce, _| nonce << 16 | random(1 << 16) as u64);
    let schema = tier.capabilities.contains(&Capability::JsonSchema);
    let question = Bytes::from(grade.question(&tier.model, context.text(), answer, nonce, schema));
    // By the same measure as a request's: four bytes a token.
    let input = u64::try_from(question.len().div_ceil(4)).unwrap_or(u64::MAX);
    let needs = Needs { tokens: input.saturating_add(REPLY_TOKENS), ..Needs::default() };
    match decide::skip(tier, data_class, needs) {
        None => {}
        Some(Skip::DataClass) => return Finding::missing("the judge is not cleared for this data"),
        Some(Skip::ContextOverflow) => return Finding::missing("the judge can't take so long a text"),
        Some(Skip::NotCapable(_) | Skip::MaxCost) => return Finding::missing("the judge can't take this"),
    }
    let most = Money::of(Usage { prompt: input, cached: 0, completion: REPLY_TOKENS }, tier);
    if call.left.is_some_and(|left| most > left) {
        return Finding::missing(TOO_DEAR);
    }
    if call.upstream.authorization.is_err() {
        return Finding::missing("the judge's key is missing");
    }
    let answered = call_tier(call, &question).await.ok().map(|(reply, _)| reply);
    opinion.count(answered.as_ref().map(|reply| reply.usage.unwrap_or_default()), tier);
    match answered.as_ref().and_then(|reply| reply.choices.first()) {
        Some(reply) => grade.judge(&reply.content),
        None => Finding::missing("the judge did not answer"),
    }
}
