//! Tool calls of an answer, whole or in pieces. Leniently: an answer is not lost because of how a call looks; what can't
//! be read stays empty.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ToolCall;
use crate::router::json::Object;

/// Calls that one choice may hold.
const MAX_CALLS: usize = 128;

#[derive(Default, Deserialize)]
struct CallIn<'a> {
    /// Of a stream: which call the piece belongs to.
    #[serde(default)]
    index: Option<usize>,
    #[serde(borrow, default, alias = "custom")]
    function: Option<Object<FunctionIn<'a>>>,
}

#[derive(Default, Deserialize)]
struct FunctionIn<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "input")]
    arguments: Option<&'a RawValue>,
}

/// Adds calls, or pieces of them.
pub(super) fn extend(calls: &mut Vec<ToolCall>, pieces: &[&RawValue]) {
    for (i, piece) in pieces.iter().enumerate() {
        let Object(piece) = serde_json::from_str(piece.get()).unwrap_or(Object(CallIn::default()));
        let at = piece.index.unwrap_or(i).min(MAX_CALLS - 1);
        add(calls, at, piece.function.map(|Object(function)| function).unwrap_or_default());
    }
}

/// Adds the call of a function, as it was before there were tools.
pub(super) fn extend_by_function(calls: &mut Vec<ToolCall>, piece: Option<&RawValue>) {
    if let Some(piece) = piece.filter(|piece| piece.get() != "null") {
        let Object(function) = serde_json::from_str(piece.get()).unwrap_or(Object(FunctionIn::default()));
        add(calls, 0, function);
    }
}

fn add(calls: &mut Vec<ToolCall>, at: usize, piece: FunctionIn<'_>) {
    if calls.len() <= at {
        calls.resize_with(at + 1, ToolCall::default);
    }
    if let Some(call) = calls.get_mut(at) {
        call.name.push_str(&text(piece.name));
        call.arguments.push_str(&text(piece.arguments));
    }
}

/// A string, or the JSON of what should be one: some engines send arguments as an object.
fn text(raw: Option<&RawValue>) -> Cow<'_, str> {
    let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else { return Cow::Borrowed("") };
    serde_json::from_str(raw).map_or(Cow::Borrowed(raw), Cow::Owned)
}
