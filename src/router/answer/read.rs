//! From JSON to [`Answer`], whole or in chunks.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::calls;
use super::identity::{Identity, Said};
use super::lean::lean;
use super::tokens::Builder;
use super::{Answer, AnswerError, Choice, Usage};
use crate::api::escalation_path::FinishReason;
use crate::router::json::Object;

/// A completion (`message`) or a chunk (`delta`): the shapes are the same.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<Object<ChoiceIn<'a>>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChoiceIn<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow, default, alias = "delta")]
    message: Option<Object<Message<'a>>>,
    #[serde(default, deserialize_with = "finish_reason")]
    finish_reason: Ended,
    /// Number of the list that was here.
    #[serde(default)]
    logprobs: Option<usize>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Text<'a>>,
    #[serde(borrow, default)]
    refusal: Option<Text<'a>>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

/// serde borrows a bare `Cow`, but not one inside an `Option`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `finish_reason` of a choice or chunk.
#[derive(Clone, Copy, Default)]
enum Ended {
    /// Not yet.
    #[default]
    No,
    /// For this reason, `None` if it is not one of OpenAI's.
    Yes(Option<FinishReason>),
}

fn finish_reason<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Ended, D::Error> {
    let reason = Option::<Text<'de>>::deserialize(deserializer)?;
    Ok(reason.map_or(Ended::No, |reason| {
        Ended::Yes(match reason.0.as_ref() {
            "stop" => Some(FinishReason::Stop),
            "length" => Some(FinishReason::Length),
            "tool_calls" | "function_call" => Some(FinishReason::ToolCalls),
            "content_filter" => Some(FinishReason::ContentFilter),
            _ => None,
        })
    }))
}

/// `usage`, leniently: an answer is not lost because of how it was counted.
#[derive(Deserialize)]
struct UsageIn {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

fn usage(raw: &RawValue) -> Option<Usage> {
    let usage = serde_json::from_str::<Option<UsageIn>>(raw.get()).ok()??;
    Some(Usage {
        prompt: usage.prompt_tokens,
        cached: usage.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0).min(usage.prompt_tokens),
        completion: usage.completion_tokens,
    })
}

/// Choices that an upstream may return; `n` is bounded by the same number.
const MAX_CHOICES: usize = 128;

/// Assembles an answer from the payloads of a stream, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    parts: Vec<Part>,
    usage: Option<Usage>,
    /// Where the lists of log probabilities were, in the body that was read last.
    logprobs: Vec<Range<usize>>,
    /// Nobody asks for the alternatives to a token: they are most of a list.
    no_alternatives: bool,
    /// Of a stream: what its chunks say that they are part of.
    identity: Option<Identity>,
}

/// A choice in the making.
#[derive(Clone, Debug, Default)]
struct Part {
    choice: Choice,
    /// Tokens of content: as many as had log probabilities, else one a chunk.
    content_tokens: usize,
    ended: bool,
    /// Whether it reasoned before it spoke, in the words of vLLM and llama.cpp or of OpenRouter.
    reasoned: bool,
    /// Whether anything was said of it at all: indices may come in any order.
    seen: bool,
    tokens: Option<Builder>,
}

/// Reads a whole completion.
pub(super) fn completion(body: &str, alternatives: bool) -> Result<Answer, AnswerError> {
    let mut reader = Reader { no_alternatives: !alternatives, ..Reader::default() };
    if !reader.add(body)? {
        return Err(AnswerError::Malformed("a choice without a message"));
    }
    // A server that leaves finish_reason out of a whole answer has still ended it.
    for part in &mut reader.parts {
        part.ended = true;
    }
    reader.finish()
}

impl Reader {
    /// Reads one chunk.
    ///
    /// # Errors
    /// It is an error object, or no chunk.
    pub fn chunk(&mut self, payload: &[u8]) -> Result<(), AnswerError> {
        self.identity.get_or_insert_default();
        self.add(super::text(payload)?).map(|_| ())
    }

    /// Gives events of the stream that was read one `id`, `created` and `model`, where they have several.
    pub fn unify(&self, events: &mut [Bytes]) {
        if let Some(identity) = &self.identity {
            identity.unify(events);
        }
    }

    /// Tokens of the first choice's content so far; reasoning is none.
    #[must_use]
    pub fn content_tokens(&self) -> usize {
        self.parts.first().map_or(0, |part| part.content_tokens)
    }

    /// Usage, where the upstream has said it.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Text of an answer that is nothing but one text so far.
    #[must_use]
    pub fn only_text(&self) -> Option<&str> {
        let [part] = self.parts.as_slice() else { return None };
        let text = !part.reasoned && part.choice.refusal.is_none() && part.choice.tool_calls.is_empty();
        text.then_some(part.choice.content.as_str())
    }

    /// Whether every choice has come to its end.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.seen && part.ended)
    }

    /// What there is, as if it ended here, with no more than so many log probabilities: a score of the beginning must
    /// not depend on how many tokens came with the last one.
    ///
    /// # Errors
    /// There is nothing yet.
    pub fn prefix(&self, tokens: usize) -> Result<Answer, AnswerError> {
        let mut reader = self.clone();
        for part in &mut reader.parts {
            part.ended = true;
        }
        let mut answer = reader.finish()?;
        for list in answer.choices.iter_mut().filter_map(|choice| choice.tokens.as_mut()) {
            list.list.truncate(tokens);
        }
        Ok(answer)
    }

    /// Adds a body; false if one of its choices has no message.
    fn add(&mut self, body: &str) -> Result<bool, AnswerError> {
        let (body, mut lists) = lean(body, |cursor| {
            let start = cursor.at();
            let list = Builder::read(cursor, !self.no_alternatives)?;
            Some((start..cursor.at(), list))
        });
        let Object(body): Object<Body<'_>> = serde_json::from_str(&body)
            .map_err(|e| AnswerError::Malformed(if e.is_data() { "JSON of another shape" } else { "not JSON" }))?;
        self.logprobs.clear();
        if body.error.is_some() {
            return Err(AnswerError::UpstreamError);
        }
        let Some(choices) = body.choices else { return Err(AnswerError::Malformed("no choices")) };
        if let Some(identity) = &mut self.identity {
            let said = Said { id: body.id, created: body.created, model: body.model };
            identity.see(said, !choices.is_empty());
        }
        if let Some(raw) = body.usage {
            self.usage = usage(raw).or(self.usage);
        }
        let mut complete = true;
        for Object(choice) in choices {
            if choice.index >= MAX_CHOICES {
                return Err(AnswerError::Malformed("too many choices"));
            }
            if self.parts.len() <= choice.index {
                self.parts.resize_with(choice.index + 1, Part::default);
            }
            if let Some(part) = self.parts.get_mut(choice.index) {
                let mut list = None;
                if let Some(taken) = choice.logprobs.and_then(|number| lists.get_mut(number)).map(std::mem::take) {
                    // Taken twice: the upstream wrote a number itself.
                    if taken.0.is_empty() {
                        return Err(AnswerError::Malformed("a number where log probabilities should be"));
                    }
                    self.logprobs.push(taken.0);
                    list = taken.1;
                }
                complete &= part.add(choice, list);
            }
        }
        Ok(complete)
    }

    /// The answer.
    ///
    /// # Errors
    /// The stream had no choice, or ended before a choice had.
    pub fn finish(self) -> Result<Answer, AnswerError> {
        let choices = self.parts.into_iter().map(Part::finish).collect::<Result<Vec<_>, _>>()?;
        if choices.is_empty() {
            return Err(AnswerError::Malformed("no choices"));
        }
        Ok(Answer { choices, usage: self.usage, logprobs: self.logprobs })
    }
}

impl Part {
    fn add(&mut self, from: ChoiceIn<'_>, list: Option<Builder>) -> bool {
        self.seen = true;
        let complete = from.message.is_some();
        if let Some(Object(message)) = from.message {
            if let Some(text) = message.content.filter(|text| !text.0.is_empty()) {
                self.content_tokens += list.as_ref().map_or(1, Builder::len).max(1);
                push(&mut self.choice.content, text.0);
            }
            self.reasoned |= [message.reasoning, message.reasoning_content].iter().flatten().any(|r| r.get() != "\"\"");
            if let Some(text) = message.refusal {
                self.choice.refusal.get_or_insert_default().push_str(&text.0);
            }
            calls::extend(&mut self.choice.tool_calls, message.tool_calls.as_deref().unwrap_or_default());
            calls::extend_by_function(&mut self.choice.tool_calls, message.function_call);
        }
        if let Ended::Yes(reason) = from.finish_reason {
            self.ended = true;
            self.choice.finish_reason = reason;
        }
        match (&mut self.tokens, list) {
            (Some(tokens), Some(list)) => tokens.extend(&list),
            (tokens @ None, list) => *tokens = list,
            (Some(_), None) => {}
        }
        complete
    }

    fn finish(mut self) -> Result<Choice, AnswerError> {
        if !self.seen {
            return Err(AnswerError::Malformed("a choice is missing"));
        }
        if !self.ended {
            return Err(AnswerError::Malformed("the stream ended without a finish_reason"));
        }
        // An empty list is what some engines send for no log probabilities at all.
        self.choice.tokens = self.tokens.map(|t| t.align(&self.choice.content)).filter(|t| !t.list.is_empty());
        Ok(self.choice)
    }
}

/// Appends, without a copy where nothing was there before and the piece is owned.
fn push(to: &mut String, piece: Cow<'_, str>) {
    if to.is_empty() { *to = piece.into_owned() } else { to.push_str(&piece) }
}
