//! `finishReason`: the answer ended for one of the wanted reasons.
//!
//! An answer that was cut at the client's own token limit passes: a larger model would be cut there too, and a client
//! could otherwise buy escalations with `max_tokens: 1`. An answer that was cut before that (the context was full)
//! does not.

use super::{Finding, RequestContext};
use crate::api::escalation_path::FinishReason;
use crate::router::answer::{Choice, Usage};

#[derive(Debug)]
pub(super) struct FinishReasonGate(pub(super) Vec<FinishReason>);

impl FinishReasonGate {
    pub(super) fn judge(&self, request: &RequestContext<'_>, usage: Option<Usage>, choice: &Choice) -> Finding {
        let Some(reason) = choice.finish_reason else { return Finding::missing("no known finish reason") };
        let asked_for = reason == FinishReason::Length
            && request.max_tokens().is_some_and(|most| usage.is_none_or(|usage| usage.completion >= most));
        Finding::pass_if(
            asked_for || self.0.contains(&reason),
            match reason {
                FinishReason::Stop => "ended by stop",
                FinishReason::Length => "ended by length",
                FinishReason::ToolCalls => "ended by tool_calls",
                FinishReason::ContentFilter => "ended by content_filter",
            },
        )
    }
}
