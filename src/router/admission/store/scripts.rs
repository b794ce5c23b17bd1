//! The scripts that a store runs, and how they are called.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script, ScriptInvocation};

use super::Terms;
use super::book::News;
use crate::api::types::Risk;
use crate::lease::reserve::Reserve;
use crate::router::admission::limiter::{Kind, UNTIL_A_SLOT};
use crate::router::admission::room::{Amounts, Asker, COUNTED, Lack};

static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!("take.lua"))));
static TELL: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!("tell.lua"))));

/// What is the same in all calls for an account.
pub(super) struct Limits {
    /// A hash and a sorted set for the account, then for each reserve.
    keys: Vec<String>,
    /// Milliseconds for which a request counts at most.
    longest: u64,
    /// Of the four kinds, then of requests at a time. -1: none.
    limits: Vec<i64>,
    /// Each reserve's part, in 1e-9.
    parts: Vec<u64>,
}

impl Limits {
    pub(super) fn new(terms: &Terms, account: &str, reserves: &[Reserve]) -> Self {
        // In braces is what all keys of an account share: where keys are spread by a hash they stay together.
        let of =
            |part: &str| ["used", "at-work"].map(|what| format!("{}:{{{account}}}:{part}{what}", terms.key_prefix));
        let reserved = reserves.iter().flat_map(|reserve| of(&format!("reserve:{}:", reserve.workload)));
        let number = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let at_work = number(terms.quota.max_concurrent.map(u64::from));
        Self {
            keys: of("").into_iter().chain(reserved).collect(),
            longest: u64::try_from(terms.longest.as_millis()).unwrap_or(u64::MAX),
            limits: COUNTED.map(|it| number((it.limit)(&terms.quota))).into_iter().chain([at_work]).collect(),
            parts: reserves.iter().map(|reserve| reserve.nanos).collect(),
        }
    }

    pub(super) fn reserves(&self) -> usize {
        self.parts.len()
    }

    fn call(&self, script: &'static Script) -> ScriptInvocation<'static> {
        let mut call = script.prepare_invoke();
        for key in &self.keys {
            call.key(key);
        }
        call
    }
}

/// What a request asks.
pub(super) struct Asks<'a> {
    pub(super) id: &'a str,
    pub(super) amounts: Amounts,
    pub(super) asker: Asker,
    /// How long it would wait.
    pub(super) patience: Duration,
}

/// What the store answers.
pub(super) struct Said {
    /// `None`: it is counted.
    pub(super) lack: Option<Lack>,
    /// The percentage that is free of the limit of which the least is.
    pub(super) free: u8,
}

/// Takes a request, or not.
pub(super) async fn take(limits: &Limits, asks: &Asks<'_>, connection: &MultiplexedConnection) -> RedisResult<Said> {
    let Asks { id, amounts, asker, patience } = asks;
    let risk = match asker.risk {
        Risk::Low => 0,
        Risk::Medium => 1,
        Risk::High => 2,
    };
    let own = asker.reserve.map_or(0, |reserve| reserve + 1);
    let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let mut call = limits.call(&TAKE);
    call.arg(*id).arg(limits.longest).arg(risk).arg(own).arg(patience);
    call.arg(&limits.limits).arg(&amounts[..]).arg(&limits.parts);
    let (lack, wait, free): (usize, i64, u8) = call.invoke_async(&mut connection.clone()).await?;
    let kinds = COUNTED.map(|it| it.kind).into_iter().chain([Kind::Concurrency, Kind::Reserve, Kind::Queue]);
    let wait = match u64::try_from(wait) {
        Err(_) => None,
        Ok(0) => Some(UNTIL_A_SLOT),
        Ok(wait) => Some(Duration::from_millis(wait)),
    };
    let lack = lack.checked_sub(1).and_then(|place| kinds.into_iter().nth(place)).map(|kind| Lack { kind, wait });
    Ok(Said { lack, free })
}

/// Tells what became of requests. Returns the name of what the store remembers.
pub(super) async fn tell(
    limits: &Limits,
    news: &[News],
    id: impl Fn(u64) -> String,
    connection: &MultiplexedConnection,
) -> RedisResult<String> {
    let mut call = limits.call(&TELL);
    call.arg(limits.longest).arg(&limits.limits).arg(&limits.parts);
    for News { tokens, requests, at_work, gone } in news {
        call.arg(&tokens[..]).arg(requests.len());
        for (ago, count) in requests {
            call.arg(*ago).arg(*count);
        }
        for ids in [at_work, gone] {
            call.arg(ids.len());
            for number in ids {
                call.arg(id(*number));
            }
        }
    }
    call.invoke_async(&mut connection.clone()).await
}

/// Sees to it that the first request does not have to bring the script.
pub(super) async fn load(connection: &MultiplexedConnection) -> RedisResult<()> {
    TAKE.load_async(&mut connection.clone()).await.map(|_| ())
}

/// A name that no other router has.
pub(super) fn unique() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
