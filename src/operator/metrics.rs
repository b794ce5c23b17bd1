//! What the operator counts. Labels are kinds, verbs and reasons, and names of tiers: never error texts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: String,
    result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: String,
    verb: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTier {
    namespace: String,
    tier: String,
}

/// The operator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<Reconcile, Counter>,
    durations: Family<OfKind, Histogram>,
    writes: Family<Write, Counter>,
    watch_errors: Family<OfKind, Counter>,
    malformed: Family<OfKind, Gauge>,
    depth: Gauge,
    leader: Gauge,
    concurrency: Family<OfTier, Gauge<f64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0])),
            writes: Family::default(),
            watch_errors: Family::default(),
            malformed: Family::default(),
            depth: Gauge::default(),
            leader: Gauge::default(),
            concurrency: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers everything, under `smallfirst_operator_` but for what is of tiers.
    pub fn register(&self, registry: &mut Registry) {
        let Self { reconciles, durations, writes, watch_errors, malformed, depth, leader, concurrency } = self;
        let help = "Requests that a tier has at a time: in flight, queued, turned away";
        registry.register("smallfirst_tier_concurrency", help, concurrency.clone());
        let registry = registry.sub_registry_with_prefix("smallfirst_operator");
        registry.register("reconciles", "Reconciles by kind and result", reconciles.clone());
        registry.register("reconcile_duration_seconds", "Time of a reconcile", durations.clone());
        registry.register("writes", "Writes to the API server by kind and verb", writes.clone());
        registry.register("watch_errors", "Watches that failed and were tried again", watch_errors.clone());
        registry.register("malformed_objects", "Objects that cannot be read", malformed.clone());
        registry.register("queue_depth", "Objects that wait to be looked at", depth.clone());
        registry.register("leader", "1 when this process leads", leader.clone());
    }

    /// Counts a reconcile. `result` is `ok` or a reason.
    pub fn reconcile(&self, kind: &str, result: &str, took: Duration) {
        self.reconciles.get_or_create(&Reconcile { kind: kind.into(), result: result.into() }).inc();
        self.durations.get_or_create(&OfKind { kind: kind.into() }).observe(took.as_secs_f64());
    }

    /// Counts a write that the API server took.
    pub fn write(&self, kind: &str, verb: &str) {
        self.writes.get_or_create(&Write { kind: kind.into(), verb: verb.into() }).inc();
    }

    /// Writes of a kind and verb so far.
    #[must_use]
    pub fn writes(&self, kind: &str, verb: &str) -> u64 {
        self.writes.get_or_create(&Write { kind: kind.into(), verb: verb.into() }).get()
    }

    /// Counts a watch that failed.
    pub fn watch_errors(&self, kind: &str) {
        self.watch_errors.get_or_create(&OfKind { kind: kind.into() }).inc();
    }

    /// Sets the number of objects that cannot be read.
    pub fn set_malformed(&self, kind: &str, count: usize) {
        self.malformed.get_or_create(&OfKind { kind: kind.into() }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of objects that wait.
    pub fn set_depth(&self, depth: usize) {
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// Sets how many requests tiers have at a time, by namespace and name. Those that are not among these are unknown.
    pub fn set_concurrency(&self, tiers: impl IntoIterator<Item = ((String, String), f64)>) {
        self.concurrency.clear();
        for ((namespace, tier), requests) in tiers {
            self.concurrency.get_or_create(&OfTier { namespace, tier }).set(requests);
        }
    }

    /// Sets whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}
