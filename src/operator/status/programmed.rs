//! Pure: what routers report -> `Programmed`.
//!
//! It is true when every pod that the endpoints name as ready reported the hash of the published table and lacks nothing.
//! A router that said so and is silent since still counts: a table never goes back. Messages name pods only when
//! something is wrong: names that come and go one by one would be a write each.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Outcome, Verdict};
use crate::api::conditions::{
    PROGRAMMED, REASON_NO_ROUTERS, REASON_NOT_ACCEPTED, REASON_PROGRAMMED, REASON_PROPAGATING, REASON_ROUTER_VERSION,
    REASON_TABLE_REFUSED, REASON_UNOBSERVED, REASON_WAITING_FOR_MOUNTS,
};
use crate::operator::observe::{Observed, Reported, Reports};
use crate::routing::table::FORMAT_VERSION;

/// After this time a router that has not taken a table over is named.
const SOON: Duration = Duration::from_secs(10);
/// How often routers that are behind are looked at when nothing is heard of them.
const AGAIN: Duration = Duration::from_secs(60);
/// Pods that a message names.
const NAMED: usize = 3;

/// How far a router is, the worst first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// It refuses the table, in its words.
    Refuses(String),
    /// It can't read the table.
    TooOld(String),
    /// It does not report.
    Silent,
    /// It lacks keys, in its words.
    Lacks(Vec<String>),
    /// It has not taken the table over.
    Behind,
    /// It may not have had the time to report.
    Unheard,
    /// It serves the table.
    Serves,
}

fn progress(reports: &Reports, pod: &str, hash: &str) -> Progress {
    let Some(reported) = reports.pods.get(pod) else {
        return if reports.patient { Progress::Unheard } else { Progress::Silent };
    };
    let Reported { table_hash, refused, missing, table_format, version, silent } = reported;
    if table_hash.as_deref() == Some(hash) {
        return if missing.is_empty() { Progress::Serves } else { Progress::Lacks(missing.clone()) };
    }
    if *table_format < FORMAT_VERSION {
        return Progress::TooOld(format!(
            "version {version} reads routing tables up to format {table_format}, this one has {FORMAT_VERSION}"
        ));
    }
    match refused {
        Some(refused) if refused.hash == hash => Progress::Refuses(refused.message.clone()),
        _ if *silent => Progress::Silent,
        _ => Progress::Behind,
    }
}

/// What the condition was, and how long.
struct Before {
    holds: bool,
    waited: Duration,
}

impl Before {
    fn of(conditions: &[Condition], same_table: bool, generation: Option<i64>, now: Timestamp) -> Self {
        let stored = conditions.iter().find(|c| c.type_ == PROGRAMMED);
        // A time is that of the status, not of its reason: only of these it says how long routers have been behind.
        let behind = |c: &&Condition| [REASON_PROPAGATING, REASON_ROUTER_VERSION].contains(&c.reason.as_str());
        let waited =
            stored.filter(behind).map_or(SignedDuration::ZERO, |c| now.duration_since(c.last_transition_time.0));
        Self {
            holds: same_table && stored.is_some_and(|c| c.status == "True" && c.observed_generation == generation),
            waited: waited.try_into().unwrap_or_default(),
        }
    }
}

/// The condition, and after which time to look again if nothing is heard.
pub(super) fn programmed(
    outcome: &Outcome,
    observed: &Observed,
    stored: &[Condition],
    stored_hash: Option<&str>,
    generation: Option<i64>,
    now: Timestamp,
) -> (Verdict, Option<Duration>) {
    let no = |reason, message: String| Verdict::no(PROGRAMMED, reason, message);
    if let Some(invalid) = &outcome.invalid {
        let reason = if invalid.condition == PROGRAMMED { invalid.reason } else { REASON_NOT_ACCEPTED };
        return (no(reason, format!("Not in force; what served before still serves. {}", invalid.message)), None);
    }
    if let Some(problem) = &outcome.apply {
        return (no(problem.reason, problem.message.clone()), None);
    }
    let Some(reports) = &observed.reports else {
        let message = "Routers don't report to this operator: it has no --sync-address".to_owned();
        return (Verdict { type_: PROGRAMMED, status: "Unknown", reason: REASON_UNOBSERVED, message }, None);
    };
    let hash = outcome.table_hash.as_deref().unwrap_or_default();
    let before = Before::of(stored, stored_hash == Some(hash), generation, now);
    let mut pods: Vec<(Progress, &str)> =
        reports.ready.iter().map(|pod| (progress(reports, pod, hash), pod.as_str())).collect();
    pods.sort();
    let Some((worst, first)) = pods.first() else {
        return (no(REASON_NO_ROUTERS, "No router pod is ready".to_owned()), None);
    };
    let same = |other: &Progress| std::mem::discriminant(other) == std::mem::discriminant(worst);
    let names = names(pods.iter().filter(|(progress, _)| same(progress)).map(|(_, pod)| *pod));
    let again = Some(if before.waited < SOON { SOON } else { AGAIN });
    let verdict = match worst {
        Progress::Refuses(message) => no(REASON_TABLE_REFUSED, format!("Pod {first}: {message}")),
        Progress::TooOld(message) => no(REASON_ROUTER_VERSION, format!("Pod {first}: {message}")),
        Progress::Silent if before.waited < SOON => propagating(),
        Progress::Silent => no(
            REASON_ROUTER_VERSION,
            format!("{names}: does not report which table it serves; an older version, or it can't reach the operator"),
        ),
        Progress::Lacks(missing) => no(REASON_WAITING_FOR_MOUNTS, missing.join("; ")),
        Progress::Behind if before.waited < SOON => propagating(),
        Progress::Behind => no(REASON_PROPAGATING, format!("{names}: reports, and has not taken the table over")),
        Progress::Unheard if before.holds => serves(),
        Progress::Unheard => propagating(),
        Progress::Serves => return (serves(), None),
    };
    (verdict, again)
}

fn serves() -> Verdict {
    Verdict::yes(PROGRAMMED, REASON_PROGRAMMED, "Every ready router serves the published table")
}

pub(super) fn propagating() -> Verdict {
    Verdict::no(PROGRAMMED, REASON_PROPAGATING, "Not every ready router has reported the published table yet")
}

fn names<'a>(pods: impl Iterator<Item = &'a str>) -> String {
    let pods: Vec<&str> = pods.collect();
    let named = pods.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match pods.len().saturating_sub(NAMED) {
        0 => format!("Pod {named}"),
        more => format!("Pod {named} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
