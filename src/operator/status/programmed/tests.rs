use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::api::conditions::{ACCEPTED, REASON_INVALID, REASON_TABLE_TOO_LARGE};
use crate::operator::validate::Invalid;
use crate::routing::report::RefusedTable;

fn router(hash: &str) -> Reported {
    Reported { table_hash: Some(hash.into()), table_format: FORMAT_VERSION, ..Reported::default() }
}

fn refusing(hash: &str) -> Reported {
    let refused = Some(RefusedTable { hash: hash.into(), message: "unknown gate `magic`".into() });
    Reported { refused, ..router("old") }
}

/// Pods that are ready, each with what it reported.
fn ready(pods: &[(&str, Option<Reported>)]) -> Reports {
    let reported = pods.iter().filter_map(|(pod, reported)| Some(((*pod).to_owned(), reported.clone()?)));
    Reports { pods: reported.collect(), ready: pods.iter().map(|(pod, _)| (*pod).to_owned()).collect(), patient: false }
}

fn stored(status: &str, reason: &str) -> Vec<Condition> {
    vec![Condition {
        type_: PROGRAMMED.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: Some(1),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }]
}

fn published() -> Outcome {
    Outcome { table_hash: Some("new".into()), ..Outcome::default() }
}

/// The condition `seconds` after the stored one changed.
fn at(seconds: i64, reports: Reports, stored: &[Condition], stored_hash: &str) -> (&'static str, &'static str, String) {
    let observed = Observed { reports: Some(reports), ..Observed::default() };
    let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
    let (verdict, again) = programmed(&published(), &observed, stored, Some(stored_hash), Some(1), now);
    let behind = [REASON_PROPAGATING, REASON_ROUTER_VERSION].contains(&verdict.reason);
    assert!(again.is_some() || !behind, "who is behind is looked at again");
    (verdict.status, verdict.reason, verdict.message)
}

fn now(reports: Reports) -> (&'static str, &'static str, String) {
    at(0, reports, &[], "")
}

#[test]
fn it_holds_when_every_ready_router_serves_the_table_and_no_sooner() {
    let (status, reason, _) = now(ready(&[("a", Some(router("new"))), ("b", Some(router("new")))]));
    assert_eq!((status, reason), ("True", REASON_PROGRAMMED));
    let (status, reason, _) = now(ready(&[("a", Some(router("new"))), ("b", Some(router("old")))]));
    assert_eq!((status, reason), ("False", REASON_PROPAGATING));
    let (status, reason, _) = now(ready(&[]));
    assert_eq!((status, reason), ("False", REASON_NO_ROUTERS));
    // One that is not ready does not count, whatever it says.
    let mut reports = ready(&[("a", Some(router("new")))]);
    reports.pods.insert("starting".into(), refusing("new"));
    assert_eq!(now(reports).0, "True");
}

#[test]
fn a_router_that_served_it_and_fell_silent_still_serves_it() {
    let silent = Reported { silent: true, ..router("new") };
    assert_eq!(now(ready(&[("a", Some(silent))])).0, "True");
}

#[test]
fn what_is_wrong_is_said_in_the_routers_words() {
    let (_, reason, message) = now(ready(&[("a", Some(router("new"))), ("b", Some(refusing("new")))]));
    assert_eq!((reason, message.as_str()), (REASON_TABLE_REFUSED, "Pod b: unknown gate `magic`"));
    // What it refused before is past.
    assert_eq!(now(ready(&[("b", Some(refusing("before")))])).1, REASON_PROPAGATING);

    let lacking = Reported { missing: vec!["ModelTier x: Secret s has no key k".into()], ..router("new") };
    let (_, reason, message) = now(ready(&[("a", Some(lacking))]));
    assert_eq!((reason, message.as_str()), (REASON_WAITING_FOR_MOUNTS, "ModelTier x: Secret s has no key k"));

    let old = Reported { table_format: 0, version: "0.0.9".into(), ..router("old") };
    let (_, reason, message) = now(ready(&[("a", Some(old))]));
    assert_eq!(reason, REASON_ROUTER_VERSION);
    assert!(message.contains("Pod a: version 0.0.9") && message.contains("format 0"), "{message}");
}

#[test]
fn a_router_that_does_not_report_is_named_after_a_while() {
    let pods = [("a", None), ("b", Some(router("new"))), ("c", None), ("d", None), ("e", None)];
    let behind = stored("False", REASON_PROPAGATING);
    assert_eq!(at(9, ready(&pods), &behind, "new").1, REASON_PROPAGATING);
    let (_, reason, message) = at(10, ready(&pods), &behind, "new");
    assert_eq!(reason, REASON_ROUTER_VERSION);
    assert!(message.starts_with("Pod a, c, d and 1 more: does not report"), "{message}");
    let (_, reason, message) = at(10, ready(&[("a", Some(router("old")))]), &behind, "new");
    assert!(reason == REASON_PROPAGATING && message.starts_with("Pod a: reports"), "{message}");
    // How long something else was wrong says nothing of the routers.
    assert_eq!(at(99, ready(&pods), &stored("False", REASON_NO_ROUTERS), "new").1, REASON_PROPAGATING);
}

#[test]
fn an_operator_that_has_just_begun_to_listen_changes_nothing() {
    let starting = Reports { patient: true, ..ready(&[("a", None), ("b", Some(router("new")))]) };
    let held = stored("True", REASON_PROGRAMMED);
    assert_eq!(at(0, starting.clone(), &held, "new").0, "True");
    assert_eq!(at(0, starting.clone(), &held, "before").0, "False", "another table was published meanwhile");
    assert_eq!(at(0, starting, &[], "new").0, "False");
    let (status, reason, _) = at(0, ready(&[("a", None)]), &held, "new");
    assert_eq!((status, reason), ("False", REASON_PROPAGATING), "and now it has listened");
}

#[test]
fn a_table_that_is_not_published_serves_nobody() {
    let condition = |outcome: &Outcome| {
        let reports = Some(ready(&[("a", Some(router("new")))]));
        let observed = Observed { reports, ..Observed::default() };
        let (verdict, _) = programmed(outcome, &observed, &[], None, Some(1), Timestamp::UNIX_EPOCH);
        (verdict.status, verdict.reason)
    };
    let invalid = |condition, reason| {
        let invalid = Some(Invalid { condition, reason, message: "m".into() });
        Outcome { invalid, ..Outcome::default() }
    };
    assert_eq!(condition(&invalid(ACCEPTED, REASON_INVALID)), ("False", REASON_NOT_ACCEPTED));
    assert_eq!(condition(&invalid(PROGRAMMED, REASON_TABLE_TOO_LARGE)), ("False", REASON_TABLE_TOO_LARGE));
    let apply = Some(super::super::ApplyProblem { reason: "Conflict", message: "m".into() });
    assert_eq!(condition(&Outcome { apply, ..Outcome::default() }), ("False", "Conflict"));
    let (verdict, _) = programmed(&published(), &Observed::default(), &[], None, Some(1), Timestamp::UNIX_EPOCH);
    assert_eq!((verdict.status, verdict.reason), ("Unknown", REASON_UNOBSERVED));
}
