//! Requests: whatever comes, it is refused with the field at fault, or rewritten so that nothing changes but what must.
#![no_main]

use std::fmt;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallfirst::router::body::{Inject, Peek, peek};

const MODEL: &str = "model \"of\" a tier";
const INJECTS: [Inject; 5] = [
    Inject { logprobs: None, stream: None, include_usage: false },
    Inject { logprobs: Some(5), stream: None, include_usage: false },
    Inject { logprobs: Some(0), stream: Some(false), include_usage: false },
    Inject { logprobs: None, stream: Some(true), include_usage: true },
    Inject { logprobs: Some(20), stream: Some(true), include_usage: true },
];
/// What a rewrite may change.
const EDITED: [&str; 5] = ["model", "logprobs", "top_logprobs", "stream", "stream_options"];

/// The members that no rewrite may change, as they stand.
struct Others<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Others<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Others<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Others<'de>, A::Error> {
                let mut others = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if !EDITED.contains(&name.as_str()) {
                        others.push((name, value.get()));
                    }
                }
                Ok(Others(others))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn others(body: &[u8]) -> Vec<(String, &str)> {
    let Others(others) = serde_json::from_slice(body).expect("an object");
    others
}

/// What gates and admission know of a request.
fn known(request: &Peek<'_>) -> String {
    let Peek { n, max_tokens, tools, vision, response_format, schema, .. } = request;
    let fields = (n, max_tokens, tools, vision, response_format, schema.map(RawValue::get));
    let texts = (request.user_text(), request.conversation(), request.tools_offered());
    format!("{fields:?} {texts:?} {}", request.input_tokens_estimate())
}

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let request = match peek(&body) {
        Ok(request) => request,
        Err(error) => {
            assert!(!error.field.is_empty() && !error.message.is_empty(), "{error:?}");
            return;
        }
    };
    let same = request.rewrite(&body, &request.model, Inject::default());
    assert_eq!(same.as_ptr(), body.as_ptr(), "nothing to change, and copied");
    for inject in INJECTS {
        let sent = request.rewrite(&body, MODEL, inject);
        let again = peek(&sent).expect("what is sent on is a request");
        assert_eq!(again.model, MODEL);
        assert_eq!(others(&sent), others(&body));
        assert_eq!(known(&again), known(&request));
        let streams = inject.stream.unwrap_or(request.stream);
        assert_eq!(again.stream, streams);
        assert_eq!(again.logprobs, request.logprobs || inject.logprobs.is_some());
        let least = inject.logprobs.map(|top| top.max(1)).max(request.top_logprobs);
        assert_eq!(again.top_logprobs, least);
        if streams {
            assert_eq!(again.include_usage, request.include_usage || inject.include_usage);
        }
        // What is injected is there then, and nothing is injected anew.
        assert_eq!(again.rewrite(&sent, MODEL, inject).as_ptr(), sent.as_ptr());
    }
});
