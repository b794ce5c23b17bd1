//! Gates that read more than tokens, over real sockets.

use serde_json::{Value, json};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, table};

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

fn agreement(samples: u32, at_least: f64) -> Value {
    gate(json!({"agreement": {"samples": samples, "atLeast": at_least, "compare": "Exact"}}))
}

/// The last line of the access log, once it is written.
async fn line(router: &Harness, id: &str) -> Value {
    let reply = get(router.admin, &format!("/explain?request-id={id}")).await;
    serde_json::from_str::<Value>(&reply.body).expect("JSON")["traces"][0].clone()
}

#[tokio::test]
async fn an_answer_that_the_tier_gives_again_is_accepted_and_every_call_is_paid() {
    let small = FakeUpstream::start(Behaviour::Turns(&["refund", "refund", " refund ", "billing", "refund"])).await;
    let large = FakeUpstream::start(LARGE).await;
    let router = Harness::start(gated(&small, &large, &[agreement(4, 0.75)])).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted", "{}", reply.body);
    assert!(reply.body.contains("refund"));
    assert_eq!(small.count(), 5);
    // Five answers of 100 tokens at 1.00 and 10 at 2.00 a million.
    assert_eq!(reply.header("x-smallfirst-cost"), "0.0006 USD");
    let sample: Value = serde_json::from_str(&small.last_body.lock().unwrap()).expect("JSON");
    assert_eq!((&sample["temperature"], &sample["stream"]), (&json!(0.7), &Value::Null));
    let line = line(&router, reply.header("x-request-id")).await;
    let step = &line["steps"][0];
    assert_eq!(step["gates"], json!([{"gate": "agreement", "passed": true, "score": 0.75}]));
    let asked = &step["asked"][0];
    assert_eq!((&asked["calls"], &asked["failed"], &asked["tier"]), (&json!(4), &json!(0), &json!("small")));
    assert_eq!((&asked["input_tokens"], &asked["cost"]), (&json!(400), &json!("0.00048")));
    assert_eq!((&step["input_tokens"], &line["cost"]), (&json!(100), &json!("0.0006")));
    let metrics = get(router.admin, "/metrics").await.body;
    assert!(
        metrics.contains("smallfirst_router_tokens_total{workload=\"intent\",tier=\"small\",direction=\"input\"} 500"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_answer_that_the_tier_does_not_give_again_escalates() {
    let small = FakeUpstream::start(Behaviour::Turns(&["refund", "billing", "refund", "other"])).await;
    let large = FakeUpstream::start(LARGE).await;
    let first = gate(json!({"notMatch": "secret"}));
    let router = Harness::start(gated(&small, &large, &[agreement(3, 0.6), first])).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(agreement) large:accepted");
    assert_eq!((small.count(), reply.header("x-smallfirst-cost")), (4, "0.0006 USD"));
    // An answer that fails a gate that asks nobody is not asked for again.
    small.now(Behaviour::Answer("a secret", -0.01));
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(notMatch) large:accepted");
    assert_eq!(small.count(), 5);
    // Streams are held, and compared all the same.
    small.now(Behaviour::Answer("refund", -0.01));
    let reply = router.ask(&body("intent").replacen('{', "{\"stream\":true,", 1)).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted", "{}", reply.body);
    assert!(reply.body.contains("data: [DONE]"), "{}", reply.body);
}

#[tokio::test]
async fn without_samples_there_is_no_evidence() {
    let small = FakeUpstream::start(Behaviour::Answer("refund", -0.01)).await;
    let large = FakeUpstream::start(LARGE).await;
    let mut given = gated(&small, &large, &[agreement(3, 0.6)]);
    let router = Harness::start(given.clone()).await;
    // Several choices are not compared.
    let two = body("intent").replacen('{', "{\"n\":2,", 1);
    assert_eq!(router.ask(&two).await.header("x-smallfirst-steps"), "small:escalated(agreement) large:accepted");
    assert_eq!(small.count(), 1);
    // One answer may cost 6,000 billionths, three more do not fit.
    given["paths"]["up"]["maxCost"] = 130_000.into();
    router.reload(given.clone()).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(agreement) large:accepted");
    let line = line(&router, reply.header("x-request-id")).await;
    assert_eq!(line["steps"][0]["gates"][0]["detail"], "it may cost more than the path allows");
    assert_eq!(small.count(), 2);
    given["paths"]["up"]["steps"][0]["accept"][0]["onMissing"] = "Accept".into();
    router.reload(given).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    assert_eq!(small.count(), 3);
}

#[tokio::test]
async fn an_answer_without_the_required_agreement_is_never_returned() {
    let small = FakeUpstream::start(Behaviour::Turns(&["refund", "billing", "other"])).await;
    let large = FakeUpstream::start(Behaviour::Status(500)).await;
    let mut given = gated(&small, &large, &[agreement(2, 0.5), gate(json!({"notMatch": "secret"}))]);
    let router = Harness::start(given.clone()).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-outcome")), (200, "best-answer"));
    given["paths"]["up"]["steps"][0]["accept"][0]["required"] = true.into();
    router.reload(given).await;
    assert_eq!(router.ask(&body("intent")).await.status, 502);
    // Nor is one that another gate kept from being asked about.
    small.now(Behaviour::Answer("a secret", -0.01));
    assert_eq!(router.ask(&body("intent")).await.status, 502);
}

#[tokio::test]
async fn a_schema_that_nothing_satisfies_is_the_callers_fault() {
    let small = FakeUpstream::start(Behaviour::Answer("{}", -0.01)).await;
    let large = FakeUpstream::start(LARGE).await;
    let router = Harness::start(gated(&small, &large, &[gate(json!({"jsonSchema": {"inline": null}}))])).await;
    let format = "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"s\",\"schema\":\
                  {\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}}},";
    let reply = router.ask(&body("intent").replacen('{', format, 1)).await;
    let says = "response_format.json_schema.schema: no answer can be valid under it: a property is required that \
                additionalProperties refuses";
    assert_eq!((reply.status, small.count()), (400, 0));
    assert!(reply.body.contains(says), "{}", reply.body);
}

/// The usual table, whose first step is judged by a third tier.
async fn judged(small: Behaviour, judge: Behaviour) -> (FakeUpstream, FakeUpstream, FakeUpstream, Value) {
    let small = FakeUpstream::start(small).await;
    let (large, judge) = (FakeUpstream::start(LARGE).await, FakeUpstream::start(judge).await);
    let check = json!({"judge": {"tier": "judge", "rubric": "It is polite.", "atLeast": 0.7}});
    let mut given = gated(&small, &large, &[gate(check)]);
    given["tiers"]["judge"] = given["tiers"]["large"].clone();
    let port = judge.port;
    given["tiers"]["judge"]["backend"]["url"]["baseUrl"] = format!("http://127.0.0.1:{port}/v1").into();
    given["tiers"]["judge"]["model"] = "model-judge".into();
    (small, large, judge, given)
}

#[tokio::test]
async fn a_judge_says_whether_an_answer_is_accepted_and_is_paid() {
    let (_small, _large, judge, given) =
        judged(Behaviour::Answer("small says", -3.0), Behaviour::Answer(r#"{"score": 0.8}"#, -0.01)).await;
    let router = Harness::start(given).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:accepted", "{}", reply.body);
    assert_eq!(reply.header("x-smallfirst-cost"), "0.00024 USD");
    let asked: Value = serde_json::from_str(&judge.last_body.lock().unwrap()).expect("JSON");
    let (rubric, material) = (asked["messages"][0].to_string(), asked["messages"][1].to_string());
    assert!(rubric.contains("It is polite.") && !rubric.contains("small says"), "{asked}");
    assert!(material.contains("small says") && material.contains("PROMPT-TEXT"), "{asked}");
    assert_eq!(asked["model"], "model-judge");
    let line = line(&router, reply.header("x-request-id")).await;
    assert_eq!(line["steps"][0]["gates"], json!([{"gate": "judge", "passed": true, "score": 0.8}]));
    let opinion = &line["steps"][0]["asked"][0];
    assert_eq!((&opinion["tier"], &opinion["cost"]), (&json!("judge"), &json!("0.00012")));
    assert!(!line.to_string().contains("small says"));
    judge.now(Behaviour::Answer("0.6", -0.01));
    let reply = router.ask(&body("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(judge) large:accepted");
    assert_eq!(reply.header("x-smallfirst-cost"), "0.00036 USD");
}

#[tokio::test]
async fn a_judge_that_gives_no_grade_is_missing_evidence() {
    let (_small, _large, judge, mut given) =
        judged(Behaviour::Answer("small says", -3.0), Behaviour::Answer("It is fine.", -0.01)).await;
    let router = Harness::start(given.clone()).await;
    let detail = async |body: &str| {
        let reply = router.ask(body).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "small:escalated(judge) large:accepted");
        line(&router, reply.header("x-request-id")).await["steps"][0]["gates"][0]["detail"].clone()
    };
    assert_eq!(detail(&body("intent")).await, "the judge gave no score");
    for fault in [Behaviour::Status(500), Behaviour::Reset, Behaviour::Busy(1), Behaviour::Raw("not json")] {
        judge.now(fault);
        assert_eq!(detail(&body("intent")).await, "the judge did not answer");
    }
    let asked = judge.count();
    let two = body("intent").replacen('{', "{\"n\":2,", 1);
    assert_eq!(detail(&two).await, "several choices or tools");
    given["tiers"]["judge"]["dataClass"] = "Public".into();
    router.reload(given.clone()).await;
    assert_eq!(detail(&body("intent")).await, "the judge is not cleared for this data");
    given["tiers"]["judge"]["dataClass"] = "Restricted".into();
    given["tiers"]["judge"]["contextTokens"] = 300.into();
    router.reload(given.clone()).await;
    assert_eq!(detail(&body("intent")).await, "the judge can't take so long a text");
    given["tiers"].as_object_mut().expect("tiers").remove("judge");
    router.reload(given.clone()).await;
    assert_eq!(detail(&body("intent")).await, "the judge's tier is not there");
    assert_eq!(judge.count(), asked, "nobody was asked");
    given["paths"]["up"]["steps"][0]["accept"][0]["onMissing"] = "Accept".into();
    router.reload(given).await;
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
}
