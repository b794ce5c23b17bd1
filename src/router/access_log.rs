//! One line a request on standard output, written by a thread of its own: a slow reader of the log never slows a request.
//!
//! Prompts and answers are never in it. Lines are gathered for a moment and written together: under load, waking a thread
//! and a system call for each would cost more than all else that the log does. When the writer can't keep up, lines are
//! dropped and the next line says how many.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::gates::Verdict;
use super::money::Money;
use super::trace::{Opinion, StepTrace, Trace};
use crate::api::routing_policy::AccessLogFormat;

/// Bytes that may wait for the writer.
const WAITING: usize = 4 << 20;
/// Bytes of lines that are kept for `/explain`.
const KEPT: usize = 2 << 20;
/// Lines of one request that `/explain` shows: a client may send the same id again and again.
const SHOWN: usize = 16;
/// Time for which lines are gathered.
const GATHERING: Duration = Duration::from_millis(20);

/// Where lines go. The thread that writes them ends when this is dropped.
pub struct AccessLog(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// The last lines that were written. Locked after `state`, never before it.
    kept: Mutex<Kept>,
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

/// Lines as the writer took them, the oldest first.
#[derive(Default)]
struct Kept {
    taken: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, lines: &[u8]) {
        self.bytes += lines.len();
        self.taken.push_back(lines.into());
        while self.bytes > KEPT
            && let Some(oldest) = self.taken.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }
}

/// What a line says. The id comes first: [`AccessLog::recent`] finds a line by its beginning.
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
    /// `accepted`, `best-answer`, `under-pressure`, or the code of an error.
    pub outcome: &'a str,
    /// Time from request to reply.
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    pub latency: Duration,
    /// Cost of all steps, and of what their gates asked for.
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
    /// It was asked beside a slow step, before its turn.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hedge: bool,
    score: Option<f64>,
    gates: &'a [Verdict],
    /// What gates asked for; its cost is not in the step's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    asked: Vec<Asked<'a>>,
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    latency: Duration,
    input_tokens: u64,
    output_tokens: u64,
    cost: Money,
}

#[derive(Serialize)]
struct Asked<'a> {
    gate: &'static str,
    tier: &'a str,
    calls: u32,
    failed: u32,
    #[serde(rename = "latency_ms", serialize_with = "millis")]
    latency: Duration,
    input_tokens: u64,
    output_tokens: u64,
    cost: Money,
}

impl<'a> From<&'a Opinion<'_>> for Asked<'a> {
    fn from(opinion: &'a Opinion<'_>) -> Self {
        let Opinion { gate, tier, calls, failed, latency, usage, cost } = *opinion;
        let (input_tokens, output_tokens) = (usage.prompt, usage.completion);
        Self { gate, tier, calls, failed, latency, input_tokens, output_tokens, cost }
    }
}

impl<'a> From<&'a StepTrace<'_>> for Step<'a> {
    fn from(trace: &'a StepTrace<'_>) -> Self {
        let (verdict, reason) = trace.ending.words();
        Self {
            step: &trace.leg.step,
            tier: &trace.leg.upstream.name,
            verdict,
            reason,
            hedge: trace.hedge,
            score: trace.score(),
            gates: &trace.verdicts,
            asked: trace.opinions.iter().map(Asked::from).collect(),
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

impl AccessLog {
    /// The last lines of a request, the newest last; only of format JSON. Looks through all that is kept: for people.
    #[must_use]
    pub fn recent(&self, request_id: &str) -> Vec<String> {
        let begin = format!("{{\"request_id\":{},", serde_json::Value::from(request_id));
        let mut found = Vec::new();
        let mut look = |lines: &[u8]| {
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| line.starts_with(begin.as_bytes()));
            found.extend(lines.map(|line| String::from_utf8_lossy(line).into_owned()));
        };
        let (kept, waiting) = {
            // Both at once, so that no line is on its way from the one to the other.
            let state = self.0.state();
            (self.0.kept().taken.clone(), state.waiting.clone())
        };
        kept.iter().for_each(|lines| look(lines));
        look(&waiting);
        found.split_off(found.len().saturating_sub(SHOWN))
    }

    /// Waits until every line is written; false if some still are not after this time. For the end of a process.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut state = self.0.state();
        state.hurry = true;
        self.0.filled.notify_one();
        while state.writing || !state.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) = self.0.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
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

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.ended || state.waiting.len() + line.len() > WAITING {
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
            if let Err(error) = out.write_all(&lines).and_then(|()| out.flush()) {
                tracing::error!(%error, "the access log can't be written; it ends here");
                *self.state() = State { ended: true, ..State::default() };
                self.drained.notify_all();
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
        let mut kept = self.kept();
        drop(state);
        if !lines.is_empty() {
            kept.push(lines);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A reader of the log that takes what is written only when it is told to.
    struct Slow(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.recv().map_err(std::io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line(log: &AccessLog, id: &str) {
        let trace = Trace::default();
        let entry = Entry {
            request_id: id,
            client: "finance",
            workload: "intent",
            owner: "team",
            status: 200,
            outcome: "accepted",
            latency: Duration::from_millis(7),
            cost: Money(1_500_000_000),
            currency: "USD",
            trace: &trace,
        };
        log.write(AccessLogFormat::Json, &entry);
    }

    #[test]
    fn the_end_waits_for_the_last_line_but_not_for_ever() {
        let ((take, taken), (sender, written)) = (channel(), channel());
        let log = AccessLog::start(Box::new(Slow(taken, sender)));
        assert!(log.flush(Duration::ZERO), "nothing to wait for");
        line(&log, "one");
        assert!(!log.flush(Duration::from_millis(50)), "nobody has taken it");
        take.send(()).unwrap();
        assert!(log.flush(Duration::from_secs(5)));
        let text = String::from_utf8(written.recv().unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"request_id\":\"one\",\"client\":\"finance\",\"workload\":\"intent\",\"owner\":\"team\",\"status\":200,\
             \"outcome\":\"accepted\",\"latency_ms\":7,\"cost\":\"0.0000015\",\"currency\":\"USD\",\"steps\":[]}\n"
        );
    }

    #[test]
    fn lines_that_nobody_takes_are_dropped_and_counted() {
        let ((take, taken), (sender, written)) = (channel(), channel());
        let log = AccessLog::start(Box::new(Slow(taken, sender)));
        let id = "i".repeat(1 << 20);
        for _ in 0..20 {
            line(&log, &id);
        }
        for _ in 0..20 {
            take.send(()).unwrap();
        }
        assert!(log.flush(Duration::from_secs(5)));
        let text: String = written.try_iter().map(|part| String::from_utf8(part).unwrap()).collect();
        let lines = text.lines().filter(|line| line.contains("request_id")).count();
        let dropped = text
            .lines()
            .filter_map(|l| l.strip_prefix("{\"dropped_lines\":")?.strip_suffix('}')?.parse::<usize>().ok());
        assert_eq!(lines + dropped.sum::<usize>(), 20);
        assert!((4..=8).contains(&lines), "{lines}");
    }

    #[test]
    fn the_last_lines_are_found_by_their_id_until_others_take_their_place() {
        let log = AccessLog::start(Box::new(std::io::sink()));
        let shown = |id: &str| log.recent(id).len();
        for id in ["one", "two", "one", "one\"", "on"] {
            line(&log, id);
        }
        assert_eq!(
            (shown("one"), shown("two"), shown("one\""), shown("on"), shown("o"), shown("")),
            (2, 1, 1, 1, 0, 0)
        );
        assert!(log.flush(Duration::from_secs(5)));
        assert_eq!((shown("one"), shown("two")), (2, 1), "as they were before they were written");
        assert!(log.recent("two")[0].ends_with("\"steps\":[]}"));
        for _ in 0..3 {
            line(&log, &"i".repeat(1 << 20));
            assert!(log.flush(Duration::from_secs(5)));
        }
        assert_eq!(shown("one"), 0);
        (0..40).for_each(|_| line(&log, "again"));
        assert_eq!(shown("again"), SHOWN);
    }

    #[test]
    fn a_reader_that_went_away_holds_up_nothing() {
        let ((take, taken), (sender, written)) = (channel::<()>(), channel());
        drop((take, written));
        let log = AccessLog::start(Box::new(Slow(taken, sender)));
        line(&log, "one");
        assert!(log.flush(Duration::from_secs(5)));
        line(&log, "two");
        assert!(log.flush(Duration::from_secs(5)));
    }
}
