//! S(b) of recorded calls, found by the operator's own estimator.
//!
//! Its argument is the number of a replica's slots. Reads lines of JSON, `{"concurrency", "variance", "input", "output",
//! "seconds"}`, counts them as a router does, and writes `{"alpha", "beta", "gamma"}`, or `{"seconds"}` where nothing depends on tokens; fails
//! when they don't suffice.

use std::io::BufRead;
use std::time::Duration;

use serde::Deserialize;
use smallfirst::operator::demand::Heard;
use smallfirst::operator::demand::service::Calls;
use smallfirst::router::answer::Usage;
use smallfirst::router::crowd::Concurrency;
use smallfirst::router::tally::Tally;
use smallfirst::routing::counts::TierCounts;
use smallfirst::sizing::input::Service;

#[derive(Deserialize)]
struct Line {
    concurrency: f64,
    variance: f64,
    input: u64,
    output: u64,
    seconds: f64,
}

/// A report a second of so many calls, as a busy router's.
const REPORT: usize = 10;

fn main() -> anyhow::Result<()> {
    let lines = std::io::stdin().lock().lines().map(|line| Ok(serde_json::from_str(&line?)?));
    let lines = lines.collect::<anyhow::Result<Vec<Line>>>()?;
    let (tally, mut calls, mut sequence) = (Tally::default(), Calls::default(), 0_u64);
    let mut report = || {
        sequence += 1;
        let at = i64::try_from(sequence).unwrap_or(i64::MAX);
        let counts = tally.counts(TierCounts { endpoints: 1, ..TierCounts::default() });
        calls.report(Heard { pod: "router", incarnation: 1, sequence, age: 0, at }, &counts);
    };
    report();
    for some in lines.chunks(REPORT) {
        for line in some {
            let concurrency = Concurrency { mean: line.concurrency, variance: line.variance };
            let usage = Usage { prompt: line.input, completion: line.output, ..Usage::default() };
            tally.answered(Duration::try_from_secs_f64(line.seconds)?, concurrency, usage);
        }
        report();
    }
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
