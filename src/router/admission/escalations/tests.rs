//! The limit on a clock of the tests' own.

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_secs(60);

/// A limit of so many percent over a minute.
fn limiter(percent: u64, clients: usize, now: Instant) -> Arc<Escalations> {
    let names = (0..clients).map(|n| format!("client-{n}")).collect();
    let limit = EscalationLimit { ratio: percent * 10_000_000, window_ms: 60_000, on_exceeded: OnExceeded::BestAnswer };
    Escalations::new(limit, names, None, now)
}

/// A draw below one, repeatable.
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    f64::from(u32::try_from(*state >> 33).unwrap()) / f64::from(1_u32 << 31)
}

/// Ten honest clients of `rate` requests a minute each, of which the part `hard` needs to escalate; and perhaps one whose
/// requests all do, and that sends ten times as much as all of them. The part of the honest wishes that is granted.
fn success(percent: u64, rate: f64, hard: f64, attacked: bool, seed: u64) -> f64 {
    let t0 = Instant::now();
    let limiter = limiter(percent, 11, t0);
    let (mut state, mut wished, mut granted, mut due) = (seed, 0_u32, 0_u32, 0.0);
    let step = Duration::from_millis(50);
    for tick in 1..=12_000_u32 {
        let now = t0 + step * tick;
        let per_tick = rate * step.as_secs_f64() / 60.0;
        for client in 0..10 {
            if draw(&mut state) < per_tick {
                limiter.request(client, now);
                if draw(&mut state) < hard {
                    wished += 1;
                    granted += u32::from(limiter.ask(client, now));
                }
            }
        }
        due += per_tick * 100.0;
        while attacked && due >= 1.0 {
            limiter.request(10, now);
            limiter.ask(10, now);
            due -= 1.0;
        }
    }
    f64::from(granted) / f64::from(wished)
}

#[test]
fn one_that_floods_changes_the_success_of_honest_ones_by_less_than_two_points() {
    // Requests a minute of each honest client, and how many of them need to escalate: within the ratio and beyond it.
    for (rate, hard) in [(3.0, 0.1), (12.0, 0.1), (60.0, 0.1), (60.0, 0.15), (300.0, 0.18), (60.0, 0.4)] {
        let (mut alone, mut attacked) = (0.0, 0.0);
        for seed in 0..4 {
            alone += success(20, rate, hard, false, seed) / 4.0;
            attacked += success(20, rate, hard, true, seed) / 4.0;
        }
        println!("{rate} a minute, {hard} hard: {alone:.4} alone, {attacked:.4} attacked");
        assert!((alone - attacked).abs() < 0.02, "{rate} a minute, {hard} hard: {alone} alone, {attacked} attacked");
    }
}

#[test]
fn what_others_leave_is_lent_and_the_window_moves_on() {
    let t0 = Instant::now();
    let limiter = limiter(20, 2, t0);
    for _ in 0..100 {
        limiter.request(0, t0);
        limiter.request(1, t0);
    }
    let escalations = |now| (0..100).filter(|_| limiter.ask(0, now)).count();
    assert_eq!(escalations(t0), 40, "its own twenty and the other's");
    assert!(limiter.ask(1, t0), "which the other still has");
    let later = t0 + WINDOW;
    assert!(!limiter.ask(0, later), "nothing was requested in this window");
    limiter.request(0, later);
    assert!(limiter.ask(0, later));
    assert!(!limiter.ask(0, later));
}

#[test]
fn the_bounds_of_the_ratio_are_none_and_all() {
    let t0 = Instant::now();
    for (percent, granted) in [(0, 0), (1, 1), (10, 5), (100, 50)] {
        let limiter = limiter(percent, 0, t0);
        let mut count = 0;
        for _ in 0..50 {
            count += usize::from(Leave::new(Some(&limiter), None, t0).ask(t0));
        }
        assert_eq!(count, granted, "{percent} %");
    }
}

#[test]
fn a_request_asks_once_and_gives_back_what_it_could_not_use() {
    let t0 = Instant::now();
    let limiter = limiter(50, 1, t0);
    let mut leave = Leave::new(Some(&limiter), Some(0), t0);
    assert!(leave.ask(t0) && leave.ask(t0) && leave.refused(t0).is_none());
    let mut second = Leave::new(Some(&limiter), Some(0), t0);
    assert!(!second.ask(t0));
    assert_eq!(second.refused(t0 + Duration::from_secs(2)), Some((OnExceeded::BestAnswer, Duration::from_secs(3))));
    leave.give_back(t0);
    leave.give_back(t0);
    assert!(!second.ask(t0), "it was told");
    second.give_back(t0);
    assert!(limiter.has_room(Some(0), t0) && limiter.has_room(Some(0), t0) && !limiter.has_room(Some(1), t0));
    let ask = || Leave::new(Some(&limiter), Some(0), t0).ask(t0);
    assert!(leave.ask(t0) && ask() && !ask(), "two of four");
    let mut unlimited = Leave::new(None, Some(7), t0);
    assert!(unlimited.ask(t0));
    unlimited.give_back(t0);
    assert_eq!(unlimited.refused(t0), None);
}

#[test]
fn counts_stay_with_their_clients_when_the_list_changes() {
    let t0 = Instant::now();
    let old = limiter(50, 2, t0);
    for _ in 0..4 {
        old.request(1, t0);
    }
    assert!(Arc::ptr_eq(&old, &Escalations::new(old.limit, old.names.clone(), Some(&old), t0)));
    let names = vec!["client-1".to_owned(), "new".to_owned()];
    let new = Escalations::new(old.limit, names, Some(&old), t0);
    assert!(new.ask(0, t0) && new.ask(0, t0) && !new.ask(0, t0));
    assert!(!new.ask(1, t0));
}

proptest! {
    /// Whatever others send: a client whose wishes are within the ratio of its requests is never refused.
    #[test]
    fn a_client_within_its_own_part_is_never_refused(
        percent in 1_u64..90,
        events in prop::collection::vec((0_usize..5, any::<bool>(), 0_u64..100), 1..400),
    ) {
        let t0 = Instant::now();
        let limiter = limiter(percent, 6, t0);
        let mut now = t0;
        let (mut requests, mut asked) = (0, 0);
        for (client, hard, pause) in events {
            now += Duration::from_millis(pause);
            limiter.request(client, now);
            if hard {
                limiter.ask(client, now);
            }
            requests += 1;
            limiter.request(5, now);
            if (asked + 1) * 100 <= percent * requests {
                asked += 1;
                prop_assert!(limiter.ask(5, now));
            }
        }
    }

    /// All that is granted at one time is within the ratio, where nothing is lent that its owner then claims.
    #[test]
    fn all_that_may_be_granted_stays_within_the_ratio(
        percent in 0_u64..=100,
        wishes in prop::collection::vec((0_u32..60, 0_u32..60), 1..6),
    ) {
        let t0 = Instant::now();
        let limiter = limiter(percent, wishes.len(), t0);
        let ratio = limiter.limit.ratio;
        let mut state = limiter.state();
        for (client, (requests, hard)) in state.clients.iter_mut().zip(&wishes) {
            (0..*requests).for_each(|_| client.count(0, |counts| &mut counts.requests));
            (0..*hard).for_each(|_| client.count(0, |counts| &mut counts.asked));
        }
        let level = state.level(ratio).unwrap_or(i128::MAX / 2);
        let shares = state.clients.iter().map(|client| {
            let wish = i128::from(client.total.asked) * ONE;
            wish.min(client.total.own(ratio) + level)
        });
        let requests: u32 = wishes.iter().map(|(requests, _)| requests).sum();
        prop_assert!(shares.sum::<i128>() <= i128::from(ratio) * i128::from(requests));
    }
}
