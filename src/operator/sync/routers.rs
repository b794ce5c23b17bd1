//! Pure: what every router said last, by policy and pod, and which tiers do not answer by what they say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::operator::observe::cache::Id;
use crate::operator::observe::{Reported, Reports};
use crate::routing::report::Report;

/// A router that was not heard for so long is silent.
pub const SILENT: Duration = Duration::from_secs(5);
/// How long an operator listens before it says of a router that it does not report.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// After this time a pod that was not heard is forgotten.
pub const FORGOTTEN: Duration = Duration::from_secs(600);
/// For how long a tier must answer before it counts as recovered: a circuit that tries again opens and closes.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// Pods of a policy that are known at a time.
const MOST: usize = 512;
/// Longest text of a report that is kept, in bytes, and most entries of a list.
const LONGEST: (usize, usize) = (1024, 32);

/// The routers of all policies.
#[derive(Debug, Default)]
pub struct Routers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    policies: HashMap<Id, BTreeMap<String, Known>>,
    /// When a router last said that it leaves a tier alone.
    degraded: HashMap<Id, Instant>,
}

#[derive(Debug)]
struct Known {
    report: Report,
    heard: Instant,
}

/// Whom a report is news to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The status of its policy.
    pub policy: bool,
    /// The statuses of these tiers.
    pub tiers: Vec<String>,
}

impl Routers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on routers can report.
    pub fn listen(&self, now: Instant) {
        self.state().since.get_or_insert(now);
    }

    /// Takes a report. Says whom it is news to.
    pub fn take(&self, policy: &Id, mut report: Report, now: Instant) -> News {
        bound(&mut report);
        let mut state = self.state();
        let State { policies, degraded, .. } = &mut *state;
        let pods = policies.entry(policy.clone()).or_default();
        pods.retain(|_, known| now.duration_since(known.heard) < FORGOTTEN);
        let order = |report: &Report| (report.incarnation, report.sequence);
        let known = pods.get(&report.pod);
        let stale = known.is_some_and(|known| order(&report) <= order(&known.report));
        // Overtaken on its way, or of a process that has ended; or one too many.
        if stale || known.is_none() && pods.len() >= MOST {
            return News::default();
        }
        degraded.retain(|_, since| now.duration_since(*since) < FORGOTTEN);
        let mut news = News::default();
        let tiers = std::mem::take(&mut report.counts).tiers;
        for (tier, _) in tiers.into_iter().filter(|(_, counts)| counts.degraded) {
            let at = degraded.insert((policy.0.clone(), tier.clone()), now);
            if at.is_none_or(|at| now.duration_since(at) >= RECOVERY) {
                news.tiers.push(tier);
            }
        }
        news.policy = known.is_none_or(|known| {
            let was_silent = now.duration_since(known.heard) > SILENT;
            was_silent || reported(&known.report, false) != reported(&report, false)
        });
        pods.insert(report.pod.clone(), Known { report, heard: now });
        news
    }

    /// For how much longer a tier counts as degraded, if it does: unless a router says so again. One that was so before,
    /// as an operator finds that has just begun to listen, stays so until routers had time to speak.
    #[must_use]
    pub fn degraded(&self, tier: &Id, before: bool, now: Instant) -> Option<Duration> {
        let state = self.state();
        let left =
            |since: Instant, time: Duration| time.checked_sub(now.duration_since(since)).filter(|left| !left.is_zero());
        let said = state.degraded.get(tier).and_then(|since| left(*since, RECOVERY));
        said.or_else(|| state.since.filter(|_| before).and_then(|since| left(since, PATIENCE)))
    }

    /// What the routers of a policy said. `None`: nobody listens.
    pub fn of(&self, policy: &Id, now: Instant) -> Option<Reports> {
        let state = self.state();
        let since = state.since?;
        let pods = state.policies.get(policy);
        let pods = pods.into_iter().flatten().map(|(pod, known)| {
            let silent = now.duration_since(known.heard) > SILENT;
            (pod.clone(), reported(&known.report, silent))
        });
        let patient = now.duration_since(since) < PATIENCE;
        Some(Reports { pods: pods.collect(), patient, ..Reports::default() })
    }

    /// How many routers of a policy are heard. `None`: nobody has listened for long enough to know.
    pub fn heard(&self, policy: &Id, now: Instant) -> Option<u32> {
        let state = self.state();
        state.since.filter(|since| now.duration_since(*since) >= PATIENCE)?;
        let pods = state.policies.get(policy).into_iter().flatten();
        let heard = pods.filter(|(_, known)| now.duration_since(known.heard) <= SILENT).count();
        u32::try_from(heard).ok()
    }

    /// Forgets policies that are gone.
    pub fn forget(&self, policy: &Id) {
        self.state().policies.remove(policy);
    }
}

fn reported(report: &Report, silent: bool) -> Reported {
    Reported {
        table_hash: report.table_hash.clone(),
        refused: report.refused.clone(),
        missing: report.missing.clone(),
        table_format: report.table_format,
        version: report.version.clone(),
        silent,
    }
}

/// Cuts what is longer than anybody reads.
fn bound(report: &mut Report) {
    let cut = |text: &mut String| {
        let end = (0..=LONGEST.0.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
        text.truncate(end);
    };
    report.missing.truncate(LONGEST.1);
    let Report { pod, version, table_hash, refused, missing, .. } = report;
    let refused = refused.iter_mut().flat_map(|refused| [&mut refused.hash, &mut refused.message]);
    [pod, version].into_iter().chain(table_hash).chain(refused).chain(missing).for_each(cut);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::counts::{Counts, TierCounts};

    fn id() -> Id {
        ("ml".to_owned(), "front".to_owned())
    }

    fn report(incarnation: u64, sequence: u64, hash: &str) -> Report {
        Report { pod: "a".into(), incarnation, sequence, table_hash: Some(hash.into()), ..Report::default() }
    }

    fn hash(routers: &Routers, now: Instant) -> Option<String> {
        routers.of(&id(), now)?.pods.get("a")?.table_hash.clone()
    }

    #[test]
    fn only_what_a_status_says_is_news() {
        let (routers, now) = (Routers::default(), Instant::now());
        assert_eq!(routers.of(&id(), now), None, "nobody listens");
        routers.listen(now);
        assert!(routers.take(&id(), report(1, 1, "h1"), now).policy);
        assert_eq!(
            routers.take(&id(), Report { in_flight: 7, stamp_ms: 9, ..report(1, 2, "h1") }, now),
            News::default()
        );
        assert!(routers.take(&id(), report(1, 3, "h2"), now).policy);
        let after = now + SILENT + Duration::from_millis(1);
        assert!(routers.of(&id(), after).is_some_and(|seen| seen.pods["a"].silent && seen.patient));
        assert!(routers.take(&id(), report(1, 4, "h2"), after).policy, "heard again");
        assert_eq!(routers.heard(&id(), after), None, "others may not have spoken yet");
        assert!(routers.of(&id(), now + PATIENCE).is_some_and(|seen| !seen.patient));
        assert_eq!(routers.heard(&id(), now + PATIENCE), Some(1));
        assert_eq!(routers.heard(&id(), now + PATIENCE * 2), Some(0));
    }

    #[test]
    fn what_was_overtaken_or_has_ended_is_not_believed() {
        let (routers, now) = (Routers::default(), Instant::now());
        routers.listen(now);
        routers.take(&id(), report(5, 9, "new"), now);
        for old in [report(5, 8, "old"), report(4, 99, "old")] {
            assert_eq!(routers.take(&id(), old, now), News::default());
            assert_eq!(hash(&routers, now).as_deref(), Some("new"));
        }
        // A process that began later counts from the beginning.
        assert!(routers.take(&id(), report(6, 0, "restarted"), now).policy);
        assert_eq!(hash(&routers, now).as_deref(), Some("restarted"));
    }

    #[test]
    fn a_tier_is_degraded_while_a_router_says_so_and_a_while_longer() {
        let (routers, begin) = (Routers::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let tier = ("ml".to_owned(), "large".to_owned());
        let says = |pod: &str, sequence, degraded, seconds| {
            let counts = TierCounts { degraded, ..TierCounts::default() };
            let counts = Counts { tiers: [("large".to_owned(), counts)].into(), ..Counts::default() };
            let report = Report { pod: pod.to_owned(), counts, ..report(1, sequence, "h") };
            routers.take(&id(), report, at(seconds)).tiers
        };
        routers.listen(begin);
        assert_eq!(
            routers.degraded(&tier, true, at(1)),
            Some(PATIENCE - Duration::from_secs(1)),
            "nobody has spoken yet"
        );
        assert!(says("a", 1, false, 0).is_empty());
        assert_eq!(routers.degraded(&tier, false, at(0)), None);
        assert_eq!(says("a", 2, true, 1), ["large"]);
        assert!(says("b", 3, true, 2).is_empty(), "it is known");
        assert!(says("a", 4, false, 3).is_empty(), "another says so");
        assert_eq!(routers.degraded(&tier, false, at(12)), Some(Duration::from_secs(20)));
        assert!(says("b", 5, true, 20).is_empty());
        assert_eq!(routers.degraded(&tier, true, at(50)), None);
        assert_eq!(says("b", 6, true, 50), ["large"], "anew");
    }

    #[test]
    fn one_policy_cannot_fill_the_memory() {
        let (routers, now) = (Routers::default(), Instant::now());
        routers.listen(now);
        for pod in 0..2 * MOST {
            let long = "x".repeat(10_000);
            let missing = vec![long.clone(); 100];
            routers.take(&id(), Report { pod: pod.to_string(), missing, version: long, ..report(1, 1, "h") }, now);
        }
        let seen = routers.of(&id(), now).expect("reports");
        assert_eq!(seen.pods.len(), MOST);
        assert!(seen.pods.values().all(|pod| pod.missing.len() == LONGEST.1 && pod.version.len() == LONGEST.0));
        // Later ones find room when those are gone.
        assert!(routers.take(&id(), report(1, 1, "h"), now + FORGOTTEN).policy);
        assert_eq!(routers.of(&id(), now + FORGOTTEN).map(|seen| seen.pods.len()), Some(1));
    }
}
