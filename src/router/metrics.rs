//! What routers count. Labels come from the table, never from what a client or an upstream sent.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::trace::{Ending, Trace};

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Its workload, or `-`.
    pub workload: String,
    /// `accepted`, `best-answer`, or the code of an error.
    pub outcome: &'static str,
}

/// Labels of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepLabels {
    /// Workload of the request.
    pub workload: String,
    /// Step of its path.
    pub step: String,
    /// Tier that was asked.
    pub tier: String,
    /// `accepted`, `escalated`, `failed` or `skipped`.
    pub verdict: &'static str,
    /// The gate that failed, or why the tier gave no answer.
    pub reason: &'static str,
}

/// Label of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkloadLabels {
    /// The workload.
    pub workload: String,
}

/// Labels of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// The tier that counted them.
    pub tier: String,
    /// `input` or `output`.
    pub direction: &'static str,
}

/// Label of a table reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `loaded` or `refused`.
    pub result: &'static str,
}

/// The metrics of a router process.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    steps: Family<StepLabels, Counter>,
    duration: Family<WorkloadLabels, Histogram>,
    tokens: Family<TokenLabels, Counter>,
    cost: Family<WorkloadLabels, Counter<f64, AtomicU64>>,
    /// Tables that were loaded or refused.
    pub reloads: Family<ReloadLabels, Counter>,
    /// Requests being worked on.
    pub in_flight: Gauge,
    /// Secrets or keys that the table names and that are not mounted.
    pub missing_secrets: Gauge,
}

fn histogram() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0])
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            steps: Family::default(),
            duration: Family::new_with_constructor(histogram),
            tokens: Family::default(),
            cost: Family::default(),
            reloads: Family::default(),
            in_flight: Gauge::default(),
            missing_secrets: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("smallfirst_router");
        registry.register("requests", "Requests by workload and outcome", metrics.requests.clone());
        registry.register("steps", "Steps by workload, tier and verdict", metrics.steps.clone());
        registry.register("request_duration_seconds", "Time from request to reply", metrics.duration.clone());
        registry.register("tokens", "Tokens as the tiers counted them", metrics.tokens.clone());
        registry.register("cost", "Cost of all legs, in the policy's currency", metrics.cost.clone());
        registry.register("table_reloads", "Routing tables that were loaded or refused", metrics.reloads.clone());
        registry.register("in_flight", "Requests being worked on", metrics.in_flight.clone());
        registry.register(
            "missing_secrets",
            "Keys that the table names and that are not mounted",
            metrics.missing_secrets.clone(),
        );
        metrics
    }

    /// Counts a request that ended.
    pub fn record(&self, workload: &str, outcome: &'static str, seconds: f64, trace: &Trace) {
        let name = || workload.to_owned();
        self.requests.get_or_create(&RequestLabels { workload: name(), outcome }).inc();
        self.duration.get_or_create(&WorkloadLabels { workload: name() }).observe(seconds);
        for step in &trace.0 {
            let (verdict, reason) = match step.ending {
                Ending::Accepted => ("accepted", ""),
                Ending::Escalated(gate) => ("escalated", gate),
                Ending::Failed(reason) => ("failed", reason),
                Ending::Skipped(reason) => ("skipped", reason),
            };
            let labels =
                StepLabels { workload: name(), step: step.step.clone(), tier: step.tier.clone(), verdict, reason };
            self.steps.get_or_create(&labels).inc();
            for (direction, count) in [("input", step.usage.prompt), ("output", step.usage.completion)] {
                if count > 0 {
                    self.tokens.get_or_create(&TokenLabels { tier: step.tier.clone(), direction }).inc_by(count);
                }
            }
        }
        let cost = f64::from(trace.cost());
        if cost > 0.0 {
            self.cost.get_or_create(&WorkloadLabels { workload: name() }).inc_by(cost);
        }
    }
}
