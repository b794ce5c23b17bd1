//! What gates know besides the answer's fields: the request, and the answer's content as JSON. Both are worked out
//! only when a gate asks, and then once.

use std::cell::OnceCell;
use std::sync::OnceLock;

use serde_json::Value;

use crate::router::body::{Peek, Tool, ToolChoice};

/// The request that an answer is judged against. One for all steps of a request.
#[derive(Debug)]
pub struct RequestContext<'a> {
    peek: &'a Peek<'a>,
    text: OnceLock<String>,
    tools: OnceLock<(Vec<Tool<'a>>, ToolChoice)>,
}

impl<'a> RequestContext<'a> {
    /// The context of a request.
    #[must_use]
    pub const fn new(peek: &'a Peek<'a>) -> Self {
        Self { peek, text: OnceLock::new(), tools: OnceLock::new() }
    }

    /// The schema of `response_format`, as JSON text.
    #[must_use]
    pub fn schema(&self) -> Option<&'a str> {
        self.peek.schema.map(serde_json::value::RawValue::get)
    }

    /// Tokens that the request probably has.
    #[must_use]
    pub fn tokens_estimate(&self) -> u64 {
        self.peek.input_tokens_estimate()
    }

    /// The model that the client named.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.peek.model
    }

    /// Whether the client wants a stream.
    #[must_use]
    pub const fn stream(&self) -> bool {
        self.peek.stream
    }

    /// The client's own limit on output tokens.
    #[must_use]
    pub const fn max_tokens(&self) -> Option<u64> {
        self.peek.max_tokens
    }

    /// The tools that the request offers.
    #[must_use]
    pub fn tools(&self) -> &[Tool<'a>] {
        &self.tools.get_or_init(|| self.peek.tools_offered()).0
    }

    /// What the request says of calling them.
    #[must_use]
    pub fn tool_choice(&self) -> &ToolChoice {
        &self.tools.get_or_init(|| self.peek.tools_offered()).1
    }

    /// Text of all messages.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.get_or_init(|| self.peek.user_text())
    }
}

/// The content of a choice.
pub(super) struct Content<'a> {
    pub(super) text: &'a str,
    json: OnceCell<Option<Value>>,
}

impl<'a> Content<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, json: OnceCell::new() }
    }

    /// The JSON in the content, which may be fenced. A DOM, but of an answer that a schema or pointer looks into.
    pub(super) fn json(&self) -> Option<&Value> {
        self.json.get_or_init(|| serde_json::from_str(&self.text[super::leaves::json_span(self.text)]).ok()).as_ref()
    }
}
