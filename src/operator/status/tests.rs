use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;

use super::write::{FIGURES, LONGEST, Status as _, Write, decide};
use super::*;
use crate::api::conditions::{
    REASON_APPLY_FAILED, REASON_CONFLICT, REASON_ENOUGH_REPLICAS, REASON_INVALID, REASON_METRICS_API_AVAILABLE,
    REASON_METRICS_API_UNAVAILABLE, REASON_NOT_MEASURED, REASON_PENDING, REASON_PROGRAMMED, REASON_PROPAGATING,
    REASON_QUOTA_FITS, REASON_QUOTA_SHORT, REASON_REF_NOT_FOUND, REASON_SIZING_LIMITED, REASON_WAITING_FOR_MOUNTS,
    RECONCILING, SCALING_ACTIVE, SIZED, STALLED, WITHIN_QUOTA,
};
use crate::api::routing_policy::BudgetStatus;
use crate::api::sizing::{Binding, Measure, QuotaStatus, SizingStatus};
use crate::api::types::Decimal;

fn a_tier(replicas: i32) -> ModelTier {
    serde_json::from_value(json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier",
        "metadata": {"name": "llama", "namespace": "ml", "generation": 1},
        "spec": {
            "class": "Small", "owner": "o", "model": {"name": "m", "contextTokens": 1},
            "pool": {"engine": "LlamaCpp", "modelFrom": {"path": "/m"}, "replicas": replicas},
        }
    }))
    .expect("a tier")
}

fn a_policy() -> RoutingPolicy {
    serde_json::from_value(json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "RoutingPolicy",
        "metadata": {"name": "front", "namespace": "ml", "generation": 1},
        "spec": {"anonymous": {}, "workloads": [{"name": "w", "owner": "o", "pathRef": {"name": "p"}}],
                 "default": {"workload": "w"}}
    }))
    .expect("a policy")
}

/// Each call is a second later than the one before.
fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

fn seen(name: &str, state: DeploymentState) -> Observed {
    Observed { deployments: [(name.to_owned(), state)].into(), ..Observed::default() }
}

fn rolled_out(replicas: i32) -> DeploymentState {
    DeploymentState {
        generation: 1,
        observed_generation: 1,
        desired: replicas,
        replicas,
        updated: replicas,
        ready: replicas,
        available: replicas,
        ..DeploymentState::default()
    }
}

fn condition<'a>(conditions: &'a [Condition], type_: &str) -> &'a Condition {
    conditions.iter().find(|c| c.type_ == type_).expect("the condition")
}

#[track_caller]
fn says(conditions: &[Condition], type_: &str, status: &str, reason: &str) {
    let found = condition(conditions, type_);
    assert_eq!((found.status.as_str(), found.reason.as_str()), (status, reason), "{type_}: {}", found.message);
}

/// Reconciles once a second over what is seen in turn, and says in which seconds it wrote.
fn writes(tier: &mut ModelTier, states: &[Option<DeploymentState>]) -> Vec<usize> {
    let mut writes = Vec::new();
    let mut since = None;
    for (second, state) in states.iter().enumerate() {
        let observed = state.clone().map_or_else(Observed::default, |state| seen("llama-pool", state));
        let new = super::tier(tier, &observed, &Outcome::default(), at(second as i64));
        let waited = Duration::from_secs((second - since.unwrap_or(second)) as u64);
        match decide(tier.status.as_ref(), &new, waited, None) {
            Write::Not => since = None,
            Write::After(_) => since = since.or(Some(second)),
            Write::Now | Write::Sometime => {
                tier.status = Some(new);
                writes.push(second);
                since = None;
            }
        }
    }
    writes
}

#[test]
fn making_a_tier_of_one_replica_costs_two_writes() {
    let mut tier = a_tier(1);
    let starting = DeploymentState { replicas: 1, updated: 1, ..rolled_out(0) };
    let states = [
        None,
        Some(DeploymentState { generation: 1, desired: 1, ..DeploymentState::default() }),
        Some(DeploymentState { desired: 1, ..rolled_out(0) }),
        Some(DeploymentState { desired: 1, ..starting }),
        Some(rolled_out(1)),
        Some(rolled_out(1)),
    ];
    assert_eq!(writes(&mut tier, &states), [0, 4]);
    let status = tier.status.expect("a status");
    says(&status.conditions, ACCEPTED, "True", REASON_ACCEPTED);
    says(&status.conditions, AVAILABLE, "True", REASON_REPLICAS_READY);
    says(&status.conditions, READY, "True", REASON_ROLLED_OUT);
    assert_eq!((status.replicas, status.ready_replicas, status.observed_generation), (Some(1), Some(1), Some(1)));
    // Accepted has been true since the first write.
    assert_eq!(condition(&status.conditions, ACCEPTED).last_transition_time, Time(at(0)));
    assert_eq!(condition(&status.conditions, READY).last_transition_time, Time(at(4)));
}

/// Of three replicas, so many are ready.
fn three(ready: i32) -> DeploymentState {
    DeploymentState { ready, available: ready, ..rolled_out(3) }
}

#[test]
fn replicas_that_are_ready_one_after_another_cost_two_writes() {
    let mut tier = a_tier(3);
    let mut states = vec![None];
    states.extend((0..58).map(|second| Some(three(second / 15))));
    states.extend([Some(three(3)), Some(three(3))]);
    assert_eq!(writes(&mut tier, &states), [0, 46]);
    let status = tier.status.expect("a status");
    says(&status.conditions, AVAILABLE, "True", REASON_REPLICAS_READY);
    says(&status.conditions, READY, "True", REASON_ROLLED_OUT);
    assert_eq!(status.ready_replicas, Some(3));
}

#[test]
fn replicas_cost_what_the_tier_says_and_another_price_is_written() {
    let mut tier = a_tier(3);
    tier.spec.replica_hour = Some("0.0125".into());
    assert_eq!(writes(&mut tier, &[Some(three(3)), Some(three(2))]), [0]);
    let cost = |tier: &ModelTier| tier.status.as_ref().and_then(|status| status.cost_per_hour.clone());
    assert_eq!(cost(&tier), Some("0.0375".into()));
    tier.spec.replica_hour = Some("2".into());
    writes(&mut tier, &[Some(three(3))]);
    assert_eq!(cost(&tier), Some("6".into()));
    tier.spec.replica_hour = None;
    writes(&mut tier, &[Some(three(3))]);
    assert_eq!(cost(&tier), None);
}

#[test]
fn a_rollout_that_takes_long_shows_how_far_it_is_once_a_minute() {
    let mut tier = a_tier(3);
    let states: Vec<_> = (0..200).map(|second| Some(three(second / 90))).collect();
    assert_eq!(writes(&mut tier, &states), [0, 150]);
    let status = tier.status.expect("a status");
    says(&status.conditions, AVAILABLE, "True", REASON_REPLICAS_READY);
    assert_eq!(status.ready_replicas, Some(1));
    assert_eq!(LONGEST.as_secs(), 60);
}

#[test]
fn a_lost_pod_that_is_replaced_costs_nothing_and_the_last_one_shows_at_once() {
    let mut tier = a_tier(3);
    let mut states = vec![Some(three(3))];
    states.extend(vec![Some(three(2)); 30]);
    states.extend(vec![Some(three(3)); 30]);
    assert_eq!(writes(&mut tier, &states), [0]);
    // And one that is not replaced shows within a minute.
    assert_eq!(writes(&mut tier, &vec![Some(three(2)); 62]), [60]);
    assert_eq!(writes(&mut tier, &[Some(three(0)), Some(three(0)), Some(three(1))]), [0, 2]);
}

#[test]
fn a_lost_replica_shows_in_available_and_a_new_spec_in_ready() {
    let mut tier = a_tier(2);
    writes(&mut tier, &[Some(rolled_out(2))]);
    let lost = DeploymentState { ready: 0, available: 0, ..rolled_out(2) };
    writes(&mut tier, &[Some(lost)]);
    let conditions = &tier.status.as_ref().expect("a status").conditions;
    says(conditions, AVAILABLE, "False", REASON_NO_READY_REPLICAS);
    says(conditions, READY, "True", REASON_ROLLED_OUT);

    tier.metadata.generation = Some(2);
    let rolling = DeploymentState { generation: 2, observed_generation: 2, updated: 1, ..rolled_out(2) };
    writes(&mut tier, &[Some(rolling)]);
    says(&tier.status.as_ref().expect("a status").conditions, READY, "False", REASON_PROGRESSING);
}

#[test]
fn zero_replicas_are_ready_and_not_available() {
    let mut tier = a_tier(0);
    writes(&mut tier, &[Some(rolled_out(0))]);
    let conditions = &tier.status.as_ref().expect("a status").conditions;
    says(conditions, READY, "True", REASON_SCALED_TO_ZERO);
    says(conditions, AVAILABLE, "False", REASON_NO_READY_REPLICAS);
}

#[test]
fn a_stuck_rollout_says_why() {
    let mut tier = a_tier(1);
    let refused = DeploymentState { desired: 1, replica_failure: Some("exceeded quota".to_owned()), ..rolled_out(0) };
    writes(&mut tier, &[Some(refused.clone())]);
    let ready = condition(&tier.status.as_ref().expect("a status").conditions, READY).clone();
    assert!(ready.message.contains("exceeded quota"), "{}", ready.message);
    let stuck = DeploymentState { deadline_exceeded: Some("timed out.".to_owned()), ..refused };
    writes(&mut tier, &[Some(stuck.clone())]);
    says(&tier.status.as_ref().expect("a status").conditions, READY, "False", REASON_PROGRESS_DEADLINE);
    // What no API server looks at is said where it may be the reason.
    let pool = tier.spec.pool.as_mut().expect("a pool");
    pool.model_from = serde_json::from_value(json!({"image": {"reference": "a"}})).expect("a source");
    let status = super::tier(&tier, &seen("llama-pool", stuck), &Outcome::default(), at(9));
    let message = &condition(&status.conditions, READY).message;
    assert!(message.contains("timed out. Its pods mount spec.pool.modelFrom.image"), "{message}");
}

#[test]
fn an_invalid_policy_keeps_the_hash_of_the_table_that_serves() {
    let mut policy = a_policy();
    let observed = seen("front-router", rolled_out(2));
    let good = Outcome { table_hash: Some("abc".to_owned()), ..Outcome::default() };
    policy.status = Some(super::policy(&policy, &observed, &good, at(1)).0);
    says(&policy.status.as_ref().expect("a status").conditions, READY, "True", REASON_ROLLED_OUT);

    let invalid = Invalid { condition: ACCEPTED, reason: REASON_INVALID, message: "spec.default: wrong".to_owned() };
    let bad = Outcome { invalid: Some(invalid), ..Outcome::default() };
    let (status, _) = super::policy(&policy, &observed, &bad, at(2));
    says(&status.conditions, ACCEPTED, "False", REASON_INVALID);
    says(&status.conditions, RESOLVED_REFS, "Unknown", REASON_NOT_ACCEPTED);
    says(&status.conditions, READY, "False", REASON_NOT_ACCEPTED);
    assert!(condition(&status.conditions, READY).message.contains("spec.default: wrong"));
    assert_eq!(status.table.expect("a table").hash, "abc");
}

#[test]
fn what_waits_for_others_is_accepted_but_not_resolved() {
    let unresolved = Invalid { condition: RESOLVED_REFS, reason: REASON_REF_NOT_FOUND, message: "no tier".to_owned() };
    let outcome = Outcome { unresolved: Some(unresolved), table_hash: Some("a".to_owned()), ..Outcome::default() };
    let (status, _) = super::policy(&a_policy(), &seen("front-router", rolled_out(2)), &outcome, at(1));
    says(&status.conditions, ACCEPTED, "True", REASON_ACCEPTED);
    says(&status.conditions, RESOLVED_REFS, "False", REASON_REF_NOT_FOUND);
    says(&status.conditions, READY, "False", REASON_REF_NOT_FOUND);
}

#[test]
fn a_warning_is_said_where_the_object_is_in_force() {
    let path: EscalationPath = serde_json::from_value(serde_json::json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "EscalationPath", "metadata": {"name": "p"},
        "spec": {"owner": "team", "steps": [{"name": "one", "tierRef": {"name": "t"}}]}
    }))
    .expect("a path");
    let outcome = Outcome { warnings: vec!["a.b: too small".into()], ..Outcome::default() };
    let status = super::path(&path, &outcome, Timestamp::UNIX_EPOCH);
    let accepted = status.conditions.iter().find(|c| c.type_ == ACCEPTED).expect("a condition");
    assert_eq!(
        (accepted.status.as_str(), accepted.message.as_str()),
        ("True", "The spec is valid. Warning: a.b: too small")
    );
}

/// What kstatus reads beside Ready: type and reason.
fn beside(conditions: &[Condition]) -> Vec<(&str, &str, &str)> {
    let those = conditions.iter().filter(|c| [STALLED, RECONCILING].contains(&c.type_.as_str()));
    those.map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect()
}

#[test]
fn reconciling_while_time_mends_it_stalled_when_a_person_must_and_neither_when_all_is_well() {
    let invalid = || Invalid { condition: ACCEPTED, reason: REASON_INVALID, message: "spec.a: wrong".to_owned() };
    let missing = || Invalid { condition: RESOLVED_REFS, reason: REASON_REF_NOT_FOUND, message: "no".to_owned() };
    let apply = |reason| Outcome {
        apply: Some(ApplyProblem { reason, message: "Deployment x".to_owned() }),
        ..Outcome::default()
    };
    let stuck = DeploymentState { desired: 1, deadline_exceeded: Some("timed out".to_owned()), ..rolled_out(0) };
    let rolling = DeploymentState { desired: 1, ..rolled_out(0) };
    let fine = Outcome::default();
    let outcomes = [
        (fine.clone(), rolled_out(1), None),
        (fine.clone(), rolling, Some((RECONCILING, REASON_PROGRESSING))),
        (fine, stuck, Some((STALLED, REASON_PROGRESS_DEADLINE))),
        (apply(REASON_APPLY_FAILED), rolled_out(1), Some((RECONCILING, REASON_APPLY_FAILED))),
        (apply(REASON_CONFLICT), rolled_out(1), Some((STALLED, REASON_CONFLICT))),
        (
            Outcome { unresolved: Some(missing()), ..Outcome::default() },
            rolled_out(1),
            Some((RECONCILING, REASON_REF_NOT_FOUND)),
        ),
        (
            Outcome { invalid: Some(missing()), ..Outcome::default() },
            rolled_out(1),
            Some((RECONCILING, REASON_REF_NOT_FOUND)),
        ),
        (Outcome { invalid: Some(invalid()), ..Outcome::default() }, rolled_out(1), Some((STALLED, REASON_INVALID))),
    ];
    for (outcome, state, wanted) in outcomes {
        let status = super::tier(&a_tier(1), &seen("llama-pool", state), &outcome, at(1));
        let wanted: Vec<_> = wanted.into_iter().map(|(type_, reason)| (type_, "True", reason)).collect();
        assert_eq!(beside(&status.conditions), wanted, "{outcome:?}");
    }
}

#[test]
fn the_three_kinds_say_it() {
    let invalid = Invalid { condition: ACCEPTED, reason: REASON_INVALID, message: "spec.a: wrong".to_owned() };
    let outcome = Outcome { invalid: Some(invalid), ..Outcome::default() };
    let path: EscalationPath = serde_json::from_value(json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "EscalationPath", "metadata": {"name": "p"},
        "spec": {"owner": "team", "steps": [{"name": "one", "tierRef": {"name": "t"}}]}
    }))
    .expect("a path");
    let nothing = Observed::default();
    for conditions in [
        super::tier(&a_tier(1), &nothing, &outcome, at(1)).conditions,
        super::path(&path, &outcome, at(1)).conditions,
        super::policy(&a_policy(), &nothing, &outcome, at(1)).0.conditions,
    ] {
        assert_eq!(beside(&conditions), [(STALLED, "True", REASON_INVALID)]);
        assert_eq!(condition(&conditions, STALLED).message, "spec.a: wrong");
    }
}

/// A policy whose routers report, over what its one ready router says.
fn with_router(policy: &RoutingPolicy, hash: &str, missing: &[&str], second: i64) -> RoutingPolicyStatus {
    use crate::operator::observe::{Reported, Reports};
    let missing = missing.iter().map(|&text| text.to_owned()).collect();
    let table_format = crate::routing::table::FORMAT_VERSION;
    let reported = Reported { table_hash: Some(hash.into()), table_format, missing, ..Reported::default() };
    let reports =
        Reports { pods: [("pod".to_owned(), reported)].into(), ready: ["pod".to_owned()].into(), patient: false };
    let observed = Observed { reports: Some(reports), ..seen("front-router", rolled_out(2)) };
    let outcome = Outcome { table_hash: Some("new".into()), ..Outcome::default() };
    super::policy(policy, &observed, &outcome, at(second)).0
}

#[test]
fn a_spec_is_rolled_out_when_routers_serve_it_and_a_key_that_goes_later_does_not_undo_that() {
    let mut policy = a_policy();
    let status = with_router(&policy, "old", &[], 1);
    says(&status.conditions, PROGRAMMED, "False", REASON_PROPAGATING);
    says(&status.conditions, READY, "False", REASON_PROPAGATING);
    policy.status = Some(status);
    policy.status = Some(with_router(&policy, "new", &[], 2));
    let conditions = &policy.status.as_ref().expect("a status").conditions;
    says(conditions, PROGRAMMED, "True", REASON_PROGRAMMED);
    says(conditions, READY, "True", REASON_ROLLED_OUT);
    let status = with_router(&policy, "new", &["no key"], 3);
    says(&status.conditions, PROGRAMMED, "False", REASON_WAITING_FOR_MOUNTS);
    says(&status.conditions, READY, "True", REASON_ROLLED_OUT);
    // Of a new spec it is told from the start.
    policy.metadata.generation = Some(2);
    let status = with_router(&policy, "new", &["no key"], 4);
    says(&status.conditions, READY, "False", REASON_WAITING_FOR_MOUNTS);
}

#[test]
fn a_status_never_speaks_of_a_table_that_was_replaced() {
    let mut policy = a_policy();
    assert_eq!(replaced(&policy, "new", at(1)), None, "nothing was said yet");
    policy.status = Some(with_router(&policy, "new", &[], 2));
    assert_eq!(replaced(&policy, "new", at(3)), None, "the same table");
    let status = replaced(&policy, "newer", at(3)).expect("a status");
    says(&status.conditions, PROGRAMMED, "False", REASON_PROPAGATING);
    says(&status.conditions, READY, "True", REASON_ROLLED_OUT);
    assert_eq!(status.table.as_ref().expect("a table").hash, "new", "it is not published yet");
    policy.status = Some(status);
    assert_eq!(replaced(&policy, "newest", at(4)), None, "it says so already");
}

fn sizing(binding: Binding) -> SizingStatus {
    SizingStatus {
        requests_per_second: "18.20".into(),
        escalation_ratio: "0.200".into(),
        slots: 30,
        needed: 4,
        floor: 4,
        ceiling: 4,
        binding,
        message: "4 replicas".to_owned(),
    }
}

#[test]
fn within_quota_says_whether_an_account_is_short_where_there_is_a_quota() {
    let mut tier = a_tier(1);
    tier.spec.pool = None;
    let provider = json!({
        "api": "OpenAI", "baseURL": "https://vast.test/v1", "credential": {"secretKeyRef": {"name": "s", "key": "k"}}
    });
    tier.spec.provider = serde_json::from_value(provider).expect("a provider");
    let quota = |needed: &str, measures: &[Measure]| QuotaStatus {
        needed: needed.into(),
        measures: measures.to_vec(),
        message: "a sentence".to_owned(),
    };
    let status = |tier: &ModelTier, outcome: &Outcome, quota: Option<QuotaStatus>| {
        super::tier(tier, &Observed { quota, ..Observed::default() }, outcome, at(0))
    };
    let fine = Outcome::default();
    let of =
        |status: &ModelTierStatus| status.quota.is_some() || status.conditions.iter().any(|c| c.type_ == WITHIN_QUOTA);
    assert!(!of(&status(&tier, &fine, Some(quota("2.00", &[Measure::Shed])))), "it has none");
    let limit = serde_json::from_value(json!({"requestsPerMinute": 60})).expect("a quota");
    tier.spec.provider.as_mut().expect("a provider").quota = Some(limit);
    assert!(!of(&status(&tier, &fine, None)), "nothing was asked of it");
    says(&status(&tier, &fine, Some(quota("0.70", &[]))).conditions, WITHIN_QUOTA, "True", REASON_QUOTA_FITS);
    let short = status(&tier, &fine, Some(quota("1.20", &[Measure::ThresholdsLowered])));
    says(&short.conditions, WITHIN_QUOTA, "False", REASON_QUOTA_SHORT);
    // An operator that has just begun to lead has measured nothing: what was said stands.
    tier.status = Some(short.clone());
    assert_eq!(status(&tier, &fine, None).quota, short.quota);
    says(&status(&tier, &fine, None).conditions, WITHIN_QUOTA, "False", REASON_QUOTA_SHORT);
    let invalid = Invalid { condition: ACCEPTED, reason: REASON_INVALID, message: "wrong".into() };
    let refused = Outcome { invalid: Some(invalid), ..Outcome::default() };
    says(&status(&tier, &refused, None).conditions, WITHIN_QUOTA, "Unknown", REASON_NOT_ACCEPTED);
}

#[test]
fn sized_says_whether_the_replicas_are_enough() {
    let mut tier = a_tier(4);
    let asked =
        json!({"perReplica": {"concurrency": 8}, "engine": "LlamaCpp", "modelFrom": {"path": "/m"}, "sizing": {}});
    let status = |tier: &ModelTier, outcome: &Outcome, sizing: Option<SizingStatus>| {
        super::tier(tier, &Observed { sizing, ..Observed::default() }, outcome, at(0))
    };
    let fine = Outcome::default();
    let of = |status: &ModelTierStatus| status.conditions.iter().any(|c| c.type_ == SIZED);
    assert!(!of(&status(&tier, &fine, Some(sizing(Binding::OwnDemand)))), "it is not asked for");
    tier.spec.pool = serde_json::from_value(asked).expect("a pool");
    says(&status(&tier, &fine, None).conditions, SIZED, "Unknown", REASON_NOT_MEASURED);
    for (binding, is, reason) in [
        (Binding::Unknown, "Unknown", REASON_NOT_MEASURED),
        (Binding::Minimum, "True", REASON_ENOUGH_REPLICAS),
        (Binding::OwnDemand, "True", REASON_ENOUGH_REPLICAS),
        (Binding::Absorb, "True", REASON_ENOUGH_REPLICAS),
        (Binding::Maximum, "False", REASON_SIZING_LIMITED),
        (Binding::Budget, "False", REASON_SIZING_LIMITED),
    ] {
        says(&status(&tier, &fine, Some(sizing(binding))).conditions, SIZED, is, reason);
    }
    let invalid = Invalid { condition: ACCEPTED, reason: REASON_INVALID, message: "wrong".into() };
    let refused = Outcome { invalid: Some(invalid), ..Outcome::default() };
    says(&status(&tier, &refused, Some(sizing(Binding::Maximum))).conditions, SIZED, "Unknown", REASON_NOT_ACCEPTED);
    // An operator that has just begun to lead has measured nothing: what was said stands.
    let known = status(&tier, &fine, Some(sizing(Binding::Maximum)));
    tier.status = Some(known.clone());
    assert_eq!(status(&tier, &fine, None).sizing, known.sizing);
    says(&status(&tier, &fine, None).conditions, SIZED, "False", REASON_SIZING_LIMITED);
}

#[test]
fn a_tier_that_routers_leave_alone_is_not_available_and_stays_ready() {
    let mut tier = a_tier(1);
    let state = || seen("llama-pool", rolled_out(1));
    tier.status = Some(super::tier(&tier, &state(), &Outcome::default(), at(0)));
    let status = super::tier(&tier, &Observed { degraded: true, ..state() }, &Outcome::default(), at(1));
    says(&status.conditions, AVAILABLE, "False", REASON_DEGRADED);
    says(&status.conditions, READY, "True", REASON_ROLLED_OUT);
    assert_eq!(decide(tier.status.as_ref(), &status, Duration::ZERO, Some(Duration::ZERO)), Write::Now);
    // Without a replica there is nothing to leave alone.
    let none = Observed { degraded: true, ..seen("llama-pool", rolled_out(0)) };
    says(
        &super::tier(&tier, &none, &Outcome::default(), at(2)).conditions,
        AVAILABLE,
        "False",
        REASON_NO_READY_REPLICAS,
    );
}

#[test]
fn figures_are_written_seldom_and_nothing_else_waits_for_them() {
    let stored = RoutingPolicyStatus { workload_count: Some(1), ..RoutingPolicyStatus::default() };
    let figures = RoutingPolicyStatus { cost_per_transaction: Some(Decimal("0.1".into())), ..stored.clone() };
    let say = |new: &RoutingPolicyStatus, waited: u64, written: Option<u64>| {
        decide(Some(&stored), new, Duration::from_secs(waited), written.map(Duration::from_secs))
    };
    assert_eq!(say(&figures, 0, None), Write::Sometime, "the first ones after a silence");
    assert_eq!(say(&figures, 0, Some(10)), Write::After(FIGURES - Duration::from_secs(10)));
    assert_eq!(say(&figures, 0, Some(30)), Write::Sometime);
    let counts = RoutingPolicyStatus { routers: Some(RoutersStatus { replicas: 1, ready: 1 }), ..stored.clone() };
    let before = RoutingPolicyStatus { routers: Some(RoutersStatus { replicas: 1, ready: 0 }), ..stored.clone() };
    let of_before = |new, waited, written| decide(Some(&before), new, Duration::from_secs(waited), written);
    assert_eq!(of_before(&counts, 1, None), Write::After(LONGEST - Duration::from_secs(1)));
    let both = RoutingPolicyStatus { cost_per_transaction: Some(Decimal("0.1".into())), ..counts.clone() };
    assert_eq!(of_before(&both, 1, Some(Duration::ZERO)), Write::After(FIGURES));
    assert_eq!(of_before(&both, 60, Some(Duration::ZERO)), Write::Now);
    let urgent = RoutingPolicyStatus { workload_count: Some(2), ..figures };
    assert_eq!(say(&urgent, 0, Some(0)), Write::Now);
}

#[test]
fn a_budget_that_is_spent_is_told_at_once_and_once_a_period() {
    let budget = |left: &str, ends: i64| RoutingPolicyStatus {
        budgets: vec![BudgetStatus {
            name: "workload/chat".into(),
            spent: Decimal("5".into()),
            left: Decimal(left.into()),
            period_ends: Time(at(ends)),
        }],
        ..RoutingPolicyStatus::default()
    };
    let write =
        |stored: &RoutingPolicyStatus, new: &RoutingPolicyStatus| decide(Some(stored), new, Duration::ZERO, None);
    let (some, less, none) = (budget("2", 9), budget("1", 9), budget("0", 9));
    assert_eq!(write(&some, &less), Write::After(LONGEST));
    assert_eq!(write(&less, &none), Write::Now);
    assert_eq!(write(&none, &less), Write::After(LONGEST), "what a request reserved and did not use");
    assert!(less.events(&some).is_empty() && none.events(&none).is_empty());
    let [event] = &none.events(&less)[..] else { panic!("one event") };
    let note = event.note.as_deref().unwrap_or_default();
    assert_eq!(event.reason, "BudgetSpent");
    assert_eq!(note, "Budget of workload/chat: 5 is spent; the next period begins at 1970-01-01T00:00:09Z");
    assert_eq!(budget("0", 99).events(&none).len(), 1, "of the next period");
}

#[test]
fn what_was_said_of_the_metrics_api_stands_until_it_is_known() {
    let mut tier = a_tier(1);
    let mut look = |metrics_api: Option<Availability>| {
        let outcome = Outcome { metrics_api, ..Outcome::default() };
        let status = super::tier(&tier, &seen("llama-pool", rolled_out(1)), &outcome, at(0));
        says(&status.conditions, READY, "True", REASON_ROLLED_OUT);
        let is_news = tier.status.as_ref() != Some(&status);
        tier.status = Some(status.clone());
        let found = status.conditions.into_iter().find(|condition| condition.type_ == SCALING_ACTIVE);
        (found.map(|found| (found.status, found.reason, found.message)), is_news)
    };
    assert_eq!(look(None), (None, true), "its replicas are the spec's");
    let said = |status: &str, reason: &str, part: &str, (found, is_news): (Option<(String, String, String)>, bool)| {
        let (found, why, message) = found.expect("the condition");
        assert_eq!((found.as_str(), why.as_str()), (status, reason), "{message}");
        assert!(message.contains(part), "{message}");
        is_news
    };
    let unavailable = || Some(Availability::Unavailable("of another".to_owned()));
    assert!(said("Unknown", REASON_PENDING, "not known yet", look(Some(Availability::Unknown))));
    assert!(said("False", REASON_METRICS_API_UNAVAILABLE, "metricsApi.enabled", look(Some(Availability::Off))));
    assert!(said("False", REASON_METRICS_API_UNAVAILABLE, "of another", look(unavailable())));
    assert!(!said("False", REASON_METRICS_API_UNAVAILABLE, "of another", look(Some(Availability::Unknown))));
    assert!(said("True", REASON_METRICS_API_AVAILABLE, "can read", look(Some(Availability::Available))));
    assert!(!said("True", REASON_METRICS_API_AVAILABLE, "can read", look(Some(Availability::Unknown))));
    assert_eq!(look(None), (None, true), "KEDA has taken over");
}

#[test]
fn a_pool_that_is_scaled_stays_ready_while_replicas_come_and_go() {
    let mut tier = a_tier(1);
    let pool = json!({
        "engine": "LlamaCpp", "modelFrom": {"path": "/m"}, "perReplica": {"concurrency": 8}, "scaling": {"min": 0, "max": 9}
    });
    tier.spec.pool = serde_json::from_value(pool).expect("a pool");
    let template = |name: &str| Outcome { current_revision: Some(name.to_owned()), ..Outcome::default() };
    let scaled = |replicas| DeploymentState { autoscaled: true, ..rolled_out(replicas) };
    let mut look = |state: DeploymentState, outcome: &Outcome| {
        let status = super::tier(&tier, &seen("llama-pool", state), outcome, at(0));
        tier.status = Some(status.clone());
        tier.metadata.generation = tier.metadata.generation.map(|generation| generation + 1);
        let ready = condition(&status.conditions, READY).clone();
        (ready.status, ready.reason, ready.message)
    };
    let says = |status: &str, reason: &str, message: &str| (status.to_owned(), reason.to_owned(), message.to_owned());
    let rolled = says("True", REASON_ROLLED_OUT, "Deployment llama-pool is rolled out");
    assert_eq!(look(DeploymentState { available: 0, ready: 0, ..scaled(1) }, &template("a")).1, REASON_PROGRESSING);
    assert_eq!(look(scaled(1), &template("a")), rolled);
    // The generation changes with a number that others write to /scale.
    assert_eq!(look(DeploymentState { desired: 5, ..scaled(1) }, &template("a")), rolled);
    let asleep =
        says("True", REASON_SCALED_TO_ZERO, "Deployment llama-pool is scaled to zero while nobody asks for the tier");
    assert_eq!(look(scaled(0), &template("a")), asleep);
    assert_eq!(look(DeploymentState { desired: 1, ..scaled(0) }, &template("a")), rolled, "it wakes");
    assert_eq!(look(DeploymentState { updated: 0, ..scaled(1) }, &template("b")).1, REASON_PROGRESSING, "a rollout");
    let stuck = DeploymentState { deadline_exceeded: Some("late".to_owned()), ..scaled(1) };
    assert_eq!(look(stuck, &template("b")).1, REASON_PROGRESS_DEADLINE);
}
