//! Who may be served now: the limits of clients and workloads, and the quotas of providers' accounts.
//!
//! ```text
//! classified request -> client's limits -> workload's limits -> walk: for each step  account's quota -> call
//!                        429 and Retry-After, or a permit              room, or a wait, or the tier is RateLimited
//!                        that is held until the reply is done
//! ```
//! Where a gate sends a request on, the workload's [`escalations`] are asked before the next step.
//!
//! Limits are compiled when the table is loaded. Where there is none, a request pays for two empty options. Where there
//! are several routers each holds an equal part, so that their sum is the limit.

pub mod account;
pub use crate::lease::bucket;
pub mod budget;
pub mod budget_file;
pub mod escalations;
pub mod limiter;
pub mod queue;
pub mod reserve;
pub mod standing;

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::body::Peek;
use super::errors::Problem;
use crate::routing::table::{Limits, Quota};
use limiter::{Demand, Kind, Limiter, Permit, Refusal};
use standing::{Standing, span};

/// Tokens of output that are reserved for each choice of a request that states no `max_tokens`.
pub const ASSUMED_TOKENS: u64 = 1_024;

/// The part of limits that each of so many routers holds: equal, whole, and never nothing.
#[must_use]
pub fn part(limits: Limits, routers: u32) -> Limits {
    let routers = routers.max(1);
    let rate = |limit: u64| (limit / u64::from(routers)).max(1);
    Limits {
        requests_per_minute: limits.requests_per_minute.map(rate),
        tokens_per_minute: limits.tokens_per_minute.map(rate),
        max_concurrent: limits.max_concurrent.map(|most| (most / routers).max(1)),
    }
}

/// The part of a quota that each of so many routers holds.
#[must_use]
pub fn part_of_quota(quota: Quota, routers: u32) -> Quota {
    let rate = |limit: u64| (limit / u64::from(routers.max(1))).max(1);
    Quota {
        requests_per_minute: quota.requests_per_minute.map(rate),
        tokens_per_minute: quota.tokens_per_minute.map(rate),
        input_tokens_per_minute: quota.input_tokens_per_minute.map(rate),
        output_tokens_per_minute: quota.output_tokens_per_minute.map(rate),
        max_concurrent: quota.max_concurrent.map(|most| (most / routers.max(1)).max(1)),
    }
}

/// What a request asks of limits on tokens.
#[must_use]
pub fn demand(peek: &Peek<'_>) -> Demand {
    let choices = u64::from(peek.n);
    let output = peek.max_tokens.unwrap_or(0).saturating_mul(choices);
    Demand {
        stated: peek.input_tokens_estimate().saturating_add(output),
        assumed: if peek.max_tokens.is_some() { 0 } else { ASSUMED_TOKENS * choices },
    }
}

/// A request's places within the limits of its client and of its workload.
pub struct Admitted {
    permits: [Option<Permit>; 2],
}

impl Admitted {
    /// How the limits stand: of each kind the tighter one.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let standings = self.permits.iter().flatten().map(|permit| permit.standing);
        standings.fold(Standing::default(), Standing::tighter)
    }

    /// The request ended and used so many tokens. Without a number its reservation is what it used.
    pub fn settle(self, used: Option<u64>) {
        self.permits.into_iter().flatten().for_each(|permit| permit.settle(used));
    }
}

/// Takes a request by all of its limits or by none.
///
/// # Errors
/// The first limit without room.
pub fn admit(limiters: [Option<&Arc<Limiter>>; 2], demand: Demand) -> Result<Admitted, Box<Refusal>> {
    let now = Instant::now();
    let mut admitted = Admitted { permits: [None, None] };
    for (place, limiter) in admitted.permits.iter_mut().zip(limiters) {
        match limiter.map(|limiter| limiter.admit(demand, now)) {
            None => {}
            Some(Ok(permit)) => *place = Some(permit),
            Some(Err(refusal)) => {
                admitted.permits.into_iter().flatten().for_each(Permit::cancel);
                return Err(refusal);
            }
        }
    }
    Ok(admitted)
}

/// 429 as OpenAI's API has it.
#[must_use]
pub fn over(refusal: &Refusal) -> Problem {
    let Refusal { scope, name, kind, limit, asked, left, wait, standing: _ } = refusal;
    let (scope, field) = (scope.name(), kind.field());
    let counted = if *kind == Kind::Tokens { "tokens" } else { "requests" };
    let Some(wait) = wait else {
        let message = format!(
            "{scope} {name}: the request asks for {asked} {counted}, more than its limit {field} of {limit} at this \
             router; lower max_tokens or shorten the messages"
        );
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, counted, "rate_limit_exceeded", message);
        return Problem { hopeless: true, ..problem };
    };
    let message = format!(
        "{scope} {name} is at its limit {field} of {limit} at this router: {left} {counted} left, {asked} asked for; \
         try again in {}",
        span(*wait)
    );
    Problem::new(StatusCode::TOO_MANY_REQUESTS, counted, "rate_limit_exceeded", message).after(*wait)
}

#[cfg(test)]
pub(crate) mod tests {
    use prometheus_client::registry::Registry;

    use super::limiter::Scope;
    use super::*;
    use crate::router::metrics::Metrics;

    pub(crate) fn metrics() -> Metrics {
        Metrics::new(&mut Registry::default())
    }

    #[test]
    fn parts_of_a_limit_never_come_to_more_than_it() {
        let limits = Limits { requests_per_minute: Some(10), tokens_per_minute: None, max_concurrent: Some(7) };
        let three = part(limits, 3);
        assert_eq!(
            (three.requests_per_minute, three.tokens_per_minute, three.max_concurrent),
            (Some(3), None, Some(2))
        );
        assert_eq!(part(limits, 1), limits);
    }

    #[test]
    fn a_workload_without_room_costs_its_client_nothing() {
        let limit = |scope, requests| {
            let limits = Limits { requests_per_minute: Some(requests), tokens_per_minute: None, max_concurrent: None };
            Limiter::new(scope, "a", limits, None, &metrics())
        };
        let (client, workload) = (limit(Scope::Client, 2), limit(Scope::Workload, 1));
        let one = Demand { stated: 1, assumed: 0 };
        let admitted = admit([Some(&client), Some(&workload)], one).ok().unwrap();
        assert_eq!(admitted.standing().requests.map(|level| (level.limit, level.left)), Some((1, 0)));
        let problem = over(&admit([Some(&client), Some(&workload)], one).err().unwrap());
        assert!(
            problem.message.starts_with("workload a is at its limit requestsPerMinute of 1"),
            "{}",
            problem.message
        );
        assert!((59..=60).contains(&problem.retry_after.unwrap()), "{problem:?}");
        assert!(admit([Some(&client), None], one).is_ok());
        let problem = over(&admit([Some(&client), None], one).err().unwrap());
        assert!(problem.message.starts_with("client a is at its limit"), "{}", problem.message);
    }
}
