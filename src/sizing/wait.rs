//! How long a request waits for a slot: a birth-death chain, whose rates depend on how full the replicas are.
//!
//! With n requests in the pool and r replicas of k slots, each replica works on n/r of them, at most k, and requests leave
//! at the rate mu_n = r * g(n/r), where g(b) = b / S(b) is what one replica does with b at a time. Where S is constant that
//! is M/M/c with c = r * k slots, and [`Chain::delayed`] is Erlang's C formula.
//!
//! Above c requests the rate is constant, so that a request that must wait does so as in a queue with one server of that
//! rate: exactly, for exponential work, exp(-(mu_c - lambda) t). Work that varies more is taken for a mixture of two
//! exponentials with its mean and variance, for which the wait has a closed form as well (M/H2/1). For work that varies less
//! the tail is exponential with the mean that Cosmetatos gives, between that of Pollaczek and Khinchine (M/G/1), which holds
//! of busy pools and of one slot, and that of exponential work: the true one falls faster far out, so that this errs on the
//! side of capacity. See `src/docs/adr/0018-waiting-in-slots.md`.

/// What one replica does, by the number of requests it works on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed {
    /// S(b) = fixed + growing * b, in seconds.
    pub fixed: f64,
    /// See `fixed`.
    pub growing: f64,
    /// Slots of a replica, at least 1.
    pub slots: f64,
}

impl Speed {
    /// Time in service with `b` requests at a time, in seconds.
    pub fn seconds(&self, b: f64) -> f64 {
        self.fixed + self.growing * b
    }

    /// Requests a second with `b` at a time. Some replicas have one request more than the others.
    fn rate(&self, b: f64) -> f64 {
        let b = b.min(self.slots);
        let at = |whole: f64| if whole < 1.0 { 0.0 } else { whole / self.seconds(whole) };
        let (below, part) = (b.floor(), b.fract());
        at(below) * (1.0 - part) + at(below + 1.0) * part
    }

    /// Most requests a second.
    fn full(&self) -> f64 {
        self.slots / self.seconds(self.slots)
    }

    /// Slots that `lambda` requests a second keep busy when the replicas are full: R = lambda * S(k).
    pub fn busy(&self, lambda: f64) -> f64 {
        lambda * self.seconds(self.slots)
    }
}

/// A pool of `slots` slots with `lambda` requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chain {
    /// What one replica does.
    pub speed: Speed,
    /// Requests a second.
    pub lambda: f64,
    /// All slots of the pool: replicas times slots of a replica. Need not be a multiple.
    pub slots: f64,
    /// Squared coefficient of variation of the work.
    pub variation: f64,
}

/// Probabilities below this are none: four orders below what anybody may ask for.
const NEGLIGIBLE: f64 = 1e-12;

impl Chain {
    fn replicas(&self) -> f64 {
        self.slots / self.speed.slots
    }

    /// Requests that leave per second, with `n` in the pool.
    fn leave(&self, n: f64) -> f64 {
        let replicas = self.replicas();
        replicas * self.speed.rate(n / replicas)
    }

    /// Part of the capacity that is used; 1 and more: the queue grows without end.
    fn utilization(&self) -> f64 {
        self.lambda / (self.replicas() * self.speed.full())
    }

    /// Number of requests at which as many leave as come, about: most of the time there are about so many.
    fn middle(&self) -> f64 {
        let (mut low, mut high) = (0.0, self.slots);
        for _ in 0..32 {
            let n = f64::midpoint(low, high);
            if self.leave(n) < self.lambda { low = n } else { high = n }
        }
        high
    }

    /// Probability that a request finds every slot taken. Poisson arrivals see time averages, so that is the sum over all
    /// n >= c of the chain's probabilities: B / (1 - rho + rho B), where B is the probability of the last state of the
    /// chain that is cut off at c, by Erlang's recursion B_n = lambda B_(n-1) / (mu_n + lambda B_(n-1)).
    pub fn delayed(&self) -> f64 {
        let rho = self.utilization();
        if rho >= 1.0 {
            return 1.0;
        }
        // States eight standard deviations below the middle have no weight. To leave them out makes the rest a little more
        // likely. The less a request more speeds replicas up, the wider the distribution is.
        let middle = self.middle();
        let spread = (middle * self.speed.seconds(self.speed.slots) / self.speed.fixed.max(1e-9)).sqrt();
        let mut n = (middle - 8.0 * (spread + 1.0)).floor().max(0.0);
        let mut last = 1.0;
        while n < self.slots {
            n = (n + 1.0).min(self.slots);
            last = self.lambda * last / (self.leave(n) + self.lambda * last);
            if last < NEGLIGIBLE && n > middle {
                return 0.0;
            }
        }
        last / (1.0 - rho + rho * last)
    }

    /// Probability that a request waits longer than `seconds` for a slot.
    pub fn waits(&self, seconds: f64) -> f64 {
        let rho = self.utilization();
        if rho >= 1.0 {
            return 1.0;
        }
        let delayed = self.delayed();
        if delayed < NEGLIGIBLE {
            return 0.0;
        }
        let full = self.replicas() * self.speed.full();
        delayed * tail(full, rho, self.slots, self.variation, seconds)
    }
}

/// Probability that a wait that happens is longer than `t` seconds, in a queue with `slots` servers that do `rate` together,
/// used to `rho`, whose work has the squared coefficient of variation `v`.
fn tail(rate: f64, rho: f64, slots: f64, v: f64, t: f64) -> f64 {
    if v < 1.0 {
        return (-(1.0 - rho) * rate * t / steadier(rho, slots, v)).exp();
    }
    hyperexponential(rate, rho, v, t)
}

/// What the mean wait is of that with exponential work, where work varies less (`v` below 1). With one server or where all
/// are busy it is (1 + v) / 2, but whoever comes at a rare moment at which several servers are taken waits for the first of them,
/// and that takes nearly as long however little work varies. (G. P. Cosmetatos, Some approximate equilibrium results for the
/// multi-server queue M/G/r, Operational Research Quarterly 27, 1976.)
fn steadier(rho: f64, slots: f64, v: f64) -> f64 {
    let fixed = 1.0 + (1.0 - rho) * (slots - 1.0).max(0.0) * ((4.0 + 5.0 * slots).sqrt() - 2.0) / (16.0 * rho * slots);
    (1.0 - v).mul_add(f64::min(0.5 * fixed, 1.0), v)
}

/// In units of 1 / `rate`: the work is with probability p of rate 2p, else of rate 2q, q = 1 - p (two exponentials that
/// contribute equally to the mean), where (p - q)^2 = d = (v - 1) / (v + 1). The wait's transform by Pollaczek and Khinchine
/// has the poles -x and -y, the roots of s^2 + (2 - rho) s + (1 - d)(1 - rho).
fn hyperexponential(rate: f64, rho: f64, v: f64, t: f64) -> f64 {
    let d = (v - 1.0) / (v + 1.0);
    // y - x: the root of a sum, so that nothing cancels where rho is small.
    let between = (4.0 * d * (1.0 - rho) + rho * rho).sqrt();
    let y = f64::midpoint(2.0 - rho, between);
    let x = (1.0 - d) * (1.0 - rho) / y;
    let weight = |root: f64| (1.0 - rho) * (1.0 - d - root) / (root * between);
    weight(x) * (-x * rate * t).exp() - weight(y) * (-y * rate * t).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erlang(lambda: f64, seconds: f64, slots: f64) -> Chain {
        let speed = Speed { fixed: seconds, growing: 0.0, slots: 1.0 };
        Chain { speed, lambda, slots, variation: 1.0 }
    }

    /// Erlang's C as tables have it.
    #[test]
    fn a_constant_speed_gives_the_formula_of_erlang() {
        // M/M/1 waits with probability rho; M/M/2 with 2 rho^2 / (1 + rho).
        assert!((erlang(0.5, 1.0, 1.0).delayed() - 0.5).abs() < 1e-12);
        assert!((erlang(1.0, 1.0, 2.0).delayed() - 1.0 / 3.0).abs() < 1e-12);
        // 10 Erlang at 14 agents.
        assert!((erlang(10.0, 1.0, 14.0).delayed() - 0.1741).abs() < 5e-4, "{}", erlang(10.0, 1.0, 14.0).delayed());
        let wait = erlang(1.0, 1.0, 2.0).waits(2.0);
        assert!((wait - (-2.0_f64).exp() / 3.0).abs() < 1e-12, "{wait}");
    }

    #[test]
    fn slots_of_a_replica_make_no_difference_to_a_constant_speed() {
        let one = erlang(9.0, 4.0, 48.0);
        let eight = Chain { speed: Speed { slots: 8.0, ..one.speed }, ..one };
        assert!((one.waits(1.0) - eight.waits(1.0)).abs() < 1e-12);
    }

    /// Pollaczek and Khinchine: the mean wait of M/G/1 is rho (1 + v) / (2 (1 - rho)) times the service time.
    #[test]
    fn the_mean_wait_of_one_server_is_that_of_pollaczek_and_khinchine() {
        for v in [0.0, 0.6, 1.0, 2.0, 4.0] {
            let rho = 0.8;
            let step = 0.001;
            let mean: f64 =
                (0..200_000).map(|i| rho * tail(1.0, rho, 1.0, v, (f64::from(i) + 0.5) * step) * step).sum();
            let known = rho * (1.0 + v) / (2.0 * (1.0 - rho));
            assert!((mean - known).abs() < known * 1e-3, "{v}: {mean} {known}");
        }
    }

    /// Skipping what has no weight changes nothing that anybody sees, however large the pool.
    #[test]
    fn a_large_pool_is_quick_and_as_exact() {
        let from_zero = |chain: &Chain| {
            let (mut last, mut n) = (1.0, 0.0);
            while n < chain.slots {
                n += 1.0;
                last = chain.lambda * last / (chain.leave(n) + chain.lambda * last);
            }
            let rho = chain.utilization();
            last / (1.0 - rho + rho * last)
        };
        for (fixed, growing) in [(4.0, 0.0), (1.0, 0.1)] {
            let speed = Speed { fixed, growing, slots: 32.0 };
            let chain = Chain { speed, lambda: 2_400.0, slots: 10_240.0, variation: 1.0 };
            assert!((chain.delayed() - from_zero(&chain)).abs() < 1e-9);
        }
    }

    #[test]
    fn hardly_any_requests_are_no_trouble() {
        for lambda in [1e-300, 1e-13, 1e-11, 1e-6] {
            for variation in [0.0, 1.0, 1.0 + 1e-9, 4.0, 1e9] {
                let wait = Chain { variation, ..erlang(lambda, 1.0, 1.0) }.waits(0.0);
                assert!((0.0..=lambda * 1.001).contains(&wait), "{lambda} {variation}: {wait}");
            }
        }
    }

    #[test]
    fn a_pool_that_is_too_small_makes_everybody_wait() {
        assert!((erlang(2.0, 1.0, 2.0).waits(60.0) - 1.0).abs() < f64::EPSILON);
    }
}
