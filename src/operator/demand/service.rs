//! How long a tier takes for a request: S(b) = gamma * input + output * (alpha + beta * b), b the requests that one of its
//! replicas works on. Found by least squares from what all routers of a namespace counted: how often one of so many requests
//! left, and how a call's own tokens mattered.
//!
//! A router counts by what it sees, which is its own part of a replica's requests. The others' part is told from what the
//! other routers have in flight with the tier.

mod fit;

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
/// Others are told from what is in flight on average: less than this is nobody.
const ALONE: f64 = 0.01;

/// How many sums there are of a bin: calls that made it so many requests, their seconds, tokens of input and of output; call by
/// call output squared, input squared, input times output, and both times seconds; the seconds that the replica had so many
/// requests, request-seconds of the router that says so, and of all.
const SUMS: usize = 12;
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
            let here = if band.occupied > 0 { float(band.requests) / float(band.occupied) } else { 1.0 };
            if let Some(sums) = self.bins.get_mut(bin(here + others)) {
                let more = sums_of(&since(band, before.get(place)), others);
                if known { sums.add(more, now, PACE) } else { sums.begin(more, now, PACE) }
            }
        }
    }

    /// The time that a request takes, by the requests that a replica works on; up to `declared` of them, where that is
    /// known: more wait within it. `None`: too few were seen.
    #[must_use]
    pub fn service(&self, declared: Option<u32>) -> Option<Service> {
        let (bins, most) =
            declared.map_or_else(|| (self.growing(), f64::INFINITY), |most| (&self.bins[..], most.into()));
        fit::service(bins, most)
    }

    /// Bins up to the one above which no more tokens a second are done: there, requests wait within the replica.
    fn growing(&self) -> &[Sums] {
        let full = (1..BINS).find(|end| {
            let (below, above) = self.bins.split_at(*end);
            let here = done(below.get(end - 1..).unwrap_or_default());
            here.zip(done(above)).is_some_and(|(here, above)| above < here * GAIN)
        });
        self.bins.get(..full.unwrap_or(BINS)).unwrap_or_default()
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
        let [calls, _, input, output, output_squared, input_squared, input_output, ..] = total(&self.bins);
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

/// What a router counted of replicas that had others' requests besides.
fn sums_of(band: &Band, others: f64) -> [f64; SUMS] {
    let seconds = |micros: u64| float(micros) / 1e6;
    [
        float(band.calls),
        seconds(band.micros),
        float(band.input),
        float(band.output),
        float(band.output_squared),
        float(band.input_squared),
        float(band.input_output),
        seconds(band.input_micros),
        seconds(band.output_micros),
        seconds(band.occupied),
        seconds(band.requests),
        seconds(band.occupied).mul_add(others, seconds(band.requests)),
    ]
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
        output_micros: new.output_micros.saturating_sub(old.output_micros),
        input_micros: new.input_micros.saturating_sub(old.input_micros),
        occupied: new.occupied.saturating_sub(old.occupied),
        requests: new.requests.saturating_sub(old.requests),
    }
}

/// The bin of a concurrency, rounded up: who may have waited is not among those that did not.
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

/// Tokens of output a second that replicas do. `None`: too few were seen.
fn done(bins: &[Sums]) -> Option<f64> {
    let (mut calls, mut tokens, mut seconds) = (0.0, 0.0, 0.0);
    for sums in bins {
        let [some, _, _, output, .., occupied, requests, all] = sums.sums();
        if requests > 0.0 {
            // Other routers' requests get their part done.
            (calls, tokens, seconds) = (calls + some, tokens + output * all / requests, seconds + occupied);
        }
    }
    (calls >= FEW && tokens > 0.0).then(|| tokens / seconds)
}

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
