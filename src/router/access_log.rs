//! One line a request on standard output, written by a thread of its own: a slow reader of the log never slows a request.
//!
//! Prompts and answers are never in it. Lines are gathered for a moment and written together: under load, waking a thread
//! and a system call for each would cost more than all else that the log does. When the writer can't keep up, lines are
//! dropped and the next line says how many.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::money::Money;
use super::trace::{StepTrace, Trace};
use crate::api::routing_policy::AccessLogFormat;

/// Bytes that may wait for the writer.
const WAITING: usize = 4 << 20;
/// Time for which lines are gathered.
const GATHERING: Duration = Duration::from_millis(20);

/// Where lines go. The thread that writes them ends when this is dropped.
pub struct AccessLog(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// Everything was written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The writer has lines that are no longer in `waiting`.
    writing: bool,
    /// Somebody waits for the lines: don't gather.
    hurry: bool,
    dropped: u64,
    ended: bool,
}

/// What a line says.
#[derive(Serialize)]
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
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    pub latency: Duration,
    /// Cost of all steps.
    pub cost: Money,
    /// ISO 4217 code of the costs.
    pub currency: &'a str,
    /// Its steps.
    #[serde(rename = "steps", serialize_with = "steps")]
    pub trace: &'a Trace<'a>,
}

#[derive(Serialize)]
struct Step<'a> {
    step: &'a str,
    tier: &'a str,
    verdict: &'static str,
    reason: Option<&'static str>,
    score: Option<f64>,
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    latency: Duration,
    input_tokens: u64,
    output_tokens: u64,
    cost: Money,
}

impl<'a> From<&'a StepTrace<'_>> for Step<'a> {
    fn from(trace: &'a StepTrace<'_>) -> Self {
        let (verdict, reason) = trace.ending.words();
        Self {
            step: &trace.leg.step,
            tier: &trace.leg.upstream.name,
            verdict,
            reason,
            score: trace.score,
            latency: trace.latency,
            input_tokens: trace.usage.prompt,
            output_tokens: trace.usage.completion,
            cost: trace.cost,
        }
    }
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn steps<S: Serializer>(trace: &Trace<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(trace.0.iter().map(Step::from))
}

thread_local! {
    /// The line that this thread writes: its memory is used again.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl AccessLog {
    /// A log that writes to `out`.
    #[must_use]
    pub fn start(out: Box<dyn Write + Send>) -> Self {
        let queue = Arc::<Queue>::default();
        let served = queue.clone();
        std::thread::spawn(move || served.serve(out));
        Self(queue)
    }

    /// Writes a line.
    pub fn write(&self, format: AccessLogFormat, entry: &Entry<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            let written = match format {
                AccessLogFormat::None => return,
                AccessLogFormat::Json => serde_json::to_writer(&mut *line, entry).map_err(std::io::Error::from),
                AccessLogFormat::Text => text(line, entry),
            };
            // Writing to memory does not fail.
            if written.is_ok() {
                line.push(b'\n');
                self.0.push(line);
            }
        });
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.filled.notify_one();
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() + line.len() > WAITING {
            state.dropped += 1;
            return;
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.filled.notify_one();
        }
    }

    /// Writes until the log is dropped or can't be written to.
    fn serve(&self, mut out: Box<dyn Write + Send>) {
        let mut lines = Vec::new();
        while self.take(&mut lines) {
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                // Nobody reads any more; what still comes is counted as dropped.
                return;
            }
        }
    }

    /// Waits for lines and takes them; false when there is nothing more to come.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        lines.clear();
        let mut state = self.state();
        state.writing = false;
        if state.waiting.is_empty() {
            self.drained.notify_all();
        }
        while state.waiting.is_empty() && !state.ended {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + GATHERING;
        while !state.hurry && !state.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.waiting, lines);
        let dropped = std::mem::take(&mut state.dropped);
        if dropped > 0 {
            lines.extend_from_slice(format!("{{\"dropped_lines\":{dropped}}}\n").as_bytes());
        }
        state.writing = true;
        !lines.is_empty()
    }
}

fn text(line: &mut Vec<u8>, entry: &Entry<'_>) -> std::io::Result<()> {
    let Entry { request_id, client, workload, owner, status, outcome, latency, cost, currency, trace } = entry;
    let (millis, steps) = (latency.as_millis(), trace.header());
    write!(
        line,
        "{request_id} {status} client={client} workload={workload} owner={owner} {outcome} {millis} ms {cost} {currency} \
         {steps}"
    )
}
