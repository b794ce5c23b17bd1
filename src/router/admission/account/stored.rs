//! Requests to an account that a store counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Account, Asker, Order, Permit, Waiting};
use crate::router::admission::limiter::Kind;
use crate::router::admission::queue::patience;
use crate::router::admission::room::LATER;
use crate::router::admission::store::{Answer, Store};

/// Time after which whoever waits asks again: others may give back what it lacks at any time, and the store remembers for 300
/// ms only that somebody of its risk waits.
const AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

impl Account {
    /// As [`admit`](Self::admit), by the store. `None`: it is away.
    pub(super) async fn admit_stored(
        self: &Arc<Self>,
        store: &Arc<Store>,
        order: Order,
        asker: Asker,
        deadline: Instant,
    ) -> Option<Result<Permit, Duration>> {
        let begin = Instant::now();
        // Half of what is left of the deadline is for whoever is asked then, here or at the next step.
        let give_up = begin + patience(asker.risk).time.min(deadline.saturating_duration_since(begin) / 2);
        let asked = store.amounts(order);
        let here = self.state().amounts(order, asker);
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let turn = {
                let queue = &self.state().queue;
                waiting.as_ref().map_or(!queue.has_before(asker.rank()), |waiting| queue.is_first(&waiting.ticket))
            };
            let left = give_up.saturating_duration_since(Instant::now());
            let (lack, look_again) = match turn {
                false => (LATER, give_up),
                true => match store.take(asked, asker, left).await {
                    Answer::Away => return None,
                    Answer::Taken(counted) => {
                        self.waited(waiting.is_some(), begin);
                        let here = self.state().follow(asker.reserve, here, Instant::now().into_std());
                        self.metrics.admissions.admitted();
                        let (account, reserve) = (self.clone(), asker.reserve);
                        let counted = Some(counted);
                        return Some(Ok(Permit { account, reserve, amounts: here, counted, open: true }));
                    }
                    Answer::Lacks(lack) => {
                        let again = lack.wait.unwrap_or_default().clamp(AGAIN[0], AGAIN[1]);
                        (lack, give_up.min(Instant::now() + again))
                    }
                },
            };
            let now = Instant::now();
            if let Some(waiting) = &waiting {
                if now >= give_up {
                    self.waited(true, begin);
                    return Some(Err(self.refuse(&lack)));
                }
                tokio::select! {
                    () = waiting.ticket.rung() => {}
                    () = tokio::time::sleep_until(look_again) => {}
                }
                continue;
            }
            let in_vain = match lack.wait {
                None => true,
                // Requests are not given back: nothing can make the wait for one shorter.
                Some(wait) => give_up <= now || lack.kind == Kind::Requests && now + wait > give_up,
            };
            let ticket = if in_vain { None } else { self.state().queue.join(asker.rank()) };
            let Some(ticket) = ticket else { return Some(Err(self.refuse(&lack))) };
            self.metrics.waiting.inc();
            waiting = Some(Waiting { account: self, ticket });
        }
    }
}
