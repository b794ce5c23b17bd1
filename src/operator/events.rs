//! Events: what happened to an object that a person may want to know when it happened.
//!
//! Only transitions, read from the conditions before and after a status that was written, so that an event is
//! never repeated by a restart or a second look. Making an object is no event: its status says as much.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};

use crate::api::conditions::{ACCEPTED, READY, REASON_CONFLICT, REASON_PENDING, REASON_ROLLED_OUT};
use crate::runtime::events::note;

/// The events between two lists of conditions. `generation` is the object's: the first is its creation.
#[must_use]
pub fn between(old: &[Condition], new: &[Condition], generation: i64) -> Vec<Event> {
    let find = |list: &'_ [Condition], type_: &str| list.iter().find(|c| c.type_ == type_).cloned();
    let mut events = Vec::new();
    if let Some(after) = find(new, ACCEPTED) {
        let before = find(old, ACCEPTED).map(|c| c.status);
        match (before.as_deref(), after.status.as_str()) {
            (Some("False"), "True") => events.push(event(EventType::Normal, &after, "Validate")),
            (before, "False") if before != Some("False") => events.push(event(EventType::Warning, &after, "Validate")),
            _ => {}
        }
    }
    if let Some(after) = find(new, READY) {
        let before = find(old, READY);
        let reason = before.as_ref().map_or(REASON_PENDING, |c| c.reason.as_str());
        if after.reason == REASON_CONFLICT && reason != REASON_CONFLICT {
            events.push(event(EventType::Warning, &after, "Apply"));
        }
        let was = before.as_ref().is_some_and(|c| c.status == "True");
        if generation > 1 && after.reason == REASON_ROLLED_OUT && !was && reason != REASON_PENDING {
            events.push(event(EventType::Normal, &after, "RollOut"));
        }
    }
    events
}

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
        let bad = [condition(ACCEPTED, "False", "Invalid"), condition(READY, "False", "NotAccepted")];
        let conflict = [condition(ACCEPTED, "True", "Accepted"), condition(READY, "False", REASON_CONFLICT)];
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
    }
}
