//! Whether the replicas of a pool are enough for what it is sized for.

use super::{Outcome, Verdict, not_accepted};
use crate::api::conditions::{REASON_ENOUGH_REPLICAS, REASON_NOT_MEASURED, REASON_SIZING_LIMITED, SIZED};
use crate::api::sizing::{Binding, SizingStatus};

pub(super) fn sized(outcome: &Outcome, sizing: Option<&SizingStatus>) -> Verdict {
    if outcome.invalid.is_some() {
        return not_accepted(SIZED);
    }
    let unknown = |message: &str| Verdict {
        type_: SIZED,
        status: "Unknown",
        reason: REASON_NOT_MEASURED,
        message: message.to_owned(),
    };
    let Some(SizingStatus { binding, message, .. }) = sizing else { return unknown("Nothing was measured yet") };
    match binding {
        Binding::Unknown => unknown(message),
        Binding::Maximum | Binding::Budget => Verdict::no(SIZED, REASON_SIZING_LIMITED, message),
        Binding::Minimum | Binding::OwnDemand | Binding::Absorb => Verdict::yes(SIZED, REASON_ENOUGH_REPLICAS, message),
    }
}
