//! Events: what happened to an object that a person may want to know when it happened.
//!
//! Only transitions, read from the conditions before and after a status that was written, so that an event is
//! never repeated by a restart or a second look. Making an object is no event: its status says as much.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::EventType::{Normal, Warning};
use kube::runtime::events::{Event, EventType};

use crate::api::conditions::{
    ACCEPTED, AVAILABLE, READY, REASON_DEGRADED, REASON_METRICS_API_UNAVAILABLE, REASON_PENDING, REASON_PROPAGATING,
    REASON_QUOTA_SHORT, REASON_ROLLED_OUT, REASON_SIZING_LIMITED, SCALING_ACTIVE, SIZED, STALLED, WITHIN_QUOTA,
};
use crate::api::routing_policy::BudgetStatus;
use crate::runtime::events::note;

/// The events between two lists of conditions. `generation` is the object's: the first is its creation.
#[must_use]
pub fn between(old: &[Condition], new: &[Condition], generation: i64) -> Vec<Event> {
    let find = |list: &'_ [Condition], type_: &str| list.iter().find(|c| c.type_ == type_).cloned();
    let mut events = Vec::new();
    let accepted = find(new, ACCEPTED);
    match (find(old, ACCEPTED).map(|c| c.status).as_deref(), &accepted) {
        (Some("False"), Some(after)) if after.status == "True" => events.push(event(Normal, after, "Validate")),
        (before, Some(after)) if after.status == "False" && before != Some("False") => {
            events.push(event(Warning, after, "Validate"));
        }
        _ => {}
    }
    let refused = accepted.is_some_and(|c| c.status == "False");
    let (was_stalled, stalled) = (find(old, STALLED), find(new, STALLED));
    if let Some(after) = stalled.as_ref().filter(|_| !refused)
        && was_stalled.as_ref().is_none_or(|before| before.reason != after.reason)
    {
        events.push(event(Warning, after, "Apply"));
    }
    if let Some(after) = find(new, READY) {
        let before = find(old, READY);
        let reason = before.as_ref().map_or(REASON_PENDING, |c| c.reason.as_str());
        let was = before.as_ref().is_some_and(|c| c.status == "True");
        // A table that routers take over is no news by itself: it takes milliseconds.
        let was = was || [REASON_PENDING, REASON_PROPAGATING].contains(&reason);
        let rolled_out = generation > 1 && after.reason == REASON_ROLLED_OUT && !was;
        // A stall that ends is told whatever comes after it: the object may roll out for long.
        let freed = was_stalled.is_some() && stalled.is_none() && events.is_empty();
        if rolled_out || freed {
            events.push(event(Normal, &after, "RollOut"));
        }
    }
    let degraded = |list| find(list, AVAILABLE).is_some_and(|c| c.reason == REASON_DEGRADED);
    if let Some(after) = find(new, AVAILABLE) {
        match (degraded(old), degraded(new)) {
            (false, true) => events.push(event(Warning, &after, "Observe")),
            (true, false) if after.status == "True" => {
                events.push(Event { reason: RECOVERED.to_owned(), ..event(Normal, &after, "Observe") });
            }
            _ => {}
        }
    }
    for (type_, wrong, action) in [
        (SIZED, REASON_SIZING_LIMITED, "Size"),
        (WITHIN_QUOTA, REASON_QUOTA_SHORT, "Size"),
        (SCALING_ACTIVE, REASON_METRICS_API_UNAVAILABLE, "Scale"),
    ] {
        let is_wrong = |list| find(list, type_).is_some_and(|c| c.reason == wrong);
        let Some(after) = find(new, type_) else { continue };
        match (is_wrong(old), is_wrong(new)) {
            (false, true) => events.push(event(Warning, &after, action)),
            (true, false) if after.status == "True" => events.push(event(Normal, &after, action)),
            _ => {}
        }
    }
    events
}

/// A budget has nothing left in its period.
#[must_use]
pub fn budget_spent(budget: &BudgetStatus) -> Event {
    let BudgetStatus { name, spent, period_ends, .. } = budget;
    let text = format!("Budget of {name}: {} is spent; the next period begins at {}", spent.0, period_ends.0);
    let (reason, action) = ("BudgetSpent".to_owned(), "Observe".to_owned());
    Event { type_: Warning, reason, note: Some(note(text)), action, secondary: None }
}

/// Reason of the event that a tier answers again.
const RECOVERED: &str = "Recovered";

fn event(type_: EventType, condition: &Condition, action: &str) -> Event {
    let note = note(condition.message.clone());
    Event { type_, reason: condition.reason.clone(), note: Some(note), action: action.to_owned(), secondary: None }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: "why".into(),
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn only_transitions_are_events_and_creation_is_none() {
        let pending = [condition(READY, "Unknown", REASON_PENDING)];
        let good = [condition(ACCEPTED, "True", "Accepted"), condition(READY, "True", REASON_ROLLED_OUT)];
        let bad = [
            condition(ACCEPTED, "False", "Invalid"),
            condition(READY, "False", "NotAccepted"),
            condition(STALLED, "True", "Invalid"),
        ];
        let stalled = |reason| {
            [
                condition(ACCEPTED, "True", "Accepted"),
                condition(READY, "False", reason),
                condition(STALLED, "True", reason),
            ]
        };
        let (conflict, stuck) = (stalled("Conflict"), stalled("ProgressDeadlineExceeded"));
        let rolling = [condition(ACCEPTED, "True", "Accepted"), condition(READY, "False", "Progressing")];
        let reasons = |old: &[Condition], new: &[Condition], generation| -> Vec<String> {
            between(old, new, generation).into_iter().map(|e| e.reason).collect()
        };
        assert!(reasons(&pending, &good, 1).is_empty());
        assert!(reasons(&good, &good, 2).is_empty());
        assert_eq!(reasons(&pending, &bad, 1), ["Invalid"]);
        assert!(reasons(&bad, &bad, 2).is_empty());
        assert_eq!(reasons(&bad, &good, 2), ["Accepted", "RolledOut"]);
        assert_eq!(reasons(&good, &conflict, 2), ["Conflict"]);
        assert!(reasons(&conflict, &conflict, 2).is_empty());
        assert_eq!(reasons(&pending, &conflict, 1), ["Conflict"]);
        assert_eq!(reasons(&conflict, &stuck, 1), ["ProgressDeadlineExceeded"]);
        assert_eq!(reasons(&stuck, &good, 1), ["RolledOut"]);
        assert_eq!(reasons(&stuck, &rolling, 1), ["Progressing"]);
        assert!(reasons(&rolling, &good, 1).is_empty());
        let available = |status, reason| [condition(AVAILABLE, status, reason)];
        let (fine, degraded) = (available("True", "Configured"), available("False", REASON_DEGRADED));
        assert_eq!(reasons(&fine, &degraded, 1), [REASON_DEGRADED]);
        assert!(reasons(&degraded, &degraded, 1).is_empty());
        assert_eq!(reasons(&degraded, &fine, 1), [RECOVERED]);
        assert!(reasons(&degraded, &available("False", "NoReadyReplicas"), 1).is_empty(), "it is worse, not better");
        let sized = |status, reason| [condition(SIZED, status, reason)];
        let (enough, limited) = (sized("True", "EnoughReplicas"), sized("False", REASON_SIZING_LIMITED));
        assert!(reasons(&[], &enough, 1).is_empty());
        assert_eq!(reasons(&enough, &limited, 1), [REASON_SIZING_LIMITED]);
        assert!(reasons(&limited, &limited, 1).is_empty());
        assert_eq!(reasons(&limited, &enough, 1), ["EnoughReplicas"]);
        assert!(reasons(&limited, &sized("Unknown", "NotMeasured"), 1).is_empty());
        let quota = |status, reason| [condition(WITHIN_QUOTA, status, reason)];
        let (fits, short) = (quota("True", "QuotaFits"), quota("False", REASON_QUOTA_SHORT));
        assert!(reasons(&[], &fits, 1).is_empty() && reasons(&short, &short, 1).is_empty());
        assert_eq!(reasons(&[], &short, 1), [REASON_QUOTA_SHORT]);
        assert_eq!(reasons(&short, &fits, 1), ["QuotaFits"]);
        let active = |status, reason| [condition(SCALING_ACTIVE, status, reason)];
        let (served, away) = (active("True", "MetricsAPIAvailable"), active("False", REASON_METRICS_API_UNAVAILABLE));
        assert!(reasons(&[], &served, 1).is_empty() && reasons(&away, &away, 1).is_empty());
        assert_eq!(reasons(&served, &away, 1), [REASON_METRICS_API_UNAVAILABLE]);
        assert_eq!(reasons(&away, &served, 1), ["MetricsAPIAvailable"]);
    }
}
