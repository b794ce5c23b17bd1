//! The seam: chunks of a continuation as chunks of the stream that it continues.

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Fields that are one for all chunks of a stream.
const IDENTITY: [&str; 4] = ["id", "created", "model", "system_fingerprint"];

/// Where two streams are joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Seam {
    identity: Map<String, Value>,
    /// What the client has, from both sides.
    text: String,
    /// White space that the client has and that the continuation begins with.
    trimmed: String,
    /// Tokens that the client had before.
    tokens: u64,
}

impl Seam {
    /// A seam after `text` of so many tokens, in the stream that began with the chunk `first`. `None` if that is none.
    #[must_use]
    pub fn new(first: &[u8], text: &str, tokens: u64) -> Option<Self> {
        let first: Map<String, Value> = serde_json::from_slice(first).ok()?;
        let identity = first.into_iter().filter(|(name, _)| IDENTITY.contains(&name.as_str())).collect();
        Some(Self { identity, text: text.to_owned(), trimmed: end(text), tokens })
    }

    /// The next seam, for a continuation that breaks after so many tokens.
    #[must_use]
    pub fn again(mut self, tokens: u64) -> Self {
        self.tokens = self.tokens.saturating_add(tokens);
        self.trimmed = end(&self.text);
        self
    }

    /// What the client has.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Tokens that the client had before.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The chunks of the continuation as the client gets them. Those that say nothing new are left out.
    pub fn join(&mut self, chunks: Vec<Bytes>) -> Vec<Bytes> {
        chunks.into_iter().filter_map(|chunk| self.joined(chunk)).collect()
    }

    /// The chunk that ends an answer which has all the tokens that the client allowed.
    #[must_use]
    pub fn spent(&self) -> Bytes {
        let mut chunk = self.identity.clone();
        chunk.insert("object".into(), "chat.completion.chunk".into());
        chunk.insert("choices".into(), json!([{"index": 0, "delta": {}, "finish_reason": "length"}]));
        Bytes::from(Value::Object(chunk).to_string())
    }

    fn joined(&mut self, chunk: Bytes) -> Option<Bytes> {
        let Ok(Value::Object(mut members)) = serde_json::from_slice(&chunk) else { return Some(chunk) };
        members.extend(self.identity.clone());
        let mut says = self.count(members.get_mut("usage"));
        for choice in members.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            says |= choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
            let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else { continue };
            delta.remove("role");
            if let Some(Value::String(content)) = delta.get_mut("content") {
                self.trim(content);
                self.text.push_str(content);
                says |= !content.is_empty();
            }
        }
        says.then(|| Bytes::from(Value::Object(members).to_string()))
    }

    /// Takes out of the beginning what the client has.
    fn trim(&mut self, content: &mut String) {
        let same = self.trimmed.chars().zip(content.chars()).take_while(|(had, new)| had == new);
        let length: usize = same.map(|(had, _)| had.len_utf8()).sum();
        content.drain(..length);
        self.trimmed.drain(..length);
        if !content.is_empty() {
            self.trimmed.clear();
        }
    }

    /// Usage as if one request had been answered; false where there is none.
    fn count(&self, usage: Option<&mut Value>) -> bool {
        let Some(usage) = usage.and_then(Value::as_object_mut) else { return false };
        let number = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or_default();
        let prompt = number("prompt_tokens").saturating_sub(self.tokens);
        let completion = number("completion_tokens").saturating_add(self.tokens);
        // Of tokens that were read from a cache: those of the request alone.
        let details = usage.get_mut("prompt_tokens_details").and_then(|details| details.get_mut("cached_tokens"));
        if let Some(cached) = details {
            *cached = cached.as_u64().unwrap_or_default().min(prompt).into();
        }
        usage.insert("prompt_tokens".into(), prompt.into());
        usage.insert("completion_tokens".into(), completion.into());
        usage.insert("total_tokens".into(), prompt.saturating_add(completion).into());
        true
    }
}

/// White space at the end of a text.
fn end(text: &str) -> String {
    text.strip_prefix(text.trim_end()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(delta: Value, reason: Value) -> Bytes {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        Bytes::from(
            json!({"id": "b", "object": "chat.completion.chunk", "created": 2, "model": "x", "choices": [choice]})
                .to_string(),
        )
    }

    fn seam(text: &str) -> Seam {
        Seam::new(br#"{"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}"#, text, 5)
            .unwrap()
    }

    fn text(chunks: &[Bytes]) -> String {
        let read = |chunk: &Bytes| serde_json::from_slice::<Value>(chunk).unwrap();
        chunks.iter().filter_map(|c| read(c)["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }

    #[test]
    fn the_rest_has_the_identity_of_the_first_stream() {
        let role = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
        let chunks = vec![role, chunk(json!({"content": " more"}), Value::Null), chunk(json!({}), "stop".into())];
        let joined = seam("so far").join(chunks);
        assert_eq!(joined.len(), 2, "{joined:?}");
        assert_eq!(text(&joined), " more");
        for chunk in joined {
            let chunk: Value = serde_json::from_slice(&chunk).unwrap();
            assert_eq!((&chunk["id"], &chunk["created"], &chunk["model"]), (&json!("a"), &json!(1), &json!("m")));
        }
    }

    #[test]
    fn white_space_at_the_seam_is_there_once() {
        let cases = [
            ("so far \n", vec![" \n", "more"], "more"),
            ("so far \n", vec![" ", "\nmore"], "more"),
            ("so far \n", vec!["more"], "more"),
            ("so far ", vec![" \n", " more"], "\n more"),
            ("so far ", vec!["more", " "], "more "),
            ("so far", vec![" more"], " more"),
        ];
        for (had, rest, wanted) in cases {
            let chunks = rest.iter().map(|text| chunk(json!({"content": text}), Value::Null)).collect();
            assert_eq!(text(&seam(had).join(chunks)), wanted, "{had:?} {rest:?}");
        }
    }

    #[test]
    fn a_continuation_can_break_too() {
        let mut seam = seam("one");
        seam.join(vec![chunk(json!({"content": " two "}), Value::Null)]);
        let mut seam = seam.again(2);
        assert_eq!((seam.text(), seam.tokens()), ("one two ", 7));
        assert_eq!(text(&seam.join(vec![chunk(json!({"content": " three"}), Value::Null)])), "three");
    }

    #[test]
    fn usage_is_that_of_one_answer() {
        let usage = json!({"id": "b", "choices": [], "usage": {
            "prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32, "prompt_tokens_details": {"cached_tokens": 24}
        }});
        let joined = seam("x").join(vec![Bytes::from(usage.to_string())]);
        let chunk: Value = serde_json::from_slice(&joined[0]).unwrap();
        let wanted = json!({
            "prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32, "prompt_tokens_details": {"cached_tokens": 20}
        });
        assert_eq!(chunk["usage"], wanted);
    }

    #[test]
    fn an_answer_that_has_all_its_tokens_ends_by_length() {
        let chunk: Value = serde_json::from_slice(&seam("x").spent()).unwrap();
        assert_eq!((&chunk["id"], &chunk["choices"][0]["finish_reason"]), (&json!("a"), &json!("length")));
    }

    #[test]
    fn what_is_no_chunk_passes() {
        assert_eq!(seam("x").join(vec![Bytes::from_static(b"[1]")]), [Bytes::from_static(b"[1]")]);
        assert_eq!(Seam::new(b"[]", "x", 1), None);
    }
}
