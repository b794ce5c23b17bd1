//! What becomes of a request, and why: `/explain` of the admin port. Nobody is asked for an answer.
//!
//! ```text
//! GET  /explain?request-id=ID            what became of a request: its lines of the access log, the newest last
//! POST /explain {client, headers, model or body}      what would become of one: workload, path, and of every step which
//!                                                     tiers it would ask, why it would skip one, and its gates
//! ```
//! The second calls what requests call ([`classify`], [`decide::skip`]), on the table and the circuits of this moment. Why
//! a request would be refused is an answer too, not an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Shared;
use super::admission::escalations::Escalations;
use super::body::{Peek, peek};
use super::cascade::{COLD, at_most, commit_after, needs};
use super::degraded::gives_way;
use super::endpoints::Endpoints;
use super::errors::Problem;
use super::exchange::{check_schema, route};
use super::gates::{CompiledGate, Description};
use super::json::Object;
use super::money::Money;
use super::route::{Route, Stage};
use super::snapshot::{Snapshot, Upstream};
use crate::api::escalation_path::{ColdTier, Direction, Entry, OnExceeded};
use crate::api::types::{DataClass, Risk};
use crate::routing::decide::{self, Skip};
use crate::routing::table::{EscalationLimit, Path, Step};

/// The routes of the admin port.
pub fn routes(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new().route("/explain", get(past).post(future)).with_state(shared)
}

/// What is asked about a request that was not sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Name of the client; none where anyone may ask.
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A request of one short message to this model.
    #[serde(default)]
    model: Option<String>,
    /// Or a whole request.
    #[serde(default)]
    body: Option<Box<RawValue>>,
}

/// What would become of a request.
#[derive(Serialize)]
struct Explained<'a> {
    workload: &'a str,
    owner: &'a str,
    path: &'a str,
    risk: Risk,
    data_class: DataClass,
    input_tokens_estimate: u64,
    table_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    escalation_limit: Option<EscalationsExplained>,
    steps: Vec<StepExplained<'a>>,
}

#[derive(Serialize)]
struct EscalationsExplained {
    ratio: f64,
    window_ms: u64,
    on_exceeded: OnExceeded,
    /// Whether a gate could send the request on now.
    room: bool,
}

#[derive(Serialize)]
struct StepExplained<'a> {
    step: &'a str,
    /// `always`, `after a failure` or `never`.
    entered: &'static str,
    tiers: Vec<TierExplained<'a>>,
    gates: Vec<Description<'a>>,
    /// After how long the next step would start beside it, as far as that is known now.
    #[serde(skip_serializing_if = "Option::is_none")]
    hedged_after_ms: Option<u128>,
    /// Whether a stream would be judged by its beginning.
    commits: bool,
}

#[derive(Serialize)]
struct TierExplained<'a> {
    tier: &'a str,
    /// Why it would not be asked now.
    skip: Option<Why>,
    /// What the call may come to cost, as far as the request bounds it.
    cost_at_most: Money,
}

#[derive(Serialize)]
struct Why {
    reason: &'static str,
    detail: String,
}

async fn past(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let parameters = query.as_deref().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let id = parameters
        .filter(|(name, _)| *name == "request-id")
        .map(|(_, id)| id.replace("%3A", ":").replace("%3a", ":"))
        .next();
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        let message = "request-id: must be set, as in /explain?request-id=ID; ID is the reply's x-request-id";
        return problem(&Problem::invalid(message, Some("request-id".into())));
    };
    let lines = shared.access_log.recent(&id);
    if lines.is_empty() {
        let message = "request-id: no request of this id is among the last that this router logged; another pod may have \
                       served it, and only an access log of format JSON is kept";
        let found = Problem::new(StatusCode::NOT_FOUND, "invalid_request_error", "request_not_found", message);
        return problem(&found);
    }
    let traces: Vec<&RawValue> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Json(serde_json::json!({"request_id": id, "traces": traces})).into_response()
}

async fn future(State(shared): State<Arc<Shared>>, question: Bytes) -> Response {
    let Some(snapshot) = shared.snapshot.load_full() else {
        let message = "the router has no routing table yet";
        return problem(&Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_table", message));
    };
    let asked = match Asked::read(&snapshot, &question) {
        Ok(asked) => asked,
        Err(wrong) => return problem(&wrong),
    };
    match explain(&snapshot, &shared.endpoints.load(), &asked) {
        Ok(answer) => answer,
        Err(refused) => {
            let reply: serde_json::Value = serde_json::from_slice(&refused.body()).unwrap_or_default();
            Json(serde_json::json!({"refused": {"status": refused.status.as_u16(), "reply": reply}})).into_response()
        }
    }
}

fn problem(problem: &Problem) -> Response {
    problem.response().map(axum::body::Body::new)
}

/// A question that makes sense.
struct Asked {
    client: Option<usize>,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn read(snapshot: &Snapshot, question: &[u8]) -> Result<Self, Problem> {
        let wrong =
            |message: String, field: &str| Problem::invalid(format!("{field}: {message}"), Some(field.to_owned()));
        let Object(question): Object<Question> = serde_json::from_slice(question).map_err(|e| {
            wrong(format!("must be an object with client, headers, and model or body ({e})"), "body of the question")
        })?;
        let client =
            match (&snapshot.table.clients, &question.client) {
                (None, None) => None,
                (None, Some(_)) => {
                    return Err(wrong("must not be set: this policy takes requests of anyone".into(), "client"));
                }
                (Some(clients), name) => {
                    let known = || clients.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
                    let index = name.as_ref().and_then(|name| clients.iter().position(|c| c.name == *name));
                    Some(index.ok_or_else(|| {
                        wrong(format!("must be the name of a client; known are {}", known()), "client")
                    })?)
                }
            };
        let mut headers = HeaderMap::new();
        for (name, value) in &question.headers {
            let must = |what: &str| wrong(format!("{name:?} {what}"), "headers");
            let name = HeaderName::try_from(name).map_err(|_| must("is no name of a header"))?;
            headers
                .insert(name, HeaderValue::try_from(value).map_err(|_| must("has no value that a header can have"))?);
        }
        let body = match (question.model, question.body) {
            (Some(model), None) => {
                let message = serde_json::json!({"role": "user", "content": "Hello."});
                Bytes::from(serde_json::json!({"model": model, "messages": [message]}).to_string())
            }
            (None, Some(body)) => Bytes::from(Box::<str>::from(body).into_boxed_bytes()),
            _ => return Err(wrong("exactly one of model and body must be set".into(), "model")),
        };
        Ok(Self { client, headers, body })
    }
}

/// As the traffic port would: a request that is refused there is refused here.
fn explain(snapshot: &Snapshot, endpoints: &Endpoints, asked: &Asked) -> Result<Response, Problem> {
    let peek = peek(&asked.body).map_err(|e| Problem::invalid(e.to_string(), Some(e.field.into_owned())))?;
    let route = route(snapshot, asked.client, &peek, &asked.headers)?;
    check_schema(route, &peek)?;
    let steps = route.path.steps.iter().zip(&route.stages);
    let workload = snapshot.table.workloads.iter().find(|workload| workload.name == route.workload);
    let explained = Explained {
        workload: &route.workload,
        owner: &route.owner,
        // A tier that clients name has a path of its own, of the same name.
        path: workload.map_or(&route.workload, |workload| &workload.path),
        risk: route.risk,
        data_class: route.data_class,
        input_tokens_estimate: peek.input_tokens_estimate(),
        table_hash: &snapshot.hash,
        escalation_limit: route.escalations.as_deref().map(|limit| explain_limit(limit, asked.client)),
        steps: (0..)
            .zip(steps)
            .map(|(at, (step, stage))| explain_step(route, endpoints, &peek, at, step, stage))
            .collect(),
    };
    Ok(Json(explained).into_response())
}

fn explain_limit(escalations: &Escalations, client: Option<usize>) -> EscalationsExplained {
    let EscalationLimit { ratio, window_ms, on_exceeded } = escalations.limit();
    let room = escalations.has_room(client, Instant::now());
    let ratio = f64::from(u32::try_from(ratio).unwrap_or(u32::MAX)) / 1e9;
    EscalationsExplained { ratio, window_ms, on_exceeded, room }
}

fn explain_step<'a>(
    route: &'a Route,
    endpoints: &Endpoints,
    peek: &Peek<'_>,
    at: usize,
    step: &'a Step,
    stage: &'a Stage,
) -> StepExplained<'a> {
    let has_next = route.path.steps.iter().skip(at + 1).any(|step| step.entry == Entry::Always);
    let hedge = route.hedge.as_ref().filter(|_| has_next);
    let tier = |upstream: &'a Upstream| TierExplained {
        tier: &upstream.name,
        skip: why_not(route, endpoints, peek, upstream),
        cost_at_most: at_most(peek, &upstream.tier, 0),
    };
    StepExplained {
        step: &step.name,
        entered: match (step.entry, route.path.direction) {
            (Entry::Always, _) => "always",
            (Entry::FailoverOnly, Direction::UpThenDown) => "after a failure",
            (Entry::FailoverOnly, Direction::Up) => "never",
        },
        tiers: stage.legs.iter().map(|leg| tier(&leg.upstream)).collect(),
        gates: stage.gates.iter().map(CompiledGate::describe).collect(),
        hedged_after_ms: hedge.and_then(|hedge| hedge.bound(at)).map(|bound| bound.as_millis()),
        commits: commit_after(stage, peek).is_some(),
    }
}

/// Why a tier would not be asked now, in the order in which a request finds out.
fn why_not(route: &Route, endpoints: &Endpoints, peek: &Peek<'_>, upstream: &Upstream) -> Option<Why> {
    let tier = &upstream.tier;
    let needs = needs(peek);
    let why = |reason, detail| Some(Why { reason, detail });
    if let Some(detail) = too_dear(&route.path, at_most(peek, tier, 0)) {
        return why(Skip::MaxCost.reason(), detail);
    }
    if let Some(skip) = decide::skip(tier, route.data_class, needs) {
        let detail = match skip {
            Skip::NotCapable(missing) => format!("the tier lacks the capability {missing:?}"),
            Skip::ContextOverflow => format!("about {} tokens; the tier takes {}", needs.tokens, tier.context_tokens),
            Skip::DataClass => {
                format!("the tier may see {} data, that of the workload is {}", tier.data_class, route.data_class)
            }
            Skip::MaxCost => String::new(),
        };
        return why(skip.reason(), detail);
    }
    if let Err(missing) = &upstream.authorization {
        return why("SecretMissing", missing.message.clone());
    }
    if upstream.is_cold(endpoints) {
        let woken = if route.path.cold_tier == ColdTier::Wait { "the request waits for it" } else { "it is woken" };
        return why(COLD, format!("it is scaled to zero, because nobody asked for it; {woken}"));
    }
    if gives_way(upstream, upstream.endpoints(endpoints), route.risk).is_some() {
        return why("Degraded", "little is left of it, which is for workloads of risk High".into());
    }
    if upstream.circuit().is_open() {
        return why("Degraded", "its circuit is open: it did not answer lately, or asked for a pause".into());
    }
    if upstream.endpoints(endpoints).is_empty() {
        return why("Unreachable", "it has no ready endpoint".into());
    }
    None
}

/// What earlier steps spend comes on top; here each step is looked at as if it were the first.
fn too_dear(path: &Path, most: Money) -> Option<String> {
    let allowed = Money::from_nanos(path.max_cost?);
    (most > allowed).then(|| format!("it may cost {most}, the path allows {allowed}"))
}
