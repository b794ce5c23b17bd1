//! JSON lines: an object a request.
//!
//! ```json
//! {"at": 12.5, "inputTokens": 374, "outputTokens": 44, "client": "finance", "model": "intent", "maxTokens": 64, "scores": {"compact": -0.31}}
//! ```
//! `at`: seconds, or a time such as `2023-11-16T18:15:46Z`. `client` and `model` choose the kind of request of the scenario
//! that has both; `scores` are those of the answers of steps, which their confidence gates judge.

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Deserialize;

use super::super::clock::{Nanos, of_seconds};
use super::{Details, Reading, Row, time};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    at: At,
    input_tokens: u32,
    output_tokens: u32,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    scores: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum At {
    Seconds(f64),
    Time(String),
}

pub(super) fn read(text: impl BufRead, into: &mut Reading<'_>) {
    for (line, text) in (1..).zip(text.lines()) {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                into.wrong(line, &error.to_string());
                return;
            }
        };
        if text.trim().is_empty() {
            continue;
        }
        match row(&text) {
            Ok((mut row, says)) => {
                if says != Details::default() {
                    row.says = u32::try_from(into.trace.says.len()).ok();
                    into.trace.says.push(says);
                }
                into.trace.rows.push(row);
            }
            Err(problem) => {
                if !into.wrong(line, &problem) {
                    return;
                }
            }
        }
    }
}

fn row(text: &str) -> Result<(Row, Details), String> {
    let mut text = serde_json::Deserializer::from_str(text);
    let line: Line = serde_path_to_error::deserialize(&mut text).map_err(|error| {
        let place = error.path().to_string();
        format!("{place}: {}", error.into_inner())
    })?;
    let Line { at, input_tokens, output_tokens, client, model, max_tokens, scores } = line;
    let at = when(&at).ok_or("at: must be seconds from 0 on, or a time such as 2023-11-16T18:15:46Z")?;
    let kind = match (client, model) {
        (client, Some(model)) => Some((client, model)),
        (Some(_), None) => return Err("client: needs model beside it".to_owned()),
        (None, None) => None,
    };
    let row = Row { at, input: input_tokens, output: output_tokens, says: None };
    Ok((row, Details { kind, max_tokens, scores }))
}

fn when(at: &At) -> Option<Nanos> {
    match at {
        At::Seconds(seconds) => (*seconds >= 0.0).then(|| of_seconds(*seconds)),
        At::Time(text) => time(text),
    }
}
