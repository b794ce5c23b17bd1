//! Conversations that escalated start at that step next time.

use std::sync::Arc;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, Reply, exchange, table};
use super::{LARGE, SURE, UNSURE};

async fn router(sticky: serde_json::Value) -> (FakeUpstream, FakeUpstream, Harness) {
    let (small, large) = (FakeUpstream::start(UNSURE).await, FakeUpstream::start(LARGE).await);
    let mut table = table(small.port, large.port);
    table["paths"]["up"]["sticky"] = sticky;
    let router = Harness::start(table).await;
    (small, large, router)
}

/// Asks with these messages, the user's and the assistant's by turns.
async fn ask(router: &Harness, key: &str, conversation: Option<&str>, messages: &[&str]) -> Reply {
    let messages: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(n, text)| serde_json::json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": text}))
        .collect();
    let body = serde_json::json!({"model": "intent", "messages": messages}).to_string();
    let header = conversation.map(|id| format!("x-conversation-id: {id}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n{header}\
         content-length: {}\r\n\r\n",
        body.len()
    );
    exchange(router.address, [head, body].concat().as_bytes()).await
}

const ESCALATED: &str = "small:escalated(confidence) large:accepted";
const STUCK: &str = "small:skipped(Sticky) large:accepted";

#[tokio::test]
async fn a_conversation_that_escalated_stays_where_it_went() {
    let (small, _large, router) = router(serde_json::json!({"prefix": {"ttlMs": 60_000}})).await;
    let steps = async |messages: &[&str]| {
        ask(&router, "k-finance", None, messages).await.header("x-smallfirst-steps").to_owned()
    };
    assert_eq!(steps(&["a"]).await, ESCALATED);
    // The same first turn again is no next turn.
    assert_eq!(steps(&["a"]).await, ESCALATED);
    assert_eq!(steps(&["a", "large says", "b"]).await, STUCK);
    assert_eq!(steps(&["a", "large says", "b", "large says", "c"]).await, STUCK);
    // Another conversation, of the same client or another, is judged for itself.
    assert_eq!(steps(&["z", "large says", "b"]).await, ESCALATED);
    let other = ask(&router, "k-guest", None, &["a", "large says", "b"]).await;
    assert_eq!(other.header("x-smallfirst-steps"), ESCALATED);
    // What the small tier answered itself leaves no trace.
    small.now(SURE);
    assert_eq!(steps(&["d"]).await, "small:accepted");
    assert_eq!(steps(&["d", "small says", "e"]).await, "small:accepted");
}

#[tokio::test]
async fn a_header_names_a_conversation_too() {
    let sticky = serde_json::json!({"header": {"name": "x-conversation-id", "ttlMs": 60_000}});
    let (_small, _large, router) = router(sticky).await;
    for (id, steps) in [(Some("1"), ESCALATED), (Some("1"), STUCK), (Some("2"), ESCALATED), (None, ESCALATED)] {
        let reply = ask(&router, "k-finance", id, &["a"]).await;
        assert_eq!(reply.header("x-smallfirst-steps"), steps, "{id:?}");
    }
}

#[tokio::test]
async fn it_is_forgotten_in_time_and_when_the_path_has_other_steps() {
    let sticky = serde_json::json!({"header": {"name": "x-conversation-id", "ttlMs": 300}});
    let (small, large, router) = router(sticky.clone()).await;
    let steps = async || ask(&router, "k-finance", Some("1"), &["a"]).await.header("x-smallfirst-steps").to_owned();
    assert_eq!((steps().await, steps().await), (ESCALATED.to_owned(), STUCK.to_owned()));
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    assert_eq!((steps().await, steps().await), (ESCALATED.to_owned(), STUCK.to_owned()));
    let mut other = table(small.port, large.port);
    other["paths"]["up"]["sticky"] = sticky;
    other["paths"]["up"]["steps"][0]["name"] = "first".into();
    router.table.send(Some(Arc::from(other.to_string()))).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(steps().await, ESCALATED.replace("small", "first"));
}

#[tokio::test]
async fn what_was_outgrown_is_better_than_nothing() {
    let sticky = serde_json::json!({"header": {"name": "x-conversation-id", "ttlMs": 60_000}});
    let (small, large, router) = router(sticky).await;
    ask(&router, "k-finance", Some("1"), &["a"]).await;
    large.now(Behaviour::Status(500));
    small.now(SURE);
    let reply = ask(&router, "k-finance", Some("1"), &["a"]).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "small:skipped(Sticky) large:failed(ServerError) small:accepted");
    assert!(reply.body.contains("small says"));
    // Its answer did not escalate: the conversation stays where it is.
    large.now(LARGE);
    assert_eq!(ask(&router, "k-finance", Some("1"), &["a"]).await.header("x-smallfirst-steps"), STUCK);
}
