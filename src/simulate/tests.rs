//! What a simulation must keep, on the example: the same bytes for the same seed, every request accounted for, queues as
//! theory has them, and what High, Low and a lost frontier are promised.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::clock::{Clock, Nanos, of_seconds};
use super::replica::{Curve, Replica, ReplicaEvent, Work};
use super::report::{Total, WorkloadFound, markdown, plots};
use super::*;
use crate::operator::plan::table;
use crate::routing::source::manifests::{Source, parse};

const PORTFOLIO: &str = include_str!("../../examples/simulate/portfolio.yaml");
const SCENARIO: &str = include_str!("../../examples/simulate/scenario.yaml");
const AZURE: &str = include_str!("../../tests/data/azure-conv-1000.csv");

struct Case {
    observed: Observed,
    table: RoutingTable,
    scenario: Scenario,
    trace: Trace,
}

impl Case {
    fn new(portfolio: &str, scenario: &str, trace: &str) -> Self {
        let source = Source { name: "portfolio.yaml".into(), text: portfolio.into() };
        let observed = parse(&[source]).unwrap_or_else(|e| panic!("{e}"));
        let table = table::compile(&observed, "assistants").unwrap_or_else(|e| panic!("{e}")).value;
        let scenario = Scenario::parse("scenario.yaml", scenario).unwrap_or_else(|e| panic!("{e:?}"));
        let trace = Trace::read("trace", trace.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
        Self { observed, table, scenario, trace }
    }

    fn simulate(&self) -> Result<Report, Vec<String>> {
        let Self { observed, table, scenario, trace } = self;
        let epoch = Instant::now();
        let inputs = Inputs { table, observed, scenario, trace, name: "trace", scale: 1.0, epoch };
        simulate(&inputs, &mut |_, _| {})
    }

    fn report(&self) -> Report {
        self.simulate().unwrap_or_else(|problems| panic!("{}", problems.join("\n")))
    }
}

/// The example's scenario without what it is compared with.
fn alone() -> String {
    SCENARIO.replace("compare: [FrontierOnly, StaticFallback, FixedPools]\n", "")
}

/// So many requests a second for so many seconds, as JSON lines: Poisson arrivals of 1,000 tokens in and 100 out.
fn steady(rate: f64, seconds: f64) -> String {
    let mut draws = ChaCha8Rng::seed_from_u64(3);
    let (mut trace, mut at) = (String::new(), 0.0);
    while at < seconds {
        let _ = writeln!(trace, "{{\"at\": {at}, \"inputTokens\": 1000, \"outputTokens\": 100}}");
        at += exponential(&mut draws, 1.0 / rate);
    }
    trace
}

fn exponential(draws: &mut ChaCha8Rng, mean: f64) -> f64 {
    -mean * (1.0 - draws.random::<f64>()).ln()
}

fn of<'a>(report: &'a Report, workload: &str) -> &'a WorkloadFound {
    let found = report.runs[0].workloads.iter().find(|found| found.name == workload);
    found.unwrap_or_else(|| panic!("no {workload}"))
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_does_not() {
    let text = |case: &Case| {
        let report = case.report();
        let plots = plots::draw(&report).expect("plots");
        let markdown = markdown::render(&report, &["demand.svg".to_owned()]);
        (serde_json::to_string(&report).expect("JSON"), markdown, plots)
    };
    let mut case = Case::new(PORTFOLIO, SCENARIO, AZURE);
    let first = text(&case);
    assert!(first == text(&case));
    case.scenario.seed += 1;
    assert!(first.0 != text(&case).0);
    // A plot for each thing that a platform team asks about.
    let names: Vec<&str> = first.2.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = ["demand", "escalation", "frontier", "latency-p50", "latency-p99", "cost", "shed", "replicas-compact"];
    assert_eq!(names, wanted.map(|name| format!("{name}.svg")));
}

/// Everything goes wrong at once: too much load, an outage, limits, a limit on escalations.
#[test]
fn every_request_is_answered_shed_or_failed() {
    let portfolio = PORTFOLIO
        .replace("max: 24", "max: 3")
        .replace("    match: {models: [draft]}", "    match: {models: [draft]}\n    limits: {requestsPerMinute: 300}")
        .replace("  onExhausted: BestAnswer", "  escalationLimit: {ratio: \"0.1\", window: 1m, onExceeded: Reject}");
    let scenario = SCENARIO.replace("{scale: 3}", "{scale: 12, spread: 5s}");
    let scenario = format!(
        "{scenario}\noutages:\n- {{tier: frontier, from: 40s, to: 90s, looks: Silent}}\n- {{tier: compact, from: 80s, to: 100s}}\n"
    );
    let report = Case::new(&portfolio, &scenario, AZURE).report();
    for run in &report.runs {
        let totals = run.workloads.iter().map(|found| (&found.name, &found.total)).chain([(&run.name, &run.total)]);
        for (name, Total { arrived, accepted, under_pressure, best_answer, shed, failed, .. }) in totals {
            assert_eq!(*arrived, accepted + under_pressure + best_answer + shed + failed, "{}: {name}", run.name);
        }
    }
    let arrived: Vec<u64> = report.runs.iter().map(|run| run.total.arrived).collect();
    assert!(arrived.windows(2).all(|pair| pair[0] == pair[1]), "every baseline gets the same load: {arrived:?}");
    assert_eq!(report.series.iter().map(|bin| bin.arrived).sum::<u64>(), arrived[0]);
    let reasons: Vec<&str> = report.runs[0].workloads.iter().flat_map(|found| found.shed_by.keys()).copied().collect();
    for reason in ["capacity", "escalation limit", "limit"] {
        assert!(reasons.contains(&reason), "nothing was shed for {reason}: {reasons:?}");
    }
    assert!(report.runs[0].total.failed > 0);
}

#[test]
fn queues_are_as_erlang_has_them() {
    // Constant step time and output tokens drawn from an exponential distribution: M/M/c, the slots being the servers.
    for (slots, load) in [(1, 0.5), (2, 0.8), (5, 0.9), (20, 0.9)] {
        let (waited, mean) = waits(slots, load, 200_000);
        let servers = f64::from(slots);
        let erlangs = servers * load;
        let blocked = (1..=slots).map(f64::from).fold(1.0, |b, k| erlangs * b / (k + erlangs * b));
        let delayed = blocked / (1.0 - load + load * blocked);
        let wanted = delayed / (servers * (1.0 - load));
        assert!(
            (waited / delayed - 1.0).abs() < 0.05,
            "c = {slots}, rho = {load}: P(W > 0) {waited} instead of {delayed}"
        );
        assert!((mean / wanted - 1.0).abs() < 0.12, "c = {slots}, rho = {load}: E(W) {mean} instead of {wanted}");
    }
}

/// The part of requests that waited at a replica, and their mean wait, with a mean service time of one second.
fn waits(slots: u32, load: f64, requests: u64) -> (f64, f64) {
    enum Event {
        Arrives(u64),
        ReplicaEvent(ReplicaEvent),
    }
    const TOKENS: f64 = 10_000.0;
    let mut draws = ChaCha8Rng::seed_from_u64(5);
    let curve = Curve { overhead: 0.0, alpha: 1.0 / TOKENS, beta: 0.0, gamma: 0.0 };
    let mut replica = Replica::new(curve, slots, 0);
    let mut clock = Clock::default();
    let mut came: BTreeMap<u64, Nanos> = BTreeMap::new();
    let (mut waited, mut sum) = (0_u32, 0.0);
    clock.at(0, Event::Arrives(0));
    while let Some(event) = clock.pop() {
        let now = clock.now();
        let mut told = Vec::new();
        let mut schedule = |at, tick| told.push((at, tick));
        match event {
            Event::Arrives(call) => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens")]
                let output = exponential(&mut draws, TOKENS).round() as u32;
                came.insert(call, now);
                replica.offer(Work { call, input: 0, output }, now, &mut schedule);
                let next = now + of_seconds(exponential(&mut draws, 1.0 / (load * f64::from(slots))));
                if call + 1 < requests {
                    clock.at(next, Event::Arrives(call + 1));
                }
            }
            Event::ReplicaEvent(ReplicaEvent::Began { call }) => {
                waited += 1;
                sum += seconds(now - came[&call]);
            }
            Event::ReplicaEvent(ReplicaEvent::Prefilled(work)) => replica.prefilled(work, now, &mut schedule),
            Event::ReplicaEvent(ReplicaEvent::Decoded { version }) => {
                for call in replica.decoded(version, now, &mut schedule) {
                    came.remove(&call);
                }
            }
        }
        told.into_iter().for_each(|(at, tick)| clock.at(at, Event::ReplicaEvent(tick)));
    }
    assert!(came.is_empty() && replica.load() == 0);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    let requests = requests as f64;
    (f64::from(waited) / requests, sum / requests)
}

#[test]
fn high_keeps_its_reserve_and_low_gives_way() {
    // 40 requests a second ask the frontier for 38 of its 33 a second: High for 6, Medium for 10, so that 17 are left for
    // the 22 of Low.
    let scenario = alone().replace("{scale: 3}", "{scale: 1}").replace("refused: \"0.2\"", "refused: \"0.9\"");
    let report = Case::new(PORTFOLIO, &scenario, &steady(40.0, 600.0)).report();
    let (high, low) = (of(&report, "contract-review"), of(&report, "support"));
    assert_eq!((high.total.shed, high.total.failed), (0, 0));
    let ratio = high.total.latency.p99.zip(high.alone.p99).map(|(p99, alone)| p99 / alone);
    assert!(ratio.is_some_and(|ratio| ratio <= 1.3), "{ratio:?}");
    assert!(low.total.best_answer > low.total.arrived / 10, "its own small answers: {:?}", low.total);
    assert_eq!((low.total.shed, low.total.failed), (0, 0));
}

/// The same load with scores, and a path whose thresholds give way.
#[test]
fn thresholds_of_low_give_way_while_the_account_is_short_and_nobody_else_s() {
    let scores = "scores: [-0.1, -0.45, -0.55, -0.65, -0.75, -0.85, -0.95, -1.05, -1.15, -1.25]";
    let scenario = alone().replace("{scale: 3}", "{scale: 1}").replace("refused: \"0.2\"", scores);
    let trace = steady(40.0, 600.0);
    let run = |portfolio: &str| Case::new(portfolio, &scenario, &trace).report();
    let slack = "  pressure: {slack: \"0.3\"}\n  failover: {reasons: [Unreachable, Timeout, RateLimited, ServerError, Degraded], direction: UpThenDown}\n  onExhausted";
    let failover = slack.split_once('\n').expect("lines").1;
    assert!(PORTFOLIO.contains(failover));
    let (firm, gives_way) = (run(PORTFOLIO), run(&PORTFOLIO.replacen(failover, slack, 1)));
    let (before, after) = (of(&firm, "support"), of(&gives_way, "support"));
    assert_eq!(before.total.under_pressure, 0);
    // Of ten answers one passes and nine are refused, three of which miss their threshold by no more than 0.3.
    let part = |count: u64| count * 100 / after.total.arrived;
    assert!((20..=30).contains(&part(after.total.under_pressure)), "{:?}", after.total);
    assert!(after.total.best_answer < before.total.best_answer, "{:?} {:?}", after.total, before.total);
    assert_eq!(after.steps[0].1, before.steps[0].1, "verdicts are the same");
    for name in ["drafts", "contract-review"] {
        let total = &of(&gives_way, name).total;
        assert_eq!((total.under_pressure, total.shed, total.failed), (0, 0, 0), "{name}");
    }
}

#[test]
fn a_lost_frontier_falls_back_as_sizing_had_promised() {
    let scenario = alone().replace("{scale: 3}", "{scale: 1}");
    let scenario = format!("{scenario}\noutages:\n- {{tier: frontier, from: 10m, to: 20m}}\n");
    // The account is short with its reserve kept free: some of the direct traffic comes to the pool before the outage.
    let report = Case::new(PORTFOLIO, &scenario, &steady(40.0, 1_500.0)).report();
    let [outage] = &report.runs[0].outages[..] else { panic!("one outage") };
    let report::OutageFound { failed_over, promised, .. } = outage;
    // A quarter of 40 a second for ten minutes.
    assert!((5_400..6_600).contains(&failed_over.arrived), "{failed_over:?}");
    assert!(
        failed_over.in_time * 2 >= failed_over.arrived && failed_over.in_time <= failed_over.answered,
        "{failed_over:?}"
    );
    let said = promised["compact"].split_once("frontier's ").and_then(|(_, rest)| rest.split_once(" req/s"));
    let said: f64 = said.and_then(|(rate, _)| rate.parse().ok()).unwrap_or_else(|| panic!("{promised:?}"));
    assert!((9.0..11.0).contains(&said), "{promised:?}");
    let failed = of(&report, "contract-review").total.failed;
    assert!(failed > 0, "what may go nowhere else fails");
    assert_eq!(of(&report, "drafts").total.failed, 0);
}

#[test]
fn a_pool_follows_its_load_between_floor_and_ceiling() {
    let scenario = alone().replace("{scale: 3}", "{scale: 1, duration: 2h, shape: [0.2, 3, 0.2]}");
    let report = Case::new(PORTFOLIO, &scenario, &steady(20.0, 300.0)).report();
    let ready: Vec<u32> = report.series.iter().map(|bin| bin.pools[0].ready).collect();
    let (first, peak) = (ready[ready.len() / 10], ready.iter().copied().max());
    assert!(peak >= Some(first * 3), "{ready:?}");
    assert!(ready.last().is_some_and(|last| Some(*last) < peak), "{ready:?}");
    let slow = |bin: &&measure::Bin| bin.pools[0].floor > bin.pools[0].ceiling || bin.pools[0].ceiling > 24;
    assert_eq!(report.series.iter().filter(slow).count(), 0);
}

#[test]
fn recorded_scores_are_judged_by_the_manifest_s_threshold() {
    let scenario = alone().replace("refused: \"0.2\"", "scores: [-0.1, -0.2, -0.3, -0.39, -0.41]");
    let report = Case::new(PORTFOLIO, &scenario, AZURE).report();
    let (step, judged) = &of(&report, "support").steps[0];
    #[expect(clippy::cast_precision_loss, reason = "few requests")]
    let refused = judged.refused as f64 / judged.judged as f64;
    assert!(step == "compact" && (refused - 0.2).abs() < 0.03, "{judged:?}");
}

#[test]
fn baselines_know_neither_gates_nor_quotas() {
    // The quota is 33 requests a second.
    let report = Case::new(PORTFOLIO, &SCENARIO.replace("{scale: 3}", "{scale: 1}"), &steady(45.0, 450.0)).report();
    let names: Vec<&str> = report.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(names, ["smallfirst", "FrontierOnly", "StaticFallback", "FixedPools"]);
    let [ours, frontier, list, fixed] = &report.runs[..] else { panic!("four runs") };
    assert!(frontier.total.shed > frontier.total.arrived / 10, "{:?}", frontier.total);
    // A path of the frontier alone has nowhere to fall.
    assert!(list.total.shed > 0 && list.total.shed < frontier.total.shed / 2, "{:?}", list.total);
    assert_eq!(ours.total.shed, 0);
    let cost = |run: &Found| run.total.cost_per_answer.expect("answers");
    assert!(cost(ours) < cost(list) && cost(ours) < cost(frontier) / 1.5, "{} {}", cost(ours), cost(frontier));
    assert!(cost(ours) < cost(fixed) * 1.2);
}

#[test]
fn what_does_not_fit_is_named_with_its_field() {
    let wrong =
        |scenario: &str, trace: &str| Case::new(PORTFOLIO, scenario, trace).simulate().expect_err("refused").join("\n");
    let change = |from: &str, to: &str| wrong(&SCENARIO.replace(from, to), AZURE);
    assert_eq!(
        change("  compact:\n    curve", "  compacted:\n    curve"),
        "tiers.compacted: no path of the policy uses such a tier; it uses compact, frontier\n\
         tiers.compact: must be there, with its curve: the policy uses the tier"
    );
    assert_eq!(
        change("model: draft", "model: drafts"),
        "requests[1].model: no workload takes \"drafts\"; known are support, draft, review"
    );
    assert_eq!(
        change("client: office, model: draft", "model: draft"),
        "requests[1].client: must be the name of a client; known are office"
    );
    assert_eq!(
        change(", steps: {compact: {refused: \"0.2\"}}", ""),
        "requests[0].steps.compact: must be there: the step has gates; say what part they refuse, or give scores"
    );
    assert_eq!(
        change("{compact: {refused", "{small: {refused").lines().next(),
        Some("requests[0].steps.small: its path has no such step; it has compact, frontier")
    );
    assert_eq!(
        change("model: draft, maxTokens: 1024", "model: draft, steps: {frontier: {refused: \"1\"}}"),
        "requests[1].steps.frontier: must not be set: the step has no gates, so it refuses nothing"
    );
    assert_eq!(
        change("curve: {overhead", "replicas: 1\n    curve: {overhead"),
        "tiers.frontier.replicas: must not be set for a provider"
    );
    let trace = "{\"at\": 0, \"inputTokens\": 1, \"outputTokens\": 1, \"model\": \"other\"}";
    assert_eq!(
        wrong(SCENARIO, trace),
        "requests: the trace has one of client none and model \"other\", which none of them has"
    );
    let small = SCENARIO
        .replace("share: 60", "maxInputTokens: 10")
        .replace("share: 25", "maxInputTokens: 10")
        .replace("share: 15", "maxInputTokens: 10");
    assert!(
        wrong(&small, AZURE).starts_with("requests: none with a share takes a row of "),
        "{}",
        wrong(&small, AZURE)
    );
}
