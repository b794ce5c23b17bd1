//! A floor that stands: it rises at once, falls only after a while, and does not follow noise.

use std::time::Duration;

use super::output::PoolSize;

/// The floor in force, with what must be remembered to lower it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Replicas.
    pub floor: u32,
    /// Since when every size was below `floor`, and the highest of them.
    falling: Option<Falling>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Falling {
    since: Duration,
    highest: u32,
}

impl Standing {
    /// A floor that nothing is remembered of, as after a restart: the one that was written last.
    #[must_use]
    pub const fn at(floor: u32) -> Self {
        Self { floor, falling: None }
    }
}

/// The floor after one more look at the pool, `now` on any clock that does not go back. A floor within the size's band
/// stays; a lower one rises at once; a higher one falls to the highest size of the last `stabilization`, once all were
/// below it for so long. `min` and the ceiling hold at once.
#[must_use]
pub fn settle(
    standing: Option<Standing>,
    size: &PoolSize,
    min: u32,
    stabilization: Duration,
    now: Duration,
) -> Standing {
    let Some(before) = standing else { return Standing::at(size.floor) };
    let bounded = |replicas: u32| replicas.min(size.ceiling).max(min);
    let floor = bounded(before.floor);
    if floor < bounded(size.band.low) {
        return Standing::at(size.floor);
    }
    if floor <= bounded(size.band.high) {
        return Standing::at(floor);
    }
    let falling = match before.falling {
        Some(Falling { since, highest }) => Falling { since, highest: highest.max(size.floor) },
        None => Falling { since: now, highest: size.floor },
    };
    if now.saturating_sub(falling.since) >= stabilization {
        return Standing::at(falling.highest.min(floor));
    }
    Standing { floor, falling: Some(falling) }
}

#[cfg(test)]
mod tests;
