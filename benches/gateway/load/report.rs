//! What came of all requests, as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::Ended;

/// Failures that are told one by one.
const TOLD: usize = 20;

pub struct Report {
    begin: Instant,
    /// From due to the end of the answer, in microseconds.
    latency: Vec<u64>,
    /// From due to the first token, in microseconds.
    first: Vec<u64>,
    /// From due to when the generator came to it, in microseconds.
    late: Vec<u64>,
    left: u64,
    failed: BTreeMap<&'static str, u64>,
    first_failures: Vec<Value>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn quantiles(values: &mut [u64]) -> Value {
    values.sort_unstable();
    let at = |permille: usize| values.get((values.len() * permille / 1000).min(values.len().saturating_sub(1)));
    json!({"p50": at(500), "p99": at(990), "p999": at(999), "max": values.last()})
}

impl Report {
    pub fn new() -> Self {
        Self {
            begin: Instant::now(),
            latency: Vec::new(),
            first: Vec::new(),
            late: Vec::new(),
            left: 0,
            failed: BTreeMap::new(),
            first_failures: Vec::new(),
        }
    }

    pub fn late(&mut self, time: Duration) {
        self.late.push(micros(time));
    }

    pub fn add(&mut self, due: Instant, ended: Ended) {
        match ended {
            Ended::Answered { first } => {
                self.latency.push(micros(due.elapsed()));
                self.first.extend(first.map(micros));
            }
            Ended::Left => self.left += 1,
            Ended::Failed(kind) => {
                *self.failed.entry(kind).or_default() += 1;
                if self.first_failures.len() < TOLD {
                    let seconds = due.duration_since(self.begin).as_secs_f64();
                    self.first_failures
                        .push(json!({"due_s": seconds, "after_us": micros(due.elapsed()), "kind": kind}));
                }
            }
        }
    }

    pub fn json(&mut self) -> Value {
        let seconds = self.begin.elapsed().as_secs_f64();
        let (ok, failed) = (self.latency.len() as u64, self.failed.values().sum::<u64>());
        json!({
            "seconds": seconds,
            "sent": ok + failed + self.left,
            "ok": ok,
            "left": self.left,
            "failed": failed,
            "failed_by_kind": self.failed,
            "first_failures": self.first_failures,
            "latency_us": quantiles(&mut self.latency),
            "first_token_us": quantiles(&mut self.first),
            "generator_late_us": quantiles(&mut self.late),
        })
    }
}
