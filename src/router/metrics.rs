//! What routers count. Labels come from the table, never from what a client or an upstream sent.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::admission::limiter::Kind;
use super::cascade::{BEST_ANSWER, ESCALATION_LIMIT};
use super::gives_way::{Gauged, GivesWay, Moves};
use super::hedge::HedgeMetrics;
use super::retry_budget::{Retries, RetryBudget};
use super::route::Route;
use super::trace::{Ending, StepTrace, Trace, UNDER_PRESSURE};
use super::workload_metrics::{Arrivals, TakenMetrics, VerdictMetrics, WorkloadMetrics};
use crate::lease::holding::Taken;

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Its workload, or `-`.
    pub workload: String,
    /// `accepted`, `best-answer`, `under-pressure`, or the code of an error.
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
    /// `accepted`, `escalated`, `under-pressure`, `failed`, `skipped` or `cancelled`.
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

/// Labels of what gives way of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepOfWorkload {
    /// The workload.
    pub workload: String,
    /// Step of its path.
    pub step: String,
}

/// Labels of answers that were accepted to spare an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PressureLabels {
    /// Workload of the request.
    pub workload: String,
    /// The field that let them through: `slack` (of `pressure`) or `escalationLimit`.
    pub field: &'static str,
}

/// Labels of a cost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CostLabels {
    /// Workload of the requests.
    pub workload: String,
    /// The tier that they were paid to.
    pub tier: String,
}

/// Labels of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// Workload of the requests.
    pub workload: String,
    /// The tier that counted them.
    pub tier: String,
    /// `input` or `output`.
    pub direction: &'static str,
}

/// Labels of second attempts at a tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RetryLabels {
    /// The tier.
    pub tier: String,
    /// `made`, or `over_budget` when there was none because the retry budget was spent.
    pub result: &'static str,
}

/// Labels of hedges.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HedgeLabels {
    /// Workload of the request.
    pub workload: String,
    /// `won` when the hedge's answer was taken, `lost` when another or none was, or `over_budget` when there was no hedge
    /// because the budget was spent.
    pub result: &'static str,
}

/// Label of a table reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `loaded` or `refused`.
    pub result: &'static str,
}

/// Labels of a limit's decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AdmissionLabels {
    /// `client`, `workload` or `account`.
    pub scope: &'static str,
    /// Whose limits they are.
    pub name: String,
    /// `admitted`, or the limit that had no room, by its field.
    pub result: &'static str,
}

/// What a limit counts, found when the table is loaded.
pub struct AdmissionMetrics {
    admitted: Counter,
    refused: Vec<(Kind, Counter)>,
}

/// Labels of what was taken of a limit that is lent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LeaseLabels {
    /// `client`, `workload` or `account`.
    pub scope: &'static str,
    /// Its name.
    pub name: String,
    /// The field of the API.
    pub limit: &'static str,
    /// `lease` or `floor`.
    pub source: &'static str,
}

/// What is taken of a limit that is lent, by where it came from.
pub struct LeaseMetrics {
    lease: Counter,
    floor: Counter,
}

impl LeaseMetrics {
    /// Counts what was taken.
    pub fn taken(&self, taken: Taken) {
        self.lease.inc_by(taken.lease);
        self.floor.inc_by(taken.floor);
    }
}

impl AdmissionMetrics {
    /// Counts a request that was admitted.
    pub fn admitted(&self) {
        self.admitted.inc();
    }

    /// Counts a request that a limit had no room for.
    pub fn refused(&self, kind: Kind) {
        for (_, counter) in self.refused.iter().filter(|(known, _)| *known == kind) {
            counter.inc();
        }
    }
}

/// Label of a provider's account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AccountLabels {
    /// The account.
    pub account: String,
}

/// What an account counts, found when the table is loaded.
pub struct AccountMetrics {
    /// Requests that were admitted and refused.
    pub admissions: AdmissionMetrics,
    /// Requests that wait.
    pub waiting: Gauge,
    /// How long those waited that did, in seconds.
    pub wait: Histogram,
}

/// Labels of what the store of an account was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabels {
    /// The account.
    pub account: String,
    /// `taken`, `refused` or `away`.
    pub result: &'static str,
}

/// What is counted of an account's store.
pub struct StoreMetrics {
    /// Requests that it counted.
    pub taken: Counter,
    /// Requests that it had no room for.
    pub refused: Counter,
    /// Requests that went by what is lent, because it did not answer.
    pub away: Counter,
    /// Connections to it that are in use.
    pub up: Gauge,
}

/// Outcome of a request and verdict of a step that most of them have.
const ACCEPTED: &str = "accepted";

/// Label of requests that came to no workload.
const NOBODY: &str = "-";

/// What a tier of a step counts, found when the table is loaded. Failures and skips are looked up by their labels.
pub struct LegMetrics {
    accepted: Counter,
    escalated: Vec<(&'static str, Counter)>,
    taken: TakenMetrics,
    /// `None`: a step without gates, which judges nothing.
    pub(super) verdicts: Option<VerdictMetrics>,
}

/// The metrics of a router process.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    steps: Family<StepLabels, Counter>,
    duration: Family<WorkloadLabels, Histogram>,
    tokens: Family<TokenLabels, Counter>,
    cost: Family<CostLabels, Counter<f64, AtomicU64>>,
    /// What only reports say, by workload.
    arrivals: Family<String, Arrivals>,
    /// The same, by workload and step.
    verdicts: Family<(String, String), VerdictMetrics>,
    /// The same, by workload and tier.
    calls: Family<(String, String), Counter>,
    admissions: Family<AdmissionLabels, Counter>,
    leases: Family<LeaseLabels, Counter>,
    lowered: Family<StepOfWorkload, Gauged>,
    moved: Family<StepOfWorkload, Gauged>,
    under_pressure: Family<PressureLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    hedges: Family<HedgeLabels, Counter>,
    waiting: Family<AccountLabels, Gauge>,
    wait: Family<AccountLabels, Histogram>,
    stores: Family<StoreLabels, Counter>,
    stores_up: Family<AccountLabels, Gauge>,
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
            arrivals: Family::default(),
            verdicts: Family::default(),
            calls: Family::default(),
            admissions: Family::default(),
            leases: Family::default(),
            lowered: Family::default(),
            moved: Family::default(),
            under_pressure: Family::default(),
            retries: Family::default(),
            hedges: Family::default(),
            waiting: Family::default(),
            wait: Family::new_with_constructor(histogram),
            stores: Family::default(),
            stores_up: Family::default(),
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
        registry.register("admissions", "Decisions of limits and quotas", metrics.admissions.clone());
        let help = "What was taken of limits that are lent, as reserved, from the lease or the router's floor";
        registry.register("lease_taken", help, metrics.leases.clone());
        let help = "By how much a threshold is lowered while an account is short, in the unit of its score";
        registry.register("threshold_lowered", help, metrics.lowered.clone());
        let help = "Part of a step's requests that goes to a pool instead while an account is short, 0 to 1";
        registry.register("requests_moved_ratio", help, metrics.moved.clone());
        let help =
            "Answers that a gate refused and that were given to spare an account, by the field that let them through";
        registry.register("accepted_under_pressure", help, metrics.under_pressure.clone());
        registry.register("retries", "Second attempts at a tier, by result", metrics.retries.clone());
        registry.register("hedges", "Steps started beside a slow one, by result", metrics.hedges.clone());
        registry.register("quota_waiting", "Requests that wait for an account", metrics.waiting.clone());
        registry.register("quota_wait_seconds", "Time that requests waited for an account", metrics.wait.clone());
        let help = "Requests to an account that its store was asked for, by result; away: they went by what is lent";
        registry.register("quota_store_requests", help, metrics.stores.clone());
        let help = "Connections to the store of an account that are in use: 0 while it is away";
        registry.register("quota_store_up", help, metrics.stores_up.clone());
        registry.register("table_reloads", "Routing tables that were loaded or refused", metrics.reloads.clone());
        registry.register("in_flight", "Requests being worked on", metrics.in_flight.clone());
        registry.register(
            "missing_secrets",
            "Keys that the table names and that are not mounted",
            metrics.missing_secrets.clone(),
        );
        metrics
    }

    /// Counters of a workload whose requests may come to these tiers.
    #[must_use]
    pub fn workload<'t>(&self, name: &str, tiers: impl Iterator<Item = &'t str>) -> WorkloadMetrics {
        let under_pressure =
            |field| self.under_pressure.get_or_create_owned(&PressureLabels { workload: name.to_owned(), field });
        WorkloadMetrics {
            lowered: under_pressure("slack"),
            held_back: under_pressure("escalationLimit"),
            accepted: self
                .requests
                .get_or_create_owned(&RequestLabels { workload: name.to_owned(), outcome: ACCEPTED }),
            duration: self.duration.get_or_create_owned(&WorkloadLabels { workload: name.to_owned() }),
            arrivals: self.arrivals.get_or_create_owned(&name.to_owned()),
            taken: tiers.map(|tier| (tier.to_owned(), self.taken(name, tier))).collect(),
        }
    }

    fn taken(&self, workload: &str, tier: &str) -> TakenMetrics {
        let (workload, tier) = (workload.to_owned(), tier.to_owned());
        let tokens = |direction| {
            let labels = TokenLabels { workload: workload.clone(), tier: tier.clone(), direction };
            self.tokens.get_or_create_owned(&labels)
        };
        let (input, output) = (tokens("input"), tokens("output"));
        let calls = self.calls.get_or_create_owned(&(workload.clone(), tier.clone()));
        TakenMetrics { calls, input, output, cost: self.cost.get_or_create_owned(&CostLabels { workload, tier }) }
    }

    /// A tier's retry budget with its counters.
    #[must_use]
    pub fn retries(&self, tier: &str, budget: Arc<RetryBudget>) -> Retries {
        let counter = |result| self.retries.get_or_create_owned(&RetryLabels { tier: tier.to_owned(), result });
        Retries { budget, made: counter("made"), over_budget: counter("over_budget") }
    }

    /// Counters of the hedges of a workload's path.
    #[must_use]
    pub fn hedges(&self, workload: &str) -> HedgeMetrics {
        let counter = |result| self.hedges.get_or_create_owned(&HedgeLabels { workload: workload.to_owned(), result });
        HedgeMetrics { won: counter("won"), lost: counter("lost"), over_budget: counter("over_budget") }
    }

    /// The threshold of a step that may be lowered by so much.
    #[must_use]
    pub fn gives_way(&self, workload: &str, step: &str, most: f64) -> GivesWay {
        let labels = StepOfWorkload { workload: workload.to_owned(), step: step.to_owned() };
        GivesWay::new(self.lowered.get_or_create_owned(&labels), most)
    }

    /// The part of a step's requests that goes to a pool instead.
    #[must_use]
    pub fn moves(&self, workload: &str, step: &str) -> Moves {
        let labels = StepOfWorkload { workload: workload.to_owned(), step: step.to_owned() };
        Moves::new(self.moved.get_or_create_owned(&labels))
    }

    /// Counters of one tier of one step with these gates.
    #[must_use]
    pub fn leg(&self, workload: &str, step: &str, tier: &str, gates: impl Iterator<Item = &'static str>) -> LegMetrics {
        let counter = |verdict, reason| {
            let (workload, step, tier) = (workload.to_owned(), step.to_owned(), tier.to_owned());
            self.steps.get_or_create_owned(&StepLabels { workload, step, tier, verdict, reason })
        };
        let escalated: Vec<_> = gates.map(|gate| (gate, counter("escalated", gate))).collect();
        let of_step = || self.verdicts.get_or_create_owned(&(workload.to_owned(), step.to_owned()));
        LegMetrics {
            accepted: counter(ACCEPTED, ""),
            verdicts: (!escalated.is_empty()).then(of_step),
            escalated,
            taken: self.taken(workload, tier),
        }
    }

    /// Counters of limits of these kinds.
    #[must_use]
    pub fn admission(
        &self,
        scope: &'static str,
        name: &str,
        kinds: impl IntoIterator<Item = Kind>,
    ) -> AdmissionMetrics {
        let counter =
            |result| self.admissions.get_or_create_owned(&AdmissionLabels { scope, name: name.to_owned(), result });
        let refused = kinds.into_iter().map(|kind| (kind, counter(kind.field()))).collect();
        AdmissionMetrics { admitted: counter("admitted"), refused }
    }

    /// Counters of what is taken of a limit that is lent.
    #[must_use]
    pub fn lease(&self, scope: &'static str, name: &str, kind: Kind) -> LeaseMetrics {
        let counter = |source| {
            let (name, limit) = (name.to_owned(), kind.field());
            self.leases.get_or_create_owned(&LeaseLabels { scope, name, limit, source })
        };
        LeaseMetrics { lease: counter("lease"), floor: counter("floor") }
    }

    /// Counters of an account.
    #[must_use]
    pub fn account(&self, name: &str, kinds: impl IntoIterator<Item = Kind>) -> AccountMetrics {
        let labels = AccountLabels { account: name.to_owned() };
        AccountMetrics {
            admissions: self.admission("account", name, kinds),
            waiting: self.waiting.get_or_create_owned(&labels),
            wait: self.wait.get_or_create_owned(&labels),
        }
    }

    /// Counters of the store of an account.
    #[must_use]
    pub fn store(&self, name: &str) -> StoreMetrics {
        let account = || name.to_owned();
        let counter = |result| self.stores.get_or_create_owned(&StoreLabels { account: account(), result });
        StoreMetrics {
            taken: counter("taken"),
            refused: counter("refused"),
            away: counter("away"),
            up: self.stores_up.get_or_create_owned(&AccountLabels { account: account() }),
        }
    }

    /// Counts a request that ended, with the status of its reply. Without a route it came to no workload.
    pub fn record(&self, route: Option<&Route>, outcome: &'static str, status: u16, seconds: f64, trace: &Trace<'_>) {
        let Some(route) = route else {
            self.requests.get_or_create(&RequestLabels { workload: NOBODY.to_owned(), outcome }).inc();
            self.duration.get_or_create(&WorkloadLabels { workload: NOBODY.to_owned() }).observe(seconds);
            return;
        };
        let metrics = &route.metrics;
        if outcome == ACCEPTED {
            metrics.accepted.inc();
        } else {
            let labels = || RequestLabels { workload: route.workload.clone(), outcome };
            metrics.other(outcome, status, || self.requests.get_or_create_owned(&labels())).inc();
            let held_back = || trace.0.iter().any(|step| step.ending == Ending::Skipped(ESCALATION_LIMIT));
            match outcome {
                UNDER_PRESSURE => metrics.lowered.inc(),
                BEST_ANSWER if held_back() => metrics.held_back.inc(),
                _ => 0,
            };
        }
        metrics.duration.observe(seconds);
        for step in &trace.0 {
            self.count(route, step);
        }
    }

    fn count(&self, route: &Route, step: &StepTrace<'_>) {
        let metrics = &step.leg.metrics;
        let (verdict, reason) = step.ending.words();
        let ready = match step.ending {
            Ending::Accepted => Some(&metrics.accepted),
            Ending::Escalated(gate) => {
                metrics.escalated.iter().find(|(name, _)| *name == gate).map(|(_, counter)| counter)
            }
            Ending::UnderPressure(_) | Ending::Failed(_) | Ending::Skipped(_) | Ending::Cancelled => None,
        };
        match ready {
            Some(counter) => counter.inc(),
            None => {
                let (step, tier) = (step.leg.step.clone(), step.leg.upstream.name.clone());
                let workload = route.workload.clone();
                let labels = StepLabels { workload, step, tier, verdict, reason: reason.unwrap_or("") };
                self.steps.get_or_create(&labels).inc()
            }
        };
        if let Some(verdicts) = &metrics.verdicts {
            match step.ending {
                Ending::Accepted => verdicts.count(true, None),
                Ending::Escalated(_) | Ending::UnderPressure(_) => verdicts.count(false, step.missed),
                Ending::Failed(_) | Ending::Skipped(_) | Ending::Cancelled => {}
            }
        }
        metrics.taken.count(1, step.usage, step.cost);
        for opinion in &step.opinions {
            if let Some(taken) = route.metrics.taken.get(opinion.tier) {
                taken.count(u64::from(opinion.calls - opinion.failed), opinion.usage, opinion.cost);
            }
        }
    }
}
