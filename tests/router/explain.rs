//! What became of a request, and what would become of one.

use serde_json::{Value, json};

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, exchange, get, table};

/// What the router says of a question.
pub async fn ask(router: &Harness, question: &str) -> (u16, Value) {
    let head = format!(
        "POST /explain HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{question}",
        question.len()
    );
    let reply = exchange(router.admin, head.as_bytes()).await;
    (reply.status, serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {}", reply.body)))
}

async fn pair(small: Behaviour) -> (FakeUpstream, FakeUpstream, Harness) {
    let small = FakeUpstream::start(small).await;
    let large = FakeUpstream::start(Behaviour::Answer("large says", -0.01)).await;
    let mut given = table(small.port, large.port);
    given["paths"]["up"]["maxCost"] = 1_000_000_u64.into();
    let router = Harness::start(given).await;
    (small, large, router)
}

#[tokio::test]
async fn what_became_of_a_request_is_found_by_its_id() {
    let (_small, _large, router) = pair(Behaviour::Answer("small says", -3.0)).await;
    let id = router.ask(&body("intent")).await.header("x-request-id").to_owned();
    let reply = get(router.admin, &format!("/explain?request-id={id}")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let found: Value = serde_json::from_str(&reply.body).expect("JSON");
    let steps = &found["traces"][0]["steps"];
    assert_eq!((&steps[0]["tier"], &steps[1]["verdict"]), (&json!("small"), &json!("accepted")));
    assert_eq!(steps[0]["gates"][0]["detail"], "below the threshold");
    assert!(!reply.body.contains("PROMPT-TEXT") && !reply.body.contains("small says"), "{}", reply.body);
    for (path, status, says) in [
        ("/explain?request-id=nobody", 404, "no request of this id"),
        ("/explain?request-id=%00%22", 404, "no request of this id"),
        ("/explain?request-id=", 400, "request-id: must be set"),
        ("/explain", 400, "request-id: must be set"),
    ] {
        let reply = get(router.admin, path).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
        assert!(reply.body.contains(says), "{path}: {}", reply.body);
    }
    // Clients have no such path.
    assert_eq!(get(router.address, "/explain").await.status, 404);
}

#[tokio::test]
async fn what_would_become_of_a_request_is_said_without_asking_anybody() {
    let (small, large, router) = pair(Behaviour::Status(500)).await;
    let (status, answer) = ask(&router, r#"{"client": "finance", "model": "intent"}"#).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["workload"], &answer["path"], &answer["risk"]),
        (&json!("intent"), &json!("up"), &json!("Low"))
    );
    assert_eq!(
        answer["steps"][0],
        json!({
            "step": "small", "entered": "always", "commits": false,
            "tiers": [{"tier": "small", "skip": null, "cost_at_most": "0.000006"}],
            "gates": [{"gate": "confidence", "decides_on": "Prefix", "on_missing": "Escalate", "required": false}]
        })
    );
    let reason = |answer: &Value, step: usize| answer["steps"][step]["tiers"][0]["skip"]["reason"].clone();
    let chat = |more: Value| {
        let mut body = json!({"model": "draft", "messages": [{"role": "user", "content": "x"}]});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        json!({"client": "finance", "body": body}).to_string()
    };
    let (_, down) = ask(&router, &chat(json!({"tools": [{"type": "function", "function": {"name": "f"}}]}))).await;
    assert_eq!((reason(&down, 0), &down["steps"][1]["entered"]), (json!("NotCapable"), &json!("after a failure")));
    let (_, long) = ask(&router, &chat(json!({"max_tokens": 9000}))).await;
    assert_eq!(reason(&long, 0), "ContextOverflow");
    let (_, dear) = ask(&router, &chat(json!({"model": "intent", "max_tokens": 900}))).await;
    assert_eq!(reason(&dear, 0), "MaxCost", "{dear}");
    let (_, secret) = ask(&router, r#"{"client": "finance", "model": "secret"}"#).await;
    assert_eq!(reason(&secret, 0), "DataClass");
    assert_eq!(small.count() + large.count(), 0, "nobody was asked");
    for _ in 0..20 {
        router.ask(&body("intent")).await;
    }
    let (_, degraded) = ask(&router, r#"{"client": "finance", "model": "intent"}"#).await;
    assert_eq!(reason(&degraded, 0), "Degraded");
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_a_wrong_question_an_error() {
    let (_small, _large, router) = pair(Behaviour::Status(500)).await;
    for (question, refused, says) in [
        (r#"{"client": "finance", "model": "none"}"#, 404, "is not known"),
        (r#"{"client": "guest", "model": "review"}"#, 403, "may not use workload review"),
        (r#"{"client": "guest", "body": {"model": "intent"}}"#, 400, "messages: must be set"),
        (r#"{"client": "guest", "body": [1]}"#, 400, "body: must be one JSON object"),
    ] {
        let (status, answer) = ask(&router, question).await;
        assert_eq!((status, &answer["refused"]["status"]), (200, &json!(refused)), "{question}: {answer}");
        assert!(answer.to_string().contains(says), "{question}: {answer}");
    }
    for (question, says) in [
        ("", "must be an object with client"),
        ("[]", "must be an object with client"),
        (r#"{"client": "finance", "modell": "intent"}"#, "unknown field `modell`"),
        (r#"{"model": "intent"}"#, "client: must be the name of a client; known are finance, guest"),
        (r#"{"client": "nobody", "model": "intent"}"#, "client: must be the name of a client"),
        (r#"{"client": "finance"}"#, "exactly one of model and body"),
        (r#"{"client": "finance", "model": "a", "body": {}}"#, "exactly one of model and body"),
        (r#"{"client": "finance", "model": "a", "headers": {"a b": "c"}}"#, "headers: \\\"a b\\\" is no name"),
        (r#"{"client": "finance", "model": "a", "headers": {"a": "c\n"}}"#, "headers: \\\"a\\\" has no value"),
    ] {
        let (status, answer) = ask(&router, question).await;
        assert_eq!(status, 400, "{question}: {answer}");
        assert!(answer["error"]["message"].to_string().contains(says), "{question}: {answer}");
    }
}
