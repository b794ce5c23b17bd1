//! Whether time or a person is needed: `Reconciling` and `Stalled`, as kstatus reads them.
//!
//! Both are abnormal-true: absent where all is well, and never there together. They follow from Ready, so that they
//! come and go with it and cost no write of their own.

use super::{Outcome, Verdict};
use crate::api::conditions::{
    ACCEPTED, PROGRAMMED, REASON_CONFLICT, REASON_PROGRESS_DEADLINE, REASON_TABLE_REFUSED, RECONCILING, STALLED,
};

/// Reasons of `Ready=False` that time does not mend. What is missing may still be created, and what could not be
/// applied is tried again: those are none.
const NEED_A_PERSON: [&str; 3] = [REASON_CONFLICT, REASON_PROGRESS_DEADLINE, REASON_TABLE_REFUSED];

/// The condition beside this Ready.
pub(super) fn beside(outcome: &Outcome, ready: &Verdict) -> Option<Verdict> {
    let (stalled, reason, message) = match &outcome.invalid {
        // What refers to nothing waits for it; a wrong spec, or one that is too large, waits for its author.
        Some(invalid) => ([ACCEPTED, PROGRAMMED].contains(&invalid.condition), invalid.reason, &invalid.message),
        None if ready.status == "True" => return None,
        None => (NEED_A_PERSON.contains(&ready.reason), ready.reason, &ready.message),
    };
    Some(Verdict::yes(if stalled { STALLED } else { RECONCILING }, reason, message))
}
