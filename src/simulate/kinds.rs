//! Kinds of requests, classified: by the function that classifies the router's.

use super::scenario::{self, Need, Scenario};
use crate::api::escalation_path::OnMissing;
use crate::routing::RoutingTable;
use crate::routing::decide::{self, Needs, Route, Signals, Unroutable};
use crate::routing::table::{Check, Path, Step, tier_path};

/// A kind of request.
pub struct Kind {
    /// Its place among the routes.
    pub route: usize,
    /// Its client, by its place in the table.
    pub client: Option<usize>,
    /// Client and model as the scenario names them.
    pub named: (Option<String>, String),
    /// Its part of the rows, in proportion to the others'.
    pub share: f64,
    /// Rows of this many tokens of input, at least and at most.
    pub input: (u32, u32),
    /// `max_tokens`.
    pub max_tokens: Option<u32>,
    /// What it needs of a tier, but for its tokens.
    pub needs: Needs,
    /// How the steps of its path judge its answers.
    pub gates: Vec<Gates>,
}

/// How a step judges answers of a kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gates {
    /// Part that is refused by gates without a score.
    refused: f64,
    /// Scores that answers have.
    scores: Vec<f64>,
    /// Threshold of the confidence gate.
    at_least: Option<f64>,
    /// Whether an answer without a score passes that gate.
    without: bool,
    /// Whether an answer that is refused may be the best there is: not every gate is required.
    pub returnable: bool,
}

/// What the gates of a step say of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It passes.
    Passed,
    /// It misses nothing but its threshold, by so much.
    Missed(f64),
    /// It is refused.
    Refused,
}

impl Gates {
    /// Judges an answer. `draws` are from 0 to 1; `own`: the answer's own score.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    pub fn judge(&self, own: Option<f64>, draws: [f64; 2]) -> Verdict {
        let drawn = || self.scores.get((draws[1] * self.scores.len() as f64) as usize).copied();
        let refused = draws[0] < self.refused;
        match (self.at_least, own.or_else(drawn)) {
            (Some(at_least), Some(score)) if score < at_least && !refused => Verdict::Missed(at_least - score),
            (Some(at_least), Some(score)) if score < at_least => Verdict::Refused,
            (Some(_), None) if !self.without => Verdict::Refused,
            _ if refused => Verdict::Refused,
            _ => Verdict::Passed,
        }
    }
}

/// The kinds of a scenario and where they go, as far as they fit the table.
pub(super) fn all<'t>(
    table: &'t RoutingTable,
    scenario: &Scenario,
    problems: &mut Vec<String>,
) -> Vec<(Kind, Route<'t>)> {
    let kinds = scenario.requests.iter().enumerate();
    kinds.filter_map(|(at, kind)| one(table, kind, &format!("requests[{at}]"), problems)).collect()
}

fn one<'t>(
    table: &'t RoutingTable,
    kind: &scenario::Kind,
    field: &str,
    problems: &mut Vec<String>,
) -> Option<(Kind, Route<'t>)> {
    let client = match client(table, kind.client.as_deref()) {
        Ok(client) => client,
        Err(problem) => {
            problems.push(format!("{field}.client: {problem}"));
            return None;
        }
    };
    let signals = Signals { client, model: &kind.model, header: &|name| kind.headers.get(name).map(String::as_str) };
    let route = match decide::classify(table, &signals) {
        Ok(route) => route,
        Err(Unroutable::NotAllowed(workload)) => {
            problems.push(format!("{field}: its client may not use workload {workload}"));
            return None;
        }
        Err(Unroutable::UnknownModel(known)) => {
            problems.push(format!("{field}.model: no workload takes {:?}; known are {}", kind.model, known.join(", ")));
            return None;
        }
    };
    let path = match route {
        Route::Workload(index) => table.workloads.get(index).and_then(|workload| table.paths.get(&workload.path)),
        Route::Tier(name) => table.paths.get(&tier_path(name)),
    }?;
    let gates = gates(path, kind, field, problems)?;
    let has = |need| kind.needs.contains(&need);
    let kind = Kind {
        route: 0,
        client,
        named: (kind.client.clone(), kind.model.clone()),
        share: kind.share,
        input: (kind.min_input_tokens, kind.max_input_tokens.unwrap_or(u32::MAX)),
        max_tokens: kind.max_tokens,
        needs: Needs {
            tools: has(Need::Tools),
            vision: has(Need::Vision),
            json: has(Need::JsonSchema),
            logprobs: has(Need::Logprobs),
            tokens: 0,
        },
        gates,
    };
    Some((kind, route))
}

fn client(table: &RoutingTable, name: Option<&str>) -> Result<Option<usize>, String> {
    match (&table.clients, name) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("must not be set: this policy takes requests of anyone".to_owned()),
        (Some(clients), name) => {
            let known = || clients.iter().map(|client| client.name.as_str()).collect::<Vec<_>>().join(", ");
            let place = name.and_then(|name| clients.iter().position(|client| client.name == name));
            place.map(Some).ok_or_else(|| format!("must be the name of a client; known are {}", known()))
        }
    }
}

fn gates(path: &Path, kind: &scenario::Kind, field: &str, problems: &mut Vec<String>) -> Option<Vec<Gates>> {
    let before = problems.len();
    for name in kind.steps.keys() {
        if !path.steps.iter().any(|step| step.name == *name) {
            let known: Vec<&str> = path.steps.iter().map(|step| step.name.as_str()).collect();
            problems.push(format!("{field}.steps.{name}: its path has no such step; it has {}", known.join(", ")));
        }
    }
    let gates = path.steps.iter().map(|step| of_step(step, kind.steps.get(&step.name), field, problems)).collect();
    (problems.len() == before).then_some(gates)
}

fn of_step(step: &Step, said: Option<&scenario::Gates>, field: &str, problems: &mut Vec<String>) -> Gates {
    let field = format!("{field}.steps.{}", step.name);
    if step.accept.is_empty() {
        if said.is_some() {
            problems.push(format!("{field}: must not be set: the step has no gates, so it refuses nothing"));
        }
        return Gates::default();
    }
    let Some(said) = said else {
        problems.push(format!("{field}: must be there: the step has gates; say what part they refuse, or give scores"));
        return Gates::default();
    };
    let confidence = step.accept.iter().filter_map(|gate| match gate.check {
        Check::Confidence { at_least, .. } => Some((at_least, gate.on_missing)),
        _ => None,
    });
    // All gates must pass, so of several thresholds the highest counts.
    let strictest = confidence.max_by(|a, b| a.0.total_cmp(&b.0));
    if strictest.is_none() && !said.scores.is_empty() {
        problems.push(format!("{field}.scores: must not be set: the step has no confidence gate"));
    }
    Gates {
        refused: said.refused.as_ref().and_then(|ratio| ratio.value().ok()).unwrap_or(0.0),
        scores: said.scores.clone(),
        at_least: strictest.map(|(at_least, _)| at_least),
        // Where no scores are given, `refused` speaks for the confidence gate too.
        without: said.scores.is_empty() || strictest.is_some_and(|(_, missing)| missing == OnMissing::Accept),
        returnable: step.accept.iter().any(|gate| !gate.required),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_judged_by_the_threshold_and_the_rest_by_chance() {
        let gates =
            Gates { refused: 0.2, scores: vec![-0.9, -0.1], at_least: Some(-0.4), without: false, returnable: true };
        let passes = |gates: &Gates, own, draws| gates.judge(own, draws) == Verdict::Passed;
        assert_eq!([[0.5, 0.1], [0.5, 0.6], [0.1, 0.6]].map(|draws| passes(&gates, None, draws)), [false, true, false]);
        assert_eq!(gates.judge(None, [0.5, 0.1]), Verdict::Missed(0.5));
        assert_eq!(gates.judge(None, [0.1, 0.1]), Verdict::Refused, "by another gate too");
        assert!(
            passes(&gates, Some(-0.4), [0.2, 0.0]) && !passes(&gates, Some(-0.41), [0.9, 0.9]),
            "a row's own score"
        );
        let bare = Gates { scores: Vec::new(), without: true, ..gates };
        assert!(passes(&bare, None, [0.2, 0.0]) && !passes(&bare, None, [0.19, 0.0]));
        assert!(passes(&Gates::default(), None, [0.0, 0.0]), "a step without gates");
    }
}
