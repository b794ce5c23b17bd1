//! Where a workload's requests go: along its path, step by step, with what escalates, what is lost and what is cut.

use std::collections::{BTreeMap, BTreeSet};

use super::input::{Escalation, Miss, Portfolio, Step, Takes, Workload};
use super::load::{number, share};
use crate::api::escalation_path::Entry;

/// What is decided besides the paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Decided {
    /// How far a threshold is lowered, by workload and step.
    pub relaxed: BTreeMap<(usize, usize), f64>,
    /// Workloads whose `escalationLimit` counts.
    pub limited: BTreeSet<usize>,
    /// Part of a workload's requests that an account does not get, by workload and account.
    pub cut: BTreeMap<(usize, usize), f64>,
    /// Part of a step's requests that goes to a pool instead, by workload and step.
    pub moved: BTreeMap<(usize, usize), f64>,
}

/// Requests of one workload at one tier, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Visit<'a> {
    /// Its step, and which of the requests beside it: 0 is the step's own.
    pub at: (usize, usize),
    /// The tier that is asked.
    pub tier: &'a str,
    /// Requests that have no answer yet.
    pub direct: f64,
    /// Requests that have an answer of an earlier step.
    pub escalated: f64,
    /// Those among both that come because an account had no room, or a tier was lost, and nobody answered since.
    pub instead: f64,
    /// What each takes.
    pub takes: Takes,
}

impl Visit<'_> {
    /// Whether it is beside a step: a judge's, a shadow's.
    pub fn is_beside(&self) -> bool {
        self.at.1 > 0
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.direct + self.escalated
    }
}

/// The whole way of a workload's requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Walk<'a> {
    pub visits: Vec<Visit<'a>>,
    /// Escalations a second that `escalationLimit` holds back.
    pub held_back: f64,
    /// Requests a second that an account had no room for, or whose tier was lost, and that no later step took.
    pub dropped: f64,
}

/// Walks over one portfolio. Workloads and accounts are named by their index in it.
pub(super) struct Walker<'a> {
    portfolio: &'a Portfolio,
    /// Account of each tier that has one, by its index.
    accounts: BTreeMap<&'a str, usize>,
}

/// Requests on their way, per second.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Without an answer.
    fresh: f64,
    /// With an answer that a gate refused.
    escalated: f64,
    /// Like `fresh` and `escalated`, after a tier was unavailable.
    turned_away: f64,
    turned_away_escalated: f64,
    /// Refused again by a step that took them after a tier was unavailable.
    again: f64,
}

impl Stream {
    fn part(&self, part: f64) -> Self {
        Self {
            fresh: self.fresh * part,
            escalated: self.escalated * part,
            turned_away: self.turned_away * part,
            turned_away_escalated: self.turned_away_escalated * part,
            again: self.again * part,
        }
    }

    fn without(&self, other: &Self) -> Self {
        Self {
            fresh: self.fresh - other.fresh,
            escalated: self.escalated - other.escalated,
            turned_away: self.turned_away - other.turned_away,
            turned_away_escalated: self.turned_away_escalated - other.turned_away_escalated,
            again: self.again - other.again,
        }
    }

    /// Those that a step of this entry takes.
    fn entering(&self, entry: Entry) -> Self {
        match entry {
            Entry::Always => *self,
            Entry::FailoverOnly => Self { fresh: 0.0, escalated: 0.0, ..*self },
        }
    }

    fn direct(&self) -> f64 {
        self.fresh + self.turned_away
    }

    fn with_answer(&self) -> f64 {
        self.escalated + self.turned_away_escalated + self.again
    }
}

impl<'a> Walker<'a> {
    pub fn new(portfolio: &'a Portfolio) -> Self {
        let of = portfolio.accounts.values().enumerate();
        let accounts = of.flat_map(|(i, account)| account.tiers.iter().map(move |tier| (tier.as_str(), i))).collect();
        Self { portfolio, accounts }
    }

    /// The way of the requests of the workload of this index, without the tiers that are lost.
    pub fn walk(&self, index: usize, decided: &Decided, lost: &BTreeSet<String>) -> Walk<'a> {
        let workload = &self.portfolio.workloads[index];
        let (walk, escalations) = self.pass(index, decided, lost, 1.0);
        let limit = workload.escalation_limit.filter(|_| decided.limited.contains(&index));
        let most = limit.map_or(f64::INFINITY, |limit| share(limit) * number(workload.offered.rate));
        if escalations <= most {
            return walk;
        }
        let (mut walk, _) = self.pass(index, decided, lost, most / escalations);
        walk.held_back = escalations - most;
        walk
    }

    /// One walk in which `let_through` of the requests that escalate for the first time do; and how many would.
    fn pass(&self, index: usize, decided: &Decided, lost: &BTreeSet<String>, let_through: f64) -> (Walk<'a>, f64) {
        let workload: &'a Workload = &self.portfolio.workloads[index];
        let mut walk = Walk::default();
        let mut escalations = 0.0;
        let mut stream = Stream { fresh: number(workload.offered.rate), ..Stream::default() };
        for (i, step) in workload.steps.iter().enumerate() {
            let enter = stream.entering(step.entry).part(share(step.eligible));
            stream = stream.without(&enter);
            let Some(tier) = step.tiers.iter().find(|tier| !lost.contains(*tier)) else {
                turn_away(&mut stream, &mut walk, enter, workload.on_outage);
                continue;
            };
            let cut = self.accounts.get(tier.as_str()).and_then(|account| decided.cut.get(&(index, *account)));
            let cut = enter.part(cut.copied().unwrap_or_default());
            turn_away(&mut stream, &mut walk, cut, workload.on_shortage);
            let taken = enter.without(&cut);
            walk.visits.extend(visits(i, step, tier, &taken));

            let by = decided.relaxed.get(&(index, i)).copied().unwrap_or_default();
            let refused = taken.part(step.escalation.relaxed(by));
            let later = |entry| workload.steps[i + 1..].iter().any(|step| step.entry == entry);
            let (in_turn, after_failure) = (later(Entry::Always), later(Entry::FailoverOnly));
            if in_turn {
                escalations += refused.fresh;
                stream.escalated += refused.fresh * let_through + refused.escalated;
            }
            if in_turn || after_failure {
                escalations += refused.turned_away;
                stream.again += refused.turned_away * let_through + refused.turned_away_escalated + refused.again;
            }
        }
        walk.dropped += stream.turned_away + stream.turned_away_escalated;
        (walk, escalations)
    }
}

/// Requests that a tier does not take: they go on, or that is their end.
fn turn_away(stream: &mut Stream, walk: &mut Walk<'_>, requests: Stream, goes_on: bool) {
    if goes_on {
        stream.turned_away += requests.direct();
        stream.turned_away_escalated += requests.with_answer();
    } else {
        walk.dropped += requests.direct() + requests.with_answer();
    }
}

/// Requests that come to `tier` by a step, and those beside them.
fn visits<'a>(i: usize, step: &'a Step, tier: &'a str, taken: &Stream) -> impl Iterator<Item = Visit<'a>> {
    let own = Visit {
        at: (i, 0),
        tier,
        direct: taken.direct(),
        escalated: taken.with_answer(),
        instead: taken.turned_away + taken.turned_away_escalated,
        takes: step.takes,
    };
    let beside = step.beside.iter().enumerate().map(move |(n, beside)| {
        let each = number(beside.per_request);
        Visit {
            at: (i, n + 1),
            tier: &beside.tier,
            direct: own.direct * each,
            escalated: own.escalated * each,
            instead: 0.0,
            takes: beside.takes,
        }
    });
    std::iter::once(own).chain(beside).filter(|visit| visit.rate() > 0.0)
}

impl Escalation {
    /// The ratio when the threshold is lowered by so much.
    pub(super) fn relaxed(&self, by: f64) -> f64 {
        (share(self.ratio) - self.saved(by)).max(0.0)
    }

    /// Part of the answers that missed the threshold by at most so much: between two points, on a straight line.
    fn saved(&self, by: f64) -> f64 {
        let mut nearer = Miss { within: 0.0, share: 0.0 };
        for miss in &self.misses {
            if by < miss.within {
                let way = (by - nearer.within) / (miss.within - nearer.within);
                return nearer.share + (share(miss.share) - nearer.share) * way;
            }
            nearer = Miss { within: miss.within, share: share(miss.share) };
        }
        nearer.share
    }
}

#[cfg(test)]
mod tests;
