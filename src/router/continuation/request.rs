//! The request for the rest of an answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::router::body::{Peek, ResponseFormat};
use crate::routing::table::Continuation;

/// Fields that make the next token depend on those before it in a way that a prompt does not: the tokens of an answer
/// would count for them, those of a prompt do not, or do so differently.
const PENALTIES: [&str; 7] = [
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "dry_multiplier",
    "min_tokens",
    "mirostat",
];

/// Why an answer can't be continued without the client seeing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit(pub &'static str);

/// What is left to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// A stream of the rest.
    Request(Bytes),
    /// Nothing: the answer has all the tokens that the client allowed.
    Nothing,
}

type Members<'a> = BTreeMap<Cow<'a, str>, Cow<'a, RawValue>>;

/// The request for what follows `text`, which has so many tokens, from the tier's `model`. White space at the end of the
/// text is left out: templates trim it, and [`Seam`](super::Seam) takes it out of the rest.
///
/// # Errors
/// The request asks for something that a continuation would not be true to.
pub fn rest(
    body: &str,
    peek: &Peek<'_>,
    model: &str,
    how: Continuation,
    text: &str,
    tokens: u64,
) -> Result<Rest, Unfit> {
    if peek.n != 1 || peek.tools || peek.response_format != ResponseFormat::Text || peek.logprobs {
        return Err(Unfit("more than one text is asked for"));
    }
    let mut members: Members<'_> = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(body)
        .map_err(|_| Unfit("the request can't be read"))?
        .into_iter()
        .map(|(name, value)| (name, Cow::Borrowed(value)))
        .collect();
    let neutral = |value: &str| ["0", "0.0", "null"].contains(&value);
    let penalty = |name: &&str| members.get(*name).is_some_and(|value| !neutral(value.get()));
    if PENALTIES.iter().any(penalty) {
        return Err(Unfit("penalties are asked for"));
    }
    let messages = members.get("messages").map(|messages| messages.get()).unwrap_or_default();
    let messages = extended(messages, text.trim_end()).ok_or(Unfit("the last message is the assistant's"))?;
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some(most) = members.get(name).and_then(|most| most.get().parse::<u64>().ok()) else { continue };
        if most <= tokens {
            return Ok(Rest::Nothing);
        }
        set(&mut members, name, &(most - tokens))?;
    }
    members.insert("messages".into(), Cow::Owned(messages));
    set(&mut members, "model", model)?;
    set(&mut members, "stream", &true)?;
    set(&mut members, "stream_options", &BTreeMap::from([("include_usage", true)]))?;
    if how == Continuation::ContinueFinalMessage {
        set(&mut members, "continue_final_message", &true)?;
        set(&mut members, "add_generation_prompt", &false)?;
    }
    let body = serde_json::to_vec(&members).map_err(|_| WRITE)?;
    Ok(Rest::Request(body.into()))
}

const WRITE: Unfit = Unfit("the request can't be written");

fn set<T: serde::Serialize + ?Sized>(members: &mut Members<'_>, name: &'static str, value: &T) -> Result<(), Unfit> {
    members.insert(name.into(), Cow::Owned(to_raw_value(value).map_err(|_| WRITE)?));
    Ok(())
}

/// The messages, and the assistant's so far. `None` where the last one is an assistant's already.
fn extended(messages: &str, text: &str) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Role<'a> {
        #[serde(borrow)]
        role: Cow<'a, str>,
    }
    let mut list: Vec<Cow<'_, RawValue>> =
        serde_json::from_str::<Vec<&RawValue>>(messages).ok()?.into_iter().map(Cow::Borrowed).collect();
    let last: Role<'_> = serde_json::from_str(list.last()?.get()).ok()?;
    if last.role == "assistant" {
        return None;
    }
    list.push(Cow::Owned(to_raw_value(&serde_json::json!({"role": "assistant", "content": text})).ok()?));
    to_raw_value(&list).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::router::body::peek;

    fn asked(more: &Value) -> Value {
        let mut body = json!({"model": "chat", "stream": true, "messages": [{"role": "user", "content": "Tell me."}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    fn ask(more: &Value, how: Continuation) -> Result<Rest, Unfit> {
        let body = asked(more).to_string();
        rest(&body, &peek(body.as_bytes()).unwrap(), "m", how, "Once upon \n", 3)
    }

    fn request(more: &Value, how: Continuation) -> Value {
        match ask(more, how) {
            Ok(Rest::Request(body)) => serde_json::from_slice(&body).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_rest_is_asked_for_after_what_was_said() {
        let more =
            json!({"seed": 12_345_678_901_234_567_890_u64, "max_tokens": 10, "stop": ["END"], "temperature": 0.10});
        let request = request(&more, Continuation::Prefill);
        let wanted = json!({
            "model": "m", "stream": true, "stream_options": {"include_usage": true}, "seed": 12_345_678_901_234_567_890_u64,
            "max_tokens": 7, "stop": ["END"], "temperature": 0.10,
            "messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Once upon"}]
        });
        assert_eq!(request, wanted);
    }

    #[test]
    fn vllm_and_sglang_are_told_so() {
        let request = request(&json!({"add_generation_prompt": true}), Continuation::ContinueFinalMessage);
        assert_eq!(request["continue_final_message"], true);
        assert_eq!(request["add_generation_prompt"], false);
    }

    #[test]
    fn all_tokens_that_were_allowed_are_an_end() {
        for name in ["max_tokens", "max_completion_tokens"] {
            assert_eq!(ask(&json!({name: 3}), Continuation::Prefill), Ok(Rest::Nothing));
        }
    }

    #[test]
    fn what_a_continuation_would_not_be_true_to_is_refused() {
        let last = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "So"}]);
        let wrong = [
            json!({"n": 2}),
            json!({"logprobs": true}),
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            json!({"response_format": {"type": "json_object"}}),
            json!({"frequency_penalty": 0.5}),
            json!({"repeat_penalty": 1.1}),
            json!({"messages": last}),
        ];
        for more in wrong {
            assert!(ask(&more, Continuation::Prefill).is_err(), "{more}");
        }
        let neutral = json!({"n": 1, "presence_penalty": 0, "frequency_penalty": null, "logprobs": false});
        assert!(ask(&neutral, Continuation::Prefill).is_ok());
    }
}
