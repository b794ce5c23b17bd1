//! Events that are told once, whoever tells them and however often.
//!
//! The name of such an Event is made of what it says, so that a second replica, a restart or the next look finds
//! that it exists and creates nothing, until the API server forgets it (after an hour, if it is not told otherwise).
//! kube's `Recorder` would need the right to patch, and takes two notes of one reason for the same event.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Stored;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Client};
use sha2::{Digest, Sha256};

/// Bound on a call: an Event is worth no longer wait.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// A note that the API server takes.
#[must_use]
pub fn note(mut text: String) -> String {
    let end = (0..=LONGEST_NOTE.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
    text.truncate(end);
    text
}

/// Creates the Event, unless it exists already.
///
/// # Errors
/// What the API server said; no answer in time is `TimedOut`.
pub async fn once(client: &Client, reporter: &str, regarding: &ObjectReference, event: Event) -> kube::Result<()> {
    let api: Api<Stored> = Api::namespaced(client.clone(), regarding.namespace.as_deref().unwrap_or("default"));
    let stored = stored(reporter, regarding, event);
    let params = PostParams::default();
    match tokio::time::timeout(TIMEOUT, api.create(&params, &stored)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(kube::Error::Service("no answer from the API server".into())),
    }
}

fn stored(reporter: &str, regarding: &ObjectReference, event: Event) -> Stored {
    let Event { type_, reason, note: text, action, secondary } = event;
    let text = text.map(note);
    let mut digest = Sha256::new();
    // With the UID: an object that is made anew has Events of its own.
    for part in [reporter, regarding.uid.as_deref().unwrap_or_default(), &reason, text.as_deref().unwrap_or_default()] {
        digest.update(part);
        digest.update([0]);
    }
    let name: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Stored {
        metadata: ObjectMeta {
            name: Some(format!("smallfirst-{name}")),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        type_: Some(match type_ {
            EventType::Normal => "Normal".to_owned(),
            EventType::Warning => "Warning".to_owned(),
        }),
        reason: Some(reason),
        action: Some(action),
        note: text,
        regarding: Some(regarding.clone()),
        related: secondary,
        reporting_controller: Some(reporter.to_owned()),
        reporting_instance: Some(std::env::var("HOSTNAME").unwrap_or_else(|_| reporter.to_owned())),
        ..Stored::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(note("short".to_owned()), "short");
        let long = note("€".repeat(1000));
        assert_eq!((long.len(), long.chars().count()), (1023, 341));
    }
}
