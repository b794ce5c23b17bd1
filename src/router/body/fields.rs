//! The fields of a request, each read from its raw value. Null is as good as absent.

use std::borrow::Cow;

use serde::de::Deserialize;
use serde_json::value::RawValue;

use super::{BodyError, FIELDS, RESPONSE_FORMAT, ResponseFormat, STREAM_OPTIONS, Slots};
use crate::router::json::Object;

/// A string, borrowed unless it has escapes; `None` if it is no string or its escapes are wrong.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(raw.get()).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

pub(super) fn present<'a>(slots: &Slots<'a>, field: usize) -> Option<&'a str> {
    slots.get(field).copied().flatten().map(RawValue::get).filter(|raw| *raw != "null")
}

pub(super) fn wrong(field: usize, must: impl Into<Cow<'static, str>>) -> BodyError {
    BodyError::new(FIELDS.get(field).copied().unwrap_or_default(), must)
}

pub(super) fn flag(slots: &Slots<'_>, field: usize) -> Result<bool, BodyError> {
    match present(slots, field) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(wrong(field, "must be true or false")),
    }
}

pub(super) fn integer(slots: &Slots<'_>, field: usize, least: u64, most: u64) -> Result<Option<u64>, BodyError> {
    let Some(raw) = present(slots, field) else { return Ok(None) };
    let value = raw.parse::<u64>().ok().filter(|v| (least..=most).contains(v));
    value.map(Some).ok_or_else(|| match most {
        u64::MAX => wrong(field, format!("must be an integer of at least {least}")),
        _ => wrong(field, format!("must be an integer from {least} to {most}")),
    })
}

/// Whether a list is there and not empty.
pub(super) fn list(slots: &Slots<'_>, field: usize) -> Result<bool, BodyError> {
    match present(slots, field) {
        None => Ok(false),
        Some(raw) => match raw.strip_prefix('[') {
            Some(inside) => Ok(!inside.trim_start().starts_with(']')),
            None => Err(wrong(field, "must be a list")),
        },
    }
}

/// `stream_options`, as far as it is read.
#[derive(Default, serde::Deserialize)]
pub(super) struct StreamOptions<'a> {
    #[serde(borrow, default, deserialize_with = "raw_even_if_null")]
    pub(super) include_usage: Option<&'a RawValue>,
}

/// `None` only where the field is absent: what is there must be replaced, not added to.
pub(super) fn raw_even_if_null<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

pub(super) fn stream_options(raw: Option<&RawValue>) -> Result<StreamOptions<'_>, BodyError> {
    let raw = raw.map_or("null", RawValue::get);
    let options = serde_json::from_str::<Option<Object<StreamOptions<'_>>>>(raw);
    options
        .map(|options| options.unwrap_or_default().0)
        .map_err(|_| wrong(STREAM_OPTIONS, "must be an object with include_usage at most once"))
}

#[derive(serde::Deserialize)]
struct Format<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow, default)]
    json_schema: Option<Object<Schema<'a>>>,
}

#[derive(serde::Deserialize)]
struct Schema<'a> {
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
}

pub(super) fn response_format(raw: Option<&RawValue>) -> Result<(ResponseFormat, Option<&RawValue>), BodyError> {
    let raw = raw.map_or("null", RawValue::get);
    let must = "must be an object with a type, and with json_schema for the type json_schema";
    let format = serde_json::from_str::<Option<Object<Format<'_>>>>(raw).map_err(|_| wrong(RESPONSE_FORMAT, must))?;
    let Some(Object(format)) = format else { return Ok((ResponseFormat::Text, None)) };
    match string(format.kind).ok_or_else(|| wrong(RESPONSE_FORMAT, must))?.as_ref() {
        "json_object" => Ok((ResponseFormat::JsonObject, None)),
        "json_schema" => {
            let Object(schema) = format.json_schema.ok_or_else(|| wrong(RESPONSE_FORMAT, must))?;
            Ok((ResponseFormat::JsonSchema, schema.schema))
        }
        _ => Ok((ResponseFormat::Text, None)),
    }
}
