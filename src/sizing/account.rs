//! "Frontier fits": what workloads need of an account against what it may take, and what gives way where it does not.
//!
//! ```text
//!   direct + escalated + beside, reserves kept free  <=  90 % of what of every limit is within reach     fits
//!     else, each only as far as needed:
//!   (a) thresholds are lowered: Low by all of its slack, then Medium by half
//!   (b) escalationLimit
//!   (c) what has a later step with a Medium or Large pool goes there: Low, then Medium
//!   (d) shed: Low, then Medium, then High
//! ```
//! Within one kind of workload all give way alike. What has no answer yet goes to a later step or gets 429; what has one
//! is answered with that.

use std::collections::BTreeSet;

use super::flow::{Decided, Visit, Walk, Walker};
use super::input::{Account, Portfolio, Routers, Takes, Workload};
use super::load::{number, share};
use super::output::{AccountSize, Cut, Measures, Moved, QuotaKind, QuotaUse, Relaxed};
use super::sentence;
use super::slots::greatest;
use crate::api::types::Risk;
use crate::lease;
use crate::routing::decide::takes_over;

/// Part of what is within reach that may be planned with. The rest is for what arrives unevenly within a minute, and for leases
/// that one router holds while another needs them.
pub(super) const USABLE: f64 = 0.9;

/// Rates below this are none, per second.
const NOTHING: f64 = 1e-6;

/// One account of a portfolio.
struct Site<'a> {
    walker: &'a Walker<'a>,
    workloads: &'a [Workload],
    account: &'a Account,
    index: usize,
    limits: Vec<Limit>,
}

/// A limit, and what of it is within reach.
#[derive(Clone, Copy)]
struct Limit {
    kind: QuotaKind,
    all: f64,
    within_reach: f64,
}

/// What a workload uses of one limit.
#[derive(Clone, Copy, Default)]
struct Use {
    direct: f64,
    escalated: f64,
    beside: f64,
}

impl Use {
    fn all(&self) -> f64 {
        self.direct + self.escalated + self.beside
    }
}

/// Plans one account: what it lacks is decided in `decided`, so that what comes after reckons with it.
pub(super) fn plan(
    portfolio: &Portfolio,
    walker: &Walker<'_>,
    index: usize,
    decided: &mut Decided,
) -> Option<AccountSize> {
    let account = portfolio.accounts.values().nth(index)?;
    let site = Site { walker, workloads: &portfolio.workloads, account, index, limits: limits(account) };
    let quotas = site.quotas(decided);
    let fits = site.fits(decided);
    let measures = if fits { Measures::default() } else { site.measures(portfolio, decided) };
    let sentence = sentence::account(&quotas, &measures);
    Some(AccountSize { quotas, fits, measures, sentence })
}

fn limits(account: &Account) -> Vec<Limit> {
    let Account { quota, routers, .. } = account;
    let all = [
        (QuotaKind::Requests, quota.requests_per_minute),
        (QuotaKind::Tokens, quota.tokens_per_minute),
        (QuotaKind::InputTokens, quota.input_tokens_per_minute),
        (QuotaKind::OutputTokens, quota.output_tokens_per_minute),
        (QuotaKind::Concurrency, quota.concurrency),
    ];
    let limit = |(kind, limit): (QuotaKind, Option<f64>)| {
        let all = number(limit?);
        Some(Limit { kind, all, within_reach: all - idle(all, *routers) })
    };
    all.into_iter().filter_map(limit).collect()
}

/// What of a limit lies with routers that are not there.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a limit is a whole number, and not negative"
)]
#[expect(clippy::cast_precision_loss, reason = "a quarter of a limit at most is planned with in parts")]
fn idle(limit: f64, Routers { most, absent }: Routers) -> f64 {
    lease::floor(limit as u64, most) as f64 * f64::from(absent.min(most))
}

/// What a request counts for against a limit: per minute for each one a second, but for concurrency, which by Little's law
/// is the rate times the time that a request takes.
fn weight(kind: QuotaKind, takes: &Takes) -> f64 {
    let (input, output) = (number(takes.input_tokens), number(takes.output_tokens));
    match kind {
        QuotaKind::Requests => 60.0,
        QuotaKind::Tokens => 60.0 * (input + output),
        QuotaKind::InputTokens => 60.0 * input,
        QuotaKind::OutputTokens => 60.0 * output,
        QuotaKind::Concurrency => number(takes.seconds),
    }
}

impl Site<'_> {
    fn walk(&self, workload: usize, decided: &Decided) -> Walk<'_> {
        self.walker.walk(workload, decided, &BTreeSet::new())
    }

    fn is_here(&self, visit: &Visit<'_>) -> bool {
        self.account.tiers.contains(visit.tier)
    }

    fn uses(&self, walk: &Walk<'_>, kind: QuotaKind) -> Use {
        let mut sum = Use::default();
        for visit in walk.visits.iter().filter(|visit| self.is_here(visit)) {
            let weight = weight(kind, &visit.takes);
            if visit.is_beside() {
                sum.beside += visit.rate() * weight;
            } else {
                sum.direct += visit.direct * weight;
                sum.escalated += visit.escalated * weight;
            }
        }
        sum
    }

    /// Part of the account that is kept for a workload.
    fn reserve(&self, workload: &Workload) -> f64 {
        let here = workload.steps.iter().flat_map(|step| &step.tiers).any(|tier| self.account.tiers.contains(tier));
        if here { share(workload.reserve) } else { 0.0 }
    }

    fn quotas(&self, decided: &Decided) -> Vec<QuotaUse> {
        let walks: Vec<(Walk<'_>, f64)> =
            self.workloads.iter().enumerate().map(|(w, load)| (self.walk(w, decided), self.reserve(load))).collect();
        let of = |&Limit { kind, all: limit, within_reach }: &Limit| {
            let uses: Vec<(Use, f64)> = walks.iter().map(|(walk, part)| (self.uses(walk, kind), *part)).collect();
            let sum = |of: fn(&Use) -> f64| uses.iter().map(|(uses, _)| of(uses)).sum();
            QuotaUse {
                kind,
                limit,
                within_reach,
                direct: sum(|uses| uses.direct),
                escalated: sum(|uses| uses.escalated),
                beside: sum(|uses| uses.beside),
                reserved: uses.iter().map(|(uses, part)| (part * limit - uses.all()).max(0.0)).sum(),
                enough: enough(&uses, 1.0 - (limit - within_reach) / limit.max(f64::MIN_POSITIVE)),
            }
        };
        self.limits.iter().map(of).collect()
    }

    fn fits(&self, decided: &Decided) -> bool {
        self.quotas(decided).iter().all(|quota| quota.needed() <= quota.usable() * (1.0 + 1e-9))
    }

    fn of_risk(&self, risk: Risk) -> impl Iterator<Item = usize> {
        self.workloads.iter().enumerate().filter(move |(_, workload)| workload.risk == risk).map(|(w, _)| w)
    }

    fn measures(&self, portfolio: &Portfolio, decided: &mut Decided) -> Measures {
        let before: Vec<Walk<'_>> = (0..self.workloads.len()).map(|w| self.walk(w, decided)).collect();
        let comes_here: Vec<bool> = before.iter().map(|walk| walk.visits.iter().any(|v| self.is_here(v))).collect();
        let mut measures = Measures::default();
        for risk in [Risk::Low, Risk::Medium] {
            let who =
                self.of_risk(risk).filter(|w| before[*w].visits.iter().any(|v| self.is_here(v) && v.escalated > 0.0));
            self.relax(&who.collect::<Vec<_>>(), risk.part_of_slack(), decided, &mut measures);
        }
        if !self.fits(decided) {
            decided.limited.extend((0..comes_here.len()).filter(|w| comes_here[*w]));
        }
        for risk in [Risk::Low, Risk::Medium] {
            let who = self.of_risk(risk).filter(|w| comes_here[*w] && self.has_pool_after(portfolio, *w));
            let who: Vec<usize> = who.collect();
            self.cut(&who, decided);
            self.moves(&who, decided);
        }
        for risk in [Risk::Low, Risk::Medium, Risk::High] {
            let who = self.of_risk(risk).filter(|w| comes_here[*w]);
            self.cut(&who.collect::<Vec<_>>(), decided);
        }
        for (w, workload) in self.workloads.iter().enumerate() {
            self.compare(portfolio, workload, &before[w], &self.walk(w, decided), &mut measures);
        }
        measures
    }

    /// (a) for some workloads, each step by the same part of its slack.
    fn relax(&self, who: &[usize], part: f64, decided: &mut Decided, measures: &mut Measures) {
        let slack = |w: usize, i: usize| number(self.workloads[w].steps[i].escalation.slack) * part;
        let steps = who.iter().flat_map(|w| (0..self.workloads[*w].steps.len()).map(move |i| (*w, i)));
        let steps: Vec<(usize, usize)> = steps.filter(|(w, i)| slack(*w, *i) > 0.0).collect();
        if steps.is_empty() || self.fits(decided) {
            return;
        }
        let lowered = |x: f64| {
            let mut decided = decided.clone();
            for (w, i) in &steps {
                let by = decided.relaxed.entry((*w, *i)).or_default();
                *by = by.max(slack(*w, *i) * x);
            }
            decided
        };
        let after = lowered(least(|x| self.fits(&lowered(x))));
        for (w, i) in steps {
            let (workload, step) = (&self.workloads[w], &self.workloads[w].steps[i]);
            let by = after.relaxed.get(&(w, i)).copied().unwrap_or_default();
            let was = decided.relaxed.get(&(w, i)).copied().unwrap_or_default();
            let here = self.walk(w, &after).visits.iter().filter(|v| v.at == (i, 0)).map(Visit::rate).sum::<f64>();
            let rate = here * (step.escalation.relaxed(was) - step.escalation.relaxed(by));
            if rate > NOTHING {
                measures.relaxed.push(Relaxed { workload: workload.name.clone(), step: step.name.clone(), by, rate });
            }
        }
        *decided = after;
    }

    /// Whether what the account does not take of a workload may go on to a pool that is as good as may be wanted.
    fn has_pool_after(&self, portfolio: &Portfolio, w: usize) -> bool {
        let workload = &self.workloads[w];
        let here = workload.steps.iter().position(|s| s.tiers.iter().any(|tier| self.account.tiers.contains(tier)));
        let later = here.map_or(&[][..], |i| &workload.steps[i + 1..]);
        let takes = |step: &super::input::Step| {
            let pool = step.tiers.first().and_then(|tier| portfolio.pools.get(tier));
            step.eligible > 0.0 && pool.is_some_and(|pool| takes_over(pool.class))
        };
        workload.on_shortage && later.iter().any(takes)
    }

    /// (c) and (d): the account gets the same part less of the requests of each.
    fn cut(&self, who: &[usize], decided: &mut Decided) {
        if who.is_empty() || self.fits(decided) {
            return;
        }
        let less = |x: f64| {
            let mut decided = decided.clone();
            for w in who {
                let cut = decided.cut.entry((*w, self.index)).or_default();
                *cut = cut.max(x);
            }
            decided
        };
        *decided = less(least(|x| self.fits(&less(x))));
    }

    /// (c) is told by steps, as routers know it.
    fn moves(&self, who: &[usize], decided: &mut Decided) {
        for w in who {
            let Some(part) = decided.cut.get(&(*w, self.index)).copied() else { continue };
            for (i, step) in self.workloads[*w].steps.iter().enumerate() {
                if step.tiers.iter().any(|tier| self.account.tiers.contains(tier)) {
                    decided.moved.insert((*w, i), part);
                }
            }
        }
    }

    /// What became of a workload's requests by (b), (c) and (d).
    fn compare(
        &self,
        portfolio: &Portfolio,
        workload: &Workload,
        before: &Walk<'_>,
        after: &Walk<'_>,
        m: &mut Measures,
    ) {
        let cut = |rate| Cut { workload: workload.name.clone(), risk: workload.risk, rate };
        let held_back = after.held_back - before.held_back;
        m.held_back.extend((held_back > NOTHING).then(|| cut(held_back)));
        let shed = after.dropped - before.dropped;
        m.shed.extend((shed > NOTHING).then(|| cut(shed)));
        for tier in portfolio.pools.keys() {
            let instead =
                |walk: &Walk<'_>| walk.visits.iter().filter(|v| v.tier == tier).map(|v| v.instead).sum::<f64>();
            let rate = instead(after) - instead(before);
            if rate > NOTHING {
                m.moved.push(Moved { workload: workload.name.clone(), tier: tier.clone(), rate });
            }
        }
    }
}

/// The limit C at which all fits, of which such a part is within reach: the sum of max(use, reserve * C) is what may be
/// planned with. Infinite where reserves leave nothing for the others at any limit.
fn enough(uses: &[(Use, f64)], within_reach: f64) -> f64 {
    let mut limit = 0.0;
    // Reserves that count at one limit count at every higher one.
    for _ in 0..=uses.len() {
        let (mut used, mut reserved) = (0.0, 0.0);
        for (uses, part) in uses {
            if part * limit > uses.all() { reserved += part } else { used += uses.all() }
        }
        let left: f64 = USABLE * within_reach - reserved;
        if used > 0.0 && left < 1e-9 {
            return f64::INFINITY;
        }
        if used > 0.0 {
            limit = used / left;
        }
    }
    limit
}

/// The least part at which all fits, or 1 where nothing is enough.
fn least(fits: impl Fn(f64) -> bool) -> f64 {
    1.0 - greatest(|left| fits(1.0 - left))
}

impl QuotaUse {
    /// All that is needed of the limit, with what is kept free.
    #[must_use]
    pub fn needed(&self) -> f64 {
        self.direct + self.escalated + self.beside + self.reserved
    }

    /// What may be planned with.
    #[must_use]
    pub fn usable(&self) -> f64 {
        self.within_reach * USABLE
    }
}

#[cfg(test)]
mod tests;
