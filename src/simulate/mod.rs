//! `smallfirst simulate`: a trace of requests replayed through a policy in virtual time.
//!
//! ```text
//! manifests --compile--> RoutingTable --+
//! scenario ------------------------------+--> World --+
//! trace --------------------------------------> Arrivals --> Run --> Played --> Report
//!                                                      (decide, limits, accounts, circuits: the router's own code;
//!                                                       sizing: the operator's; engines, providers and gates: simulated)
//! ```
//! One router that holds the whole of every limit. No network, no files, no clock but its own: the same inputs and seed
//! give the same report, byte for byte. See ADR 19.

pub mod arrivals;
pub mod autoscaler;
pub mod baseline;
mod calls;
pub mod clock;
pub mod kinds;
pub mod measure;
mod planner;
pub mod play;
pub mod pool;
pub mod provider;
pub mod replica;
pub mod report;
pub mod requests;
pub mod scenario;
#[cfg(test)]
mod tests;
pub mod trace;
mod waiting;
mod walk;
pub mod world;

use std::time::{Duration, Instant};

use arrivals::Arrivals;
use clock::seconds;
use play::{Mode, Played, Run, mean_replicas};
use report::{Found, Report, found};
use scenario::{Baseline, Scenario};
use trace::Trace;
use world::World;

use crate::operator::observe::Observed;
use crate::routing::RoutingTable;
use crate::routing::table::Check;

/// Limits of clients and workloads are made full by a real clock. A run begins so much later that it finds them full
/// whenever that was.
const HEAD_START: Duration = Duration::from_secs(3_600);

/// What is simulated.
pub struct Inputs<'a> {
    /// The policy, compiled.
    pub table: &'a RoutingTable,
    /// The manifests that it was compiled from.
    pub observed: &'a Observed,
    /// What they do not say.
    pub scenario: &'a Scenario,
    /// The load.
    pub trace: &'a Trace,
    /// Name of the trace, for the report.
    pub name: &'a str,
    /// Multiplies the scenario's scale.
    pub scale: f64,
    /// Any time: what virtual times are counted from where the router's code wants an [`Instant`].
    pub epoch: Instant,
}

/// Simulates the policy and whatever the scenario compares it with. `progress` is told which run goes on and what part of
/// it is done.
///
/// # Errors
/// Everything in which scenario, table and trace do not fit each other, a line each.
pub fn simulate(inputs: &Inputs<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Report, Vec<String>> {
    let Inputs { table, scenario, trace, .. } = *inputs;
    let (world, played) =
        run("smallfirst", inputs, table, scenario, Mode { operated: true, circuits: true }, progress)?;
    let mut runs = vec![found("smallfirst", &world, &played)];
    for baseline in &scenario.compare {
        runs.push(compared(*baseline, inputs, &world, &played, progress)?);
    }
    let pools = world.tiers.iter().filter(|tier| tier.pool.is_some());
    Ok(Report {
        policy: table.policy.clone(),
        currency: table.currency.clone(),
        trace: inputs.name.to_owned(),
        rows: trace.rows.len(),
        seed: scenario.seed,
        scale: scenario.load.scale * inputs.scale,
        duration: seconds(played.duration),
        runs,
        left_out: left_out(table),
        pools: pools.map(|tier| tier.name.clone()).collect(),
        accounts: world.granted.iter().map(|(name, _)| name.clone()).collect(),
        bin: seconds(played.measure.bin),
        series: played.measure.series,
    })
}

fn run(
    name: &str,
    inputs: &Inputs<'_>,
    table: &RoutingTable,
    scenario: &Scenario,
    mode: Mode,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<(World, Played), Vec<String>> {
    let epoch = inputs.epoch + HEAD_START;
    let world = World::build(table, inputs.observed, scenario, epoch)?;
    let arrivals =
        Arrivals::new(inputs.trace, &world.kinds, scenario, inputs.scale).map_err(|problem| vec![problem])?;
    let played = Run::new(&world, scenario, arrivals, mode, epoch).play(&mut |part| progress(name, part));
    Ok((world, played))
}

/// The same load given to something else.
fn compared(
    baseline: Baseline,
    inputs: &Inputs<'_>,
    world: &World,
    played: &Played,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<Found, Vec<String>> {
    let name = format!("{baseline:?}");
    let table = baseline::table(inputs.table, baseline);
    let mut scenario = inputs.scenario.clone();
    for ((tier, said), hours) in world.tiers.iter().map(|tier| (tier, &tier.name)).zip(&played.replica_hours) {
        let Some(tier_said) = scenario.tiers.get_mut(said) else { continue };
        match baseline {
            Baseline::FixedPools => {
                tier_said.replicas = tier.pool.as_ref().map(|_| mean_replicas(*hours, played.until))
            }
            Baseline::FrontierOnly => tier_said.replicas = tier.pool.as_ref().map(|_| 0),
            Baseline::StaticFallback => {}
        }
        // What a provider grants does not depend on who asks.
        tier_said.quota = tier.granted.and_then(|granted| world.granted.get(granted)).map(|(_, quota)| *quota);
    }
    if baseline != Baseline::FixedPools {
        // Gates are gone, and so is what they refuse.
        scenario.requests.iter_mut().for_each(|kind| kind.steps.clear());
    }
    let mode = Mode { operated: false, circuits: baseline == Baseline::FixedPools };
    let (world, played) = run(&name, inputs, &table, &scenario, mode, progress)?;
    Ok(found(&name, &world, &played))
}

/// What of a table's paths and limits is not simulated.
fn left_out(table: &RoutingTable) -> Vec<String> {
    let mut left = Vec::new();
    for (name, path) in &table.paths {
        let mut note = |what: &str| left.push(format!("path {name}: {what}"));
        if path.hedge.is_some() {
            note("hedge: no step is started beside a slow one");
        }
        if path.sticky.is_some() {
            note("sticky: every request starts at the first step");
        }
        for step in &path.steps {
            let asks = |gate: &crate::routing::table::Gate| {
                matches!(gate.check, Check::Agreement { .. } | Check::Judge { .. })
            };
            if step.accept.iter().any(asks) {
                note(&format!("step {}: requests that agreement and judge make are not", step.name));
            }
        }
    }
    let clients = table.clients.iter().flatten().filter(|client| client.budget.is_some()).map(|client| &client.name);
    left.extend(clients.map(|name| format!("client {name}: its budget is never spent")));
    let workloads = table.workloads.iter().filter(|workload| workload.budget.is_some()).map(|workload| &workload.name);
    left.extend(workloads.map(|name| format!("workload {name}: its budget is never spent")));
    left
}
