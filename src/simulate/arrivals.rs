//! Rows of a trace -> requests: how many, when, and of which kind.
//!
//! All randomness of the load is drawn here and in the trace's order, from one seeded generator. So every baseline gets
//! the same requests at the same times, and what is drawn of one later ([`Arrival::draw`]) does not depend on what
//! happens to others.

use std::collections::BTreeMap;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};

use super::clock::{Nanos, nanos, seconds};
use super::kinds::Kind;
use super::scenario::Scenario;
use super::trace::{Details, Row, Trace};

/// One request that comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Its row in the trace.
    pub row: u32,
    /// Its kind, by its place.
    pub kind: u32,
    /// What its own draws begin with.
    pub seed: u64,
}

impl Arrival {
    /// A number from 0 to 1 that is this request's, a different one for each `what`: the finalizer of SplitMix64 (Steele,
    /// Lea, Flood 2014) on its seed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    pub fn draw(&self, what: u64) -> f64 {
        let mut z = self.seed.wrapping_add(what.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The load of a run.
pub struct Arrivals<'a> {
    trace: &'a Trace,
    kinds: &'a [Kind],
    scale: f64,
    shape: &'a [f64],
    spread: Nanos,
    span: Nanos,
    /// How long it lasts.
    duration: Nanos,
    draws: ChaCha8Rng,
    row: usize,
    /// Begin of the round of the trace that is played.
    round: Nanos,
}

impl<'a> Arrivals<'a> {
    /// The load of a scenario. `scale` multiplies the scenario's.
    ///
    /// # Errors
    /// When a row names a kind that the scenario has not, or no kind takes a row.
    pub fn new(trace: &'a Trace, kinds: &'a [Kind], scenario: &'a Scenario, scale: f64) -> Result<Self, String> {
        let load = &scenario.load;
        let duration = load.duration.as_ref().and_then(|duration| duration.to_std().ok()).map(nanos);
        let span = trace.span();
        let arrivals = Self {
            trace,
            kinds,
            scale: load.scale * scale,
            shape: &load.shape,
            spread: nanos(load.spread.to_std().unwrap_or_default()),
            span,
            duration: duration.unwrap_or(span),
            draws: ChaCha8Rng::seed_from_u64(scenario.seed),
            row: 0,
            round: 0,
        };
        let mut seen = BTreeMap::new();
        for row in &trace.rows {
            let named = arrivals.says(row).and_then(|says| says.kind.as_ref());
            let key = (named.is_none().then_some(row.input), named);
            if seen.insert(key, ()).is_none() && arrivals.candidates(row).next().is_none() {
                return Err(match named {
                    Some((client, model)) => {
                        let client = client.as_deref().unwrap_or("none");
                        format!(
                            "requests: the trace has one of client {client} and model {model:?}, which none of them has"
                        )
                    }
                    None => format!("requests: none with a share takes a row of {} tokens of input", row.input),
                });
            }
        }
        Ok(arrivals)
    }

    /// How long the load lasts.
    #[must_use]
    pub const fn duration(&self) -> Nanos {
        self.duration
    }

    /// What a row says of its request besides.
    #[must_use]
    pub fn says(&self, row: &Row) -> Option<&'a Details> {
        self.trace.says.get(usize::try_from(row.says?).ok()?)
    }

    /// A row of the trace.
    #[must_use]
    pub fn row(&self, arrival: Arrival) -> Option<&'a Row> {
        self.trace.rows.get(usize::try_from(arrival.row).ok()?)
    }

    /// The next row's requests and their times. `None`: the load is over. Later rows may have earlier copies than this
    /// one's, but none before this one's own time, which is returned too.
    pub fn next(&mut self, into: &mut Vec<(Nanos, Arrival)>) -> Option<Nanos> {
        if self.row >= self.trace.rows.len() {
            self.row = 0;
            self.round += self.span;
        }
        let place = self.row;
        let row = self.trace.rows.get(place)?;
        let at = self.round + row.at;
        if at >= self.duration {
            return None;
        }
        self.row += 1;
        let wanted = self.scale * self.factor(at);
        let mut copies = wanted.floor();
        if self.draws.random::<f64>() < wanted - copies {
            copies += 1.0;
        }
        let mut left = copies;
        while left >= 1.0 {
            // The first copy is the row itself.
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "below the spread"
            )]
            let late = if left < copies { (self.draws.random::<f64>() * self.spread as f64) as Nanos } else { 0 };
            let kind = self.kind(row);
            let arrival = Arrival { row: u32::try_from(place).unwrap_or(u32::MAX), kind, seed: self.draws.next_u64() };
            into.push((at + late, arrival));
            left -= 1.0;
        }
        Some(at)
    }

    /// The load's shape at a time.
    fn factor(&self, at: Nanos) -> f64 {
        let [first, .., _] = self.shape else { return 1.0 };
        #[expect(clippy::cast_precision_loss, reason = "shapes are short")]
        let place = seconds(at) / seconds(self.duration) * (self.shape.len() - 1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the shape")]
        let before = place.floor() as usize;
        let low = self.shape.get(before).unwrap_or(first);
        let high = self.shape.get(before + 1).unwrap_or(low);
        (high - low).mul_add(place.fract(), *low)
    }

    fn candidates(&self, row: &Row) -> impl Iterator<Item = (usize, f64)> {
        let named = self.says(row).and_then(|says| says.kind.as_ref());
        let input = row.input;
        self.kinds.iter().enumerate().filter_map(move |(place, kind)| match named {
            Some(named) => (kind.named == *named).then_some((place, 1.0)),
            None => ((kind.input.0..=kind.input.1).contains(&input) && kind.share > 0.0).then_some((place, kind.share)),
        })
    }

    fn kind(&mut self, row: &Row) -> u32 {
        let total: f64 = self.candidates(row).map(|(_, share)| share).sum();
        let mut left = self.draws.random::<f64>() * total;
        let mut chosen = 0;
        for (place, share) in self.candidates(row) {
            chosen = place;
            left -= share;
            if left < 0.0 {
                break;
            }
        }
        u32::try_from(chosen).unwrap_or(u32::MAX)
    }
}
