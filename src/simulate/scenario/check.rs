//! What is wrong with a scenario by itself.

use super::{Curve, Load, Scenario};
use crate::api::types::{Duration, ParseError};

/// Most requests for each row of a trace.
const MOST: f64 = 10_000.0;

impl Scenario {
    /// Everything that is wrong, a line each, with its field.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        load(&self.load, &mut found);
        for (name, tier) in &self.tiers {
            let field = |field: &str| format!("tiers.{name}.{field}");
            curve(&tier.curve, &field("curve"), &mut found);
            text(tier.pod_start.millis(), &field("podStart"), &mut found);
            if tier.concurrency == Some(0) {
                found.push(format!("{}: must be at least 1", field("concurrency")));
            }
        }
        if self.requests.is_empty() {
            found.push("requests: must name at least one kind of request".to_owned());
        }
        for (at, kind) in self.requests.iter().enumerate() {
            number(kind.share, f64::MAX, &format!("requests[{at}].share"), &mut found);
            if kind.max_input_tokens.is_some_and(|most| most < kind.min_input_tokens) {
                found.push(format!("requests[{at}].maxInputTokens: must not be less than minInputTokens"));
            }
            for (step, gates) in &kind.steps {
                let field = format!("requests[{at}].steps.{step}");
                text(
                    gates.refused.as_ref().map_or(Ok(0.0), |ratio| ratio.value()),
                    &format!("{field}.refused"),
                    &mut found,
                );
                if gates.refused.is_none() && gates.scores.is_empty() {
                    found.push(format!("{field}: must have refused, scores or both"));
                }
                if gates.scores.iter().any(|score| !score.is_finite()) {
                    found.push(format!("{field}.scores: must be finite numbers"));
                }
            }
        }
        if !self.requests.iter().any(|kind| kind.share > 0.0) && !self.requests.is_empty() {
            found.push("requests: at least one must have a share above 0".to_owned());
        }
        for (at, outage) in self.outages.iter().enumerate() {
            let field = |field: &str| format!("outages[{at}].{field}");
            text(outage.from.millis(), &field("from"), &mut found);
            text(outage.to.millis(), &field("to"), &mut found);
            if let (Ok(from), Ok(to)) = (outage.from.millis(), outage.to.millis())
                && from >= to
            {
                found.push(format!("{}: must be after from", field("to")));
            }
            if !self.tiers.contains_key(&outage.tier) {
                let known: Vec<&str> = self.tiers.keys().map(String::as_str).collect();
                found.push(format!("{}: {:?} is none of tiers: {}", field("tier"), outage.tier, known.join(", ")));
            }
        }
        found
    }
}

fn load(load: &Load, found: &mut Vec<String>) {
    number(load.scale, MOST, "load.scale", found);
    if load.scale == 0.0 {
        found.push("load.scale: must be above 0".to_owned());
    }
    for (at, factor) in load.shape.iter().enumerate() {
        number(*factor, MOST, &format!("load.shape[{at}]"), found);
    }
    if load.shape.len() == 1 {
        found.push("load.shape: must have at least two factors, for the beginning and the end".to_owned());
    }
    text(load.spread.millis(), "load.spread", found);
    let duration = load.duration.as_ref().map_or(Ok(1), Duration::millis);
    if duration == Ok(0) {
        found.push("load.duration: must be above 0s".to_owned());
    }
    text(duration, "load.duration", found);
}

fn curve(curve: &Curve, field: &str, found: &mut Vec<String>) {
    let Curve { overhead, alpha, beta, gamma } = *curve;
    for (name, value) in [("overhead", overhead), ("alpha", alpha), ("beta", beta), ("gamma", gamma)] {
        number(value, 3_600.0, &format!("{field}.{name}"), found);
    }
}

fn number(value: f64, most: f64, field: &str, found: &mut Vec<String>) {
    if !(0.0..=most).contains(&value) {
        found.push(format!("{field}: must be a number from 0 to {most}, is {value}"));
    }
}

fn text<T>(parsed: Result<T, ParseError>, field: &str, found: &mut Vec<String>) {
    found.extend(parsed.err().map(|error| format!("{field}: {error}")));
}
