//! What a simulation found: as data ([`Report`], also as JSON), as [Markdown](markdown), as [plots].

pub mod markdown;
pub mod plots;

use std::collections::BTreeMap;

use serde::Serialize;

use super::clock::seconds;
use super::measure::{Bin, FailedOver, Judged, Latencies, Tally, currency};
use super::play::Played;
use super::pool::bill;
use super::world::World;
use crate::api::types::Risk;

/// All that was found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the policy.
    pub policy: String,
    /// Currency of all money.
    pub currency: String,
    /// The trace's name and rows.
    pub trace: String,
    /// Rows of the trace.
    pub rows: usize,
    /// Where randomness began.
    pub seed: u64,
    /// Requests for each row, before the shape.
    pub scale: f64,
    /// How long the load lasted, in seconds.
    pub duration: f64,
    /// The policy, then what it was compared with.
    pub runs: Vec<Found>,
    /// What of the manifests was left out.
    pub left_out: Vec<String>,
    /// Pools of the series, in its order.
    pub pools: Vec<String>,
    /// Accounts of the series, in its order.
    pub accounts: Vec<String>,
    /// How long a bin of the series is, in seconds.
    pub bin: f64,
    /// The policy's run over time.
    pub series: Vec<Bin>,
}

/// What one run found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// `smallfirst`, or the baseline.
    pub name: String,
    /// Over all workloads.
    pub total: Total,
    /// By workload.
    pub workloads: Vec<WorkloadFound>,
    /// By tier.
    pub tiers: Vec<TierFound>,
    /// By outage.
    pub outages: Vec<OutageFound>,
    /// Events that were simulated.
    pub events: u64,
}

/// Requests and what became of them. `arrived` is always the sum of the next five.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Total {
    /// Requests that came.
    pub arrived: u64,
    /// With an answer that passed its gates.
    pub accepted: u64,
    /// With one that missed a threshold which was lowered because an account was short.
    pub under_pressure: u64,
    /// With the best answer of those that did not.
    pub best_answer: u64,
    /// 429.
    pub shed: u64,
    /// Other errors.
    pub failed: u64,
    /// Cost of requests and of pools that are paid by the hour.
    pub cost: f64,
    /// The same, by the answers.
    pub cost_per_answer: Option<f64>,
    /// Latency of answers, in seconds.
    pub latency: Percentiles,
}

/// Percentiles, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: Option<f64>,
    /// 95th.
    pub p95: Option<f64>,
    /// 99th.
    pub p99: Option<f64>,
}

impl From<&Latencies> for Percentiles {
    fn from(latencies: &Latencies) -> Self {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|part| latencies.quantile(part));
        Self { p50, p95, p99 }
    }
}

/// What became of a workload's requests.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadFound {
    /// Its name.
    pub name: String,
    /// Its risk.
    pub risk: Risk,
    /// Its requests; cost without pools that are paid by the hour.
    #[serde(flatten)]
    pub total: Total,
    /// What the answering tier would have taken for the same requests, asked first and alone.
    pub alone: Percentiles,
    /// 429 by reason.
    pub shed_by: BTreeMap<&'static str, u64>,
    /// Other errors by reason.
    pub failed_by: BTreeMap<&'static str, u64>,
    /// What the gates of its steps said, by step.
    pub steps: Vec<(String, Judged)>,
}

/// What a tier did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TierFound {
    /// Its name.
    pub name: String,
    /// Answers that it gave.
    pub answers: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Tokens of input of its answers.
    pub input_tokens: u64,
    /// Tokens of output.
    pub output_tokens: u64,
    /// What its answers cost, or its replicas.
    pub cost: f64,
    /// Hours of its replicas. `None`: it is no pool.
    pub replica_hours: Option<f64>,
    /// What sizing said last.
    pub sizing: Option<String>,
}

/// What became of direct requests to a tier that was lost, as far as they might fall back to a pool.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutageFound {
    /// The tier.
    pub tier: String,
    /// When it was lost, in seconds.
    pub from: f64,
    /// Until when.
    pub to: f64,
    /// What became of them.
    #[serde(flatten)]
    pub failed_over: FailedOver,
    /// What sizing had said when it began, by pool.
    pub promised: BTreeMap<String, String>,
}

/// What a run found.
#[must_use]
pub fn found(name: &str, world: &World, played: &Played) -> Found {
    let measure = &played.measure;
    let mut pools = 0.0;
    let tiers = world.tiers.iter().zip(&measure.tiers).zip(&played.replica_hours).map(|((tier, work), hours)| {
        let bill = tier.pool.as_ref().and_then(|pool| Some(bill(*hours, pool.replica_hour?)));
        pools += bill.unwrap_or(0.0);
        TierFound {
            name: tier.name.clone(),
            answers: work.answers,
            failures: work.failures,
            input_tokens: work.input,
            output_tokens: work.output,
            cost: bill.unwrap_or_else(|| currency(work.cost.0)),
            replica_hours: tier.pool.as_ref().map(|_| *hours),
            sizing: played.sizes.pools.get(&tier.name).map(|size| size.sentence.clone()),
        }
    });
    let tiers = tiers.collect();
    let workloads: Vec<WorkloadFound> = world
        .routes
        .iter()
        .zip(&measure.workloads)
        .filter(|(_, tally)| tally.arrived > 0)
        .map(|(route, tally)| WorkloadFound {
            name: route.name.clone(),
            risk: route.risk,
            total: total(tally),
            alone: Percentiles::from(&tally.alone),
            shed_by: tally.shed.clone(),
            failed_by: tally.failed.clone(),
            steps: route.path.steps.iter().map(|step| step.name.clone()).zip(tally.steps.iter().copied()).collect(),
        })
        .collect();
    let mut sum = Total { latency: Percentiles::from(&measure.latency), cost: pools, ..Total::default() };
    for Total { arrived, accepted, under_pressure, best_answer, shed, failed, cost, .. } in
        workloads.iter().map(|found| &found.total)
    {
        sum.arrived += arrived;
        sum.accepted += accepted;
        sum.under_pressure += under_pressure;
        sum.best_answer += best_answer;
        sum.shed += shed;
        sum.failed += failed;
        sum.cost += cost;
    }
    sum.cost_per_answer = per(sum.cost, sum.accepted + sum.under_pressure + sum.best_answer);
    let outages = world.outages.iter().zip(&measure.outages).zip(&played.promises);
    Found {
        name: name.to_owned(),
        total: sum,
        workloads,
        tiers,
        outages: outages
            .map(|((outage, failed_over), promised)| OutageFound {
                tier: world.tiers[outage.tier].name.clone(),
                from: seconds(outage.from),
                to: seconds(outage.to),
                failed_over: *failed_over,
                promised: promised.clone(),
            })
            .collect(),
        events: played.events,
    }
}

fn total(tally: &Tally) -> Total {
    let cost = currency(tally.cost.0);
    Total {
        arrived: tally.arrived,
        accepted: tally.accepted,
        under_pressure: tally.under_pressure,
        best_answer: tally.best_answer,
        shed: tally.shed.values().sum(),
        failed: tally.failed.values().sum(),
        cost,
        cost_per_answer: per(cost, tally.answered()),
        latency: Percentiles::from(&tally.latency),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn per(cost: f64, answers: u64) -> Option<f64> {
    (answers > 0).then(|| cost / answers as f64)
}
