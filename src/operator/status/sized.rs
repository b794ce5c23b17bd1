//! Whether what there is is enough for demand: the replicas of a pool, the quota of a provider's account.

use super::{Outcome, Verdict, not_accepted};
use crate::api::conditions::{
    REASON_ENOUGH_REPLICAS, REASON_NOT_MEASURED, REASON_QUOTA_FITS, REASON_QUOTA_SHORT, REASON_SIZING_LIMITED, SIZED,
    WITHIN_QUOTA,
};
use crate::api::sizing::{Binding, QuotaStatus, SizingStatus};

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

pub(super) fn within_quota(outcome: &Outcome, quota: &QuotaStatus) -> Verdict {
    if outcome.invalid.is_some() {
        return not_accepted(WITHIN_QUOTA);
    }
    if quota.is_short() {
        return Verdict::no(WITHIN_QUOTA, REASON_QUOTA_SHORT, &quota.message);
    }
    Verdict::yes(WITHIN_QUOTA, REASON_QUOTA_FITS, &quota.message)
}
