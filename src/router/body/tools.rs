//! The tools of a request, for a gate that judges calls. Leniently: what is wrong with a tool is the upstream's to say.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{FUNCTION_CALL, FUNCTIONS, Slots, TOOL_CHOICE, TOOLS, present};
use crate::router::json::Object;

/// A tool on offer.
#[derive(Clone, Debug)]
pub struct Tool<'a> {
    /// Name by which it is called.
    pub name: String,
    /// Whether it takes free text in place of JSON arguments.
    pub custom: bool,
    /// JSON schema of its arguments.
    pub parameters: Option<&'a RawValue>,
}

/// What a request says of calling tools (`tool_choice`, or the older `function_call`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model may.
    #[default]
    Auto,
    /// The model must call at least one.
    Required,
    /// The model must call this one.
    Named(String),
}

#[derive(Deserialize)]
struct ToolIn<'a> {
    #[serde(borrow, default)]
    function: Option<Object<Definition<'a>>>,
    #[serde(borrow, default)]
    custom: Option<Object<Definition<'a>>>,
}

#[derive(Deserialize)]
struct Definition<'a> {
    name: String,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// `{"type": "function", "function": {"name": ...}}`, or the older `{"name": ...}`.
#[derive(Deserialize)]
struct ChoiceIn {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, alias = "custom")]
    function: Option<Object<Named>>,
}

pub(super) fn offered<'a>(slots: &Slots<'a>) -> (Vec<Tool<'a>>, ToolChoice) {
    let listed = |field| present(slots, field).and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw).ok());
    let mut tools = Vec::new();
    for raw in listed(TOOLS).unwrap_or_default() {
        let Ok(Object(tool)) = serde_json::from_str::<Object<ToolIn<'_>>>(raw.get()) else { continue };
        match (tool.function, tool.custom) {
            (Some(Object(Definition { name, parameters })), _) => tools.push(Tool { name, custom: false, parameters }),
            (None, Some(Object(Definition { name, .. }))) => tools.push(Tool { name, custom: true, parameters: None }),
            (None, None) => {}
        }
    }
    for raw in listed(FUNCTIONS).unwrap_or_default() {
        if let Ok(Object(Definition { name, parameters })) = serde_json::from_str(raw.get()) {
            tools.push(Tool { name, custom: false, parameters });
        }
    }
    let choice = present(slots, TOOL_CHOICE).or_else(|| present(slots, FUNCTION_CALL));
    let choice = match choice {
        None => ToolChoice::Auto,
        Some("\"required\"") => ToolChoice::Required,
        Some(raw) => serde_json::from_str::<Object<ChoiceIn>>(raw)
            .ok()
            .and_then(|Object(choice)| choice.name.or_else(|| choice.function.map(|Object(named)| named.name)))
            .map_or(ToolChoice::Auto, ToolChoice::Named),
    };
    (tools, choice)
}
