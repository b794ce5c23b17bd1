//! What holds for every portfolio, and what is said of eight.

use proptest::prelude::*;

use super::input::{Account, Asked, Escalation, Miss, Offered, Pool, Quota, Service, Step, Takes, Variation, Workload};
use super::testing::{account, offered, pool, step, workload};
use super::*;
use crate::api::types::{ModelClass, Risk};

/// One workload with its own pool, one that falls back to it, an account.
fn portfolio() -> Portfolio {
    let mut acme = account(&["frontier"]);
    acme.quota.requests_per_minute = Some(600.0);
    let intent = vec![step("compact").escalates(0.2), step("frontier")];
    let draft = vec![step("frontier"), step("compact").only_after_failure()];
    Portfolio {
        workloads: vec![workload("intent", offered(18.2), intent), workload("draft", offered(3.1), draft)],
        pools: [("compact".to_owned(), pool())].into(),
        accounts: [("acme".to_owned(), acme)].into(),
    }
}

/// A portfolio of which every number is any.
fn portfolios() -> impl Strategy<Value = Portfolio> {
    let number = || prop_oneof![Just(0.0), 0.0..1.0_f64, 0.0..300.0_f64];
    let share = || prop_oneof![Just(0.0), Just(1.0), 0.0..1.0_f64];
    let variation = (0.0..4.0_f64, 0.0..4.0_f64, 0.0..4.0_f64);
    let takes = (number(), number(), variation, 0.0..20.0_f64);
    let takes = takes.prop_map(|(input_tokens, output_tokens, (output, input, together), seconds)| Takes {
        input_tokens,
        output_tokens,
        variation: Variation { output, input, together },
        seconds,
    });
    let tier = prop_oneof![Just("compact"), Just("medium"), Just("frontier")];
    let steps = (tier, any::<bool>(), share(), takes, share(), share(), 0.0..2.0_f64);
    let steps = steps.prop_map(|(tier, after, eligible, takes, ratio, missed, slack)| {
        let misses = vec![Miss { within: 1.0, share: ratio * missed }];
        let step = Step { eligible, takes, escalation: Escalation { ratio, misses, slack }, ..step(tier) };
        if after { step.only_after_failure() } else { step }
    });
    let risk = prop_oneof![Just(Risk::Low), Just(Risk::Medium), Just(Risk::High)];
    let offered = (number(), 1.0..20.0_f64, 0.0..600.0_f64);
    let flags = (any::<bool>(), any::<bool>(), proptest::option::of(share()));
    let work = (risk, 0.0..0.3_f64, offered, proptest::collection::vec(steps, 1..4), flags);
    let work =
        work.prop_map(|(risk, reserve, (rate, dispersion, window), mut steps, (on_outage, on_shortage, limit))| {
            steps[0].entry = crate::api::escalation_path::Entry::Always;
            let offered = Offered { rate, dispersion, window };
            Workload {
                risk,
                reserve,
                on_outage,
                on_shortage,
                escalation_limit: limit,
                ..workload("any", offered, steps)
            }
        });
    let service = prop_oneof![
        (0.0..20.0_f64).prop_map(|seconds| Service::Constant { seconds }),
        (0.0..0.1_f64, 0.0..0.01_f64, 0.0..0.001_f64).prop_map(|(alpha, beta, gamma)| Service::Batching {
            alpha,
            beta,
            gamma
        }),
    ];
    let asked = (share(), 0.0..5.0_f64, 0.5..0.9999_f64, proptest::option::of(0..1_000_u64));
    let pool =
        (proptest::option::weighted(0.9, service), 1..64_u32, 0.0..900.0_f64, 0..20_u32, 0..200_u32, 0..50_u64, asked);
    let pool = pool.prop_map(
        |(service, concurrency, start, min, more, replica_hour, (absorb, within, percentile, budget))| {
            let against = ["frontier".to_owned()].into();
            let asked = Asked { against, absorb, within, percentile, hourly_budget: budget };
            Pool { class: ModelClass::Medium, service, concurrency, start, min, max: min + more, replica_hour, asked }
        },
    );
    let limit = || proptest::option::of(0.0..1e5_f64);
    let account =
        (limit(), limit(), limit()).prop_map(|(requests_per_minute, tokens_per_minute, concurrency)| Account {
            quota: Quota { requests_per_minute, tokens_per_minute, concurrency, ..Quota::default() },
            ..account(&["frontier"])
        });
    (proptest::collection::vec(work, 0..4), pool.clone(), pool, account).prop_map(
        |(workloads, compact, medium, acme)| Portfolio {
            workloads,
            pools: [("compact".to_owned(), compact), ("medium".to_owned(), medium)].into(),
            accounts: [("acme".to_owned(), acme)].into(),
        },
    )
}

/// A change of one input by a factor of 1 or more, with its name.
type Change = (&'static str, fn(&mut Portfolio, f64));

/// Changes after which at least as many replicas are needed.
const MORE: [Change; 9] = [
    ("rate", |p, by| p.workloads.iter_mut().for_each(|w| w.offered.rate *= by)),
    ("dispersion", |p, by| p.workloads.iter_mut().for_each(|w| w.offered.dispersion *= by)),
    ("output tokens", |p, by| each_step(p, |step| step.takes.output_tokens *= by)),
    ("input tokens", |p, by| each_step(p, |step| step.takes.input_tokens *= by)),
    ("service time", |p, by| {
        each_pool(p, |pool| match &mut pool.service {
            Some(Service::Constant { seconds }) => *seconds *= by,
            Some(Service::Batching { alpha, beta, gamma }) => {
                (*alpha, *beta, *gamma) = (*alpha * by, *beta * by, *gamma * by)
            }
            None => {}
        });
    }),
    ("absorb", |p, by| each_pool(p, |pool| pool.asked.absorb = (pool.asked.absorb * by).min(1.0))),
    ("wait", |p, by| each_pool(p, |pool| pool.asked.within /= by)),
    ("percentile", |p, by| each_pool(p, |pool| pool.asked.percentile = 1.0 - (1.0 - pool.asked.percentile) / by)),
    ("minimum", |p, _| each_pool(p, |pool| (pool.min, pool.max) = (pool.min + 1, pool.max + 1))),
];

fn each_step(portfolio: &mut Portfolio, change: impl Fn(&mut Step)) {
    portfolio.workloads.iter_mut().flat_map(|workload| &mut workload.steps).for_each(change);
}

fn each_pool(portfolio: &mut Portfolio, change: impl Fn(&mut Pool)) {
    portfolio.pools.values_mut().for_each(change);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn floors_are_within_bounds_and_what_is_missing_is_said(portfolio in portfolios()) {
        for (tier, size) in size(&portfolio).pools {
            let pool = &portfolio.pools[&tier];
            prop_assert!(pool.min <= size.floor && size.floor <= size.ceiling && size.ceiling <= pool.max, "{size:?}");
            prop_assert!(pool.service.is_none() || (size.band.low..=size.band.high).contains(&size.replicas), "{size:?}");
            prop_assert_eq!(size.limited.is_some(), size.replicas > size.ceiling, "{:?}", size);
            prop_assert!(size.own_replicas <= size.replicas && !size.sentence.is_empty());
            let concurrency = u64::from(pool.concurrency);
            prop_assert!(size.slots.all > concurrency * u64::from(size.replicas.saturating_sub(1)) || size.replicas == 0);
            if let Some(limited) = size.limited {
                prop_assert!((0.0..=pool.asked.absorb).contains(&limited.absorb) && limited.own_rate <= size.own_rate);
            }
            if let Some(budget) = pool.asked.hourly_budget {
                let paid = size.ceiling <= pool.min || u64::from(size.ceiling) * pool.replica_hour <= budget;
                prop_assert!(paid, "{size:?} costs more than {budget}");
            }
        }
    }

    #[test]
    fn an_account_is_never_planned_beyond_what_it_may_take(portfolio in portfolios()) {
        let walker = Walker::new(&portfolio);
        let mut decided = Decided::default();
        let acme = account::plan(&portfolio, &walker, 0, &mut decided).unwrap();
        prop_assert_eq!(acme.fits, acme.quotas.iter().all(|q| q.needed() <= q.usable() * (1.0 + 1e-9)));
        // After the measures everything fits: planned again, nothing is lacking.
        let after = account::plan(&portfolio, &walker, 0, &mut decided.clone()).unwrap();
        prop_assert!(acme.quotas.iter().any(|q| !q.enough.is_finite()) || after.fits, "{:?}", after);
    }

    /// More of anything that costs capacity, and nothing else changed, never needs fewer replicas. Without an account that is
    /// short: one that gives way sends fewer requests to the pools behind it.
    #[test]
    fn more_never_needs_less(portfolio in portfolios(), which in 0..MORE.len(), by in 1.0..4.0_f64) {
        let mut before = portfolio;
        before.accounts.clear();
        let mut after = before.clone();
        MORE[which].1(&mut after, by);
        let (less, more) = (size(&before).pools, size(&after).pools);
        for (tier, less) in less {
            let more = &more[&tier];
            prop_assert!(less.replicas <= more.replicas && less.floor <= more.floor, "{}: {less:?} {more:?}", MORE[which].0);
        }
    }
}

/// A pool's sentence after a change.
fn of_pool(change: impl Fn(&mut Portfolio)) -> String {
    let mut portfolio = portfolio();
    change(&mut portfolio);
    size(&portfolio).pools["compact"].sentence.clone()
}

fn of_account(change: impl Fn(&mut Portfolio)) -> String {
    let mut portfolio = portfolio();
    change(&mut portfolio);
    size(&portfolio).accounts["acme"].sentence.clone()
}

/// Each with the numbers that bind, and with what would change the answer.
#[test]
fn sentences() {
    let compact = |change: fn(&mut Pool)| of_pool(|p| change(p.pools.get_mut("compact").unwrap()));
    let said = [
        ("own demand", of_pool(|p| p.workloads[1].offered.rate = 0.0)),
        (
            "absorb",
            of_pool(|p| {
                p.accounts.clear();
                p.workloads[1].offered.rate = 40.0;
            }),
        ),
        ("minimum", compact(|pool| pool.min = 6)),
        ("nobody asks", of_pool(|p| p.workloads.clear())),
        ("maximum", compact(|pool| pool.max = 3)),
        (
            "budget",
            compact(|pool| {
                (pool.replica_hour, pool.asked.hourly_budget) = (2_900_000_000, Some(10_000_000_000));
            }),
        ),
        ("maximum below its own", compact(|pool| pool.max = 2)),
        ("unknown", compact(|pool| pool.service = None)),
        ("account fits", of_account(|_| {})),
        (
            "account is short",
            of_account(|p| {
                p.workloads[0].escalation_limit = Some(0.15);
                p.workloads[0].risk = Risk::Low;
                p.workloads[0].steps[0].escalation.slack = 0.3;
                p.workloads[0].steps[0].escalation.misses = vec![Miss { within: 0.4, share: 0.04 }];
                let review = Workload {
                    risk: Risk::High,
                    reserve: 0.4,
                    ..workload("review", offered(0.5), vec![step("frontier")])
                };
                p.workloads.push(review);
                p.accounts.get_mut("acme").unwrap().quota.requests_per_minute = Some(300.0);
            }),
        ),
    ];
    let text: Vec<String> = said.iter().map(|(name, sentence)| format!("{name}: {sentence}")).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    own demand: 4 replicas: 4 for its own 18.2 req/s at p95 wait 200ms; 5 when demand grows by more than 35.9 %
    absorb: 6 replicas: 4 for its own 18.2 req/s at p95 wait 200ms, 2 to take over half of frontier's 40 req/s that may fall back to it; 7 when demand grows by more than 3.66 %
    minimum: 6 replicas, the minimum, where 4 would do: 4 for its own 18.2 req/s at p95 wait 200ms, which also take over half of frontier's 3.1 req/s that may fall back to it; 7 when demand is more than 2 times as high
    nobody asks: 1 replica, the minimum: no requests come to it
    maximum: 3 replicas, the maximum, where 4 are needed: 4 for its own 18.2 req/s at p95 wait 200ms, which also take over half of frontier's 3.1 req/s that may fall back to it; promised: 17.5 req/s of its own, nothing beside; a maximum of 4 would do
    budget: 3 replicas, which hourlyBudget 10 pays for at 2.9 each, where 4 are needed: 4 for its own 18.2 req/s at p95 wait 200ms, which also take over half of frontier's 3.1 req/s that may fall back to it; promised: 17.5 req/s of its own, nothing beside; an hourlyBudget of 11.6 would do
    maximum below its own: 2 replicas, the maximum, where 4 are needed: 4 for its own 18.2 req/s at p95 wait 200ms, which also take over half of frontier's 3.1 req/s that may fall back to it; promised: 10.5 req/s of its own, nothing beside; a maximum of 4 would do
    unknown: 1 replica, the minimum: how long a request takes is not known before some were answered; 18.2 req/s come to it
    account fits: fits: 404 of 540 requests a minute (90 % of 600): 186 direct, 218 escalated; short when demand grows by more than 33.5 %
    account is short: short: 524 of 270 requests a minute (90 % of 300): 216 direct, 218 escalated, 90 kept for reserves; intent accepts at step compact what misses its threshold by up to 0.3, which saves 0.546 req/s; escalationLimit holds back 0.364 req/s of intent; 3.1 req/s of draft go to compact instead; shed are 0.23 req/s of intent; 809 requests a minute would do
    ");
}
