use super::*;
use crate::sizing::input::{Account, Beside, Offered, Quota, Service, Takes, Workload};
use crate::sizing::size;
use crate::sizing::testing::{account, offered, pool, step, workload};

/// A pool `compact` with requests of its own, and drafts that go to the frontier first.
fn portfolio(own: f64, drafts: f64, pool: Pool) -> Portfolio {
    let fallback = vec![step("frontier"), step("compact").only_after_failure()];
    Portfolio {
        workloads: vec![
            workload("intent", offered(own), vec![step("compact")]),
            workload("draft", offered(drafts), fallback),
        ],
        pools: [("compact".to_owned(), pool)].into(),
        ..Portfolio::default()
    }
}

fn compact(portfolio: &Portfolio) -> PoolSize {
    size(portfolio).pools["compact"].clone()
}

#[test]
fn own_demand_and_what_is_taken_over_come_together() {
    let size = compact(&portfolio(18.2, 9.1, pool()));
    assert_eq!((size.own_rate, size.fallback_rate), (18.2, 9.1));
    // 18.2 and 4.55 requests a second of a second each, with their bursts and the spare slots that the wait target asks for.
    assert_eq!((size.own_replicas, size.replicas, size.floor, size.ceiling), (4, 4, 4, 100), "{size:?}");
    assert!(size.slots.own > 19 && size.slots.all > size.slots.own && size.slots.all > 24, "{:?}", size.slots);
    let large = compact(&portfolio(182.0, 91.0, pool()));
    assert!(large.binding == Binding::Absorb && large.replicas > large.own_replicas, "{large:?}");
    let none = compact(&portfolio(
        182.0,
        91.0,
        Pool { asked: super::super::input::Asked { absorb: 0.0, ..pool().asked }, ..pool() },
    ));
    assert!(none.binding == Binding::OwnDemand && none.replicas == large.own_replicas, "{none:?}");
}

#[test]
fn escalations_add_nothing_when_the_frontier_is_lost() {
    let mut cascade = portfolio(10.0, 0.0, pool());
    cascade.workloads[0].steps = vec![step("compact").escalates(0.3), step("frontier")];
    let size = compact(&cascade);
    assert_eq!((size.own_rate, size.fallback_rate, size.escalation), (10.0, 0.0, 0.3));
}

/// Requests that an account has no room for come to the pool with the frontier or without it. A day's simulation promised to
/// take over half of 6.06 req/s at its peak, where 9.1 fell back.
#[test]
fn what_comes_anyway_because_an_account_is_short_is_part_of_what_falls_back() {
    let short = |room: f64| {
        let mut short = portfolio(10.0, 8.0, pool());
        // Nine tenths of it are planned with.
        let quota = Quota { requests_per_minute: Some(room * 60.0 / 0.9), ..Quota::default() };
        short.accounts.insert("acme".into(), Account { quota, ..account(&["frontier"]) });
        let size = compact(&short);
        let round = |rate: f64| (rate * 1e3).round() / 1e3;
        (round(size.own_rate), round(size.fallback_rate), size.slots.all)
    };
    let (own, all, slots) = short(8.0);
    assert_eq!((own, all), (10.0, 8.0));
    // A quarter comes anyway: half of all is one more quarter.
    assert_eq!(short(6.0), (12.0, 8.0, slots));
    let (own, all, more) = short(1.0);
    assert_eq!((own, all), (17.0, 8.0));
    assert!(more > slots, "more than half comes anyway");
}

#[test]
fn what_may_not_fall_back_does_not_count() {
    let fallback = |change: fn(&mut Workload)| {
        let mut changed = portfolio(10.0, 8.0, pool());
        change(&mut changed.workloads[1]);
        compact(&changed).fallback_rate
    };
    assert_eq!(fallback(|_| {}), 8.0);
    assert_eq!(fallback(|draft| draft.on_outage = false), 0.0);
    assert_eq!(fallback(|draft| draft.steps[1].eligible = 0.25), 2.0);
    assert_eq!(fallback(|draft| draft.steps[0].tiers = vec!["frontier".into(), "another".into()]), 0.0);
    assert_eq!(fallback(|draft| draft.steps[0].tiers = vec!["another".into()]), 0.0);
}

#[test]
fn a_judge_is_work_of_its_pool() {
    let mut judged = portfolio(0.0, 0.0, pool());
    judged.workloads[0].steps = vec![step("other")];
    judged.workloads[0].offered = offered(10.0);
    judged.workloads[0].steps[0].beside =
        vec![Beside { tier: "compact".into(), per_request: 0.5, takes: Takes::default() }];
    assert_eq!(compact(&judged).own_rate, 5.0);
}

#[test]
fn minimum_and_maximum_hold() {
    let size = compact(&portfolio(0.1, 0.0, Pool { min: 3, ..pool() }));
    assert_eq!((size.floor, size.binding, size.replicas, size.limited), (3, Binding::Minimum, 1, None));
    let size = compact(&portfolio(0.0, 0.0, Pool { min: 0, ..pool() }));
    assert_eq!((size.floor, size.binding, size.growth), (0, Binding::Minimum, None));
    let size = compact(&portfolio(182.0, 91.0, Pool { max: 25, ..pool() }));
    let limited = size.limited.unwrap();
    assert_eq!((size.floor, size.ceiling, size.binding, limited.by), (25, 25, Binding::Maximum, Binding::Maximum));
    assert_eq!(limited.missing, size.replicas - 25);
    assert_eq!(limited.own_rate, 182.0);
    assert!(limited.absorb < 0.5, "{limited:?}");
    let size = compact(&portfolio(182.0, 91.0, Pool { max: 10, ..pool() }));
    let limited = size.limited.unwrap();
    assert!(limited.absorb == 0.0 && limited.own_rate > 40.0 && limited.own_rate < 80.0, "{limited:?}");
    assert!(size.growth.unwrap() < 1.0, "{size:?}");
}

#[test]
fn what_is_promised_where_it_is_limited_fits_below_the_ceiling() {
    let limited = compact(&portfolio(182.0, 91.0, Pool { max: 25, ..pool() })).limited.unwrap();
    let of = |absorb| {
        let asked = super::super::input::Asked { absorb, ..pool().asked };
        compact(&portfolio(182.0, 91.0, Pool { asked, ..pool() })).replicas
    };
    assert_eq!((of(limited.absorb), of(limited.absorb + 0.02)), (25, 26));
}

#[test]
fn a_budget_pays_for_whole_replicas_and_never_for_fewer_than_the_minimum() {
    let budget = |amount, min| {
        let asked = super::super::input::Asked { hourly_budget: Some(amount), ..pool().asked };
        compact(&portfolio(182.0, 0.0, Pool { min, replica_hour: 2_900_000_000, asked, ..pool() }))
    };
    let size = budget(12_000_000_000, 1);
    assert_eq!((size.floor, size.ceiling, size.binding), (4, 4, Binding::Budget));
    let size = budget(1_000_000_000, 2);
    assert_eq!((size.floor, size.ceiling, size.binding), (2, 2, Binding::Budget));
    let size = budget(1_000_000_000_000, 1);
    assert_eq!((size.ceiling, size.binding, size.limited), (100, Binding::OwnDemand, None));
}

#[test]
fn nothing_is_said_before_it_is_known_how_long_a_request_takes() {
    let size = compact(&portfolio(18.2, 9.1, Pool { service: None, min: 2, ..pool() }));
    assert_eq!((size.floor, size.binding, size.growth), (2, Binding::Unknown, None));
    assert_eq!((size.band.low, size.band.high), (2, 100));
}

/// A batch slows its sequences down, so that a replica does less than its slots alone would.
#[test]
fn a_full_batch_is_slower() {
    let service = |beta| Some(Service::Batching { alpha: 0.01 - beta, beta, gamma: 0.0 });
    let flat = compact(&portfolio(50.0, 0.0, Pool { service: service(0.0), ..pool() }));
    let steep = compact(&portfolio(50.0, 0.0, Pool { service: service(0.005), ..pool() }));
    // A second each; with eight in a batch four and a half.
    assert!(steep.replicas > 3 * flat.replicas && steep.replicas < 6 * flat.replicas, "{flat:?} {steep:?}");
}

#[test]
fn a_rate_that_was_measured_for_long_leaves_less_in_doubt() {
    let band = |window| {
        let mut demand = portfolio(100.0, 0.0, pool());
        demand.workloads[0].offered = Offered { window, ..offered(100.0) };
        let band = compact(&demand).band;
        band.high - band.low
    };
    assert!(band(15.0) > band(300.0) && band(0.0) == 0, "{} {} {}", band(15.0), band(300.0), band(0.0));
}
