use proptest::prelude::*;

use super::*;
use crate::operator::plan::portfolio::{Known, portfolio};
use crate::operator::plan::table::compile;
use crate::routing::source::manifests::{Source, parse};
use crate::sizing::input::{Escalation, Miss, Offered, Service, Takes, Variation};
use crate::sizing::{PERIOD, size};

/// A frontier whose account is shared by a direct workload of High risk, and three that escalate to it.
const MANIFESTS: &str = r#"
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: compact, namespace: ml}
spec:
  class: Small
  owner: o
  model: {name: m, contextTokens: 1000, capabilities: [Chat, Logprobs]}
  service: {serviceRef: {name: compact, port: 80}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: vast, namespace: ml}
spec:
  class: Frontier
  owner: o
  model: {name: m, contextTokens: 1000}
  prices: [{inputPerMillion: "2", outputPerMillion: "4"}]
  provider:
    api: OpenAI
    baseURL: https://vast.test/v1
    account: acme
    quota: {requestsPerMinute: 1200}
    credential: {secretKeyRef: {name: s, key: k}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {name: up, namespace: ml}
spec:
  owner: o
  pressure: {slack: "0.4"}
  steps:
  - {name: first, tierRef: {name: compact}, accept: [{confidence: {measure: MeanLogprob, atLeast: "-0.4"}}]}
  - {name: then, tierRef: {name: vast}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: front, namespace: ml}
spec:
  clients: [{name: c, apiKey: {secretKeyRef: {name: s, key: c}}, workloads: [chat, mail, law, review]}]
  default: {workload: chat}
  workloads:
  - {name: chat, owner: o, risk: Low, match: {models: [chat]}, pathRef: {name: up}}
  - {name: mail, owner: o, risk: Medium, match: {models: [mail]}, pathRef: {name: up}}
  - {name: law, owner: o, risk: High, match: {models: [law]}, pathRef: {name: up}}
  - {name: review, owner: o, risk: High, reserve: "0.2", match: {models: [review]}, tierRef: {name: vast}}
"#;

/// Requests a second of those that escalate, each; a fifth of the answers is refused, nine in ten of them for too little
/// confidence, evenly over one and a half units below the threshold.
struct Fixed(f64);

impl Known for Fixed {
    fn offered(&self, _policy: &str, workload: &str, _seconds: f64) -> Offered {
        let rate = if workload == "review" { self.0.min(1.0) } else { self.0 };
        Offered { rate, dispersion: 1.0, window: 300.0 }
    }

    fn escalation(&self, _policy: &str, _workload: &str, step: &str) -> Option<Escalation> {
        let misses = vec![Miss { within: 1.5, share: 0.18 }];
        (step == "first").then_some(Escalation { ratio: 0.2, misses, slack: 0.0 })
    }

    fn takes(&self, _policy: &str, _workload: &str, _tier: &str) -> Option<Takes> {
        Some(Takes { input_tokens: 100.0, output_tokens: 50.0, variation: Variation::UNKNOWN, seconds: 2.0 })
    }

    fn service(&self, _tier: &str, _concurrency: Option<u32>) -> Option<Service> {
        None
    }
}

fn observed() -> Observed {
    let mut observed = parse(&[Source { name: "all.yaml".into(), text: MANIFESTS.into() }]).expect("manifests");
    let table = compile(&observed, "front").expect("a table").value;
    observed.tables.insert("front".into(), Arc::new(table));
    observed
}

/// Looks at demand, period by period.
struct Leader {
    pressure: Pressure,
    observed: Observed,
    period: u32,
}

impl Leader {
    fn new() -> Self {
        Self { pressure: Pressure::default(), observed: observed(), period: 0 }
    }

    fn look(&mut self, rate: f64) -> Vec<Id> {
        let portfolio = portfolio(&self.observed.tables, &self.observed.tiers, &Fixed(rate));
        let now = PERIOD * self.period;
        self.period += 1;
        self.pressure.look(&self.observed, &portfolio, &size(&portfolio), now)
    }

    /// By how much the thresholds of the three workloads are lowered.
    fn lowered(&self) -> [f64; 3] {
        let told = self.pressure.told(&("ml".to_owned(), "front".to_owned())).expect("it is known");
        ["chat", "mail", "law"].map(|workload| {
            let nanos = told.lowered.get(workload).and_then(|steps| steps.get("first")).copied().unwrap_or_default();
            (nanos as f64 / 1e6).round() / 1e3
        })
    }

    fn said(&self) -> QuotaStatus {
        self.pressure.said(&vast()).expect("it is said")
    }
}

fn vast() -> Id {
    ("ml".to_owned(), "vast".to_owned())
}

#[test]
fn nothing_is_said_before_the_second_look() {
    let mut leader = Leader::new();
    assert!(leader.look(40.0).is_empty());
    assert_eq!(leader.pressure.told(&("ml".to_owned(), "front".to_owned())), None);
    assert_eq!(leader.pressure.said(&vast()), None);
    assert_eq!(leader.look(40.0), [vast()]);
    assert!(leader.lowered()[0] > 0.0);
    leader.pressure.clear();
    assert_eq!(leader.pressure.said(&vast()), None);
}

#[test]
fn low_gives_way_before_medium_and_high_never_does() {
    let lowered = |rate| {
        let mut leader = Leader::new();
        (0..3).for_each(|_| drop(leader.look(rate)));
        leader.lowered()
    };
    assert_eq!(lowered(20.0), [0.0; 3]);
    let [low, medium, high] = lowered(24.0);
    assert!(0.0 < low && low < 0.4 && medium == 0.0 && high == 0.0, "{low} {medium} {high}");
    let [low, medium, high] = lowered(26.5);
    assert!(low == 0.4 && 0.0 < medium && medium < 0.2 && high == 0.0, "{low} {medium} {high}");
    assert_eq!(lowered(400.0), [0.4, 0.2, 0.0]);
}

#[test]
fn what_was_needed_lately_stays_and_then_ends() {
    let mut leader = Leader::new();
    (0..2).for_each(|_| drop(leader.look(24.0)));
    let [some, ..] = leader.lowered();
    leader.look(25.0);
    let [more, ..] = leader.lowered();
    assert!(more > some, "at once");
    // Demand that swings about the limit changes nothing.
    for _ in 0..20 {
        assert!(leader.look(20.0).is_empty() && leader.look(25.0).is_empty());
        assert_eq!(leader.lowered()[0], more);
    }
    assert!((0..4).all(|_| leader.look(20.0).is_empty() && leader.lowered()[0] == more), "for a minute");
    assert_eq!(leader.look(20.0), [vast()]);
    assert_eq!(leader.lowered(), [0.0; 3]);
    assert!(!leader.said().is_short());
}

#[test]
fn numbers_alone_are_news_seldom() {
    let mut leader = Leader::new();
    let news = (0..40_u32).filter(|period| !leader.look(f64::from(3 + period % 4 * 4)).is_empty()).count();
    assert!((2..=10).contains(&news), "{news} in ten minutes of changing demand");
}

#[test]
fn nothing_is_said_of_an_account_that_nobody_asks_until_somebody_did() {
    let mut leader = Leader::new();
    assert!((0..4).all(|_| leader.look(0.0).is_empty()), "its reserve is kept free all the same");
    assert_eq!(leader.pressure.said(&vast()), None);
    assert_eq!(leader.look(40.0), [vast()]);
    assert!((0..4).all(|_| leader.look(0.0).is_empty()) && leader.said().is_short());
    assert_eq!(leader.look(0.0), [vast()], "it is not short for ever when nobody asks any more");
    assert!(!leader.said().is_short());
}

#[test]
fn an_account_that_is_gone_is_not_spoken_of() {
    let mut leader = Leader::new();
    (0..3).for_each(|_| drop(leader.look(40.0)));
    leader.pressure.forget_all_but(&["other".to_owned()].into());
    assert_eq!((leader.pressure.said(&vast()), leader.pressure.told(&vast())), (None, None));
}

/// What is said, as demand grows: each measure after the one before.
#[test]
fn the_order_of_measures_is_said_with_its_numbers() {
    let said: Vec<String> = [20.0, 24.0, 26.5, 40.0]
        .iter()
        .map(|rate| {
            let mut leader = Leader::new();
            (0..2).for_each(|_| drop(leader.look(*rate)));
            let QuotaStatus { needed, measures, message } = leader.said();
            format!("{}: {measures:?}: {message}", needed.0)
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"), @r"
    0.89: []: fits: 960 of 1080 requests a minute (90 % of 1200): 60 direct, 720 escalated, 180 kept for reserves; short when demand grows by more than 16.7 %
    1.02: [ThresholdsLowered]: short: 1104 of 1080 requests a minute (90 % of 1200): 60 direct, 864 escalated, 180 kept for reserves; chat accepts at step first what misses its threshold by up to 0.139, which saves 0.4 req/s; 1234 requests a minute would do
    1.11: [ThresholdsLowered]: short: 1194 of 1080 requests a minute (90 % of 1200): 60 direct, 954 escalated, 180 kept for reserves; chat accepts at step first what misses its threshold by up to 0.4, which saves 1.27 req/s; mail accepts at step first what misses its threshold by up to 0.197, which saves 0.628 req/s; 1363 requests a minute would do
    1.56: [ThresholdsLowered, Shed]: short: 1680 of 1080 requests a minute (90 % of 1200): 60 direct, 1440 escalated, 180 kept for reserves; chat accepts at step first what misses its threshold by up to 0.4, which saves 1.92 req/s; mail accepts at step first what misses its threshold by up to 0.2, which saves 0.96 req/s; shed are 6.08 req/s of chat, 1.04 req/s of mail; 2057 requests a minute would do
    ");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever demand does: no more than the slack, Low before Medium, High never; and more demand never lowers less.
    #[test]
    fn thresholds_give_way_in_order_and_within_bounds(rates in prop::collection::vec(0.1..100.0_f64, 2..12)) {
        let (mut leader, mut steady) = (Leader::new(), Leader::new());
        let most = rates.iter().copied().fold(0.0, f64::max);
        (0..2).for_each(|_| drop(steady.look(most)));
        let bound = steady.lowered();
        for (at, rate) in rates.iter().enumerate() {
            leader.look(*rate);
            if at == 0 {
                continue;
            }
            let [low, medium, high] = leader.lowered();
            prop_assert!((0.0..=0.4).contains(&low) && (0.0..=0.2).contains(&medium) && high == 0.0);
            prop_assert!(medium == 0.0 || low == 0.4, "{} {}", low, medium);
            prop_assert!(low <= bound[0] && medium <= bound[1], "{:?} {:?}", leader.lowered(), bound);
        }
    }
}
