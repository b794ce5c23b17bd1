//! The HorizontalPodAutoscaler's rules, as its documentation has them, for one metric of type AverageValue.
//!
//! - `desired = ceil(value / target)`, unless `value / (target * replicas)` is within a tenth of 1.
//! - Up: by at most 4 pods or 100 % in a period of 15 s, whichever is more. Down: to the highest recommendation of the
//!   stabilization window.
//! - Between floor and ceiling, always.
//!
//! Pure: the caller brings the time.
//! Source: <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/>.

use std::collections::VecDeque;

use super::clock::{Nanos, SECOND};

/// How often it looks (`--horizontal-pod-autoscaler-sync-period`).
pub const PERIOD: Nanos = 15 * SECOND;
/// How far from 1 a ratio must be to count (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;
/// Pods that it may add in a period, whatever there are.
const MORE: u32 = 4;

/// One pool's autoscaler.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    /// Requests at a replica that it aims for: slots times target utilization.
    target: f64,
    /// `scaleDownStabilization`.
    stabilization: Nanos,
    /// What it recommended within that time.
    recommended: VecDeque<(Nanos, u32)>,
}

/// Fewest and most replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Fewest.
    pub floor: u32,
    /// Most.
    pub ceiling: u32,
}

impl Autoscaler {
    /// One that has seen nothing yet.
    #[must_use]
    pub const fn new(target: f64, stabilization: Nanos) -> Self {
        Self { target, stabilization, recommended: VecDeque::new() }
    }

    /// Replicas that it asks for, with so many now and a metric of so many requests at the pool.
    pub fn decide(&mut self, replicas: u32, requests: f64, bounds: Bounds, now: Nanos) -> u32 {
        let ratio = requests / (self.target * f64::from(replicas));
        let recommended =
            if replicas > 0 && (ratio - 1.0).abs() <= TOLERANCE { replicas } else { ceil(requests / self.target) };
        // As it does when it begins: the replicas that it finds count as recommended then.
        if self.recommended.is_empty() {
            self.recommended.push_back((now, replicas));
        }
        self.recommended.push_back((now, recommended));
        let since = now.saturating_sub(self.stabilization);
        while self.recommended.front().is_some_and(|(at, _)| *at < since) {
            self.recommended.pop_front();
        }
        let highest = self.recommended.iter().map(|(_, replicas)| *replicas).max().unwrap_or(recommended);
        let stabilized = if recommended < replicas { highest.min(replicas) } else { recommended };
        let most = replicas.saturating_mul(2).max(replicas.saturating_add(MORE));
        stabilized.min(most).clamp(bounds.floor.min(bounds.ceiling), bounds.ceiling)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
fn ceil(value: f64) -> u32 {
    value.ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Bounds = Bounds { floor: 1, ceiling: 100 };

    #[test]
    fn asks_for_the_documented_number_outside_the_tolerance() {
        // Each alone: of what was before it only that there is nothing to wait for.
        let alone = |replicas, requests| {
            let mut scaler = Autoscaler::new(10.0, 0);
            scaler.decide(replicas, requests, WIDE, 0);
            scaler.decide(replicas, requests, WIDE, 1)
        };
        assert_eq!([27.1, 32.9, 33.1, 20.0].map(|requests| alone(3, requests)), [3, 3, 4, 2], "within a tenth of 30");
        assert_eq!([alone(3, 200.0), alone(20, 600.0)], [7, 40], "up by 4, or by as many again");
        assert_eq!(alone(0, 1.0), 1);
    }

    #[test]
    fn goes_down_to_the_highest_of_the_window_and_never_beyond_its_bounds() {
        let mut scaler = Autoscaler::new(10.0, 60 * SECOND);
        // It finds 8 and would have 2.
        assert_eq!(scaler.decide(8, 20.0, WIDE, 0), 8);
        assert_eq!(scaler.decide(8, 40.0, WIDE, 30 * SECOND), 8);
        assert_eq!(scaler.decide(8, 20.0, WIDE, 61 * SECOND), 4);
        assert_eq!(scaler.decide(4, 0.0, Bounds { floor: 3, ceiling: 9 }, 200 * SECOND), 3);
        assert_eq!(scaler.decide(9, 500.0, Bounds { floor: 3, ceiling: 9 }, 201 * SECOND), 9);
        assert_eq!(scaler.decide(9, 500.0, Bounds { floor: 7, ceiling: 5 }, 202 * SECOND), 5, "the ceiling wins");
    }
}
