//! The rules one by one, where a history would need luck to break them.

use std::time::{Duration, Instant};

use super::holding::{Holding, Taken, Waiting};
use super::ledger::{Ledger, Limit};
use super::lessee::Lessee;
use super::reserve::Reserve;
use super::*;

const LONGEST: Duration = Duration::from_secs(10);

fn key(kind: Kind) -> Key {
    Key { scope: Scope::Workload, name: "chat".into(), kind }
}

fn router(pod: &str) -> RouterId {
    RouterId { namespace: "ai".into(), policy: "front".into(), pod: pod.into(), incarnation: 1 }
}

/// A ledger of one limit, for two routers.
fn ledger(kind: Kind, limit: u64, now: Instant) -> Ledger {
    ledger_with(kind, limit, &[], now)
}

/// One of which workloads have so many tenths.
fn ledger_with(kind: Kind, limit: u64, tenths: &[(&str, u64)], now: Instant) -> Ledger {
    let mut ledger = Ledger::new(now, 1);
    let reserve = |(workload, tenths): &(&str, u64)| {
        let reserve = Reserve { workload: (*workload).into(), nanos: tenths * 100_000_000 };
        ("front".to_owned(), reserve)
    };
    let limit = Limit {
        namespace: "ai".into(),
        policy: Some("front".into()),
        key: key(kind),
        limit,
        most: 2,
        reserves: tenths.iter().map(reserve).collect(),
    };
    ledger.set_limits([limit], LONGEST, now);
    ledger
}

/// A report that answers the last reply.
fn claims(sequence: u64, last: &Grants, claim: Claim) -> Claims {
    let (session, seen) = (last.session, last.number);
    Claims { session, seen, sequence, stamp_ms: sequence * 1_000, draining: false, claims: vec![claim] }
}

fn wants(kind: Kind, ledger: u64, wanted: u64) -> Claim {
    Claim { wanted, ..Claim::new(key(kind), ledger) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn what_a_slow_clock_still_honours_is_not_lent_again() {
    let t0 = Instant::now();
    let mut ledger = ledger(Kind::Tokens, 800_000, t0);
    // A minute after the quiet time the bucket is full, and all of it is lent to one.
    let full = t0 + Duration::from_secs(70);
    let all = ledger.report(&router("a"), &claims(1, &Grants::default(), wants(Kind::Tokens, 0, 600_000)), full);
    assert_eq!(all.grants[0].granted, 600_000);
    let ask = |ledger: &mut Ledger, sequence, last: &Grants, at| {
        let number = last.grants.first().map_or(0, |grant| grant.ledger);
        ledger.report(&router("b"), &claims(sequence, last, wants(Kind::Tokens, number, 600_000)), at)
    };
    let first = ask(&mut ledger, 1, &Grants::default(), full + ms(5_020));
    let second = ask(&mut ledger, 2, &first, full + ms(5_090));
    assert_eq!(second.grants.iter().chain(&first.grants).map(|grant| grant.granted).max(), Some(0));
    ask(&mut ledger, 3, &first, full + ms(5_100));
    let third = ask(&mut ledger, 4, &first, full + ms(5_200));
    assert!(third.grants[0].granted > 0, "{third:?}");
}

#[test]
fn a_new_leader_renews_what_is_held_and_no_more() {
    let t0 = Instant::now();
    let mut ledger = ledger(Kind::Concurrency, 10, t0);
    let claim = Claim { places: 3, in_flight: 3, wanted: 9, ..Claim::new(key(Kind::Concurrency), 7) };
    let reply = ledger.report(&router("a"), &claims(1, &Grants::default(), claim.clone()), t0 + ms(5_090));
    assert_eq!(reply.grants[0].places, 3);
    let claim = Claim { ledger: reply.grants[0].ledger, ..claim };
    let reply = ledger.report(&router("a"), &claims(2, &reply, claim), t0 + ms(5_100));
    // Each of two has a floor of one.
    assert_eq!(reply.grants[0].places, 8);
}

#[test]
fn requests_of_a_lost_router_count_until_they_must_have_ended() {
    let t0 = Instant::now() + Duration::from_secs(6);
    let mut ledger = ledger(Kind::Concurrency, 10, t0 - Duration::from_secs(6));
    let held = ledger.report(&router("a"), &claims(1, &Grants::default(), wants(Kind::Concurrency, 0, 6)), t0);
    assert_eq!(held.grants[0].places, 8);
    let ask = |ledger: &mut Ledger, sequence, at| {
        let reply =
            ledger.report(&router("b"), &claims(sequence, &Grants::default(), wants(Kind::Concurrency, 0, 9)), at);
        reply.grants[0].places
    };
    assert_eq!(ask(&mut ledger, 1, t0 + ms(5_000)), 0);
    assert_eq!(ask(&mut ledger, 2, t0 + GONE + LONGEST + ms(199)), 0);
    assert_eq!(ask(&mut ledger, 3, t0 + GONE + LONGEST + ms(200)), 8);
}

#[test]
fn a_reply_that_was_lost_may_still_arrive() {
    let t0 = Instant::now();
    let mut ledger = ledger(Kind::Tokens, 800_000, t0);
    let full = t0 + Duration::from_secs(70);
    let ask = |ledger: &mut Ledger, sequence, stamp_ms, at| {
        let claim = wants(Kind::Tokens, 0, 400_000);
        let report = Claims { stamp_ms, ..claims(sequence, &Grants::default(), claim) };
        ledger.report(&router("a"), &report, at).grants[0].granted
    };
    assert_eq!(ask(&mut ledger, 1, 1_000, full), 400_000);
    // It does not know of that yet: what is left is all that it may get on top.
    assert_eq!(ask(&mut ledger, 2, 2_000, full + ms(1_000)), 200_000);
    assert_eq!(ask(&mut ledger, 3, 3_000, full + ms(4_900)), 0, "what it may get yet is lent");
}

#[test]
fn a_session_begins_only_with_what_is_in_force() {
    let t0 = Instant::now();
    let mut lessee = Lessee::new(t0);
    let reply = |session, number, sequence| Grants { session, number, sequence, grants: Vec::new() };
    for _ in 0..3 {
        let _ = lessee.report(Vec::new(), t0);
    }
    assert!(lessee.read(&reply(5, 1, 2)).is_some_and(|terms| terms.void && terms.fresh));
    assert!(lessee.read(&reply(4, 9, 3)).is_none(), "of a leader before, or of one that does not know the change");
    assert!(lessee.read(&reply(5, 1, 3)).is_none(), "known");
    assert!(lessee.read(&reply(5, 2, 3)).is_some_and(|terms| !terms.void && !terms.fresh));
    assert!(lessee.read(&reply(0, 3, 3)).is_none() && lessee.read(&reply(5, 3, 9)).is_none());
    let _ = lessee.report(Vec::new(), t0 + ms(700));
    let next = reply(6, 1, 4);
    let terms = lessee.read(&next).expect("a new leader");
    assert_eq!((terms.void, terms.until), (true, t0 + ms(700) + VALID));
}

#[test]
fn a_floor_begins_empty_and_a_lease_ends() {
    let t0 = Instant::now();
    // A floor of 25 a minute.
    let mut held = Holding::leased(200, 2, Count::Bucket, t0);
    assert_eq!((held.left(), held.wait(1), held.wait(176)), (0, Some(ms(2_400)), None));
    let mut lessee = Lessee::new(t0);
    let claim = held.claim(&key(Kind::Tokens), (lessee.next(), 0), Waiting::default(), t0);
    let _ = lessee.report(claim.into_iter().collect(), t0);
    let grant = Grant { key: key(Kind::Tokens), ledger: 3, granted: 40, keep: None, places: 0, common: None, free: 0 };
    let grants = Grants { session: 1, number: 1, sequence: 1, grants: vec![grant] };
    let terms = lessee.read(&grants).expect("an answer");
    held.apply(grants.grants.first(), &terms, t0 + ms(10));
    assert_eq!(held.left(), 40);
    held.take(15);
    held.put(5);
    assert_eq!(held.left(), 30);
    let _ = held.claim(&key(Kind::Tokens), (2, 1), Waiting::default(), t0 + ms(20));
    // What a report said was spent is not spent again: it is in the floor now.
    held.put(6);
    held.fill(t0 + VALID - ms(1));
    assert_eq!(held.left(), 30 + 6 + 2);
    held.fill(t0 + VALID);
    assert_eq!(held.left(), 6 + 2);
}

#[test]
fn a_floor_takes_and_frees_no_more_than_itself_in_any_minute() {
    let t0 = Instant::now();
    let key = Key { scope: Scope::Account, name: "provider".into(), kind: Kind::Requests };
    // A floor of 30 a minute, which the process before may have taken just now.
    let mut held = Holding::leased(240, 2, Count::of(key.scope, key.kind), t0);
    held.fill(t0 + ms(61_999));
    assert_eq!(held.left(), 0);
    held.fill(t0 + ms(62_000));
    assert_eq!((held.left(), held.most()), (30, 30 + 8));
    assert_eq!(held.take(20), Taken { lease: 0, floor: 20 });
    held.fill(t0 + ms(122_000));
    assert_eq!(held.left(), 10, "it has filled again, but a minute has 30");
    held.fill(t0 + ms(124_000));
    assert_eq!(held.left(), 30);
    // With a lease it frees what it gains, and gives up what it had.
    let mut lessee = Lessee::new(t0);
    let mut report = |held: &mut Holding, at| {
        let claim = held.claim(&key, (lessee.next(), 0), Waiting::default(), at);
        let freed = claim.as_ref().map_or(0, |claim| claim.freed_milli);
        let report = lessee.report(claim.into_iter().collect(), at);
        let grant = Grant { key: key.clone(), ledger: 3, granted: 2, keep: None, places: 0, common: None, free: 0 };
        let grants = Grants { session: 1, number: report.sequence, sequence: report.sequence, grants: vec![grant] };
        let terms = lessee.read(&grants).expect("an answer");
        held.apply(grants.grants.first(), &terms, at);
        freed
    };
    assert_eq!(report(&mut held, t0 + ms(124_000)), 0, "there is no lease yet");
    assert_eq!(report(&mut held, t0 + ms(124_000)), 483, "of one second");
    assert_eq!(report(&mut held, t0 + ms(125_000)), 2 * 483, "and so much in each");
    assert_eq!((held.left(), held.take(2)), (2, Taken { lease: 2, floor: 0 }));
    // When the lease has ended it fills again, up to what it did not free within the minute.
    held.fill(t0 + ms(185_500));
    assert_eq!(held.left(), 29);
    held.fill(t0 + ms(188_000));
    assert_eq!(held.left(), 30);
}

/// Nobody else keeps it then.
#[test]
fn without_a_lease_low_leaves_the_reserves_part_of_the_floor() {
    let t0 = Instant::now();
    // A floor of 500 a minute, three tenths of it reserved.
    let mut held = Holding::leased(4_000, 2, Count::Minute, t0);
    held.reserve(&[Reserve { workload: "review".into(), nanos: 300_000_000 }], t0);
    held.fill(t0 + ms(62_000));
    assert_eq!(held.left(), 500);
    let waits = |amount| held.wait_beside_reserves(amount) != Some(Duration::ZERO);
    assert!(!waits(350) && waits(351) && held.wait(500) == Some(Duration::ZERO));
}

#[test]
fn what_is_urgent_comes_first_and_the_rest_is_shared() {
    let t0 = Instant::now();
    let mut ledger = ledger(Kind::Tokens, 800_000, t0);
    let mut ask = |pod, last: Option<&Grants>, urgent, at| {
        let number = last.map_or(0, |last| last.grants[0].ledger);
        let claim = Claim { wanted: 500_000, urgent, ..Claim::new(key(Kind::Tokens), number) };
        let none = Grants::default();
        ledger.report(&router(pod), &claims(1 + u64::from(last.is_some()), last.unwrap_or(&none), claim), at)
    };
    // In the quiet time nothing is given, but what both want is known.
    let (a, b) = (ask("a", None, 0, t0 + ms(4_900)), ask("b", None, 40_000, t0 + ms(4_900)));
    // Of 600,000 a minute.
    let a = ask("a", Some(&a), 0, t0 + ms(5_200));
    assert_eq!(a.grants[0].granted, (52_000 - 40_000) / 2);
    let b = ask("b", Some(&b), 40_000, t0 + ms(5_200));
    assert_eq!(b.grants[0].granted, 40_000 + (12_000 - 6_000) / 2);
}

#[test]
fn a_floor_frees_evenly_for_minutes_on_end() {
    let t0 = Instant::now();
    let key = Key { scope: Scope::Account, name: "provider".into(), kind: Kind::Requests };
    // A floor of 10 a minute.
    let mut held = Holding::leased(40, 1, Count::of(key.scope, key.kind), t0);
    let mut lessee = Lessee::new(t0);
    let mut freed = Vec::new();
    for second in 0..200 {
        let at = t0 + Duration::from_secs(second);
        let claim = held.claim(&key, (lessee.next(), 0), Waiting::default(), at);
        freed.push(claim.as_ref().map_or(0, |claim| claim.freed_milli));
        let report = lessee.report(claim.into_iter().collect(), at);
        let grant = Grant { key: key.clone(), ledger: 3, granted: 0, keep: None, places: 0, common: None, free: 0 };
        let grants = Grants { session: 1, number: report.sequence, sequence: report.sequence, grants: vec![grant] };
        let terms = lessee.read(&grants).expect("an answer");
        held.apply(grants.grants.first(), &terms, at);
    }
    // The process before may have taken all of the first minute.
    assert_eq!(freed[61], 0);
    let each = freed[63..].windows(2).map(|two| two[1] - two[0]);
    assert!(each.clone().all(|each| (161..=162).contains(&each)), "{:?}", each.collect::<Vec<_>>());
}

#[test]
fn who_asks_for_nothing_keeps_its_part_of_the_stock() {
    let t0 = Instant::now();
    let key = Key { scope: Scope::Account, name: "provider".into(), kind: Kind::Requests };
    let mut ledger = Ledger::new(t0, 1);
    let limit =
        Limit { namespace: "ai".into(), policy: None, key: key.clone(), limit: 240, most: 2, reserves: Vec::new() };
    ledger.set_limits([limit], LONGEST, t0);
    let at = |second| t0 + Duration::from_secs(second);
    let mut ask = |sequence, last: &Grants, wanted, at| {
        let number = last.grants.first().map_or(0, |grant| grant.ledger);
        ledger.report(&router("a"), &claims(sequence, last, Claim { wanted, ..Claim::new(key.clone(), number) }), at)
    };
    let all = ask(1, &Grants::default(), 8, at(70));
    assert_eq!((all.grants[0].granted, all.grants[0].keep), (8, None));
    let idle = ask(2, &all, 0, at(71));
    assert_eq!((idle.grants[0].granted, idle.grants[0].keep), (8, Some(4)));
}

#[test]
fn what_is_left_of_a_reserve_is_lent_to_high_only() {
    let t0 = Instant::now();
    let mut ledger = ledger_with(Kind::Tokens, 800_000, &[("review", 3)], t0);
    let at = |second| t0 + Duration::from_secs(second);
    let used = |used: i64| [("review".to_owned(), used)].into();
    // A full bucket of 600,000, of which 240,000 are kept.
    let low = Claim { wanted: 600_000, ..Claim::new(key(Kind::Tokens), 0) };
    let first = ledger.report(&router("a"), &claims(1, &Grants::default(), low), at(70));
    assert_eq!(first.grants[0].granted, 360_000);
    let number = first.grants[0].ledger;
    let low = Claim { spent: 360_000, wanted: 600_000, ..Claim::new(key(Kind::Tokens), number) };
    ledger.report(&router("a"), &claims(2, &first, low.clone()), at(70));
    let high = Claim { wanted: 200_000, urgent: 200_000, reserved: used(0), ..Claim::new(key(Kind::Tokens), 0) };
    let second = ledger.report(&router("b"), &claims(1, &Grants::default(), high), at(70));
    assert_eq!(second.grants[0].granted, 200_000);
    // It has used that, and 40,000 are kept yet. Of the 10,000 that a second brings all goes to who asks.
    let number = second.grants[0].ledger;
    let high = Claim { spent: 200_000, reserved: used(200_000), ..Claim::new(key(Kind::Tokens), number) };
    ledger.report(&router("b"), &claims(2, &second, high), at(71));
    let third = ledger.report(&router("a"), &claims(3, &first, low), at(71));
    assert_eq!(third.grants[0].granted, 360_000 + 10_000);
}

#[test]
fn places_of_a_reserve_are_kept_and_neither_waits_for_the_other() {
    let t0 = Instant::now();
    let mut ledger = ledger_with(Kind::Concurrency, 10, &[("review", 3)], t0);
    let at = |ms: u64| t0 + Duration::from_millis(6_000 + ms);
    let taken = |taken: i64| [("review".to_owned(), taken)].into();
    // Each of two has a floor of one that is not heard of yet.
    let low = Claim { wanted: 9, ..Claim::new(key(Kind::Concurrency), 0) };
    let first = ledger.report(&router("a"), &claims(1, &Grants::default(), low), at(0));
    assert_eq!((first.grants[0].places, first.grants[0].common), (5, Some(5)));
    let number = first.grants[0].ledger;
    let full = Claim { wanted: 9, in_flight: 5, places: 5, ..Claim::new(key(Kind::Concurrency), number) };
    ledger.report(&router("a"), &claims(2, &first, full.clone()), at(100));
    let high = Claim { wanted: 3, urgent: 3, reserved: taken(0), ..Claim::new(key(Kind::Concurrency), 0) };
    let second = ledger.report(&router("b"), &claims(1, &Grants::default(), high), at(200));
    assert_eq!((second.grants[0].places, second.grants[0].common), (3, Some(0)));
    // Another of Low there gets its part as soon as one of the first router's has ended, and no place of High.
    let number = second.grants[0].ledger;
    let both = Claim {
        wanted: 4,
        urgent: 3,
        in_flight: 3,
        places: 3,
        reserved: taken(3),
        ..Claim::new(key(Kind::Concurrency), number)
    };
    let third = ledger.report(&router("b"), &claims(2, &second, both.clone()), at(300));
    assert_eq!((third.grants[0].places, third.grants[0].common), (3, Some(0)), "as before");
    let one_less = Claim { in_flight: 4, ..full };
    let first = ledger.report(&router("a"), &claims(3, &first, one_less), at(400));
    assert_eq!((first.grants[0].places, first.grants[0].common), (4, Some(4)));
    let number = first.grants[0].ledger;
    let less = Claim { wanted: 9, in_flight: 4, places: 4, ..Claim::new(key(Kind::Concurrency), number) };
    ledger.report(&router("a"), &claims(4, &first, less), at(500));
    let fourth = ledger.report(&router("b"), &claims(3, &third, both), at(600));
    assert_eq!((fourth.grants[0].places, fourth.grants[0].common), (4, Some(1)));
}
