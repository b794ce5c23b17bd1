use super::*;
use crate::sizing::testing::{account, offered, step, workload};

fn rates(portfolio: &Portfolio, decided: &Decided, lost: &[&str]) -> Vec<(String, f64, f64)> {
    let lost = lost.iter().map(|name| (*name).to_owned()).collect();
    let walk = Walker::new(portfolio).walk(0, decided, &lost);
    walk.visits.iter().map(|v| (v.tier.to_owned(), v.direct, v.escalated)).collect()
}

fn visit(tier: &str, direct: f64, escalated: f64) -> (String, f64, f64) {
    (tier.to_owned(), direct, escalated)
}

/// Small, then frontier; and a medium one where the frontier is unavailable.
fn portfolio() -> Portfolio {
    let steps = vec![step("compact").escalates(0.25), step("frontier"), step("medium").only_after_failure()];
    Portfolio {
        workloads: vec![workload("intent", offered(8.0), steps)],
        accounts: [("acme".to_owned(), account(&["frontier"]))].into(),
        ..Portfolio::default()
    }
}

#[test]
fn refused_answers_go_on_to_the_next_step() {
    let known = [visit("compact", 8.0, 0.0), visit("frontier", 0.0, 2.0)];
    assert_eq!(rates(&portfolio(), &Decided::default(), &[]), known);
}

#[test]
fn what_a_lost_tier_had_goes_to_the_step_for_it() {
    let known = [visit("compact", 8.0, 0.0), visit("medium", 0.0, 2.0)];
    assert_eq!(rates(&portfolio(), &Decided::default(), &["frontier"]), known);
    let known = [visit("frontier", 8.0, 0.0)];
    assert_eq!(rates(&portfolio(), &Decided::default(), &["compact"]), known);
    let mut stays = portfolio();
    stays.workloads[0].on_outage = false;
    assert_eq!(rates(&stays, &Decided::default(), &["compact"]), []);
    let walk = Walker::new(&stays).walk(0, &Decided::default(), &["compact".to_owned()].into());
    assert_eq!(walk.dropped, 8.0);
}

#[test]
fn the_second_tier_of_a_step_stands_in_for_the_first() {
    let mut two = portfolio();
    two.workloads[0].steps[1].tiers.push("other".into());
    let known = [visit("compact", 8.0, 0.0), visit("other", 0.0, 2.0)];
    assert_eq!(rates(&two, &Decided::default(), &["frontier"]), known);
}

#[test]
fn what_an_account_does_not_get_goes_on_or_ends() {
    let cut = Decided { cut: [((0, 0), 0.5)].into(), ..Decided::default() };
    let known = [visit("compact", 8.0, 0.0), visit("frontier", 0.0, 1.0), visit("medium", 0.0, 1.0)];
    assert_eq!(rates(&portfolio(), &cut, &[]), known);
    let mut without = portfolio();
    without.workloads[0].steps.pop();
    let walk = Walker::new(&without).walk(0, &cut, &BTreeSet::new());
    assert_eq!((walk.dropped, walk.visits.len()), (1.0, 2));
}

#[test]
fn a_limit_holds_back_what_is_above_it() {
    let mut limited = portfolio();
    limited.workloads[0].escalation_limit = Some(0.1);
    let known = [visit("compact", 8.0, 0.0), visit("frontier", 0.0, 2.0)];
    assert_eq!(rates(&limited, &Decided::default(), &[]), known);
    let decided = Decided { limited: [0].into(), ..Decided::default() };
    let walk = Walker::new(&limited).walk(0, &decided, &BTreeSet::new());
    assert!((walk.visits[1].escalated - 0.8).abs() < 1e-12 && (walk.held_back - 1.2).abs() < 1e-12);
}

#[test]
fn requests_that_a_tier_can_t_serve_skip_it() {
    let mut partly = portfolio();
    partly.workloads[0].steps[0].eligible = 0.5;
    let known = [visit("compact", 4.0, 0.0), visit("frontier", 4.0, 1.0)];
    assert_eq!(rates(&partly, &Decided::default(), &[]), known);
}

#[test]
fn judges_are_asked_beside() {
    let mut judged = portfolio();
    let takes = Takes { output_tokens: 1.0, ..Takes::default() };
    judged.workloads[0].steps[0].beside.push(crate::sizing::input::Beside {
        tier: "medium".into(),
        per_request: 0.5,
        takes,
    });
    let known = [visit("compact", 8.0, 0.0), visit("medium", 4.0, 0.0), visit("frontier", 0.0, 2.0)];
    assert_eq!(rates(&judged, &Decided::default(), &[]), known);
}

#[test]
fn a_lower_threshold_saves_the_near_misses() {
    let miss = |within, share| crate::sizing::input::Miss { within, share };
    let escalation = Escalation { ratio: 0.3, misses: vec![miss(0.1, 0.1), miss(0.2, 0.12)], slack: 1.0 };
    for (by, ratio) in [(0.0, 0.3), (0.05, 0.25), (0.1, 0.2), (0.15, 0.19), (0.2, 0.18), (9.0, 0.18)] {
        assert!((escalation.relaxed(by) - ratio).abs() < 1e-12, "{by}: {}", escalation.relaxed(by));
    }
}
