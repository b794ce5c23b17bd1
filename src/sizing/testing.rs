//! Portfolios for tests.

use super::input::{Account, Asked, Escalation, Offered, Pool, Service, Step, Takes, Variation, Workload};
use crate::api::escalation_path::Entry;
use crate::api::types::{ModelClass, Risk};

pub(super) fn offered(rate: f64) -> Offered {
    Offered { rate, dispersion: 1.0, window: 300.0 }
}

pub(super) fn workload(name: &str, offered: Offered, steps: Vec<Step>) -> Workload {
    Workload {
        name: name.to_owned(),
        risk: Risk::Medium,
        reserve: 0.0,
        offered,
        steps,
        on_outage: true,
        on_shortage: true,
        escalation_limit: None,
    }
}

/// A step that every request can enter and that accepts every answer; 400 tokens in, 100 out, two seconds.
pub(super) fn step(tier: &str) -> Step {
    Step {
        name: tier.to_owned(),
        tiers: vec![tier.to_owned()],
        entry: Entry::Always,
        eligible: 1.0,
        takes: Takes { input_tokens: 400.0, output_tokens: 100.0, variation: Variation::UNKNOWN, seconds: 2.0 },
        escalation: Escalation::default(),
        beside: Vec::new(),
    }
}

impl Step {
    pub(super) fn escalates(mut self, ratio: f64) -> Self {
        self.escalation.ratio = ratio;
        self
    }

    pub(super) fn only_after_failure(mut self) -> Self {
        self.entry = Entry::FailoverOnly;
        self
    }
}

pub(super) fn account(tiers: &[&str]) -> Account {
    Account { tiers: tiers.iter().map(|tier| (*tier).to_owned()).collect(), ..Account::default() }
}

/// Replicas of 8 slots with requests of one second, which start within a minute; half of the frontier is taken over, and
/// 95 % wait for less than 200 ms.
pub(super) fn pool() -> Pool {
    Pool {
        class: ModelClass::Medium,
        service: Some(Service::Constant { seconds: 1.0 }),
        concurrency: 8,
        start: 45.0,
        min: 1,
        max: 100,
        replica_hour: 0,
        asked: Asked {
            against: ["frontier".to_owned()].into(),
            absorb: 0.5,
            within: 0.2,
            percentile: 0.95,
            hourly_budget: None,
        },
    }
}

/// Random numbers that are the same every time (SplitMix64).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between 0 and 1, neither.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// With mean 1.
    pub(super) fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// With mean 0 and variance 1 (Box and Muller).
    pub(super) fn normal(&mut self) -> f64 {
        (2.0 * self.exponential()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Of a mean; above a thousand by its normal approximation.
    pub(super) fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 1000.0 {
            return (mean + mean.sqrt() * self.normal()).round();
        }
        let (mut count, mut time) = (-1.0, 0.0);
        while time < mean {
            time += self.exponential();
            count += 1.0;
        }
        count
    }
}
