//! `toolCalls`: every call names a tool of the request, with arguments that are valid under its parameters; and there is
//! a call where `tool_choice` says that there must be one.
//!
//! Parameters that are no JSON schema, or one too large to judge by, are missing evidence. Custom tools take any input.

use serde_json::Value;

use super::json_schema::cached;
use super::{Finding, RequestContext};
use crate::router::answer::{Choice, ToolCall};
use crate::router::body::{Tool, ToolChoice};

pub(super) fn judge(request: &RequestContext<'_>, choice: &Choice) -> Finding {
    let asked = request.tool_choice();
    if choice.tool_calls.is_empty() {
        let must = matches!(asked, ToolChoice::Required | ToolChoice::Named(_));
        return Finding::pass_if(!must, "no tool is called, and one must be");
    }
    let tools = request.tools();
    for call in &choice.tool_calls {
        if let ToolChoice::Named(name) = asked
            && *name != call.name
        {
            return Finding::fail("another tool is called than the request names");
        }
        let Some(tool) = tools.iter().find(|tool| tool.name == call.name) else {
            return Finding::fail("a tool is called that the request does not have");
        };
        let finding = arguments(tool, call);
        if finding.failure.is_some() {
            return finding;
        }
    }
    Finding::PASS
}

fn arguments(tool: &Tool<'_>, call: &ToolCall) -> Finding {
    if tool.custom {
        return Finding::PASS;
    }
    // Without parameters, engines send nothing or an empty object.
    let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text) else {
        return Finding::fail("a call's arguments are no JSON object");
    };
    let Some(parameters) = tool.parameters else { return Finding::PASS };
    match cached(parameters.get()).as_ref() {
        Ok(schema) => Finding::pass_if(
            schema.is_valid(&arguments),
            "a call's arguments are not valid under the tool's parameters",
        ),
        Err(_) => Finding::missing("a tool's parameters are no JSON schema to judge by"),
    }
}
