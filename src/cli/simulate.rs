//! `smallfirst simulate`: what a policy would do with a trace of requests, in virtual time.
//!
//! Reads manifests as `smallfirst local` does, and writes a report, its data and its plots into a folder.

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::manifests::policy;
use crate::routing::source::manifests;
use crate::simulate::report::{Report, markdown, plots};
use crate::simulate::scenario::Scenario;
use crate::simulate::trace::Trace;
use crate::simulate::{Inputs, simulate};

/// Flags of `smallfirst simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests: files, or folders of .yaml, .yml and .json files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Name of the RoutingPolicy. Default: the only one.
    #[arg(long)]
    policy: Option<String>,
    /// Requests to replay: CSV with a header TIMESTAMP,ContextTokens,GeneratedTokens, or JSON lines with at, inputTokens and
    /// outputTokens.
    #[arg(long)]
    trace: PathBuf,
    /// What manifests and trace do not say, as YAML: how fast tiers are, whose the requests are, how often gates refuse.
    #[arg(long)]
    scenario: PathBuf,
    /// Folder for report.md, report.json and plots; made if it is not there.
    #[arg(long)]
    output: PathBuf,
    /// Requests for each row of the trace, times the scenario's load.scale.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Where randomness begins. Default: the scenario's.
    #[arg(long)]
    seed: Option<u64>,
}

fn scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if scale > 0.0 && scale <= 10_000.0 { Ok(scale) } else { Err("must be above 0 and at most 10000".to_owned()) }
}

/// Simulates and writes.
///
/// # Errors
/// When an input is wrong or does not fit the others, or a file can't be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let observed = manifests::read(&args.paths)?;
    let table = policy(&observed, args.policy.as_deref())?;
    let name = args.scenario.display().to_string();
    let text = fs::read_to_string(&args.scenario).with_context(|| name.clone())?;
    let mut scenario = Scenario::parse(&name, &text).map_err(lines)?;
    if let Some(seed) = args.seed {
        scenario.seed = seed;
    }
    let trace_name = args.trace.display().to_string();
    let file = File::open(&args.trace).with_context(|| trace_name.clone())?;
    let trace = Trace::read(&trace_name, BufReader::new(file)).map_err(lines)?;
    let inputs = Inputs {
        table: &table,
        observed: &observed,
        scenario: &scenario,
        trace: &trace,
        name: &args.trace.file_name().unwrap_or_default().to_string_lossy(),
        scale: args.scale,
        epoch: Instant::now(),
    };
    let mut shown = Shown::default();
    let report = simulate(&inputs, &mut |run, part| shown.progress(run, part));
    shown.clear();
    let report = report.map_err(|problems| lines(problems.iter().map(|p| format!("{name}: {p}")).collect()))?;
    write(&args.output, &report)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", args.output.join("report.md").display())?;
    Ok(ExitCode::SUCCESS)
}

fn lines(problems: Vec<String>) -> anyhow::Error {
    anyhow::anyhow!("{}", problems.join("\n"))
}

fn write(folder: &Path, report: &Report) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let plots = plots::draw(report)?;
    let names: Vec<String> = plots.iter().map(|(name, _)| name.clone()).collect();
    let json = format!("{}\n", serde_json::to_string_pretty(report)?);
    let files = [("report.md".to_owned(), markdown::render(report, &names)), ("report.json".to_owned(), json)];
    for (name, text) in files.into_iter().chain(plots) {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// What a terminal shows of a run that goes on. Nothing where there is none, and nothing of short ones.
struct Shown {
    begin: Instant,
    last: Instant,
    terminal: bool,
    anything: bool,
}

impl Default for Shown {
    fn default() -> Self {
        let now = Instant::now();
        Self { begin: now, last: now, terminal: io::stderr().is_terminal(), anything: false }
    }
}

impl Shown {
    fn progress(&mut self, run: &str, part: f64) {
        let now = Instant::now();
        let due = now - self.last >= Duration::from_millis(200) && now - self.begin >= Duration::from_secs(1);
        if self.terminal && due {
            self.last = now;
            self.anything = true;
            // That a terminal takes no text is no reason to stop.
            let _ = write!(io::stderr(), "\r{run}: {:.0} %        ", part * 100.0);
        }
    }

    fn clear(&self) {
        if self.anything {
            let _ = write!(io::stderr(), "\r{:40}\r", "");
        }
    }
}
