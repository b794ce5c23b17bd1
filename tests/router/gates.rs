//! Gates that read more than tokens, over real sockets.

use serde_json::{Value, json};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, table};

const LARGE: Behaviour = Behaviour::Answer("large says", -0.01);

/// A gate of a table with the API's defaults.
fn gate(check: Value) -> Value {
    json!({"onMissing": "Escalate", "required": false, "check": check})
}

/// The usual table whose first step has these gates.
fn gated(small: &FakeUpstream, large: &FakeUpstream, gates: &[Value]) -> Value {
    let mut table = table(small.port, large.port);
    table["paths"]["up"]["steps"][0]["accept"] = gates.into();
    table
}

#[tokio::test]
async fn an_expression_judges_the_answer_and_its_request() {
    let small = FakeUpstream::start(Behaviour::Answer(r#"{"total": 3, "parts": [1, 2]}"#, -3.0)).await;
    let large = FakeUpstream::start(LARGE).await;
    let sum =
        "json.total == json.parts[0] + json.parts[1] && usage.completion_tokens < 20 && request.model == 'intent'";
    let router = Harness::start(gated(&small, &large, &[gate(json!({"expression": sum}))])).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    small.now(Behaviour::Answer(r#"{"total": 4, "parts": [1, 2]}"#, -3.0));
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(expression) large:accepted");
    // What is not there is missing evidence, which the gate may let pass.
    small.now(Behaviour::Answer(r#"{"total": 4}"#, -3.0));
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(expression) large:accepted");
    let mut lenient = gated(&small, &large, &[gate(json!({"expression": sum}))]);
    lenient["paths"]["up"]["steps"][0]["accept"][0]["onMissing"] = "Accept".into();
    router.reload(lenient).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
}
