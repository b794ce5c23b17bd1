//! The report for people.

use std::fmt::Write as _;

use super::{Found, Percentiles, Report, Total};

/// What a simulation says nothing of, whatever the manifests hold.
const NEVER: &str = "Not simulated: what an answer says (gates refuse at the rates or recorded scores of the scenario, \
    and every tier makes as many tokens as the trace has), conversations, prompt caches, connections, retries by clients, \
    single replicas that fail, and several routers: one holds the whole of every limit.";

/// The report as Markdown. `plots`: names of files beside it.
#[must_use]
pub fn render(report: &Report, plots: &[String]) -> String {
    let mut out = String::new();
    // Writing to a String never fails.
    let _ = write(&mut out, report, plots);
    out
}

fn write(out: &mut String, report: &Report, plots: &[String]) -> std::fmt::Result {
    let Report { policy, currency, trace, rows, seed, scale, duration, runs, left_out, .. } = report;
    writeln!(out, "# Simulation of {policy}\n")?;
    writeln!(
        out,
        "{trace}: {rows} rows, {} requests over {} at scale {scale}, seed {seed}. Money is in {currency}.\n",
        runs.first().map_or(0, |run| run.total.arrived),
        span(*duration)
    )?;
    compared(out, runs)?;
    if let Some(run) = runs.first() {
        workloads(out, run)?;
        tiers(out, run)?;
        escalation(out, run)?;
        outages(out, run)?;
    }
    writeln!(out, "## What this leaves out\n\n{NEVER}\n")?;
    for left in left_out {
        writeln!(out, "- {left}")?;
    }
    if !left_out.is_empty() {
        writeln!(out)?;
    }
    writeln!(out, "## Plots\n")?;
    for plot in plots {
        writeln!(out, "![{}]({plot})", plot.trim_end_matches(".svg"))?;
    }
    Ok(())
}

fn compared(out: &mut String, runs: &[Found]) -> std::fmt::Result {
    writeln!(out, "| | cost | per 1,000 answers | p50 | p99 | answered | 429 | failed |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for Found { name, total, .. } in runs {
        let Total { cost, cost_per_answer, latency, arrived, shed, failed, accepted, under_pressure, best_answer } =
            total;
        writeln!(
            out,
            "| {name} | {cost:.2} | {} | {} | {} | {} | {} | {} |",
            cost_per_answer.map_or("-".to_owned(), |cost| format!("{:.3}", cost * 1_000.0)),
            time(latency.p50),
            time(latency.p99),
            part(accepted + under_pressure + best_answer, *arrived),
            part(*shed, *arrived),
            part(*failed, *arrived),
        )?;
    }
    writeln!(out)
}

fn workloads(out: &mut String, run: &Found) -> std::fmt::Result {
    writeln!(out, "## Workloads\n")?;
    writeln!(
        out,
        "Alone: what the tier that answered would have taken for the same requests, asked first and with nobody else.\n"
    )?;
    writeln!(
        out,
        "| | risk | requests | accepted | under pressure | best answer | 429 | failed | cost | p50 | p99 | alone p50 | p99 |"
    )?;
    writeln!(out, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for found in &run.workloads {
        let Total { arrived, accepted, under_pressure, best_answer, cost, latency, .. } = &found.total;
        let Percentiles { p50, p99, .. } = found.alone;
        writeln!(
            out,
            "| {} | {} | {arrived} | {accepted} | {under_pressure} | {best_answer} | {} | {} | {cost:.2} | {} | {} | {} | {} |",
            found.name,
            found.risk,
            by(&found.shed_by),
            by(&found.failed_by),
            time(latency.p50),
            time(latency.p99),
            time(p50),
            time(p99),
        )?;
    }
    writeln!(out)
}

fn tiers(out: &mut String, run: &Found) -> std::fmt::Result {
    writeln!(out, "## Tiers\n")?;
    writeln!(out, "| | answers | failures | tokens in | tokens out | cost | replica hours |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    for tier in &run.tiers {
        let hours = tier.replica_hours.map_or("-".to_owned(), |hours| format!("{hours:.1}"));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {:.2} | {hours} |",
            tier.name, tier.answers, tier.failures, tier.input_tokens, tier.output_tokens, tier.cost
        )?;
    }
    writeln!(out)?;
    for (name, sentence) in run.tiers.iter().filter_map(|tier| Some((&tier.name, tier.sizing.as_ref()?))) {
        writeln!(out, "Sizing of {name} at the end: {sentence}\n")?;
    }
    Ok(())
}

fn escalation(out: &mut String, run: &Found) -> std::fmt::Result {
    let judged = |found: &super::WorkloadFound| found.steps.iter().any(|(_, judged)| judged.judged > 0);
    if !run.workloads.iter().any(judged) {
        return Ok(());
    }
    writeln!(out, "## Escalation\n")?;
    writeln!(out, "| workload | step | answers judged | refused |")?;
    writeln!(out, "| --- | --- | ---: | ---: |")?;
    for found in &run.workloads {
        for (step, judged) in found.steps.iter().filter(|(_, judged)| judged.judged > 0) {
            writeln!(out, "| {} | {step} | {} | {} |", found.name, judged.judged, part(judged.refused, judged.judged))?;
        }
    }
    writeln!(out)
}

fn outages(out: &mut String, run: &Found) -> std::fmt::Result {
    if run.outages.is_empty() {
        return Ok(());
    }
    writeln!(out, "## Outages\n")?;
    writeln!(out, "Of requests that came straight to the tier and might fall back to a pool.\n")?;
    writeln!(out, "| tier | from | to | such requests | answered by the pool | within its wait target |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
    for outage in &run.outages {
        let super::FailedOver { arrived, answered, in_time } = outage.failed_over;
        writeln!(
            out,
            "| {} | {} | {} | {arrived} | {} | {} |",
            outage.tier,
            span(outage.from),
            span(outage.to),
            part(answered, arrived),
            part(in_time, arrived),
        )?;
    }
    writeln!(out)?;
    for (pool, sentence) in run.outages.iter().flat_map(|outage| &outage.promised) {
        writeln!(out, "Sizing of {pool} had said: {sentence}\n")?;
    }
    Ok(())
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1_000.0),
        Some(seconds) => format!("{seconds:.2} s"),
    }
}

fn span(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else if seconds < 7_200.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{:.2} h", seconds / 3_600.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn part(of: u64, all: u64) -> String {
    match (of, all) {
        (0, _) | (_, 0) => "0".to_owned(),
        _ => format!("{of} ({:.2} %)", of as f64 * 100.0 / all as f64),
    }
}

fn by(reasons: &std::collections::BTreeMap<&'static str, u64>) -> String {
    if reasons.is_empty() {
        return "0".to_owned();
    }
    reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}
