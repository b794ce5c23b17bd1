//! The leader lends limits: its ledger, kept up with the tables that are published.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kube::Resource;

use crate::lease::ledger::Ledger;
use crate::lease::{Claims, Grants, RouterId};
use crate::operator::observe::cache::Id;
use crate::operator::observe::world::{World, table_of};
use crate::routing::lent::limits;

/// How often the tables are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What is lent, while this operator leads.
#[derive(Debug, Default)]
pub struct Lending(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    ledger: Ledger,
    looked: Option<Instant>,
    /// The published tables by policy, with the version of each.
    tables: Vec<(Id, Option<String>)>,
}

impl Lending {
    /// Answers a router's claims. An operator that does not lead forgets what it lent: when it leads again it begins as a
    /// new leader.
    pub fn answer(&self, router: &RouterId, claims: &Claims, world: &World, leads: bool) -> Option<Grants> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !leads {
            *state = None;
            return None;
        }
        let now = Instant::now();
        let state = state.get_or_insert_with(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            // The seconds of now: no leader before began later.
            let epoch = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
            State { ledger: Ledger::new(now, epoch), looked: None, tables: Vec::new() }
        });
        state.look(world, now);
        Some(state.ledger.report(router, claims, now))
    }
}

impl State {
    fn look(&mut self, world: &World, now: Instant) {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let published = world.policies.ids().into_iter().filter_map(|policy| {
            let guard = world.policies.get(&policy)?;
            let owner = guard.0.as_ref().ok()?.meta().uid.clone()?;
            Some((world.published(&owner, &policy)?, policy))
        });
        let published: Vec<_> = published.collect();
        let tables: Vec<_> = published
            .iter()
            .map(|(object, policy)| (policy.clone(), object.metadata.resource_version.clone()))
            .collect();
        if tables == self.tables {
            return;
        }
        self.tables = tables;
        let tables: Vec<_> = published.iter().filter_map(|(object, _)| table_of(object)).collect();
        let (limits, longest) = limits(&tables);
        self.ledger.set_limits(limits, longest, now);
    }
}
