//! S(b) of recorded calls, found by the operator's own estimator.
//!
//! Its argument is the number of a replica's slots. Reads lines of JSON, `{"begin", "end", "input", "output"}`, times in seconds,
//! counts them as a router does, and writes `{"alpha", "beta", "gamma"}`, or `{"seconds"}` where nothing depends on tokens;
//! fails when they don't suffice.

use std::io::BufRead;
use std::time::{Duration, Instant};

use serde::Deserialize;
use smallfirst::operator::demand::Heard;
use smallfirst::operator::demand::service::Calls;
use smallfirst::router::answer::Usage;
use smallfirst::router::crowd::Crowd;
use smallfirst::router::tally::Tally;
use smallfirst::routing::counts::TierCounts;
use smallfirst::sizing::input::Service;

#[derive(Deserialize)]
struct Line {
    begin: f64,
    end: f64,
    input: u64,
    output: u64,
}

/// A report a second of so many calls, as a busy router's.
const REPORT: usize = 10;

fn main() -> anyhow::Result<()> {
    let lines = std::io::stdin().lock().lines().map(|line| Ok(serde_json::from_str(&line?)?));
    let lines = lines.collect::<anyhow::Result<Vec<Line>>>()?;
    let first = lines.iter().map(|line| line.begin).fold(f64::INFINITY, f64::min);
    let since = |at: f64| Duration::try_from_secs_f64(at - first);
    let mut events = Vec::with_capacity(2 * lines.len());
    for (number, line) in lines.iter().enumerate() {
        events.extend([(since(line.begin)?, true, number), (since(line.end)?, false, number)]);
    }
    events.sort_unstable();
    let origin = Instant::now();
    let (mut crowd, mut found, mut answered) = (Crowd::new(origin), vec![0; lines.len()], 0);
    let (tally, mut calls, mut sequence) = (Tally::default(), Calls::default(), 0_u64);
    let mut report = |tally: &Tally| {
        sequence += 1;
        let at = i64::try_from(sequence).unwrap_or(i64::MAX);
        let counts = tally.counts(TierCounts { endpoints: 1, ..TierCounts::default() });
        calls.report(Heard { pod: "router", incarnation: 1, sequence, age: 0, at }, &counts);
    };
    report(&tally);
    for (at, comes, number) in events {
        let now = origin + at;
        if comes {
            found[number] = crowd.enter(now);
            continue;
        }
        let line = &lines[number];
        let usage = Usage { prompt: line.input, completion: line.output, ..Usage::default() };
        tally.answered(found[number], at.saturating_sub(since(line.begin)?), usage, &crowd.take(now));
        crowd.leave(now);
        answered += 1;
        if answered % REPORT == 0 {
            report(&tally);
        }
    }
    report(&tally);
    let slots = std::env::args().find_map(|argument| argument.parse().ok());
    let found = match calls.service(slots) {
        Some(Service::Batching { alpha, beta, gamma }) => {
            serde_json::json!({"alpha": alpha, "beta": beta, "gamma": gamma})
        }
        Some(Service::Constant { seconds }) => serde_json::json!({"seconds": seconds}),
        None => anyhow::bail!("{} calls are too few", lines.len()),
    };
    println!("{found}");
    Ok(())
}
