//! Takes out of a reply what the router had injected into the request. [`EDITS`] is the whole of it: what is injected
//! nowhere is taken out nowhere.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::body::{Inject, Peek};
use super::super::json::{Splice, member, span};
use super::lean::lean;

/// What to take out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strip {
    /// The client did not ask for log probabilities.
    pub logprobs: bool,
    /// The client asked for log probabilities, but for no more than so many alternatives.
    pub top_logprobs: Option<u8>,
    /// The client did not ask for the usage chunk.
    pub usage_chunk: bool,
}

/// A field that a request may be sent on with although the client did not write it, and what that brings into the reply.
pub struct Edit {
    /// Field of the request.
    pub injected: &'static str,
    /// What is taken out of the reply, of every frame of a stream.
    pub taken_out: &'static str,
    /// Notes what to take out of the reply to a client's request that was sent on with an injection.
    owes: fn(&mut Strip, &Peek<'_>, Inject),
}

/// All edits. A stream that is not asked for because the tier has none is no such field: the client gets one, made of the
/// completion by [`frames_from_completion`](super::frames_from_completion).
pub const EDITS: [Edit; 3] = [
    Edit {
        injected: "logprobs",
        taken_out: "choices[].logprobs: null, as in a reply to a request that did not ask",
        owes: |strip, client, inject| strip.logprobs = inject.logprobs.is_some() && !client.logprobs,
    },
    Edit {
        injected: "top_logprobs",
        taken_out: "choices[].logprobs.content[].top_logprobs[]: what is more than the client asked for",
        owes: |strip, client, inject| {
            let asked = client.top_logprobs.unwrap_or(0);
            let more = inject.logprobs.is_some_and(|top| top.max(1) > asked);
            strip.top_logprobs = (client.logprobs && more).then_some(asked);
        },
    },
    Edit {
        injected: "stream_options.include_usage",
        taken_out: "the chunk with usage and no choices, which breaks clients that index [0]; usage: null of all others",
        owes: |strip, client, inject| strip.usage_chunk = inject.include_usage && !client.include_usage,
    },
];

impl Strip {
    /// What an injection obliges to.
    #[must_use]
    pub fn of(client: &Peek<'_>, inject: Inject) -> Self {
        let mut strip = Self::default();
        EDITS.iter().for_each(|edit| (edit.owes)(&mut strip, client, inject));
        strip
    }

    const fn edits(self) -> bool {
        self.logprobs || self.top_logprobs.is_some()
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<IgnoredAny>,
}

impl Body<'_> {
    fn usage_only(&self) -> bool {
        self.usage.is_some() && self.choices.as_ref().is_some_and(Vec::is_empty)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<Token<'a>>>,
}

#[derive(Deserialize)]
struct Token<'a> {
    #[serde(borrow, default)]
    top_logprobs: Option<&'a RawValue>,
}

/// The completion without what was injected; `logprobs` is where its log probabilities are. One that can't be read is
/// returned as it is: only what [`Answer`](super::Answer) has read gets here.
#[must_use]
pub fn strip_completion(body: &Bytes, strip: Strip, logprobs: &[Range<usize>]) -> Bytes {
    if !strip.edits() {
        return body.clone();
    }
    if strip.logprobs {
        let Ok(text) = str::from_utf8(body) else { return body.clone() };
        let mut splice = Splice::new(text);
        for list in logprobs.iter().filter_map(|span| text.get(span.clone())) {
            splice.replace(list, "null");
        }
        return if splice.is_empty() { body.clone() } else { splice.apply() };
    }
    read(body).map_or_else(|| body.clone(), |(text, parsed)| edited(body, text, &parsed, strip))
}

/// The payloads of a stream without what was injected.
#[must_use]
pub fn strip_frames<'a>(payloads: impl IntoIterator<Item = &'a Bytes>, strip: Strip) -> Vec<Bytes> {
    let payloads = payloads.into_iter();
    if !strip.edits() && !strip.usage_chunk {
        return payloads.cloned().collect();
    }
    let stripped = payloads.filter_map(|payload| {
        let (stripped, usage_only) = match bare(payload, strip) {
            Some(bare) => bare,
            None => {
                let Some((text, parsed)) = read(payload) else { return Some(payload.clone()) };
                (edited(payload, text, &parsed, strip), parsed.usage_only())
            }
        };
        match strip.usage_chunk {
            true if usage_only => None,
            true => Some(without_null_usage(stripped)),
            false => Some(stripped),
        }
    });
    stripped.collect()
}

/// With the usage chunk asked for, every other chunk says that it has none.
fn without_null_usage(payload: Bytes) -> Bytes {
    if memchr::memmem::find(&payload, b"\"usage\"").is_none() {
        return payload;
    }
    let Some((text, (cut, "null"))) =
        str::from_utf8(&payload).ok().and_then(|text| Some((text, member(text, "usage")?)))
    else {
        return payload;
    };
    let mut splice = Splice::new(text);
    splice.replace(cut, "");
    splice.apply()
}

/// The payload without any log probabilities, and whether it is a usage chunk: without reading what is thrown away.
/// `None` where not just that is to be done, or where a list is not a choice's.
fn bare(payload: &Bytes, strip: Strip) -> Option<(Bytes, bool)> {
    let text = str::from_utf8(payload).ok().filter(|_| strip.logprobs)?;
    let (short, lists) = lean(text, |cursor| cursor.skip());
    if lists.is_empty() {
        return None;
    }
    let parsed: Body<'_> = serde_json::from_str(&short).ok()?;
    let mut splice = Splice::new(&short);
    let numbers = parsed.choices.iter().flatten().filter_map(|choice| choice.logprobs).map(RawValue::get);
    let mut replaced = 0;
    for number in numbers.filter(|number| number.parse::<usize>().is_ok()) {
        splice.replace(number, "null");
        replaced += 1;
    }
    let usage_only = parsed.usage_only();
    (replaced == lists.len()).then(|| (splice.apply(), usage_only))
}

fn read(body: &Bytes) -> Option<(&str, Body<'_>)> {
    let text = std::str::from_utf8(body).ok()?;
    Some((text, serde_json::from_str(text).ok()?))
}

fn edited<'a>(body: &'a Bytes, text: &'a str, parsed: &Body<'a>, strip: Strip) -> Bytes {
    let mut splice = Splice::new(text);
    for raw in parsed.choices.iter().flatten().filter_map(|choice| choice.logprobs) {
        if strip.logprobs {
            splice.replace(raw.get(), "null");
        } else if let Some(most) = strip.top_logprobs {
            let tokens = serde_json::from_str::<Logprobs<'_>>(raw.get()).ok().and_then(|l| l.content);
            for list in tokens.iter().flatten().filter_map(|token| token.top_logprobs) {
                cut(&mut splice, list, usize::from(most));
            }
        }
    }
    if splice.is_empty() { body.clone() } else { splice.apply() }
}

/// Cuts a list to its first `most` entries, and leaves those as they stand. Providers list the likeliest first.
fn cut<'a>(splice: &mut Splice<'a>, list: &'a RawValue, most: usize) {
    let text = list.get();
    let Ok(entries) = serde_json::from_str::<Vec<&RawValue>>(text) else { return };
    if entries.len() > most {
        let kept = most.checked_sub(1).and_then(|last| entries.get(last));
        let rest = kept.map_or(1, |last| span(text, last.get()).end)..text.len() - 1;
        splice.replace(text.get(rest).unwrap_or_default(), "");
    }
}
