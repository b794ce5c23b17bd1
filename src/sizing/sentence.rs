//! One sentence for people: the numbers that bind, and what would change the answer.

use super::input::Pool;
use super::output::{Binding, Cut, Limited, Measures, PoolSize, QuotaKind, QuotaUse};

/// What is said of a pool.
pub(super) fn pool(size: &PoolSize, pool: &Pool) -> String {
    let floor = replicas(size.floor);
    match (size.binding, size.limited) {
        (Binding::Unknown, _) => format!(
            "{floor}, the minimum: how long a request takes is not known before some were answered; {} req/s come to it",
            number(size.own_rate)
        ),
        (Binding::Minimum, _) if size.growth.is_none() => format!("{floor}, the minimum: no requests come to it"),
        (Binding::Minimum, _) => {
            let more = more(size);
            format!("{floor}, the minimum, where {} would do: {}{more}", size.replicas, demand(size, pool))
        }
        (by, Some(limited)) => {
            let what = match by {
                Binding::Budget => format!(
                    "{floor}, which hourlyBudget {} pays for at {} each",
                    money(pool.asked.hourly_budget.unwrap_or_default()),
                    money(pool.replica_hour)
                ),
                _ => format!("{floor}, the maximum"),
            };
            let demand = demand(size, pool);
            format!("{what}, where {} are needed: {demand}; {}", size.replicas, promise(size, pool, &limited))
        }
        _ => format!("{floor}: {}{}", demand(size, pool), more(size)),
    }
}

/// What the replicas are for.
fn demand(size: &PoolSize, pool: &Pool) -> String {
    let target = format!("at {} wait {}", percentile(pool.asked.percentile), seconds(pool.asked.within));
    let own = format!("{} for its own {} req/s {target}", size.own_replicas, number(size.own_rate));
    let takes_over = size.fallback_rate > 0.0 && pool.asked.absorb > 0.0;
    if !takes_over {
        return own;
    }
    let whose: Vec<String> = pool.asked.against.iter().map(|name| format!("{name}'s")).collect();
    let part = part(pool.asked.absorb);
    let over = format!(
        "take over {part} {} {} req/s that may fall back to it",
        whose.join(" and "),
        number(size.fallback_rate)
    );
    match size.replicas - size.own_replicas {
        more if size.own_rate <= 0.0 => format!("{more} to {over} {target}"),
        0 => format!("{own}, which also {over}"),
        more => format!("{own}, {more} to {over}"),
    }
}

/// When it will not be enough.
fn more(size: &PoolSize) -> String {
    let next = size.floor + 1;
    match size.growth {
        Some(growth) if growth >= 2.0 => format!("; {next} when demand is more than {} times as high", number(growth)),
        Some(growth) => {
            format!("; {next} when demand grows by more than {} %", number((growth - 1.0).max(0.0) * 100.0))
        }
        None => String::new(),
    }
}

/// What can be promised instead.
fn promise(size: &PoolSize, pool: &Pool, limited: &Limited) -> String {
    let enough = match limited.by {
        Binding::Budget => {
            let cost = u64::from(size.replicas).saturating_mul(pool.replica_hour);
            format!("an hourlyBudget of {} would do", money(cost))
        }
        _ => format!("a maximum of {} would do", size.replicas),
    };
    if limited.own_rate < size.own_rate {
        return format!("promised: {} req/s of its own, nothing beside; {enough}", number(limited.own_rate));
    }
    format!("promised: its own, and {} what may fall back to it; {enough}", part(limited.absorb))
}

/// What is said of an account.
pub(super) fn account(quotas: &[QuotaUse], measures: &Measures) -> String {
    let tight = |quota: &&QuotaUse| quota.needed() > quota.usable() * (1.0 + 1e-9);
    let short: Vec<&QuotaUse> = quotas.iter().filter(tight).collect();
    if short.is_empty() {
        let load = |quota: &QuotaUse| quota.needed() / quota.usable().max(f64::MIN_POSITIVE);
        return match quotas.iter().max_by(|a, b| load(a).total_cmp(&load(b))) {
            None => "fits: no limit is declared".to_owned(),
            Some(quota) if quota.enough > 0.0 => {
                let growth = number((quota.limit / quota.enough - 1.0).max(0.0) * 100.0);
                format!("fits: {}; short when demand grows by more than {growth} %", needs(quota))
            }
            Some(_) => "fits: nothing is asked of it".to_owned(),
        };
    }
    let list = |of: &dyn Fn(&QuotaUse) -> String| short.iter().map(|quota| of(quota)).collect::<Vec<_>>().join(" and ");
    let mut clauses = vec![format!("short: {}", list(&needs))];
    clauses.extend(done(measures));
    clauses.push(match short.iter().all(|quota| quota.enough.is_finite()) {
        true => format!("{} would do", list(&|quota| format!("{} {}", number(quota.enough), unit(quota.kind)))),
        false => "no limit would do: reserves leave nothing for the others".to_owned(),
    });
    clauses.join("; ")
}

fn needs(quota: &QuotaUse) -> String {
    let parts = [
        ("direct", quota.direct),
        ("escalated", quota.escalated),
        ("for judges and the like", quota.beside),
        ("kept for reserves", quota.reserved),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(_, of)| *of > 0.0).map(|(what, of)| format!("{} {what}", number(of))).collect();
    let (needed, usable, limit) = (number(quota.needed()), number(quota.usable()), number(quota.limit));
    let (unit, percent, parts) =
        (unit(quota.kind), number(quota.usable() / quota.limit.max(f64::MIN_POSITIVE) * 100.0), parts.join(", "));
    format!("{needed} of {usable} {unit} ({percent} % of {limit}): {parts}")
}

/// The measures that are taken, in their order.
fn done(measures: &Measures) -> Vec<String> {
    let cuts = |cuts: &[Cut]| {
        cuts.iter().map(|cut| format!("{} req/s of {}", number(cut.rate), cut.workload)).collect::<Vec<_>>().join(", ")
    };
    let mut clauses = Vec::new();
    for relaxed in &measures.relaxed {
        let (by, rate) = (number(relaxed.by), number(relaxed.rate));
        let (workload, step) = (&relaxed.workload, &relaxed.step);
        clauses.push(format!(
            "{workload} accepts at step {step} what misses its threshold by up to {by}, which saves {rate} req/s"
        ));
    }
    if !measures.held_back.is_empty() {
        clauses.push(format!("escalationLimit holds back {}", cuts(&measures.held_back)));
    }
    for moved in &measures.moved {
        clauses.push(format!("{} req/s of {} go to {} instead", number(moved.rate), moved.workload, moved.tier));
    }
    if !measures.shed.is_empty() {
        clauses.push(format!("shed are {}", cuts(&measures.shed)));
    }
    clauses
}

fn replicas(n: u32) -> String {
    if n == 1 { "1 replica".to_owned() } else { format!("{n} replicas") }
}

const fn unit(kind: QuotaKind) -> &'static str {
    match kind {
        QuotaKind::Requests => "requests a minute",
        QuotaKind::Tokens => "tokens a minute",
        QuotaKind::InputTokens => "input tokens a minute",
        QuotaKind::OutputTokens => "output tokens a minute",
        QuotaKind::Concurrency => "requests at a time",
    }
}

/// Three digits that count, or all before the point.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    trimmed(format!("{value:.decimals$}"))
}

fn trimmed(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percentile(part: f64) -> String {
    format!("p{}", trimmed(format!("{:.4}", part * 100.0)))
}

fn seconds(value: f64) -> String {
    if value < 1.0 { format!("{}ms", number(value * 1000.0)) } else { format!("{}s", number(value)) }
}

/// Money in 1e-9 of a currency.
fn money(nanos: u64) -> String {
    trimmed(format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000))
}

fn part(value: f64) -> String {
    match value {
        v if v <= 0.0 => "none of".to_owned(),
        v if (v - 0.5).abs() < 1e-9 => "half of".to_owned(),
        v if v >= 1.0 => "all of".to_owned(),
        v => format!("{} % of", number(v * 100.0)),
    }
}
