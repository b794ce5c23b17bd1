//! One line a request on standard output, written by a thread of its own: a slow reader of the log never slows a request.
//!
//! Prompts and answers are never in it. When the writer can't keep up, lines are dropped and the next line says how many.

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::trace::{Ending, Trace};
use crate::api::routing_policy::AccessLogFormat;

/// Lines that may wait for the writer.
const WAITING: usize = 8192;

/// Where lines go.
#[derive(Clone)]
pub struct AccessLog {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

/// What a line says.
pub struct Entry<'a> {
    /// Id of the request.
    pub request_id: &'a str,
    /// Name of the client, or `-`.
    pub client: &'a str,
    /// Name of the workload, or `-`.
    pub workload: &'a str,
    /// Accountable team of the workload, or `-`.
    pub owner: &'a str,
    /// HTTP status.
    pub status: u16,
    /// `accepted`, `best-answer`, or the code of an error.
    pub outcome: &'a str,
    /// Time from request to reply.
    pub latency: Duration,
    /// ISO 4217 code of the costs.
    pub currency: &'a str,
    /// Its steps.
    pub trace: &'a Trace,
}

impl AccessLog {
    /// A log that writes to `out`; its thread ends with the last clone.
    #[must_use]
    pub fn start(out: Box<dyn Write + Send>) -> Self {
        let (lines, receiver) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        std::thread::spawn(move || write_lines(&receiver, out, &counter));
        Self { lines, dropped }
    }

    /// Writes a line.
    pub fn write(&self, format: AccessLogFormat, entry: &Entry<'_>) {
        let line = match format {
            AccessLogFormat::None => return,
            AccessLogFormat::Json => as_json(entry).to_string(),
            AccessLogFormat::Text => as_text(entry),
        };
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_lines(lines: &Receiver<String>, out: Box<dyn Write + Send>, dropped: &AtomicU64) {
    let mut out = BufWriter::new(out);
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            let lost = dropped.swap(0, Ordering::Relaxed);
            if lost > 0 && writeln!(out, "{}", json!({"dropped_lines": lost})).is_err()
                || writeln!(out, "{line}").is_err()
            {
                return;
            }
            next = lines.try_recv().ok();
        }
        if out.flush().is_err() {
            return;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_json(entry: &Entry<'_>) -> Value {
    let steps: Vec<Value> = entry
        .trace
        .0
        .iter()
        .map(|s| {
            let (verdict, reason) = match s.ending {
                Ending::Accepted => ("accepted", None),
                Ending::Escalated(gate) => ("escalated", Some(gate)),
                Ending::Failed(reason) => ("failed", Some(reason)),
                Ending::Skipped(reason) => ("skipped", Some(reason)),
            };
            json!({
                "step": s.step, "tier": s.tier, "verdict": verdict, "reason": reason, "score": s.score,
                "latency_ms": millis(s.latency), "input_tokens": s.usage.prompt, "output_tokens": s.usage.completion,
                "cost": s.cost.to_string(),
            })
        })
        .collect();
    json!({
        "request_id": entry.request_id, "client": entry.client, "workload": entry.workload, "owner": entry.owner,
        "status": entry.status, "outcome": entry.outcome, "latency_ms": millis(entry.latency),
        "cost": entry.trace.cost().to_string(), "currency": entry.currency, "steps": steps,
    })
}

fn as_text(entry: &Entry<'_>) -> String {
    format!(
        "{} {} client={} workload={} owner={} {} {} ms {} {} {}",
        entry.request_id,
        entry.status,
        entry.client,
        entry.workload,
        entry.owner,
        entry.outcome,
        millis(entry.latency),
        entry.trace.cost(),
        entry.currency,
        entry.trace.header(),
    )
}
