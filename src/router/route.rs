//! Where requests go, with all that can be known before one comes: the path, its gates compiled, its tiers, its counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::admission::budget::{Budget, Budgets};
use super::admission::escalations::Escalations;
use super::admission::limiter::{Limiter, Scope};
use super::admission::share::Share;
use super::gates::{Asks, CompiledGate, DecidesOn, compile_all};
use super::gives_way::{GivesWay, Moves};
use super::hedge::Hedge;
use super::metrics::{LegMetrics, Metrics};
use super::snapshot::{Refused, Upstream, budget};
use super::workload_metrics::WorkloadMetrics;
use crate::api::escalation_path::ColdTier;
use crate::api::types::{DataClass, Risk};
use crate::routing::decide;
use crate::routing::table::{Path, RoutingTable, Step, Workload, tier_path};

/// A workload, or a Public tier by its name.
pub struct Route {
    /// Name for logs and metrics.
    pub workload: String,
    /// Accountable team, `-` for a tier by its name.
    pub owner: String,
    /// What may be returned when no answer passed.
    pub risk: Risk,
    /// How sensitive the data is.
    pub data_class: DataClass,
    /// The path as the table has it.
    pub path: Path,
    /// What it is made of: one a step of the path.
    pub stages: Vec<Stage>,
    /// Whether a gate judges by the schema of the request.
    pub needs_request_schema: bool,
    /// What all clients together may take of it.
    pub limiter: Option<Arc<Limiter>>,
    /// What all clients together may spend on it.
    pub budget: Option<Arc<Budget>>,
    /// How many of its requests may escalate.
    pub escalations: Option<Arc<Escalations>>,
    /// How slow steps are hedged, if they are.
    pub hedge: Option<Hedge>,
    /// Counters of the workload.
    pub metrics: WorkloadMetrics,
}

/// A step, ready to be taken.
pub struct Stage {
    /// Its gates.
    pub gates: Gates,
    /// Alternatives per token that its gates must see; `None` if they look at no log probabilities.
    pub logprobs: Option<u8>,
    /// Whether a gate asks somebody before it judges.
    pub asks: bool,
    /// The tiers that its gates ask for a grade, as far as the table has them.
    pub judges: Vec<Arc<Upstream>>,
    /// Whether and by how much its threshold may be lowered while an account is short.
    pub gives_way: Option<GivesWay>,
    /// The part of its requests that goes to a pool instead while an account is short, where they can.
    pub moves: Option<Moves>,
    /// Whether a request waits for a tier that is scaled to zero.
    pub waits: bool,
    /// Tokens of content after which a stream may be judged, where its gates can. Without gates: the first.
    pub commit_after: Option<u32>,
    /// Its tiers, in the order in which they are asked.
    pub legs: Vec<Leg>,
}

/// One tier of one step.
pub struct Leg {
    /// Name of the step.
    pub step: String,
    /// The tier.
    pub upstream: Arc<Upstream>,
    /// The workload's reserve of the tier's account, by its place there.
    pub reserve: Option<usize>,
    /// Counters of the leg.
    pub metrics: LegMetrics,
}

type Gates = Arc<[CompiledGate]>;
type Tiers = BTreeMap<String, Arc<Upstream>>;

/// The routes of a table: of its workloads in their order, and of its Public tiers by name.
pub struct Routes {
    workloads: Vec<Route>,
    tiers: BTreeMap<String, Route>,
}

impl Routes {
    /// Compiles the routes of a table.
    ///
    /// # Errors
    /// When a path or tier is missing, or a gate does not compile.
    pub fn compile(
        table: &RoutingTable,
        tiers: &Tiers,
        metrics: &Metrics,
        budgets: &Budgets,
        before: Option<&Self>,
    ) -> Result<Self, Refused> {
        let gates: BTreeMap<&str, Vec<Gates>> = table
            .paths
            .iter()
            .map(|(name, path)| {
                let gates = |step: &Step| {
                    let wrong = |e| Refused::Part(format!("path {name}: step {}: {e}", step.name));
                    compile_all(&step.accept).map(Arc::from).map_err(wrong)
                };
                Ok((name.as_str(), path.steps.iter().map(gates).collect::<Result<_, _>>()?))
            })
            .collect::<Result<_, Refused>>()?;
        let share = Share::of_table(table);
        let compiler = Compiler { table, share, gates, tiers, metrics, budgets, before };
        let workloads = table.workloads.iter().map(|workload| compiler.workload(workload)).collect::<Result<_, _>>()?;
        let public = table.tiers.iter().filter(|(_, tier)| tier.public);
        let tiers = public.map(|(name, _)| Ok((name.clone(), compiler.tier(name)?))).collect::<Result<_, Refused>>()?;
        Ok(Self { workloads, tiers })
    }

    /// The limits of workloads.
    pub(super) fn limiters(&self) -> impl Iterator<Item = &Arc<Limiter>> {
        self.workloads.iter().filter_map(|route| route.limiter.as_ref())
    }

    /// All routes.
    pub(super) fn all(&self) -> impl Iterator<Item = &Route> {
        self.workloads.iter().chain(self.tiers.values())
    }

    /// The route of a workload, by its index in the table.
    #[must_use]
    pub fn workload(&self, index: usize) -> Option<&Route> {
        self.workloads.get(index)
    }

    /// The route of a Public tier that a client named.
    #[must_use]
    pub fn tier(&self, name: &str) -> Option<&Route> {
        self.tiers.get(name)
    }
}

/// Tiers that requests may come to, or that gates ask.
fn tiers(stages: &[Stage]) -> impl Iterator<Item = &str> {
    let legs = stages.iter().flat_map(|stage| &stage.legs).map(|leg| &leg.upstream);
    legs.chain(stages.iter().flat_map(|stage| &stage.judges)).map(|upstream| upstream.name.as_str())
}

fn judges_by_request(stages: &[Stage]) -> bool {
    stages.iter().flat_map(|stage| stage.gates.iter()).any(CompiledGate::needs_request_schema)
}

struct Compiler<'a> {
    table: &'a RoutingTable,
    share: Share,
    gates: BTreeMap<&'a str, Vec<Gates>>,
    tiers: &'a Tiers,
    metrics: &'a Metrics,
    budgets: &'a Budgets,
    /// The routes before, whose limits keep their state.
    before: Option<&'a Routes>,
}

impl Compiler<'_> {
    fn workload(&self, workload: &Workload) -> Result<Route, Refused> {
        let (path, stages) = self.path(
            &format!("workload {}", workload.name),
            (&workload.name, workload.risk, workload.data_class),
            &workload.path,
        )?;
        let before = self.before.and_then(|before| before.workloads.iter().find(|w| w.workload == workload.name));
        let limiter = workload.limits.map(|limits| {
            let before = before.and_then(|b| b.limiter.as_ref());
            Limiter::new(Scope::Workload, &workload.name, limits, self.share, before, self.metrics)
        });
        let escalations = path.escalation_limit.map(|limit| {
            let names = self.table.clients.iter().flatten().map(|client| client.name.clone()).collect();
            Escalations::new(limit, names, before.and_then(|b| b.escalations.as_ref()), Instant::now())
        });
        let hedge = self.hedge(&path, &workload.name, before);
        let metrics = self.metrics.workload(&workload.name, tiers(&stages));
        Ok(Route {
            workload: workload.name.clone(),
            owner: workload.owner.clone(),
            risk: workload.risk,
            data_class: workload.data_class,
            path,
            needs_request_schema: judges_by_request(&stages),
            stages,
            limiter,
            budget: budget(self.budgets, Scope::Workload, &workload.name, workload.budget, self.table),
            escalations,
            hedge,
            metrics,
        })
    }

    fn hedge(&self, path: &Path, workload: &str, before: Option<&Route>) -> Option<Hedge> {
        let before = before.and_then(|before| before.hedge.as_ref());
        path.hedge.map(|bound| Hedge::new(bound, path.steps.len(), before, workload, self.metrics))
    }

    fn tier(&self, tier: &str) -> Result<Route, Refused> {
        let workload = tier_path(tier);
        let (risk, data_class) = (Risk::Medium, DataClass::Internal);
        let (path, stages) = self.path(&format!("Public tier {tier}"), (&workload, risk, data_class), &workload)?;
        let metrics = self.metrics.workload(&workload, tiers(&stages));
        let needs_request_schema = judges_by_request(&stages);
        Ok(Route {
            workload,
            owner: "-".into(),
            risk,
            data_class,
            path,
            stages,
            needs_request_schema,
            limiter: None,
            budget: None,
            escalations: None,
            // A path of one tier has nobody to hedge with.
            hedge: None,
            metrics,
        })
    }

    fn path(&self, what: &str, of: (&str, Risk, DataClass), name: &str) -> Result<(Path, Vec<Stage>), Refused> {
        let (workload, risk, data_class) = of;
        let (Some(path), Some(gates)) = (self.table.paths.get(name), self.gates.get(name)) else {
            return Err(Refused::Part(format!("{what}: path {name} is not in the table")));
        };
        let stage = |(index, (step, gates)): (usize, (&Step, &Gates))| {
            let legs: Result<_, Refused> =
                step.tiers.iter().map(|tier| self.leg(workload, name, step, tier, gates)).collect();
            let logprobs = gates.iter().filter_map(CompiledGate::needs_logprobs).max();
            let by_beginning = gates.iter().all(|gate| gate.decides_on() != DecidesOn::Whole);
            // Without gates nothing is left to decide once there is an answer.
            let commit_after =
                if gates.is_empty() { Some(1) } else { path.commit_after_tokens.filter(|_| by_beginning) };
            let asks = gates.iter().any(|gate| gate.asks().is_some());
            let judges = gates.iter().filter_map(|gate| match gate.asks() {
                Some(Asks::Judge(grade)) => self.tiers.get(&grade.tier).cloned(),
                _ => None,
            });
            let most = decide::most_given_way(path, index, risk);
            let gives_way = (most > 0.0).then(|| self.metrics.gives_way(workload, &step.name, most));
            let movable = risk != Risk::High && decide::is_movable(self.table, path, index, data_class);
            let moves = movable.then(|| self.metrics.moves(workload, &step.name));
            let (gates, judges, waits) = (gates.clone(), judges.collect(), path.cold_tier == ColdTier::Wait);
            Ok(Stage { gates, logprobs, asks, judges, gives_way, moves, waits, commit_after, legs: legs? })
        };
        let stages: Result<_, Refused> = path.steps.iter().zip(gates).enumerate().map(stage).collect();
        Ok((path.clone(), stages?))
    }

    fn leg(&self, workload: &str, path: &str, step: &Step, tier: &str, gates: &[CompiledGate]) -> Result<Leg, Refused> {
        let upstream = self.tiers.get(tier).cloned();
        let upstream =
            upstream.ok_or_else(|| Refused::Part(format!("path {path}: tier {tier} is not in the table")))?;
        let metrics = self.metrics.leg(workload, &step.name, tier, gates.iter().map(CompiledGate::name));
        let reserve = upstream.account.as_ref().and_then(|account| account.reserve_of(workload));
        Ok(Leg { step: step.name.clone(), upstream, reserve, metrics })
    }
}
