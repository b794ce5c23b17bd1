//! Whether time or a person is needed: `Reconciling` and `Stalled`, as kstatus reads them.
//!
//! Both are abnormal-true: absent where all is well, and never there together. They follow from Ready, so that they
//! come and go with it and cost no write of their own.

use super::{Outcome, Verdict};
use crate::api::conditions::{ACCEPTED, REASON_CONFLICT, REASON_PROGRESS_DEADLINE, RECONCILING, STALLED};

/// Reasons of `Ready=False` that time does not mend. What is missing may still be created, and what could not be
/// applied is tried again: those are none.
const NEED_A_PERSON: [&str; 2] = [REASON_CONFLICT, REASON_PROGRESS_DEADLINE];

/// The condition beside this Ready.
pub(super) fn beside(outcome: &Outcome, ready: &Verdict) -> Option<Verdict> {
    let (stalled, reason, message) = match &outcome.invalid {
        // What refers to nothing waits for it; a wrong spec waits for its author.
        Some(invalid) => (invalid.condition == ACCEPTED, invalid.reason, &invalid.message),
        None if ready.status == "True" => return None,
        None => (NEED_A_PERSON.contains(&ready.reason), ready.reason, &ready.message),
    };
    Some(Verdict::yes(if stalled { STALLED } else { RECONCILING }, reason, message))
}
