//! A stream made from a whole completion, for a client that asked for a stream when the upstream gave none.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::sse::DONE;
use super::{AnswerError, text};

#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    system_fingerprint: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    /// Every member, known or not (reasoning has several names), goes into the delta.
    #[serde(borrow)]
    message: BTreeMap<String, &'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
}

/// One chunk. A field that the completion had not is left out.
#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a RawValue>,
    choices: Vec<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Delta<'a> {
    index: u32,
    delta: BTreeMap<&'a str, Member<'a>>,
    logprobs: Option<&'a RawValue>,
    finish_reason: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Member<'a> {
    Raw(&'a RawValue),
    Calls(Vec<BTreeMap<String, Call<'a>>>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Call<'a> {
    Raw(&'a RawValue),
    Index(usize),
}

/// Payloads of the stream that says what `body` says: per choice one chunk with the message and one with the finish
/// reason, then usage if the client asked for it, then `[DONE]`.
///
/// # Errors
/// The completion can't be read.
pub fn frames_from_completion(body: &Bytes, include_usage: bool) -> Result<Vec<Bytes>, AnswerError> {
    let completion: Completion<'_> =
        serde_json::from_str(text(body)?).map_err(|_| AnswerError::Malformed("JSON of another shape"))?;
    let chunk = |choices: Vec<Delta<'_>>, usage| {
        let Completion { id, created, model, system_fingerprint, .. } = completion;
        let chunk = Chunk { id, object: "chat.completion.chunk", created, model, system_fingerprint, choices, usage };
        serde_json::to_vec(&chunk).map(Bytes::from).map_err(|_| AnswerError::Malformed("JSON of another shape"))
    };
    let mut payloads = Vec::with_capacity(2 * completion.choices.len() + 2);
    for Choice { index, message, finish_reason, logprobs } in &completion.choices {
        let (index, finish_reason) = (*index, *finish_reason);
        let delta = message.iter().map(|(name, raw)| (name.as_str(), member(name, raw))).collect();
        payloads.push(chunk(vec![Delta { index, delta, logprobs: *logprobs, finish_reason: None }], None)?);
        let end = Delta { index, delta: BTreeMap::new(), logprobs: None, finish_reason };
        payloads.push(chunk(vec![end], None)?);
    }
    if let (true, Some(usage)) = (include_usage, completion.usage) {
        payloads.push(chunk(Vec::new(), Some(usage))?);
    }
    payloads.push(Bytes::from_static(DONE));
    Ok(payloads)
}

/// Tool calls carry their `index` in a stream; everything else is as in a completion.
fn member<'a>(name: &str, raw: &'a RawValue) -> Member<'a> {
    let calls =
        (name == "tool_calls").then(|| serde_json::from_str::<Vec<BTreeMap<String, &RawValue>>>(raw.get()).ok());
    match calls.flatten() {
        None => Member::Raw(raw),
        Some(calls) => Member::Calls(calls.into_iter().enumerate().map(|(at, call)| indexed(at, call)).collect()),
    }
}

fn indexed(at: usize, call: BTreeMap<String, &RawValue>) -> BTreeMap<String, Call<'_>> {
    let mut call: BTreeMap<_, _> = call.into_iter().map(|(name, raw)| (name, Call::Raw(raw))).collect();
    call.entry("index".to_owned()).or_insert(Call::Index(at));
    call
}
