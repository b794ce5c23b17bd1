//! `smallfirst local` as a user runs it: the sample manifests, models on this machine, no cluster.

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::post;
use super::process::{Process, command, ended, file};
use std::process::Command;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/samples/quickstart.yaml");

/// The command of the README, with the models where they are.
fn of_the_readme(compact: u16, frontier: u16) -> Command {
    let readme = include_str!("../../README.md");
    let line = readme.lines().find_map(|line| line.strip_prefix("smallfirst local ")).expect("a command");
    let line = line.replace("127.0.0.1:8000", &format!("127.0.0.1:{compact}"));
    let line = line.replace("127.0.0.1:8001", &format!("127.0.0.1:{frontier}"));
    let mut local = command("local");
    local.current_dir(env!("CARGO_MANIFEST_DIR")).args(line.split_whitespace());
    local
}

fn local(manifests: &str, compact: u16, frontier: u16) -> Command {
    let mut local = command("local");
    local.arg(manifests).args(["--endpoint", &format!("compact=http://127.0.0.1:{compact}/v1")]);
    local.args(["--endpoint", &format!("frontier=http://127.0.0.1:{frontier}/v1")]);
    local.args(["--secret", "client-keys/finance=k-finance", "--secret", "frontier-key/token=t"]);
    local
}

fn asked(model: &str) -> Vec<u8> {
    super::body(model).into_bytes()
}

#[tokio::test]
async fn the_sample_answers_escalates_and_logs() {
    let compact = FakeUpstream::start(Behaviour::Answer(r#"{"intent": "refund"}"#, -0.01)).await;
    let frontier = FakeUpstream::start(Behaviour::Answer(r#"{"intent": "complaint"}"#, -0.01)).await;
    let key = "a-key-of-your-choice";
    let process = Process::serving(of_the_readme(compact.port, frontier.port)).await;
    let reply = post(process.address, key, &asked("intent")).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "compact:accepted"), "{}", reply.body);
    assert!(reply.body.contains("refund"));
    compact.now(Behaviour::Answer(r#"{"intent": "refund"}"#, -3.0));
    let reply = post(process.address, key, &asked("intent")).await;
    assert_eq!(reply.header("x-smallfirst-steps"), "compact:escalated(confidence) frontier:accepted");
    assert!(reply.body.contains("complaint"));
    assert_eq!(post(process.address, "k-wrong", &asked("intent")).await.status, 401);
    let (code, log, _) = process.stop().await;
    assert_eq!(code, Some(0));
    // The last line too: what is logged is written before the process ends.
    let outcomes: Vec<_> =
        log.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["outcome"].clone()).collect();
    assert_eq!(outcomes, ["accepted", "accepted", "invalid_api_key"]);
}

#[tokio::test]
async fn wrong_manifests_end_it_and_are_named_by_their_field() {
    let folder = tempfile::tempdir().unwrap();
    let sample = std::fs::read_to_string(SAMPLE).unwrap();
    let cases = [
        // What the API server refuses,
        ("class: Frontier\n  owner", "class: Huge\n  owner", "spec.class"),
        // what a validation of one object refuses,
        ("timeout: 10s", "timeout: 0s", "spec.steps[0].timeout"),
        // and what only the whole can tell.
        ("pathRef: {name: small-first}", "pathRef: {name: smal-first}", "spec.workloads[0].pathRef.name"),
    ];
    for (right, wrong, field) in cases {
        assert!(sample.contains(right), "{right}");
        let manifest = file(folder.path(), "wrong.yaml", &sample.replacen(right, wrong, 1));
        let (code, error) = ended(local(&manifest, 1, 1)).await;
        assert_eq!(code, Some(1), "{error}");
        assert!(error.starts_with("error: ") && error.contains(field), "{error} should name {field}");
    }
}

#[tokio::test]
async fn several_endpoints_of_a_pool_are_its_replicas() {
    let frozen = FakeUpstream::start(Behaviour::Frozen).await;
    let well = FakeUpstream::start(Behaviour::Answer(r#"{"intent": "refund"}"#, -0.01)).await;
    let frontier = FakeUpstream::start(Behaviour::Answer(r#"{"intent": "complaint"}"#, -0.01)).await;
    let mut command = local(SAMPLE, frozen.port, frontier.port);
    command.args(["--endpoint", &format!("compact=http://127.0.0.1:{}/v1", well.port)]);
    let process = Process::serving(command).await;
    // Which one is asked is drawn: one in a million runs would not meet the frozen one.
    for _ in 0..20 {
        // What the frozen one was asked, the other answers.
        let reply = post(process.address, "k-finance", &asked("intent")).await;
        assert_eq!(reply.header("x-smallfirst-steps"), "compact:accepted", "{}", reply.body);
    }
    assert_eq!((frozen.count() >= 1, well.count(), frontier.count()), (true, 20, 0));
    process.stop().await;
}
