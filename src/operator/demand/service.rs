//! How long a tier takes for a request: S(b) = gamma * input + output * (alpha + beta * b), b the requests that one of its
//! replicas works on. Found by least squares from what all routers of a namespace counted, as far as replicas had room.
//!
//! A router counts by what it sees, which is its own part of a replica's requests. The others' part is told from what the
//! other routers have in flight with the tier.

use std::collections::BTreeMap;

use super::Heard;
use super::fading::{Fading, Pace};
use super::mix::float;
use crate::routing::counts::{Band, TierCounts};
use crate::sizing::input::{Service, Variation};

/// The last hour, or a thousand calls.
const PACE: Pace = Pace { time: 3600.0, least: 1000.0 };
/// Time constant for requests in flight, in seconds.
const SMOOTH: f64 = 30.0;
/// A router that was not heard for so long has nothing in flight,
const SILENT: i64 = 10;
/// and after so long it is gone.
const FORGOTTEN: i64 = 3600;
/// Calls below which nothing is said.
const FEW: f64 = 30.0;
/// How much more a replica must get done with one more request at a time, unless it has as many as it can work on.
const GAIN: f64 = 1.02;
/// Bins of concurrency: one for each up to half of them, and wider ones above.
const BINS: usize = 64;
/// Company for so much of the time is none.
const ALONE: f64 = 0.01;

/// How many sums there are of a bin: calls, seconds, tokens of input, of output, of output times concurrency (load) and times
/// its variance (spread); call by call output squared, input squared, input times output; and the normal equations of the
/// least squares, x * x' (ten) and x * seconds (four), x = (input, output, load, spread).
const SUMS: usize = 23;
type Sums = Fading<SUMS>;

/// Calls of one tier.
#[derive(Clone, Debug)]
pub struct Calls {
    bins: [Sums; BINS],
    routers: BTreeMap<String, Router>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { bins: [Sums::default(); BINS], routers: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Default)]
struct Router {
    /// Process and number of its last report.
    order: (u64, u64),
    heard: i64,
    counted: Vec<Band>,
    in_flight: f64,
}

impl Calls {
    /// Takes in what a router says of the tier.
    pub fn report(&mut self, heard: Heard<'_>, counts: &TierCounts) {
        let Heard { pod, incarnation, sequence, age: _, at: now } = heard;
        self.routers.retain(|name, router| name == pod || now - router.heard <= FORGOTTEN);
        let router = self.routers.entry(pod.to_owned()).or_default();
        let new = router.heard == 0;
        if !new && (incarnation, sequence) <= router.order {
            return;
        }
        let known = !new && incarnation == router.order.0;
        let before = if known { std::mem::take(&mut router.counted) } else { Vec::new() };
        let seconds = float(u64::try_from(now - router.heard).unwrap_or_default());
        let weight = if known { (-seconds / SMOOTH).exp() } else { 0.0 };
        router.in_flight = weight.mul_add(router.in_flight - float(counts.in_flight), float(counts.in_flight));
        (router.order, router.heard) = ((incarnation, sequence), now);
        router.counted.clone_from(&counts.bands);
        let others = self.routers.iter().filter(|(name, other)| *name != pod && now - other.heard <= SILENT);
        let others = others.map(|(_, other)| other.in_flight).sum::<f64>() / float(counts.endpoints.max(1));
        for (place, band) in counts.bands.iter().enumerate() {
            let news = since(band, before.get(place));
            if news.calls > 0 {
                self.add(&news, others, known, now);
            }
        }
    }

    /// Adds calls, beside which others' requests were at the replica.
    fn add(&mut self, news: &Band, others: f64, known: bool, now: i64) {
        let [calls, input, output] = [news.calls, news.input, news.output].map(float);
        let [load, spread] = [news.load, news.spread].map(|thousandths| float(thousandths) / 1000.0);
        let (seconds, load) = (float(news.micros) / 1e6, output.mul_add(others, load));
        let Some(sums) = self.bins.get_mut(if output > 0.0 { bin(load / output) } else { 0 }) else { return };
        // The variance of a sum grows with its calls: each call weighs the same.
        let per = |a: f64, b: f64| a * b / calls;
        let more = [
            calls,
            seconds,
            input,
            output,
            load,
            spread,
            float(news.output_squared),
            float(news.input_squared),
            float(news.input_output),
            per(input, input),
            per(input, output),
            per(input, load),
            per(input, spread),
            per(output, output),
            per(output, load),
            per(output, spread),
            per(load, load),
            per(load, spread),
            per(spread, spread),
            per(input, seconds),
            per(output, seconds),
            per(load, seconds),
            per(spread, seconds),
        ];
        if known {
            sums.add(more, now, PACE);
        } else {
            sums.begin(more, now, PACE);
        }
    }

    /// The time that a request takes, by the requests that a replica works on; up to `declared` of them, where that is
    /// known. `None`: too few were seen.
    #[must_use]
    pub fn service(&self, declared: Option<u32>) -> Option<Service> {
        let bins = self.with_room(declared);
        let [calls, seconds, ..] = total(bins);
        if calls < FEW {
            return None;
        }
        // A second time with what the first says of how company slows a request.
        let rough = fit(bins, [0.0; 3]);
        let fitted = rough.and_then(|rough| fit(bins, rough)).or(rough);
        Some(fitted.map_or(Service::Constant { seconds: seconds / calls }, |[gamma, alpha, beta]| Service::Batching {
            alpha,
            beta,
            gamma,
        }))
    }

    /// Bins in which a replica had room: up to what is declared, or else as long as one more request at a time was more
    /// tokens a second. In the others requests wait within the replica, and their time says nothing of how it works.
    fn with_room(&self, declared: Option<u32>) -> &[Sums] {
        let mut best = 0.0;
        let crowded = self.bins.iter().position(|sums| {
            let [calls, seconds, _, output, load, ..] = sums.sums();
            if output <= 0.0 || seconds <= 0.0 {
                return false;
            }
            if let Some(most) = declared {
                return load / output > f64::from(most) + ALONE;
            }
            let done = load / seconds;
            let crowded = calls >= FEW && done < best * GAIN;
            if calls >= FEW {
                best = done;
            }
            crowded
        });
        match crowded {
            // More than declared, all the time: that is what there is.
            Some(end) if total(self.bins.get(..end).unwrap_or_default())[0] > 0.0 => self.bins.get(..end),
            _ => self.bins.get(..),
        }
        .unwrap_or_default()
    }

    /// Mean seconds of a call, waiting within the replica included. `None`: none was seen.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        let [calls, seconds, ..] = total(&self.bins);
        (calls > 0.0).then(|| seconds / calls)
    }

    /// How far calls differ in their tokens. `None`: too few were seen.
    #[must_use]
    pub fn variation(&self) -> Option<Variation> {
        let [calls, _, input, output, _, _, output_squared, input_squared, input_output, ..] = total(&self.bins);
        // Of tokens of which there are none it says nothing.
        let of = |product: f64, one: f64, other: f64| {
            if one * other > 0.0 { (product * calls / (one * other) - 1.0).max(0.0) } else { 0.0 }
        };
        (calls >= FEW && output > 0.0).then(|| Variation {
            output: of(output_squared, output, output),
            input: of(input_squared, input, input),
            together: of(input_output, input, output),
        })
    }
}

fn since(new: &Band, old: Option<&Band>) -> Band {
    let Some(old) = old else { return *new };
    Band {
        calls: new.calls.saturating_sub(old.calls),
        micros: new.micros.saturating_sub(old.micros),
        input: new.input.saturating_sub(old.input),
        output: new.output.saturating_sub(old.output),
        output_squared: new.output_squared.saturating_sub(old.output_squared),
        input_squared: new.input_squared.saturating_sub(old.input_squared),
        input_output: new.input_output.saturating_sub(old.input_output),
        load: new.load.saturating_sub(old.load),
        spread: new.spread.saturating_sub(old.spread),
    }
}

/// The bin of a concurrency, rounded up: whoever was beyond a whole number for a part of its time may have waited.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bins")]
fn bin(concurrency: f64) -> usize {
    let half = (BINS / 2) as f64;
    // Four for each doubling.
    let place = if concurrency <= half { concurrency } else { 4.0_f64.mul_add((concurrency / half).log2(), half) };
    (place - ALONE).ceil().clamp(0.0, (BINS - 1) as f64) as usize
}

fn total(bins: &[Sums]) -> [f64; SUMS] {
    bins.iter().fold([0.0; SUMS], |mut total, bin| {
        total.iter_mut().zip(bin.sums()).for_each(|(sum, more)| *sum += more);
        total
    })
}

/// Subsets of (input, output, load). The first of those that fit as well is the simplest: output alone, then with its batch,
/// then with its input.
const SUBSETS: [&[usize]; 7] = [&[1], &[1, 2], &[0, 1], &[0, 1, 2], &[2], &[0, 2], &[0]];

/// The normal equations of these bins: a matrix and its right side.
///
/// A request that has company for a part of its time is slow for that part, so that the mean concurrency over its time is
/// more than that over its work, which is what S(b) depends on: the mean of b weighted by its own pace, 1 / (c + beta * b), with
/// c = gamma * input / output + alpha. To second order it is less by beta * variance / (c + beta * mean). By `rough` values of
/// the three.
fn equations(bins: &[Sums], rough: [f64; 3]) -> ([[f64; 3]; 3], [f64; 3]) {
    let [gamma, alpha, beta] = rough;
    let (mut matrix, mut right) = ([[0.0; 3]; 3], [0.0; 3]);
    for sums in bins {
        let [_, _, input, output, load, _, _, _, _, ii, io, il, iv, oo, ol, ov, ll, lv, vv, is, os, ls, vs] =
            sums.sums();
        let pace = gamma.mul_add(input, alpha * output) + beta * load;
        let less = if pace > 0.0 { beta * output / pace } else { 0.0 };
        let (il, ol, ls) = (il - less * iv, ol - less * ov, ls - less * vs);
        let ll = less * less * vv - 2.0 * less * lv + ll;
        let more = [[ii, io, il], [io, oo, ol], [il, ol, ll]];
        matrix.iter_mut().flatten().zip(more.iter().flatten()).for_each(|(sum, more)| *sum += more);
        right.iter_mut().zip([is, os, ls]).for_each(|(sum, more)| *sum += more);
    }
    (matrix, right)
}

/// Gamma, alpha and beta, none below 0: of all subsets of the three the one that fits best, of those that fit as well the
/// smallest. `None`: nothing depends on tokens.
fn fit(bins: &[Sums], rough: [f64; 3]) -> Option<[f64; 3]> {
    let (matrix, right) = equations(bins, rough);
    let mut best: Option<([f64; 3], f64)> = None;
    for subset in SUBSETS {
        let Some(found) = solve(&matrix, &right, subset) else { continue };
        // What is left of the squares, but for a constant.
        let rest: f64 = -found.iter().zip(right).map(|(a, b)| a * b).sum::<f64>();
        if best.is_none_or(|(_, least)| rest < least - 1e-9 * least.abs()) {
            best = Some((found, rest));
        }
    }
    best.map(|(found, _)| found)
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

#[cfg(test)]
mod company;
#[cfg(test)]
mod tests;
