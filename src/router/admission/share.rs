//! How a router shares a limit with the others: it holds a part of it, or is lent what it needs.

use std::time::{Duration, Instant};

use crate::lease::Count;
use crate::lease::holding::{Holding, Places};
use crate::routing::RoutingTable;

/// How a limit is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Each of so many routers holds an equal part: whole, and never nothing.
    Part(u32),
    /// An operator lends it.
    Lease {
        /// The most routers that there may be.
        most: u32,
        /// Longest time that a request goes on after it was admitted.
        longest: Duration,
    },
}

impl Share {
    /// All of it is this router's.
    pub const ALL: Self = Self::Part(1);

    /// How routers share the limits of clients and workloads.
    #[must_use]
    pub fn of_table(table: &RoutingTable) -> Self {
        let lent = table.leases.map(|leases| Self::Lease { most: leases.most, longest: table.longest() });
        lent.unwrap_or(Self::Part(table.routers))
    }

    /// How routers share the quotas of accounts.
    #[must_use]
    pub fn of_accounts(table: &RoutingTable) -> Self {
        let lent = table.leases.map(|leases| Self::Lease { most: leases.most_of_accounts, longest: table.longest() });
        lent.unwrap_or(Self::Part(table.routers))
    }

    /// What a limit comes to at this router: its part, or all of it where it is lent.
    #[must_use]
    pub fn of(self, limit: u64) -> u64 {
        match self {
            Self::Part(routers) => (limit / u64::from(routers.max(1))).max(1),
            Self::Lease { .. } => limit,
        }
    }

    /// As [`of`](Self::of), of places.
    #[must_use]
    pub fn of_places(self, most: u32) -> u32 {
        match self {
            Self::Part(routers) => (most / routers.max(1)).max(1),
            Self::Lease { .. } => most,
        }
    }

    /// Whether an operator lends it.
    #[must_use]
    pub const fn is_lent(self) -> bool {
        matches!(self, Self::Lease { .. })
    }

    /// The amount a minute that there is of a limit (as [`of`](Self::of) says it), with the state of before where that is
    /// lent too.
    pub(super) fn amount(self, limit: Option<u64>, count: Count, before: &mut Option<Holding>, now: Instant) {
        *before = match (self, limit, before.take()) {
            (_, None, _) => None,
            (Self::Part(_), Some(limit), _) => Some(Holding::part(limit, now)),
            (Self::Lease { most, .. }, Some(limit), Some(mut held)) if held.is_lent() => {
                held.resize(limit, most);
                Some(held)
            }
            (Self::Lease { most, .. }, Some(limit), _) => Some(Holding::leased(limit, most, count, now)),
        };
    }

    /// As [`amount`](Self::amount), of places.
    pub(super) fn places(self, limit: Option<u32>, before: &mut Option<Places>, now: Instant) {
        *before = match (self, limit, before.take()) {
            (_, None, _) => None,
            (Self::Part(_), Some(limit), _) => Some(Places::part(limit)),
            (Self::Lease { most, .. }, Some(limit), Some(mut held)) if held.is_lent() => {
                held.resize(limit, most);
                Some(held)
            }
            (Self::Lease { most, longest }, Some(limit), _) => Some(Places::leased(limit, most, now, longest)),
        };
    }
}
