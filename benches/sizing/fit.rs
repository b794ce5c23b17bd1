//! S(b) of recorded calls, found by the operator's own estimator.
//!
//! Its argument is the number of a replica's slots. Reads lines of JSON, `{"concurrency", "input", "output", "seconds"}`, as a
//! router would count them, and writes `{"alpha", "beta", "gamma"}`, or `{"seconds"}` where nothing depends on tokens; fails
//! when they don't suffice.

use std::io::BufRead;

use serde::Deserialize;
use smallfirst::operator::demand::Heard;
use smallfirst::operator::demand::service::Calls;
use smallfirst::routing::counts::{BANDS, Band, TierCounts, band_of};
use smallfirst::sizing::input::Service;

#[derive(Deserialize)]
struct Line {
    concurrency: u64,
    input: u64,
    output: u64,
    seconds: f64,
}

/// A report a second of so many calls, as a busy router's.
const REPORT: usize = 10;

fn main() -> anyhow::Result<()> {
    let lines = std::io::stdin().lock().lines().map(|line| Ok(serde_json::from_str(&line?)?));
    let lines = lines.collect::<anyhow::Result<Vec<Line>>>()?;
    let mut counts = TierCounts { endpoints: 1, bands: vec![Band::default(); BANDS], ..TierCounts::default() };
    let (mut calls, mut sequence) = (Calls::default(), 0_u64);
    let mut report = |counts: &TierCounts| {
        sequence += 1;
        let at = i64::try_from(sequence).unwrap_or(i64::MAX);
        calls.report(Heard { pod: "router", incarnation: 1, sequence, age: 0, at }, counts);
    };
    report(&counts);
    for some in lines.chunks(REPORT) {
        for line in some {
            let Some(band) = counts.bands.get_mut(band_of(line.concurrency)) else { continue };
            band.calls += 1;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a call")]
            let micros = (line.seconds * 1e6) as u64;
            band.micros += micros;
            band.input += line.input;
            band.output += line.output;
            band.output_squared += line.output * line.output;
            band.load += line.output * line.concurrency;
        }
        report(&counts);
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
