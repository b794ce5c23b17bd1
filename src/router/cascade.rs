//! The walk along a path: ask, judge, accept or go on.
//!
//! Finite by construction: a path is a list, each step is entered at most once, attempts are bounded, one deadline
//! bounds the whole. A tier that gives no answer sends the request on only for the reasons that the path names; an
//! answer that fails its gates does as far as the path's limit on escalations lets it, and is kept in case nothing
//! better comes.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;

use super::Shared;
use super::admission::account::Asker;
use super::admission::budget::Purses;
use super::admission::escalations::Leave;
use super::answer::{Answer, Strip, Usage};
use super::attempts::{Call, call_tier};
use super::body::{Inject, Peek, ResponseFormat};
use super::call::{Body, CallError, Wants};
use super::endpoints::Endpoints;
use super::errors::Problem;
use super::gates::{CompiledGate, Judgement, RequestContext, judge, judge_prefix, near_miss};
use super::hedge::{self, Ahead, Hedge, SoFar};
use super::live::Live;
use super::money::Money;
use super::pool::Pool;
use super::route::{Leg, Route, Stage};
use super::second_opinion;
use super::snapshot::Upstream;
use super::trace::{Ending, StepTrace, Trace, UNDER_PRESSURE};
use crate::api::escalation_path::FailoverReason;
use crate::api::model_tier::Capability;
use crate::api::types::{DataClass, ModelClass};
use crate::routing::decide::{self, Needs, Next, Outcome, Progress, Skip};
use crate::routing::table::{Step, Tier};

/// What a walk needs besides the request.
pub struct World<'a> {
    /// What cores share.
    pub shared: &'a Shared,
    /// Endpoints in force.
    pub endpoints: &'a Endpoints,
    /// This core's connections.
    pub pool: &'a Pool,
    /// Draws below a bound.
    pub random: &'a dyn Fn(usize) -> usize,
}

/// The request of a walk.
pub struct Asked<'a> {
    /// Its body.
    pub body: &'a Bytes,
    /// What was read of it.
    pub peek: &'a Peek<'a>,
    /// Its id.
    pub id: &'a HeaderValue,
    /// Index of its client in the table; `None` for an anonymous caller.
    pub client: Option<usize>,
    /// The step that it starts at: its conversation has outgrown those before.
    pub start: usize,
    /// What its client and its workload may still spend.
    pub purses: Purses<'a>,
}

/// An answer for the client.
pub struct Served<'s> {
    /// Its tier.
    pub tier: &'s str,
    /// `accepted`, `best-answer` or `under-pressure`.
    pub outcome: &'static str,
    /// The answer as it came.
    pub body: Body,
    /// What must be taken out of it.
    pub strip: Strip,
    /// Where its log probabilities are, if it is a completion.
    pub logprobs: Vec<Range<usize>>,
}

/// An answer that is returned if none better comes.
pub(super) struct Candidate<'s> {
    rank: (ModelClass, usize),
    served: Served<'s>,
}

/// Why a step is skipped that a conversation has outgrown.
const OUTGROWN: &str = "Sticky";

/// Why a step is skipped that a budget has not enough for.
const BUDGET: &str = "Budget";

/// Why a step is skipped whose tier is scaled to zero.
pub(super) const COLD: &str = "Cold";

/// Why a step is skipped that the limit on escalations does not let a request enter.
pub(super) const ESCALATION_LIMIT: &str = "EscalationLimit";

/// Outcome of a request that got the best of answers that gates refused.
pub(super) const BEST_ANSWER: &str = "best-answer";

/// What one tier said.
pub(super) enum Said<'s> {
    Accepted(Served<'s>),
    Rejected(Option<Candidate<'s>>),
    Unavailable(CallError),
    Skipped(Option<FailoverReason>),
    /// Skipped because it is set aside, for so long if that is known.
    SetAside(Option<Duration>),
    /// Skipped because a budget has not enough for it.
    OverBudget(Box<Problem>),
}

impl Said<'_> {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Accepted(_) => Outcome::Accepted,
            Self::Rejected(_) => Outcome::Rejected,
            Self::Skipped(reason) => Outcome::Skipped(*reason),
            Self::SetAside(_) => Outcome::Skipped(Some(FailoverReason::Degraded)),
            Self::OverBudget(_) => Outcome::OverBudget,
            Self::Unavailable(error) => Outcome::Unavailable(error.reason),
        }
    }
}

/// What the steps of a walk have in common.
pub(super) struct Walk<'a, 's> {
    pub(super) world: &'a World<'a>,
    pub(super) route: &'s Route,
    pub(super) asked: &'a Asked<'a>,
    deadline: tokio::time::Instant,
    context: RequestContext<'a>,
}

impl<'a, 's> Walk<'a, 's> {
    /// A tier of a step, ready to be asked.
    pub(super) fn call(&self, step: &'s Step, stage: &'s Stage, leg: &'s Leg, left: Option<Money>) -> Call<'a, 's> {
        let Self { world, route, asked, deadline, .. } = *self;
        let fair = Duration::from_millis(step.timeout_ms.min(route.path.deadline_ms)) / 2;
        let wants = Wants {
            stream: streams(&leg.upstream, asked.peek),
            commit_after: commit_after(stage, asked.peek),
            // The chosen token is one of those that are listed.
            alternatives: stage.logprobs > Some(1),
        };
        let asker = Asker { risk: route.risk, movable: stage.moves.is_some(), reserve: leg.reserve };
        Call { world, step, upstream: &leg.upstream, stage, asked, deadline, fair, wants, left, asker }
    }

    /// Asks it, and judges its answer.
    pub(super) async fn ask(&self, call: &Call<'a, 's>, entry: &mut StepTrace<'s>) -> Said<'s> {
        ask(call, self.route.data_class, &self.context, entry).await
    }
}

/// Walks a path. What happened is in `trace`, however it ends.
///
/// # Errors
/// The problem to answer when no answer may be returned.
pub async fn walk<'s>(
    world: &World<'_>,
    route: &'s Route,
    asked: &Asked<'_>,
    trace: &mut Trace<'s>,
) -> Result<Served<'s>, Problem> {
    let path = &route.path;
    let now = tokio::time::Instant::now();
    let deadline = now + Duration::from_millis(path.deadline_ms);
    let walk = Walk { world, route, asked, deadline, context: RequestContext::new(asked.peek) };
    route.hedge.iter().for_each(Hedge::request);
    let mut leave = Leave::new(route.escalations.as_ref(), asked.client, now.into_std());
    // To start at a later step is to have escalated: where that may not be, it is judged anew.
    let start = if asked.start == 0 || leave.ask(now.into_std()) { asked.start } else { 0 };
    let mut progress = Progress::default();
    let mut best: Option<Candidate<'_>> = None;
    let mut last: Option<CallError> = None;
    // When the first of the tiers that are at their limit may be asked again.
    let mut soonest: Option<Duration> = None;
    let mut over_budget: Option<Box<Problem>> = None;
    let mut ahead: Option<Box<Ahead<'_>>> = None;
    let steps = path.steps.iter().zip(&route.stages);
    for (_, stage) in steps.clone().take(start) {
        trace.0.extend(stage.legs.first().map(|leg| StepTrace::skipped(leg, OUTGROWN)));
    }
    // What was outgrown is better than nothing.
    let rotated = steps.clone().skip(start).chain(steps.take(start));
    'steps: for (index, (step, stage)) in rotated.enumerate() {
        let outgrown = index + start >= path.steps.len();
        if !decide::enters(path, step, progress.unavailable) || outgrown && (!progress.unavailable || best.is_some()) {
            continue;
        }
        for leg in &stage.legs {
            let said = if let Some(before) = ahead.take_if(|ahead| std::ptr::eq(ahead.leg, leg)) {
                before.said
            } else {
                let begin = Instant::now();
                let left = path.max_cost.map(|most| Money::from_nanos(most) - trace.cost());
                let call = walk.call(step, stage, leg, left);
                // From here on, so that what it has cost counts when the client leaves before it has ended.
                let entry = trace.0.push_mut(StepTrace::new(leg));
                if left.is_some_and(|left| at_most(asked.peek, &leg.upstream.tier, 0) > left) {
                    entry.ending = Ending::Skipped(Skip::MaxCost.reason());
                    continue;
                }
                if progress.rejected && !leave.ask(begin) {
                    entry.ending = Ending::Skipped(ESCALATION_LIMIT);
                    break 'steps;
                }
                // No step is asked twice: neither one that was asked ahead, nor one that follows an outgrown step.
                if let Some(hedge) = route.hedge.as_ref().filter(|_| !outgrown && ahead.is_none()) {
                    let Progress { unavailable, rejected } = progress;
                    let so_far = SoFar { step: (index + start) % path.steps.len(), unavailable, rejected };
                    // In a box: what few paths do must not make the future of every request larger.
                    let asking = Box::pin(hedge::ask(&walk, hedge, &call, so_far, &mut leave, trace));
                    let (said, next) = asking.await;
                    ahead = next;
                    said
                } else {
                    let said = walk.ask(&call, entry).await;
                    entry.latency = begin.elapsed();
                    if progress.rejected && matches!(entry.ending, Ending::Skipped(_)) {
                        leave.give_back(begin);
                    }
                    said
                }
            };
            let outcome = said.outcome();
            match said {
                Said::Accepted(served) => return Ok(served),
                Said::Rejected(candidate) => {
                    if let Some(new) = candidate
                        && best.as_ref().is_none_or(|old| new.rank >= old.rank)
                    {
                        best = Some(new);
                    }
                    // It answered: what kept an earlier tier from answering is no longer why there is no answer.
                    (last, soonest) = (None, None);
                }
                Said::Skipped(_) => {}
                Said::OverBudget(problem) => over_budget = Some(problem),
                Said::SetAside(pause) => soonest = earlier(soonest, pause),
                Said::Unavailable(error) => {
                    if error.reason == Some(FailoverReason::RateLimited) {
                        soonest = earlier(soonest, Some(error.retry_after.unwrap_or_default()));
                    }
                    last = Some(error);
                }
            }
            match progress.after(path, outcome) {
                Next::Tier => {}
                Next::Step => continue 'steps,
                Next::End | Next::Reply => break 'steps,
            }
            if tokio::time::Instant::now() >= deadline && ahead.is_none() {
                break 'steps;
            }
        }
    }
    let refused = leave.refused(Instant::now()).filter(|_| progress.rejected);
    let wanted = decide::may_answer_best(path, route.risk, refused.map(|(on_exceeded, _)| on_exceeded));
    if let Some(candidate) = best.filter(|_| wanted) {
        return Ok(Served { outcome: BEST_ANSWER, ..candidate.served });
    }
    if let Some((_, wait)) = refused {
        return Err(Problem::escalation_limit(&trace.header(), wait));
    }
    if let Some(problem) = over_budget.filter(|_| last.is_none()) {
        let message = format!("{}; steps: {}", problem.message, trace.header());
        return Err(Problem { message, ..*problem });
    }
    // A tier that refused the request as such speaks of the request, not of the path.
    if let Some(CallError { reason: None, status: Some(status), .. }) = &last {
        let message = format!("the model refused the request; steps: {}", trace.header());
        return Err(Problem::new(*status, "invalid_request_error", "refused_by_model", message));
    }
    if tokio::time::Instant::now() >= deadline {
        return Err(Problem::deadline(&trace.header()));
    }
    if let Some(problem) = unsupported(trace, needs(asked.peek)) {
        return Err(problem);
    }
    Err(exhausted(trace, last.as_ref(), soonest))
}

/// The shorter of two times, as far as they are known.
fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

/// The problem of a request that no tier of its path could ever take, whatever their state.
fn unsupported(trace: &Trace<'_>, needs: Needs) -> Option<Problem> {
    let (incapable, overflow) = (Skip::NotCapable(Capability::Chat).reason(), Skip::ContextOverflow.reason());
    let all = |reasons: &[&'static str]| {
        let mut tried = trace.0.iter().filter(|step| step.ending != Ending::Skipped(OUTGROWN)).peekable();
        tried.peek().is_some()
            && tried.all(|step| matches!(step.ending, Ending::Skipped(reason) if reasons.contains(&reason)))
    };
    let steps = trace.header();
    if all(&[overflow]) {
        let message = format!("messages: about {} tokens are more than any tier takes; steps: {steps}", needs.tokens);
        let problem = Problem::invalid(message, Some("messages".into()));
        return Some(Problem { code: "context_length_exceeded", ..problem });
    }
    if all(&[Skip::MaxCost.reason()]) {
        let message = format!("max_tokens: the request may cost more than this workload allows; steps: {steps}");
        return Some(Problem { code: "max_cost", ..Problem::invalid(message, Some("max_tokens".into())) });
    }
    let asks = [
        (needs.tools, "tools"),
        (needs.vision, "images"),
        (needs.json, "response_format"),
        (needs.logprobs, "logprobs"),
    ];
    let asks: Vec<_> = asks.into_iter().filter_map(|(asked, what)| asked.then_some(what)).collect();
    all(&[incapable, overflow]).then(|| {
        let asks = asks.join(" and ");
        let message = format!("no tier of this workload can take what the request asks for ({asks}); steps: {steps}");
        Problem { code: "not_supported", ..Problem::invalid(message, None) }
    })
}

/// Nothing could be returned: say what every step said. `soonest` is known if a tier is at its limit.
fn exhausted(trace: &Trace<'_>, last: Option<&CallError>, soonest: Option<Duration>) -> Problem {
    use http::StatusCode;
    let steps = trace.header();
    match (last.and_then(|e| e.reason), soonest) {
        (None | Some(FailoverReason::RateLimited), Some(wait)) => {
            let message = format!("every tier is at its limit; steps: {steps}");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "capacity", message).after(wait)
        }
        (Some(FailoverReason::Timeout), _) => {
            let message = format!("no tier answered in time; steps: {steps}");
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "upstream_timeout", message)
        }
        (Some(_), _) => {
            let message = format!("no tier could answer; steps: {steps}");
            Problem::new(StatusCode::BAD_GATEWAY, "server_error", "upstream_unavailable", message)
        }
        (None, _) if trace.0.iter().any(|s| matches!(s.ending, Ending::Escalated(_))) => {
            let message = format!("no answer passed its gates; steps: {steps}");
            Problem::new(StatusCode::BAD_GATEWAY, "server_error", "no_accepted_answer", message)
        }
        (None, _) => {
            let message = format!("no tier can take this request; steps: {steps}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_eligible_tier", message)
        }
    }
}

/// What a request needs of a tier.
pub(super) fn needs(peek: &Peek<'_>) -> Needs {
    Needs {
        tools: peek.tools,
        vision: peek.vision,
        json: peek.response_format != ResponseFormat::Text,
        logprobs: peek.logprobs,
        tokens: peek.input_tokens_estimate().saturating_add(peek.max_tokens.unwrap_or(0)),
    }
}

/// Tokens after which the answer to this request may flow; `None` if it is held to its end.
pub(super) fn commit_after(stage: &Stage, peek: &Peek<'_>) -> Option<u32> {
    let by_beginning = !peek.tools && peek.n == 1 && peek.response_format == ResponseFormat::Text;
    stage.commit_after.filter(|_| peek.stream && (by_beginning || stage.gates.is_empty()))
}

/// What a call may come to cost: its estimated input and the output that the request allows; where it does not say,
/// `assumed` for each choice.
pub(super) fn at_most(peek: &Peek<'_>, tier: &Tier, assumed: u64) -> Money {
    let usage = Usage {
        prompt: peek.input_tokens_estimate(),
        cached: 0,
        completion: peek.max_tokens.unwrap_or(assumed).saturating_mul(peek.n.into()),
    };
    Money::of(usage, tier)
}

async fn ask<'s>(
    call: &Call<'_, 's>,
    data_class: DataClass,
    context: &RequestContext<'_>,
    entry: &mut StepTrace<'s>,
) -> Said<'s> {
    let Call { upstream, stage, asked, .. } = *call;
    if let Some(skip) = decide::skip(&upstream.tier, data_class, needs(asked.peek)) {
        entry.ending = Ending::Skipped(skip.reason());
        return Said::Skipped(skip.failure());
    }
    if upstream.authorization.is_err() {
        entry.ending = Ending::Skipped("SecretMissing");
        return Said::Skipped(Some(FailoverReason::Unreachable));
    }
    let inject = inject(upstream, stage, asked.peek);
    let body = asked.peek.rewrite(asked.body, &upstream.tier.model, inject);
    let (answer, body) = match call_tier(call, &body).await {
        Ok(answered) => answered,
        Err(error) if error.reason == Some(FailoverReason::Degraded) => {
            entry.ending = Ending::Skipped("Degraded");
            return Said::SetAside(error.retry_after);
        }
        Err(CallError { cold: true, reason, .. }) => {
            entry.ending = Ending::Skipped(COLD);
            return Said::Skipped(reason);
        }
        Err(CallError { over_budget: Some(problem), .. }) => {
            entry.ending = Ending::Skipped(BUDGET);
            return Said::OverBudget(problem);
        }
        Err(error) => {
            let reason = error.reason.map_or("Refused", reason_name);
            // Without a status it was the quota: nobody was asked.
            let asked = error.reason != Some(FailoverReason::RateLimited) || error.status.is_some();
            entry.ending = if asked { Ending::Failed(reason) } else { Ending::Skipped(reason) };
            return Said::Unavailable(error);
        }
    };
    let mut judgement = judged(&stage.gates, context, &answer, &body, &mut entry.usage);
    entry.cost = Money::of(entry.usage, &upstream.tier);
    if stage.gives_way.is_some() {
        let prefix = matches!(body, Body::Live(_));
        entry.missed = near_miss(&stage.gates, prefix, context, &answer, &judgement);
    }
    if stage.asks {
        // In a box: what few paths use must not make the future of every request larger.
        Box::pin(second_opinion::judge(call, data_class, context, &answer, &mut judgement, entry)).await;
    }
    verdict(upstream, stage, judgement, answer.logprobs, body, Strip::of(asked.peek, inject), entry)
}

/// What the gates say that judge by what is there, and the usage of the answer.
fn judged(
    gates: &[CompiledGate],
    context: &RequestContext<'_>,
    answer: &Answer,
    body: &Body,
    usage: &mut Usage,
) -> Judgement {
    // So much was asked for and made of a stream that goes on, whatever comes of it: its usage is said at the end.
    let so_far = |live: &Live| Usage { prompt: context.tokens_estimate(), cached: 0, completion: live.tokens() };
    let (judgement, unsaid) = match body {
        Body::Live(live) => (judge_prefix(gates, context, answer), so_far(live)),
        _ => (judge(gates, context, answer), Usage::default()),
    };
    *usage = answer.usage.unwrap_or(unsaid);
    judgement
}

fn verdict<'s>(
    upstream: &'s Upstream,
    stage: &Stage,
    judgement: Judgement,
    logprobs: Vec<Range<usize>>,
    body: Body,
    strip: Strip,
    entry: &mut StepTrace<'_>,
) -> Said<'s> {
    let failed = judgement.verdicts.iter().find(|v| !v.passed).map_or("gate", |v| v.gate);
    entry.verdicts = judgement.verdicts;
    let served = Served { tier: &upstream.name, outcome: "accepted", body, strip, logprobs };
    if judgement.accepted {
        entry.ending = Ending::Accepted;
        return Said::Accepted(served);
    }
    if let (Some(gives_way), Some(missed)) = (&stage.gives_way, entry.missed)
        && gives_way.accepts(missed)
    {
        entry.ending = Ending::UnderPressure(failed);
        return Said::Accepted(Served { outcome: UNDER_PRESSURE, ..served });
    }
    entry.ending = Ending::Escalated(failed);
    let rank = (upstream.tier.class, judgement.passed_count);
    // A stream that is given up at its beginning is no answer to return.
    let whole = !matches!(served.body, Body::Live(_));
    Said::Rejected((whole && judgement.returnable).then_some(Candidate { rank, served }))
}

/// Whether the tier is asked for a stream.
fn streams(upstream: &Upstream, peek: &Peek<'_>) -> bool {
    peek.stream && upstream.tier.capabilities.contains(&Capability::Streaming)
}

fn inject(upstream: &Upstream, stage: &Stage, peek: &Peek<'_>) -> Inject {
    let stream = streams(upstream, peek);
    Inject { logprobs: stage.logprobs, stream: Some(stream), include_usage: stream }
}

const fn reason_name(reason: FailoverReason) -> &'static str {
    match reason {
        FailoverReason::Unreachable => "Unreachable",
        FailoverReason::Timeout => "Timeout",
        FailoverReason::RateLimited => "RateLimited",
        FailoverReason::ServerError => "ServerError",
        FailoverReason::Degraded => "Degraded",
        FailoverReason::ContextOverflow => "ContextOverflow",
    }
}
