//! A request for another answer to the same question, drawn anew.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::fields::raw_even_if_null;
use super::{Inject, Peek};
use crate::router::json::{Object, Splice};

/// Temperature of samples of a request that sets none, or 0: drawn without temperature they would all be the same. What
/// a client sets above 0 stays. 0.7 is what studies of self-consistency use.
pub const SAMPLING_TEMPERATURE: &str = "0.7";

#[derive(serde::Deserialize)]
struct Sampling<'a> {
    #[serde(borrow, default, deserialize_with = "raw_even_if_null")]
    temperature: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seed: Option<&'a RawValue>,
}

impl Peek<'_> {
    /// The body of one sample for a tier: not streamed, at a temperature, and where the client set a `seed`, with another
    /// for each sample. `None` where those two fields stand twice.
    #[must_use]
    pub fn sample(&self, model: &str, index: u32) -> Option<Bytes> {
        let Object(Sampling { temperature, seed }) = serde_json::from_str(self.body).ok()?;
        let mut splice = Splice::new(self.body);
        self.edit(&mut splice, model, Inject { stream: Some(false), ..Inject::default() });
        let zero = |raw: &&RawValue| raw.get() == "null" || raw.get().parse() == Ok(0.0);
        match temperature {
            None => splice.insert_member(self.body.trim_start(), &format!("\"temperature\":{SAMPLING_TEMPERATURE}")),
            Some(raw) if zero(&raw) => splice.replace(raw.get(), SAMPLING_TEMPERATURE),
            Some(_) => {}
        }
        if let Some((raw, seed)) = seed.and_then(|raw| Some((raw, raw.get().parse::<i64>().ok()?))) {
            splice.replace(raw.get(), seed.wrapping_add(i64::from(index) + 1).to_string());
        }
        Some(splice.apply())
    }
}

#[cfg(test)]
mod tests {
    use crate::router::body::peek;

    #[test]
    fn a_sample_is_drawn_anew_and_otherwise_the_same() {
        for (body, wanted) in [
            (
                r#"{"model":"a","messages":[{"role":"user"}]}"#,
                r#"{"temperature":0.7,"model":"m","messages":[{"role":"user"}]}"#,
            ),
            (
                r#"{"model":"a","temperature":0.0,"seed":7,"messages":[{"role":"user"}]}"#,
                r#"{"model":"m","temperature":0.7,"seed":10,"messages":[{"role":"user"}]}"#,
            ),
            (
                r#"{"temperature":1.2,"seed":null,"stream":true,"stream_options":{},"model":"m","messages":[{"role":"user"}],"x":1}"#,
                r#"{"temperature":1.2,"seed":null,"stream":false,"stream_options":null,"model":"m","messages":[{"role":"user"}],"x":1}"#,
            ),
        ] {
            let sample = peek(body.as_bytes()).expect(body).sample("m", 2).expect(body);
            assert_eq!(sample, wanted.as_bytes());
        }
        let twice = br#"{"model":"a","temperature":0,"temperature":1,"messages":[{"role":"user"}]}"#;
        assert_eq!(peek(twice).expect("a request").sample("m", 0), None);
    }
}
