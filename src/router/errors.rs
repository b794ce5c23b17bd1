//! Errors in OpenAI's dialect, with a message that says what to mend. Never a word of an upstream's own.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// An error for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's error type.
    pub kind: &'static str,
    /// OpenAI's error code.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The same request will never do better: `x-should-retry: false`, which OpenAI's clients obey.
    pub hopeless: bool,
}

impl Problem {
    /// A problem of a status; `kind` and `code` as OpenAI's API has them.
    #[must_use]
    pub fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, message: message.into(), param: None, retry_after: None, hopeless: false }
    }

    /// 400: what the caller must mend.
    #[must_use]
    pub fn invalid(message: impl Into<String>, param: Option<String>) -> Self {
        let problem = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_request", message);
        Self { param, ..problem }
    }

    /// 401.
    #[must_use]
    pub fn unauthenticated(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", message)
    }

    /// 404 for a model that nobody knows, with the names that this client may use.
    #[must_use]
    pub fn unknown_model(model: &str, known: &[String]) -> Self {
        let model: String = model.chars().take(100).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("model: {model:?} is not known; known names: {known}");
        let problem = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message);
        Self { param: Some("model".into()), ..problem }
    }

    /// 504: the path's deadline.
    #[must_use]
    pub fn deadline(steps: &str) -> Self {
        let message = format!("the path's deadline passed before an answer was accepted; steps: {steps}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "deadline_exceeded", message)
    }

    /// 429: the limit on escalations let the request go no further.
    #[must_use]
    pub fn escalation_limit(steps: &str, wait: Duration) -> Self {
        let message = format!("no answer passed its gates, and no more requests may escalate now; steps: {steps}");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "escalation_limit", message).after(wait)
    }

    /// The same, with the time after which it may go better: whole seconds, never fewer than are needed, at least one.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        Self { retry_after: Some(seconds.max(1)), ..self }
    }

    /// The error as JSON.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let body = serde_json::json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }});
        Bytes::from(body.to_string())
    }

    /// The reply.
    #[must_use]
    pub fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.hopeless {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_come_too_early() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (1_500, 2), (60_000, 60)] {
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "requests", "capacity", "full");
            assert_eq!(problem.after(Duration::from_millis(millis)).retry_after, Some(seconds), "{millis} ms");
        }
    }
}
