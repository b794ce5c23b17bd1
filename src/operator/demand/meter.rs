//! What came between two reports: whatever was lost between them, whoever restarted.
//!
//! A process of a router counts from nothing, and its numbers only grow. So the last numbers of each process are kept, in
//! memory and, as far as they are needed to lose nothing over a restart of the operator, written down.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Heard;
use crate::routing::counts::{Counts, Taken, Verdicts, WorkloadCounts};

/// Pods of a policy that are remembered: those that were heard last.
const MOST_PODS: usize = 512;
/// Workloads of a pod that are remembered. A policy has 64; a table has as many Public tiers as a namespace.
const MOST_WORKLOADS: usize = 256;

/// Steps and tiers of a workload that are remembered when its path has them no more.
const MOST_PARTS: usize = 64;

/// What is counted of a workload over days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Sums {
    /// Requests that clients offered.
    pub offered: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Cost of all legs, in 1e-9 of the currency.
    pub cost: u64,
    /// Answers that gates judged.
    pub judged: u64,
    /// Those of them that were refused.
    pub failed: u64,
    /// Requests that got a refused answer to spare an account.
    pub under_pressure: u64,
}

/// In the order of the fields. What is not there, or not known, is left aside: operators of different versions read it.
impl From<Vec<u64>> for Sums {
    fn from(numbers: Vec<u64>) -> Self {
        let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
        Self { offered: at(0), answered: at(1), cost: at(2), judged: at(3), failed: at(4), under_pressure: at(5) }
    }
}

impl From<Sums> for Vec<u64> {
    fn from(sums: Sums) -> Self {
        let Sums { offered, answered, cost, judged, failed, under_pressure } = sums;
        let mut numbers = vec![offered, answered, cost, judged, failed];
        // Five are what an operator reads that knows of no pressure.
        numbers.extend((under_pressure > 0).then_some(under_pressure));
        numbers
    }
}

impl Sums {
    fn of(counts: &WorkloadCounts, detail: &Detail) -> Self {
        let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
        Self {
            offered: counts.offered,
            answered: counts.answered,
            cost: sum(&mut detail.tiers.values().map(|taken| taken.cost)),
            judged: sum(&mut detail.steps.values().map(|verdicts| verdicts.judged)),
            failed: sum(&mut detail.steps.values().map(|verdicts| verdicts.failed)),
            under_pressure: counts.under_pressure,
        }
    }

    /// Each of the numbers by this of the other's.
    #[must_use]
    pub fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            offered: with(self.offered, other.offered),
            answered: with(self.answered, other.answered),
            cost: with(self.cost, other.cost),
            judged: with(self.judged, other.judged),
            failed: with(self.failed, other.failed),
            under_pressure: with(self.under_pressure, other.under_pressure),
        }
    }
}

/// A time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first second.
    pub from: i64,
    /// Its last.
    pub to: i64,
}

/// Tokens and verdicts of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// By step.
    pub steps: BTreeMap<String, Verdicts>,
    /// By tier.
    pub tiers: BTreeMap<String, Taken>,
}

/// Since when tokens and verdicts were counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// They are the news of a report.
    LastReport(Detail),
    /// Since the process began: nobody knows any more what was counted of that before.
    Beginning(Detail),
}

/// What came of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// In this time.
    pub span: Span,
    /// How many requests, and what they came to.
    pub sums: Sums,
    /// Their tokens and verdicts.
    pub detail: Since,
}

impl News {
    /// Whether nothing came.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let nothing = |detail: &Detail| {
            detail.steps.values().all(|each| *each == Verdicts::default())
                && detail.tiers.values().all(|each| *each == Taken::default())
        };
        let (Since::LastReport(detail) | Since::Beginning(detail)) = &self.detail;
        self.sums == Sums::default() && nothing(detail)
    }
}

/// What a pod said last, as far as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its process.
    pub incarnation: u64,
    /// When it was heard with news.
    pub at: i64,
    /// What it had counted then.
    pub sums: BTreeMap<String, Sums>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    pod: Pod,
    /// When it was heard last,
    heard: i64,
    /// and the number of that report. `None`: this operator has not heard the process.
    sequence: Option<u64>,
    /// Tokens and verdicts of each workload; none after a restart of the operator.
    details: BTreeMap<String, Detail>,
}

/// The last reports of all pods.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    pods: BTreeMap<String, Known>,
}

impl Meter {
    /// From what was written down.
    #[must_use]
    pub fn restore(pods: BTreeMap<String, Pod>) -> Self {
        let known = |pod: Pod| Known { heard: pod.at, pod, ..Known::default() };
        Self { pods: pods.into_iter().map(|(name, pod)| (name, known(pod))).collect() }
    }

    /// What is to be written down.
    #[must_use]
    pub fn to_store(&self) -> BTreeMap<String, Pod> {
        self.pods.iter().map(|(name, known)| (name.clone(), known.pod.clone())).collect()
    }

    /// What came since the pod's last report, by workload. `None`: the report was overtaken, or is of a process that has ended.
    pub fn report(&mut self, heard: Heard<'_>, counts: &Counts) -> Option<BTreeMap<String, News>> {
        let Heard { pod, incarnation, sequence, age, at } = heard;
        if !self.pods.contains_key(pod) {
            self.make_room();
        }
        let known = self.pods.entry(pod.to_owned()).or_default();
        if (incarnation, Some(sequence)) <= (known.pod.incarnation, known.sequence) {
            return None;
        }
        let began = at.saturating_sub(age.max(0));
        let last = if incarnation == known.pod.incarnation { known.heard } else { began };
        if incarnation > known.pod.incarnation {
            *known = Known { pod: Pod { incarnation, ..Pod::default() }, ..Known::default() };
        }
        // The second of the last report was told then.
        let span = Span { from: (last.max(began) + 1).min(at), to: at };
        let workloads = counts.workloads.iter().take(MOST_WORKLOADS);
        let all: BTreeMap<_, _> = workloads.map(|(name, of)| (name.clone(), known.news(name, of, span))).collect();
        if all.values().any(|news| news.sums != Sums::default()) {
            known.pod.at = at;
        }
        (known.heard, known.sequence) = (at, Some(sequence));
        known.forget(counts);
        Some(all)
    }

    /// Forgets the pod that was not heard for longest, if there are many.
    fn make_room(&mut self) {
        if self.pods.len() < MOST_PODS {
            return;
        }
        let oldest = self.pods.iter().min_by_key(|(_, known)| known.heard).map(|(name, _)| name.clone());
        oldest.and_then(|oldest| self.pods.remove(&oldest));
    }
}

impl Known {
    fn news(&mut self, name: &str, counts: &WorkloadCounts, span: Span) -> News {
        let before = self.details.remove(name);
        let mut detail = Detail { steps: counts.steps.clone(), tiers: counts.tiers.clone() };
        detail.keep(before.as_ref());
        let new = Sums::of(counts, &detail);
        let old = self.pod.sums.insert(name.to_owned(), new);
        // What is less than before was not counted by who counted it then.
        let sums = new.zip(old.unwrap_or_default(), u64::saturating_sub);
        self.details.insert(name.to_owned(), detail.clone());
        let detail = match (old, before) {
            (_, Some(before)) => Since::LastReport(detail.since(&before)),
            (None, None) => Since::LastReport(detail),
            (Some(_), None) => Since::Beginning(detail),
        };
        News { span, sums, detail }
    }

    /// Forgets workloads that are not reported any more, if there are many: one that comes back soon counts on.
    fn forget(&mut self, counts: &Counts) {
        if self.pod.sums.len() > MOST_WORKLOADS {
            let names: BTreeSet<&String> = counts.workloads.keys().collect();
            self.pod.sums.retain(|name, _| names.contains(name));
            self.details.retain(|name, _| names.contains(name));
        }
    }
}

impl Detail {
    /// Keeps what was counted of steps and tiers that the path has no more, unless that is much: it may have them again.
    fn keep(&mut self, before: Option<&Self>) {
        let Some(before) = before.filter(|before| before.steps.len() + before.tiers.len() <= MOST_PARTS) else {
            return;
        };
        for (step, verdicts) in &before.steps {
            self.steps.entry(step.clone()).or_insert(*verdicts);
        }
        for (tier, taken) in &before.tiers {
            self.tiers.entry(tier.clone()).or_insert(*taken);
        }
    }

    fn since(&self, before: &Self) -> Self {
        let verdicts = |(step, new): (&String, &Verdicts)| {
            let old = before.steps.get(step).copied().unwrap_or_default();
            let (judged, failed) = (new.judged.saturating_sub(old.judged), new.failed.saturating_sub(old.failed));
            (step.clone(), Verdicts { judged, failed, misses: new.misses.since(&old.misses) })
        };
        let taken = |(tier, new): (&String, &Taken)| {
            let old = before.tiers.get(tier).copied().unwrap_or_default();
            let taken = Taken {
                calls: new.calls.saturating_sub(old.calls),
                input: new.input.saturating_sub(old.input),
                output: new.output.saturating_sub(old.output),
                cost: new.cost.saturating_sub(old.cost),
            };
            (tier.clone(), taken)
        };
        Self { steps: self.steps.iter().map(verdicts).collect(), tiers: self.tiers.iter().map(taken).collect() }
    }
}
