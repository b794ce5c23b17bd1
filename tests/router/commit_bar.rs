//! Streams of free text that a real model gave (tests/data/prose-streams-135m.jsonl), judged by their beginning: when
//! they begin to flow, and whether the verdict is that of the same score computed on what was recorded.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, table};
use super::wire::{Do, Wire, head, send};

/// Default of `commitAfterTokens`.
const COMMIT_AFTER: usize = 32;
/// Token of content by which a stream flows.
const BY: usize = 40;
/// A mean log probability that part of the streams have.
const AT_LEAST: f64 = -0.75;
/// For which the upstream says nothing more after that token.
const PAUSE: Duration = Duration::from_secs(2);

/// A token and its log probability.
type Token = (String, f64);

struct Recorded {
    prompt: String,
    tokens: Vec<Token>,
}

fn recorded() -> Vec<Recorded> {
    let lines = include_str!("../data/prose-streams-135m.jsonl").lines();
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let chunks: Vec<(String, Vec<Token>)> = serde_json::from_value(line["chunks"].clone()).unwrap();
        let prompt = line["prompt"].as_str().unwrap().to_owned();
        Recorded { prompt, tokens: chunks.into_iter().flat_map(|(_, tokens)| tokens).collect() }
    };
    lines.map(read).collect()
}

impl Recorded {
    /// The verdict by the recorded tokens alone.
    fn passes(&self) -> bool {
        let first: Vec<f64> = self.tokens.iter().take(COMMIT_AFTER).map(|token| token.1).collect();
        first.iter().sum::<f64>() / f64::from(u32::try_from(first.len()).unwrap()) >= AT_LEAST
    }

    /// The chunks as llama.cpp sends them, in writes of so many.
    fn chunks(&self, tokens: &[Token], at_once: usize) -> Vec<Do> {
        let chunk = |(token, logprob): &Token| {
            let logprobs = json!({"content": [
                {"token": token, "logprob": logprob, "bytes": token.as_bytes(), "top_logprobs": [{"token": token, "logprob": logprob}]}
            ]});
            let choice = json!({"index": 0, "delta": {"content": token}, "logprobs": logprobs, "finish_reason": null});
            format!("data: {}\n\n", json!({"id": self.prompt, "created": 1, "model": "m", "choices": [choice]}))
        };
        tokens.chunks(at_once).map(|some| send(some.iter().map(chunk).collect::<String>())).collect()
    }

    /// Sends it, and is silent for a while where a stream must flow by.
    fn script(&self, at_once: usize) -> Vec<Do> {
        let (first, rest) = self.tokens.split_at(BY.min(self.tokens.len()));
        let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let mut script = vec![head("text/event-stream", None)];
        script.extend(self.chunks(first, at_once));
        script.push(Do::Pause(PAUSE));
        script.extend(self.chunks(rest, at_once));
        script.extend([send(end), Do::Close]);
        script
    }
}

/// The steps as the reply's head has them, and how long it took to come.
async fn asked(recorded: &Recorded, at_once: usize) -> (String, Duration) {
    let small = Wire::start(recorded.script(at_once)).await;
    let large = FakeUpstream::start(Behaviour::Stream("large says", -0.01)).await;
    let mut given = table(small.port, large.port);
    let path = &mut given["paths"]["up"];
    path["commitAfterTokens"] = COMMIT_AFTER.into();
    path["deadlineMs"] = 20_000.into();
    path["steps"][0]["timeoutMs"] = 10_000.into();
    path["steps"][0]["accept"][0]["check"]["confidence"]["atLeast"] = AT_LEAST.into();
    let router = Harness::start(given).await;
    let asked = body("intent").replacen('{', r#"{"stream":true,"#, 1);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k-finance\r\ncontent-length: {}\r\n\r\n{asked}",
        asked.len()
    );
    let mut client = TcpStream::connect(router.address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let begin = Instant::now();
    let (mut reply, mut buffer) = (String::new(), [0; 65536]);
    while !reply.contains("\r\n\r\n") {
        let count = client.read(&mut buffer).await.unwrap();
        assert!(count > 0, "{reply}");
        reply.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let steps = reply.lines().find_map(|line| line.strip_prefix("x-smallfirst-steps: ")).unwrap_or_default();
    (steps.to_owned(), begin.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_streams_flow_early_and_are_judged_as_their_tokens_say() {
    let all = recorded();
    let passing = all.iter().filter(|recorded| recorded.passes()).count();
    assert!(all.len() >= 30 && passing >= 10 && all.len() - passing >= 10, "{passing} of {}", all.len());
    // All at once there are more tokens than are judged by; one at a time the machine may be slower than the pause.
    for at_once in [BY, 7, 1] {
        let replies: Vec<_> =
            futures::stream::iter(&all).map(|recorded| asked(recorded, at_once)).buffered(4).collect().await;
        let mut early = 0;
        for (recorded, (steps, took)) in all.iter().zip(replies) {
            let wanted =
                if recorded.passes() { "small:accepted" } else { "small:escalated(confidence) large:accepted" };
            assert_eq!(steps, wanted, "{} at once: {}", at_once, recorded.prompt);
            early += usize::from(recorded.passes() && took < PAUSE);
        }
        println!("{early} of {passing} accepted streams flow by token {BY}, {at_once} tokens at once");
        assert!(early * 10 >= passing * 8, "{early} of {passing} accepted streams flow by token {BY}");
    }
}
