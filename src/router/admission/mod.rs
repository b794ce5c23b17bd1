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
//! are several routers they [`share`] a limit, so that their sum is within it.

pub mod account;
pub mod budget;
pub mod budget_file;
#[cfg(test)]
mod chance_tests;
pub mod escalations;
mod lent;
#[cfg(test)]
mod lent_tests;
pub mod limiter;
pub mod queue;
pub mod room;
pub mod share;
pub mod standing;
pub mod store;

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::body::Peek;
use super::errors::Problem;
use limiter::{Demand, Kind, Limiter, Permit, Refusal};
use standing::{Standing, span};

/// Tokens of output that are reserved for each choice of a request that states no `max_tokens`.
pub const ASSUMED_TOKENS: u64 = 1_024;

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
pub fn admit(limiters: [Option<&Arc<Limiter>>; 2], demand: Demand, now: Instant) -> Result<Admitted, Box<Refusal>> {
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
    use super::share::Share;
    use super::*;
    use crate::router::metrics::Metrics;
    use crate::routing::table::Limits;

    pub(crate) fn metrics() -> Metrics {
        Metrics::new(&mut Registry::default())
    }

    #[test]
    fn parts_of_a_limit_never_come_to_more_than_it() {
        assert_eq!((Share::Part(3).of(10), Share::Part(3).of_places(7)), (3, 2));
        assert_eq!((Share::ALL.of(10), Share::ALL.of_places(7)), (10, 7));
    }

    #[test]
    fn a_workload_without_room_costs_its_client_nothing() {
        let limit = |scope, requests| {
            let limits = Limits { requests_per_minute: Some(requests), tokens_per_minute: None, max_concurrent: None };
            Limiter::new(scope, "a", limits, Share::ALL, None, &metrics())
        };
        let (client, workload) = (limit(Scope::Client, 2), limit(Scope::Workload, 1));
        let one = Demand { stated: 1, assumed: 0 };
        let now = Instant::now();
        let admitted = admit([Some(&client), Some(&workload)], one, now).ok().unwrap();
        assert_eq!(admitted.standing().requests.map(|level| (level.limit, level.left)), Some((1, 0)));
        let problem = over(&admit([Some(&client), Some(&workload)], one, now).err().unwrap());
        assert!(
            problem.message.starts_with("workload a is at its limit requestsPerMinute of 1"),
            "{}",
            problem.message
        );
        assert!((59..=60).contains(&problem.retry_after.unwrap()), "{problem:?}");
        assert!(admit([Some(&client), None], one, now).is_ok());
        let problem = over(&admit([Some(&client), None], one, now).err().unwrap());
        assert!(problem.message.starts_with("client a is at its limit"), "{}", problem.message);
    }
}
