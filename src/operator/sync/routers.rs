//! Pure: what every router said last, by policy and pod, and which tiers do not answer by what they say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::operator::observe::cache::Id;
use crate::operator::observe::{Reported, Reports};
use crate::operator::plan::scaling::Asked;
use crate::routing::counts::{Counts, TierCounts};
use crate::routing::report::Report;

/// A router that was not heard for so long is silent.
pub const SILENT: Duration = Duration::from_secs(5);
/// How long an operator listens before it says of a router that it does not report.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// After this time it is forgotten that a tier was asked for: longer than any `idleAfter`.
const LONGEST_SILENCE: Duration = Duration::from_secs(25 * 3600);
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
    /// When a router last said that a tier was asked for.
    asked: HashMap<Id, Instant>,
}

#[derive(Debug)]
struct Known {
    report: Report,
    heard: Instant,
    /// Calls of each tier that it has counted.
    calls: BTreeMap<String, u64>,
}

/// Whom a report is news to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The status of its policy.
    pub policy: bool,
    /// The statuses of these tiers.
    pub tiers: Vec<String>,
    /// These tiers, where they are scaled to zero: they are asked for after a silence.
    pub asked: Vec<String>,
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
        let State { since, policies, degraded, asked } = &mut *state;
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
        asked.retain(|_, at| now.duration_since(*at) < LONGEST_SILENCE);
        let counts = std::mem::take(&mut report.counts);
        let calls = calls(&counts);
        let before = known.filter(|known| known.report.incarnation == report.incarnation);
        // What a process counted before anybody listened says nothing of now. One that was not heard for long may have been
        // asked all the while.
        let listened = since.map(|since| now.duration_since(since)).unwrap_or_default();
        let is_new = listened >= FORGOTTEN.min(Duration::from_millis(report.stamp_ms));
        let mut news = News::default();
        for (tier, counts) in counts.tiers {
            let counted = |calls: &BTreeMap<String, u64>| calls.get(&tier).copied().unwrap_or_default();
            let id = (policy.0.clone(), tier.clone());
            let more = match before {
                Some(known) => counted(&calls) > counted(&known.calls),
                None => is_new && counted(&calls) > 0,
            };
            if more || counts.in_flight > 0 || counts.queued > 0 {
                let at = asked.insert(id.clone(), now);
                if at.is_none_or(|at| now.duration_since(at) >= SILENT) {
                    news.asked.push(tier.clone());
                }
            }
            if counts.degraded {
                let at = degraded.insert(id, now);
                if at.is_none_or(|at| now.duration_since(at) >= RECOVERY) {
                    news.tiers.push(tier);
                }
            }
        }
        news.policy = known.is_none_or(|known| {
            let was_silent = now.duration_since(known.heard) > SILENT;
            was_silent || reported(&known.report, false) != reported(&report, false)
        });
        pods.insert(report.pod.clone(), Known { report, heard: now, calls });
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

    /// When a tier was asked for, as far as routers say so; that all are heard is for who asks to find out.
    #[must_use]
    pub fn asked(&self, tier: &Id) -> Asked {
        let state = self.state();
        Asked { last: state.asked.get(tier).copied(), since: state.since, all_heard: false }
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

    /// Forgets policies that are gone.
    pub fn forget(&self, policy: &Id) {
        self.state().policies.remove(policy);
    }
}

/// Calls of each tier, whatever became of them: those that were not made, or not answered, and the answers.
fn calls(counts: &Counts) -> BTreeMap<String, u64> {
    let of = |(name, tier): (&String, &TierCounts)| {
        let answers = counts.workloads.values().filter_map(|each| each.tiers.get(name)).map(|taken| taken.calls);
        (name.clone(), tier.rejected.values().copied().chain(answers).fold(tier.failed, u64::saturating_add))
    };
    counts.tiers.iter().map(of).collect()
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
        assert!(routers.of(&id(), now + PATIENCE).is_some_and(|seen| !seen.patient));
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
    fn a_tier_is_asked_for_while_it_works_or_counts_more() {
        use crate::routing::counts::{Taken, WorkloadCounts};
        let (routers, begin) = (Routers::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let tier = ("ml".to_owned(), "large".to_owned());
        let says = |incarnation, sequence, tier: TierCounts, answers, seconds| {
            let taken = Taken { calls: answers, ..Taken::default() };
            let chat = WorkloadCounts { tiers: [("large".to_owned(), taken)].into(), ..WorkloadCounts::default() };
            let (tiers, workloads) = ([("large".to_owned(), tier)].into(), [("chat".to_owned(), chat)].into());
            let report = Report { counts: Counts { workloads, tiers }, ..report(incarnation, sequence, "h") };
            let news = routers.take(&id(), report, at(seconds));
            !news.asked.is_empty()
        };
        let idle = TierCounts::default;
        let cold = |count| TierCounts { rejected: [("Cold".to_owned(), count)].into(), ..idle() };
        assert_eq!(routers.asked(&tier), Asked { last: None, since: None, all_heard: false });
        routers.listen(begin);
        assert!(!says(1, 1, idle(), 0, 1));
        assert_eq!(routers.asked(&tier).last, None);
        assert!(says(1, 2, TierCounts { queued: 1, ..idle() }, 0, 2), "one waits");
        assert!(!says(1, 3, TierCounts { in_flight: 1, ..idle() }, 0, 3), "it is known");
        assert!(!says(1, 4, idle(), 1, 4), "it was answered");
        assert!(!says(1, 5, idle(), 1, 20));
        assert_eq!(routers.asked(&tier).last, Some(at(4)));
        assert!(says(1, 6, cold(1), 1, 21), "one was stepped over");
        assert!(!says(1, 7, cold(1), 1, 40));
        assert!(!says(2, 1, idle(), 0, 41), "another process");
        assert!(says(3, 1, idle(), 2, 42), "which has answered");
        assert_eq!(routers.asked(&tier), Asked { last: Some(at(42)), since: Some(begin), all_heard: false });

        // Another operator, which hears of a router that was there before.
        let routers = Routers::default();
        routers.listen(at(100));
        let old = |sequence, rejected| {
            let counts = TierCounts { rejected: [("Cold".to_owned(), rejected)].into(), ..idle() };
            let counts = Counts { tiers: [("large".to_owned(), counts)].into(), ..Counts::default() };
            let report = Report { stamp_ms: 60_000, counts, ..report(9, sequence, "h") };
            routers.take(&id(), report, at(100 + sequence));
            routers.asked(&tier).last
        };
        assert_eq!(old(1, 7), None);
        assert_eq!(old(2, 7), None);
        assert_eq!(old(3, 8), Some(at(103)));
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
