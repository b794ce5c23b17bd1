use super::*;
use crate::sizing::input::{Miss, Routers};
use crate::sizing::testing::{account, offered, pool, step, workload};
use crate::sizing::{Sizes, size};

/// `acme` takes so many requests a minute; workloads as given.
fn portfolio(per_minute: f64, workloads: Vec<Workload>) -> Portfolio {
    let mut acme = account(&["frontier"]);
    acme.quota.requests_per_minute = Some(per_minute);
    Portfolio {
        workloads,
        accounts: [("acme".to_owned(), acme)].into(),
        pools: [("compact".to_owned(), pool()), ("medium".to_owned(), pool())].into(),
    }
}

fn cascade(name: &str, risk: Risk, rate: f64, ratio: f64) -> Workload {
    let steps = vec![step("compact").escalates(ratio), step("frontier")];
    Workload { risk, ..workload(name, offered(rate), steps) }
}

fn direct(name: &str, risk: Risk, rate: f64) -> Workload {
    Workload { risk, ..workload(name, offered(rate), vec![step("frontier")]) }
}

fn acme(sizes: &Sizes) -> &AccountSize {
    &sizes.accounts["acme"]
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-4
}

#[test]
fn demand_that_fits_needs_no_measure() {
    // 1 + 10 * 0.2 requests a second are 180 a minute, of 180 that may be planned with.
    let sizes =
        size(&portfolio(200.0, vec![direct("review", Risk::High, 1.0), cascade("intent", Risk::Low, 10.0, 0.2)]));
    let quota = acme(&sizes).quotas[0];
    assert!(near(quota.direct, 60.0) && near(quota.escalated, 120.0) && near(quota.usable(), 180.0), "{quota:?}");
    assert!(acme(&sizes).fits && acme(&sizes).measures == Measures::default(), "{:?}", acme(&sizes));
}

#[test]
fn floors_of_routers_that_are_not_there_are_out_of_reach() {
    // Of 240 a minute each of three has 20.
    let mut short = portfolio(240.0, vec![direct("draft", Risk::Low, 3.4)]);
    let mut look = |absent| {
        short.accounts.get_mut("acme").unwrap().routers = Routers { most: 3, absent };
        let sizes = size(&short);
        (acme(&sizes).quotas[0].usable().round(), acme(&sizes).quotas[0].enough.round(), acme(&sizes).fits)
    };
    assert_eq!([look(0), look(1), look(3)], [(216.0, 227.0, true), (198.0, 247.0, false), (162.0, 302.0, false)]);
    assert!(
        acme(&size(&short)).sentence.contains("204 of 162 requests a minute (67.5 % of 240)"),
        "{:?}",
        acme(&size(&short)).sentence
    );
}

#[test]
fn the_tightest_limit_decides() {
    let mut tight = portfolio(1e6, vec![direct("review", Risk::High, 1.0)]);
    for (quota, fits) in [(2.3, true), (2.2, false)] {
        tight.accounts.get_mut("acme").unwrap().quota.concurrency = Some(quota);
        // One request a second of two seconds is two at a time.
        assert_eq!(acme(&size(&tight)).fits, fits, "{quota}");
    }
    let mut tokens = portfolio(1e6, vec![direct("review", Risk::High, 1.0)]);
    tokens.accounts.get_mut("acme").unwrap().quota.output_tokens_per_minute = Some(6_600.0);
    assert!(!acme(&size(&tokens)).fits);
}

#[test]
fn a_reserve_is_kept_free_though_it_is_not_used() {
    // 108 a minute: 54 reserved, 54 left.
    let review = Workload { reserve: 0.45, ..direct("review", Risk::High, 0.1) };
    let fits = |rate| {
        let sizes = size(&portfolio(120.0, vec![review.clone(), direct("draft", Risk::Low, rate)]));
        (acme(&sizes).fits, acme(&sizes).measures.shed.clone())
    };
    assert!(fits(0.899).0);
    let (_, shed) = fits(1.0);
    assert!(shed.len() == 1 && shed[0].workload == "draft" && near(shed[0].rate, 0.1), "{shed:?}");
}

#[test]
fn thresholds_give_way_first_low_before_medium_and_high_never() {
    let slack = |mut w: Workload| {
        w.steps[0].escalation.slack = 0.4;
        w.steps[0].escalation.misses = vec![Miss { within: 0.4, share: 0.2 }];
        w
    };
    let all = || {
        let of = |name, risk| slack(cascade(name, risk, 10.0, 0.5));
        vec![of("high", Risk::High), of("medium", Risk::Medium), of("low", Risk::Low)]
    };
    // 15 escalations a second; Low can save 2, Medium half of 2.
    let relaxed = |usable: f64| {
        let sizes = size(&portfolio(usable * 60.0 / USABLE, all()));
        acme(&sizes).measures.clone()
    };
    let one = relaxed(14.0);
    assert!(one.relaxed.len() == 1 && one.relaxed[0].workload == "low" && one.shed.is_empty(), "{one:?}");
    assert!(near(one.relaxed[0].by, 0.2) && near(one.relaxed[0].rate, 1.0), "{one:?}");
    let two = relaxed(12.5);
    assert!(two.relaxed.len() == 2 && two.relaxed[1].workload == "medium" && two.shed.is_empty(), "{two:?}");
    assert!(near(two.relaxed[0].by, 0.4) && near(two.relaxed[1].by, 0.1), "{two:?}");
    let all = relaxed(11.0);
    assert!(near(all.relaxed[1].by, 0.2) && all.shed.len() == 1 && near(all.shed[0].rate, 1.0), "{all:?}");
}

#[test]
fn then_the_limit_then_a_later_pool_then_shedding_by_risk() {
    let mut limited = cascade("limited", Risk::Medium, 10.0, 0.4);
    limited.escalation_limit = Some(0.3);
    let mut moves = direct("moves", Risk::Medium, 2.0);
    moves.steps.push(step("medium").only_after_failure());
    let all = || vec![limited.clone(), moves.clone(), direct("low", Risk::Low, 1.0), direct("high", Risk::High, 1.0)];
    // 4 + 2 + 1 + 1 requests a second.
    let measures = |usable: f64| {
        let sizes = size(&portfolio(usable * 60.0 / USABLE, all()));
        // Of `moves`, of which there are 2.
        let moved: f64 = sizes.moved.values().sum();
        assert!(sizes.moved.keys().all(|(workload, _)| workload == "moves") && moved <= 1.0, "{:?}", sizes.moved);
        let moved = moved * 2.0;
        let measures = acme(&sizes).measures.clone();
        assert!(near(moved, measures.moved.iter().map(|moved| moved.rate).sum()), "{moved} {measures:?}");
        (measures, sizes.pools["medium"].own_rate)
    };
    let (m, _) = measures(7.0);
    assert!(
        m.held_back.len() == 1 && near(m.held_back[0].rate, 1.0) && m.moved.is_empty() && m.shed.is_empty(),
        "{m:?}"
    );
    let (m, own) = measures(5.5);
    assert!(m.moved.len() == 1 && near(m.moved[0].rate, 1.5) && m.shed.is_empty(), "{m:?}");
    assert!(m.moved[0].workload == "moves" && m.moved[0].tier == "medium" && near(own, 1.5), "{m:?} {own}");
    let (m, own) = measures(4.5);
    assert!(near(own, 2.0) && m.shed.len() == 1 && m.shed[0].workload == "low" && near(m.shed[0].rate, 0.5), "{m:?}");
    let (m, _) = measures(0.5);
    let shed: Vec<(&str, Risk)> = m.shed.iter().map(|cut| (cut.workload.as_str(), cut.risk)).collect();
    assert_eq!(shed, [("limited", Risk::Medium), ("low", Risk::Low), ("high", Risk::High)], "{m:?}");
    assert!(near(m.shed[2].rate, 0.5), "{m:?}");
}

#[test]
fn an_account_that_nobody_uses_fits() {
    let sizes = size(&portfolio(1.0, Vec::new()));
    assert!(acme(&sizes).fits);
}
