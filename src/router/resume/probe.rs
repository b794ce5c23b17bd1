//! Whether an engine continues an answer as it would have gone on by itself: seen, not believed.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::router::call::{Answered, CallError, Wants, call};
use crate::router::endpoints::Endpoint;
use crate::router::exchange::Exchange;
use crate::router::snapshot::Upstream;
use crate::routing::table::Continuation;

/// What engines are asked. Greedy decoding makes the answer the same each time, whatever it is.
const QUESTION: &str = "Tell me a short story about a fox and a river.";
/// Tokens of an answer: enough for a dozen words.
const TOKENS: u32 = 24;

/// Asks once per tier and model; what was seen is kept until the model, its revision or its engine changes.
pub(super) async fn continues(
    exchange: &Exchange<'_>,
    upstream: &Upstream,
    how: Continuation,
    endpoint: &Arc<Endpoint>,
) -> Result<bool, CallError> {
    if let Some(seen) = upstream.continues.get() {
        return Ok(*seen);
    }
    let whole = ask(exchange, upstream, endpoint, &question(upstream, None)).await?;
    let seen = match halves(&whole) {
        Some((begin, end)) => {
            let said = ask(exchange, upstream, endpoint, &question(upstream, Some((begin, how)))).await?;
            goes_on(end, &said)
        }
        None => false,
    };
    tracing::info!(tier = upstream.name, seen, "whether the engine continues an answer");
    Ok(*upstream.continues.get_or_init(|| seen))
}

fn question(upstream: &Upstream, so_far: Option<(&str, Continuation)>) -> Value {
    let mut body = json!({
        "model": upstream.tier.model, "temperature": 0, "max_tokens": TOKENS, "stream": true,
        "messages": [{"role": "user", "content": QUESTION}]
    });
    let Some((text, how)) = so_far else { return body };
    let answer = json!({"role": "assistant", "content": text});
    body["messages"].as_array_mut().into_iter().for_each(|messages| messages.push(answer.clone()));
    if how == Continuation::ContinueFinalMessage {
        body["continue_final_message"] = true.into();
        body["add_generation_prompt"] = false.into();
    }
    body
}

/// The answer, as a stream: llama.cpp repeats what it continues in an answer that is none.
async fn ask(
    exchange: &Exchange<'_>,
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    body: &Value,
) -> Result<String, CallError> {
    let wants = Wants { stream: true, commit_after: None, alternatives: false };
    let body = Bytes::from(body.to_string());
    let Answered { answer, .. } = call(exchange.pool, upstream, endpoint, &body, exchange.id, wants).await?;
    Ok(answer.choices.into_iter().next().map(|choice| choice.content).unwrap_or_default())
}

/// The answer, cut before the white space that is nearest its middle: each half must hold a word and be told apart.
fn halves(whole: &str) -> Option<(&str, &str)> {
    let middle = whole.len() / 2;
    let cuts = whole.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(index, _)| index);
    let (begin, end) = whole.split_at(cuts.min_by_key(|index| index.abs_diff(middle))?);
    let words = |half: &str| half.trim().len() >= 3;
    (words(begin) && words(end) && !begin.ends_with(char::is_whitespace)).then_some((begin, end))
}

/// Whether what was said goes on as the whole did: exactly, for as long as both are known.
fn goes_on(end: &str, said: &str) -> bool {
    let known = end.trim_end();
    said.starts_with(known) || (said.trim().len() >= 3 && known.starts_with(said.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "one two three four five six seven";

    #[test]
    fn an_answer_is_cut_before_a_space_near_its_middle() {
        assert_eq!(halves(WHOLE), Some(("one two three four", " five six seven")));
        for short in ["", "one", "a b", "  "] {
            assert_eq!(halves(short), None, "{short:?}");
        }
    }

    #[test]
    fn only_the_same_words_go_on() {
        let (_, end) = halves(WHOLE).unwrap();
        for said in [" five six seven", " five six seven eight nine", " five six"] {
            assert!(goes_on(end, said), "{said:?}");
        }
        // Anew, all of it, without the space, or nothing.
        for said in ["one two three", "one two three four five six seven", "five six seven", "", " ", " six"] {
            assert!(!goes_on(end, said), "{said:?}");
        }
    }
}
