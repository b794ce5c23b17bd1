//! Gamma, alpha and beta by least squares, of what was seen at each concurrency.

use super::{ALONE, FEW, Sums};
use crate::sizing::input::Service;

/// The time that a request takes, of replicas that work on at most so many at a time. `None`: too few were seen.
pub(super) fn service(bins: &[Sums], most: f64) -> Option<Service> {
    let seen: Vec<Seen> = bins.iter().filter_map(|sums| Seen::of(sums, most)).collect();
    let calls: f64 = seen.iter().map(|seen| seen.calls).sum();
    if calls < FEW {
        return None;
    }
    let constant = Service::Constant { seconds: seen.iter().map(|seen| seen.worked).sum::<f64>() / calls };
    Some(fit(&seen).map_or(constant, |[gamma, alpha, beta]| Service::Batching { alpha, beta, gamma }))
}

/// What was seen of replicas with about as many requests.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    calls: f64,
    input: f64,
    output: f64,
    /// Requests that they worked on, while others waited within them,
    pub(super) company: f64,
    /// and request-seconds of such.
    pub(super) worked: f64,
    /// How calls differ from their mean. `None`: whoever came to a full replica waited, which its tokens don't explain.
    pub(super) own: Option<Own>,
}

/// Sums of products of deviations from the mean: of input and output with themselves, each other, and seconds.
#[derive(Clone, Copy)]
pub(super) struct Own {
    ii: f64,
    io: f64,
    oo: f64,
    is: f64,
    os: f64,
}

impl Seen {
    /// `None`: nothing was. At most so many requests are worked on at a time.
    pub(super) fn of(sums: &Sums, most: f64) -> Option<Self> {
        let [calls, seconds, input, output, oo, ii, io, is, os, occupied, requests, all] = sums.sums();
        if calls <= 0.0 || occupied <= 0.0 || requests <= 0.0 {
            return None;
        }
        let there = all / occupied;
        let company = there.min(most);
        let apart = |product: f64, one: f64, other: f64| product - one * other / calls;
        let own = (there <= most + ALONE).then(|| Own {
            ii: apart(ii, input, input),
            io: apart(io, input, output),
            oo: apart(oo, output, output),
            is: apart(is, input, seconds),
            os: apart(os, output, seconds),
        });
        Some(Self { calls, input, output, company, worked: requests * company / there, own })
    }
}

/// Subsets of (input, output, output times the others). The first of those that fit as well is the simplest: output alone,
/// then with its company, then with its input.
const SUBSETS: [&[usize]; 7] = [&[1], &[1, 2], &[0, 1], &[0, 1, 2], &[2], &[0, 2], &[0]];

/// The normal equations of these bins: a matrix and its right side.
///
/// Requests of n leave at the rate n / S(n), so that S(n) times those that left is n times the time that there were n: that
/// says how long n take, whatever happens to each meanwhile, and also of full replicas. As many left n as made it n, by one
/// at most; and who made it n did so whatever its own tokens, unlike who leaves. How a call's time depends on its own tokens is
/// said by calls that found as much company, each against their mean: it was what they found at first and later the usual.
fn equations(seen: &[Seen]) -> ([[f64; 3]; 3], [f64; 3]) {
    let (mut matrix, mut right) = ([[0.0; 3]; 3], [0.0; 3]);
    let mut add = |products: [[f64; 3]; 3], times: [f64; 3]| {
        matrix.iter_mut().flatten().zip(products.iter().flatten()).for_each(|(sum, more)| *sum += more);
        right.iter_mut().zip(times).for_each(|(sum, more)| *sum += more);
    };
    let worked: f64 = seen.iter().map(|seen| seen.worked).sum();
    let usual = seen.iter().map(|seen| seen.company * seen.worked).sum::<f64>() / worked;
    for &Seen { calls, input, output, company, worked, own } in seen {
        let of_all = [input, output, (company - 1.0) * output];
        // The variance of a sum grows with its calls: each call weighs the same.
        add(of_all.map(|row| of_all.map(|column| row * column / calls)), of_all.map(|row| row * worked / calls));
        if let Some(Own { ii, io, oo, is, os }) = own {
            let met = f64::midpoint(company, usual) - 1.0;
            let (il, ol, ll) = (met * io, met * oo, met * met * oo);
            add([[ii, io, il], [io, oo, ol], [il, ol, ll]], [is, os, met * os]);
        }
    }
    (matrix, right)
}

/// Gamma, alpha and beta; gamma, beta and alpha + beta, which is a step of one request alone, are not below 0: of all subsets of
/// these three the one that fits best, of those that fit as well the smallest. `None`: nothing depends on tokens.
fn fit(seen: &[Seen]) -> Option<[f64; 3]> {
    let (matrix, right) = equations(seen);
    let mut best: Option<([f64; 3], f64)> = None;
    for subset in SUBSETS {
        let Some(found) = solve(&matrix, &right, subset) else { continue };
        // What is left of the squares, but for a constant.
        let rest: f64 = -found.iter().zip(right).map(|(a, b)| a * b).sum::<f64>();
        if best.is_none_or(|(_, least)| rest < least - 1e-9 * least.abs()) {
            best = Some((found, rest));
        }
    }
    best.map(|([gamma, alone, beta], _)| [gamma, alone - beta, beta])
}

/// Least squares over some of the three, by Cholesky's method. `None`: they can't be told apart, or one is below 0.
fn solve(matrix: &[[f64; 3]; 3], right: &[f64; 3], subset: &[usize]) -> Option<[f64; 3]> {
    /// Part of a variable's squares that must not be explained by the others.
    const APART: f64 = 1e-3;
    let at = |row: usize, column: usize| matrix.get(row).and_then(|row| row.get(column)).copied().unwrap_or_default();
    let mut lower = [[0.0_f64; 3]; 3];
    let mut y = [0.0_f64; 3];
    for (i, row) in subset.iter().enumerate() {
        for (j, column) in subset.iter().enumerate().take(i + 1) {
            let known: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            let left = at(*row, *column) - known;
            if i == j {
                if left <= APART * at(*row, *row) {
                    return None;
                }
                lower[i][i] = left.sqrt();
            } else {
                lower[i][j] = left / lower[j][j];
            }
        }
        let known: f64 = (0..i).map(|k| lower[i][k] * y[k]).sum();
        y[i] = (right.get(*row).copied().unwrap_or_default() - known) / lower[i][i];
    }
    let mut found = [0.0; 3];
    let mut x = [0.0_f64; 3];
    for (i, row) in subset.iter().enumerate().rev() {
        let known: f64 = (i + 1..subset.len()).map(|k| lower[k][i] * x[k]).sum();
        x[i] = (y[i] - known) / lower[i][i];
        if x[i] < 0.0 || !x[i].is_finite() {
            return None;
        }
        found[*row] = x[i];
    }
    Some(found)
}
