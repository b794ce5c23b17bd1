//! A load generator for chat completions: open loop, closed loop, streams whose every event is checked.
//!
//! Latencies are counted from the moment at which a request was *due*, so that a server that stalls can't hide it by
//! holding up the generator (coordinated omission).
#![expect(clippy::print_stdout, reason = "a program")]

mod load {
    pub mod client;
    pub mod content;
    pub mod report;
}

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Parser};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use load::client::{Client, Ended};
use load::report::Report;

/// Asks for chat completions and prints what came of it as JSON.
///
/// Either --rate (open loop: so many requests a second whatever the answers do) or --connections (closed loop: each
/// asks again when it was answered). SIGTERM ends it early; what is in flight then is still waited for. Failures by
/// kind: connect, timeout, broken, status_NNN, content (an event or token lost, repeated or of another request),
/// incomplete (a stream without [DONE]), error_event. `left` are those that went away on purpose.
#[derive(Parser)]
#[command(name = "load", verbatim_doc_comment, group(ArgGroup::new("loop").required(true).args(["rate", "connections"])))]
pub struct Args {
    /// Where to ask, such as http://127.0.0.1:8080/v1/chat/completions.
    #[arg(long)]
    url: http::Uri,
    /// API key.
    #[arg(long, default_value = "bench-key")]
    key: String,
    /// `model` of the requests.
    #[arg(long, default_value = "plain")]
    model: String,
    /// Requests a second: open loop.
    #[arg(long)]
    rate: Option<f64>,
    /// Connections that ask one request after the other: closed loop.
    #[arg(long)]
    connections: Option<usize>,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Longest time for an answer, in milliseconds, from when the request was due.
    #[arg(long, default_value_t = 30_000)]
    timeout_ms: u64,
    /// Ask for streams and check every event.
    #[arg(long)]
    stream: bool,
    /// The upstream is our mock: whole replies are checked for their tokens too.
    #[arg(long)]
    check: bool,
    /// Say no `user`, which some gateways drop: tokens are then checked for their order, not for whose they are.
    #[arg(long)]
    untagged: bool,
    /// Tokens that a checked reply has.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Size of the prompt, in bytes.
    #[arg(long, default_value_t = 700)]
    prompt_bytes: usize,
    /// Share of requests whose client goes away in the middle, in percent.
    #[arg(long, default_value_t = 0)]
    leave_percent: usize,
}

/// Sends the moment at which each request is due. A thread of its own: a runtime's timers are a millisecond coarse.
fn pace(rate: f64, seconds: f64, due: &mpsc::UnboundedSender<Instant>, stop: &watch::Receiver<bool>) {
    let begin = Instant::now();
    for number in 0_u32.. {
        let offset = f64::from(number) / rate;
        if offset >= seconds || *stop.borrow() {
            return;
        }
        let at = begin + Duration::from_secs_f64(offset);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if due.send(at).is_err() {
            return;
        }
    }
}

async fn open_loop(
    client: Rc<Client>,
    report: Rc<RefCell<Report>>,
    args: &Args,
    rate: f64,
    stop: watch::Receiver<bool>,
) {
    let (sender, mut due) = mpsc::unbounded_channel();
    let seconds = args.seconds;
    let pacer = std::thread::spawn(move || pace(rate, seconds, &sender, &stop));
    let mut asked = JoinSet::new();
    while let Some(at) = due.recv().await {
        let (client, report) = (client.clone(), report.clone());
        asked.spawn_local(async move {
            report.borrow_mut().late(at.elapsed());
            let ended = client.ask(at).await;
            report.borrow_mut().add(at, ended);
        });
        while asked.try_join_next().is_some() {}
    }
    asked.join_all().await;
    // It has nothing left to send.
    let _ = pacer.join();
}

async fn closed_loop(
    client: Rc<Client>,
    report: Rc<RefCell<Report>>,
    args: &Args,
    count: usize,
    stop: watch::Receiver<bool>,
) {
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut askers = JoinSet::new();
    for _ in 0..count {
        let (client, report, stop) = (client.clone(), report.clone(), stop.clone());
        askers.spawn_local(async move {
            while Instant::now() < end && !*stop.borrow() {
                let at = Instant::now();
                let ended = client.ask(at).await;
                // A refusal at once must not become a busy loop.
                let refused = matches!(ended, Ended::Failed("connect"));
                report.borrow_mut().add(at, ended);
                if refused {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    askers.join_all().await;
}

fn main() -> anyhow::Result<()> {
    // Cargo says `--bench` to every benchmark; run as one of all, it has nothing to ask.
    let words: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    if words.len() == 1 {
        println!("a load generator, no benchmark: see --help");
        return Ok(());
    }
    let args = Args::parse_from(words);
    let (stopping, stop) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::task::spawn_local(async move {
            terminate.recv().await;
            let _ = stopping.send(true);
        });
        let client = Rc::new(Client::new(&args)?);
        let report = Rc::new(RefCell::new(Report::new()));
        match (args.rate, args.connections) {
            (Some(rate), _) => open_loop(client, report.clone(), &args, rate, stop).await,
            (None, connections) => closed_loop(client, report.clone(), &args, connections.unwrap_or(1), stop).await,
        }
        println!("{}", report.borrow_mut().json());
        Ok(())
    })
}
