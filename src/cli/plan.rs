//! `smallfirst plan`: what manifests would need for a given demand, and why. No cluster, nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;

use crate::api::escalation_path::Entry;
use crate::operator::observe::Observed;
use crate::operator::plan::portfolio::{Known, portfolio};
use crate::operator::plan::{leases, table};
use crate::routing::RoutingTable;
use crate::routing::source::manifests;
use crate::sizing::input::{Escalation, Offered, Pool, Portfolio, Service, Takes, Variation, Workload};
use crate::sizing::output::{PoolSize, Sizes};
use crate::sizing::size;
use crate::yaml;

/// Flags of `smallfirst plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifests: files, or folders of .yaml, .yml and .json files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Demand, as YAML: `workloads` by name with `rate` (requests a second), `dispersion` (1: by chance), `inputTokens`,
    /// `outputTokens`, `variation` (of output tokens: their variance by their squared mean; 1), `inputVariation` (of input
    /// tokens; 1) and `escalation` (by step, the part of its answers that gates refuse); `tiers` by name with `seconds`
    /// of a request, or `alpha`, `beta` and `gamma` of S(b) = gamma * input + output * (alpha + beta * b).
    #[arg(long, value_name = "FILE")]
    demand: PathBuf,
}

/// Plans and prints.
///
/// # Errors
/// When the manifests or the demand are wrong.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let observed = manifests::read(&args.paths)?;
    let name = args.demand.display();
    let text = std::fs::read_to_string(&args.demand).with_context(|| name.to_string())?;
    let demand = Demand::parse(&text).with_context(|| name.to_string())?;
    print!("{}", plan(observed, &demand).with_context(|| name.to_string())?);
    Ok(ExitCode::SUCCESS)
}

/// What a person states.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Demand {
    /// By name; where several policies have workloads, by `POLICY/WORKLOAD`.
    #[serde(default)]
    workloads: BTreeMap<String, Stated>,
    #[serde(default)]
    tiers: BTreeMap<String, Time>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stated {
    rate: f64,
    #[serde(default = "one")]
    dispersion: f64,
    input_tokens: f64,
    output_tokens: f64,
    #[serde(default = "one")]
    variation: f64,
    #[serde(default = "one")]
    input_variation: f64,
    #[serde(default)]
    escalation: BTreeMap<String, f64>,
}

const fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Time {
    Constant { seconds: f64 },
    Batching { alpha: f64, beta: f64, gamma: f64 },
}

impl Demand {
    fn parse(text: &str) -> anyhow::Result<Self> {
        match &mut yaml::documents(text)?[..] {
            [only] => Ok(serde_path_to_error::deserialize(only.take())?),
            documents => anyhow::bail!("must be one document, not {}", documents.len()),
        }
    }

    fn of(&self, policy: &str, workload: &str) -> Option<&Stated> {
        self.workloads.get(workload).or_else(|| self.workloads.get(&format!("{policy}/{workload}")))
    }

    /// A name that nothing has is a mistake, not no demand.
    fn check(&self, portfolio: &Portfolio, tables: &BTreeMap<String, Arc<RoutingTable>>) -> anyhow::Result<()> {
        let workloads: BTreeMap<&str, &Workload> = portfolio.workloads.iter().map(|w| (w.name.as_str(), w)).collect();
        for (name, stated) in &self.workloads {
            let known = workloads.keys().copied().collect::<Vec<_>>().join(", ");
            let Some(workload) = workloads.get(name.as_str()) else {
                anyhow::bail!("workloads.{name}: no such workload; known are {known}");
            };
            let steps: Vec<&str> = workload.steps.iter().map(|step| step.name.as_str()).collect();
            for (step, ratio) in &stated.escalation {
                anyhow::ensure!(
                    steps.contains(&step.as_str()),
                    "workloads.{name}.escalation.{step}: no such step; known are {}",
                    steps.join(", ")
                );
                anyhow::ensure!(
                    (0.0..=1.0).contains(ratio),
                    "workloads.{name}.escalation.{step}: {ratio} must be 0 to 1"
                );
            }
            for (field, value) in [
                ("rate", stated.rate),
                ("dispersion", stated.dispersion),
                ("inputTokens", stated.input_tokens),
                ("outputTokens", stated.output_tokens),
                ("variation", stated.variation),
                ("inputVariation", stated.input_variation),
            ] {
                anyhow::ensure!(
                    value.is_finite() && value >= 0.0,
                    "workloads.{name}.{field}: {value} must be 0 or more"
                );
            }
        }
        let known: BTreeSet<&String> = tables.values().flat_map(|table| table.tiers.keys()).collect();
        for name in self.tiers.keys() {
            let names = || known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            anyhow::ensure!(known.contains(name), "tiers.{name}: no such tier; known are {}", names());
        }
        Ok(())
    }
}

impl Known for Demand {
    fn offered(&self, policy: &str, workload: &str, _seconds: f64) -> Offered {
        let stated = self.of(policy, workload);
        stated.map_or_else(Offered::default, |s| Offered { rate: s.rate, dispersion: s.dispersion, window: 0.0 })
    }

    fn escalation(&self, policy: &str, workload: &str, step: &str) -> Option<Escalation> {
        let ratio = *self.of(policy, workload)?.escalation.get(step)?;
        Some(Escalation { ratio, ..Escalation::default() })
    }

    fn takes(&self, policy: &str, workload: &str, tier: &str) -> Option<Takes> {
        let stated = self.of(policy, workload)?;
        let (input_tokens, output_tokens) = (stated.input_tokens, stated.output_tokens);
        let seconds = match self.tiers.get(tier) {
            Some(Time::Constant { seconds }) => *seconds,
            Some(Time::Batching { alpha, beta, gamma }) => gamma * input_tokens + output_tokens * (alpha + beta),
            None => 0.0,
        };
        let variation = Variation { output: stated.variation, input: stated.input_variation, ..Variation::UNKNOWN };
        Some(Takes { input_tokens, output_tokens, variation, seconds })
    }

    fn service(&self, tier: &str, _concurrency: Option<u32>) -> Option<Service> {
        self.tiers.get(tier).map(|time| match *time {
            Time::Constant { seconds } => Service::Constant { seconds },
            Time::Batching { alpha, beta, gamma } => Service::Batching { alpha, beta, gamma },
        })
    }
}

fn plan(mut observed: Observed, demand: &Demand) -> anyhow::Result<String> {
    for policy in observed.policies.keys().cloned().collect::<Vec<_>>() {
        let compiled = table::compile(&observed, &policy).map_err(|invalid| anyhow::anyhow!("{}", invalid.message))?;
        anyhow::ensure!(
            compiled.unresolved.is_none(),
            "{}",
            compiled.unresolved.map_or_else(String::new, |u| u.message)
        );
        let mut table = compiled.value;
        // As where routers report to an operator, which is what charts install.
        table.leases = observed.policies.get(&policy).map(|found| leases(found, &table, &observed));
        observed.tables.insert(policy, Arc::new(table));
    }
    let portfolio = portfolio(&observed.tables, &observed.tiers, demand);
    demand.check(&portfolio, &observed.tables)?;
    Ok(report(&portfolio, &size(&portfolio), &observed.tables))
}

fn report(portfolio: &Portfolio, sizes: &Sizes, tables: &BTreeMap<String, Arc<RoutingTable>>) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<(&str, String)>| {
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        if !lines.is_empty() {
            let _ = writeln!(text, "{title}");
            lines.iter().for_each(|(name, line)| {
                let _ = writeln!(text, "  {name:width$}  {line}");
            });
        }
    };
    section("Pools", sizes.pools.iter().map(|(name, size)| (name.as_str(), size.sentence.clone())).collect());
    section(
        "Waits",
        portfolio.pools.iter().filter_map(|(name, pool)| wait(name, pool, sizes.pools.get(name)?)).collect(),
    );
    section("Accounts", sizes.accounts.iter().map(|(name, size)| (name.as_str(), size.sentence.clone())).collect());
    let even = portfolio.workloads.iter().filter_map(|w| Some((w.name.as_str(), break_even(w, tables)?)));
    section("Escalation", even.collect());
    text
}

/// What is waited for a slot with the floor's replicas.
fn wait<'a>(name: &'a str, pool: &Pool, size: &PoolSize) -> Option<(&'a str, String)> {
    let percentile = 100.0 * pool.asked.percentile;
    let wait = size.wait?;
    let wait = if wait.is_finite() { format!("{wait:.3} s") } else { "without end".to_owned() };
    let replicas = if size.floor == 1 { "1 replica".to_owned() } else { format!("{} replicas", size.floor) };
    Some((name, format!("p{percentile} {wait} with {replicas}")))
}

/// A cascade costs c_small + e * c_large a request, and the later step alone c_large: it saves as long as
/// e < 1 - c_small / c_large.
fn break_even(workload: &Workload, tables: &BTreeMap<String, Arc<RoutingTable>>) -> Option<String> {
    let (first, later) = workload.steps.split_first()?;
    let next = later.iter().find(|step| step.entry == Entry::Always)?;
    let (small, large) = (first.tiers.first()?, next.tiers.first()?);
    // In any unit: only their ratio counts.
    #[expect(clippy::cast_precision_loss, reason = "prices, for a percentage")]
    let cost = |tier: &String, takes: &Takes| {
        let tier = tables.values().find_map(|table| table.tiers.get(tier))?;
        Some(takes.input_tokens * tier.input_price as f64 + takes.output_tokens * tier.output_price as f64)
    };
    let (cheap, dear) = (cost(small, &first.takes)?, cost(large, &next.takes)?);
    if dear <= 0.0 {
        return None;
    }
    let (now, even) = (100.0 * first.escalation.ratio, 100.0 * (1.0 - cheap / dear));
    let verdict = if now < even { "cheaper" } else { "no cheaper" };
    let answers = format!("{now:.1} % of {small}'s answers escalate to {large}");
    Some(format!("{answers}: {verdict} than {large} alone, with the break-even at {even:.1} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFESTS: &str = r#"
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: compact, namespace: ai}
spec:
  class: Small
  owner: team
  model: {name: m, contextTokens: 100}
  prices: [{inputPerMillion: "0.25", outputPerMillion: "1"}]
  pool:
    engine: LlamaCpp
    modelFrom: {path: /m.gguf}
    replicas: 20
    perReplica: {concurrency: 8}
    sizing: {against: [{name: frontier}], absorb: "0.5", waitTarget: {within: 200ms}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: frontier, namespace: ai}
spec:
  class: Frontier
  owner: team
  model: {name: m, contextTokens: 100}
  prices: [{inputPerMillion: "2.5", outputPerMillion: "10"}]
  provider:
    api: OpenAI
    baseURL: https://frontier.test/v1
    credential: {secretKeyRef: {name: s, key: k}}
    account: acme
    quota: {requestsPerMinute: 600}
---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {name: up, namespace: ai}
spec:
  owner: team
  steps:
  - {name: first, tierRef: {name: compact}, accept: [{finishReason: [stop]}]}
  - {name: then, tierRef: {name: frontier}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: assistants, namespace: ai}
spec:
  anonymous: {}
  workloads: [{name: intent, owner: team, match: {models: [intent]}, pathRef: {name: up}}]
  default: {reject: {}}
"#;

    fn planned(demand: &str) -> Result<String, String> {
        let source = manifests::Source { name: "all.yaml".into(), text: MANIFESTS.into() };
        let observed = manifests::parse(&[source]).unwrap();
        Demand::parse(demand).and_then(|demand| plan(observed, &demand)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn pools_accounts_and_break_even_are_told() {
        let text = planned(
            "workloads:\n  intent: {rate: 18.2, inputTokens: 400, outputTokens: 60, escalation: {first: 0.2}}\ntiers:\n  \
             compact: {seconds: 1}\n",
        );
        insta::assert_snapshot!(text.unwrap(), @r"
        Pools
          compact  4 replicas: 4 for its own 18.2 req/s at p95 wait 200ms; 5 when demand grows by more than 37.8 %
        Waits
          compact  p95 0.000 s with 4 replicas
        Accounts
          acme  fits: 218 of 495 requests a minute (82.5 % of 600): 218 escalated; short when demand grows by more than 127 %
        Escalation
          intent  20.0 % of compact's answers escalate to frontier: cheaper than frontier alone, with the break-even at 90.0 %
        ");
    }

    #[test]
    fn a_mistake_is_named_with_its_field() {
        for (demand, wrong) in [
            (
                "workloads: {intents: {rate: 1, inputTokens: 1, outputTokens: 1}}",
                "workloads.intents: no such workload; known are intent",
            ),
            (
                "workloads: {intent: {rate: 1, inputTokens: 1, outputTokens: 1, escalation: {one: 0.1}}}",
                "escalation.one: no such step; known are first, then",
            ),
            (
                "workloads: {intent: {rate: 1, inputTokens: 1, outputTokens: 1, escalation: {first: 2}}}",
                "escalation.first: 2 must be 0 to 1",
            ),
            (
                "workloads: {intent: {rate: -1, inputTokens: 1, outputTokens: 1}}",
                "workloads.intent.rate: -1 must be 0 or more",
            ),
            ("workloads: {intent: {rat: 1}}", "workloads.intent.rat: unknown field"),
            ("tiers: {compakt: {seconds: 1}}", "tiers.compakt: no such tier; known are compact, frontier"),
        ] {
            let error = planned(demand).expect_err(demand);
            assert!(error.contains(wrong), "{error}");
        }
    }
}
