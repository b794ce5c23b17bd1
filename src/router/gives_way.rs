//! What gives way while an account is short, by so much as the leader says, while it says so: thresholds, and requests that can
//! go to a pool instead.
//!
//! ```text
//! leader --reply--> Told --every second, fading--> gauges of the step <--read once-- a refused answer, a call of its tier
//! ```
//! Nobody relies on hearing that pressure is over. A leader says every second how it is; while none is heard, what was said
//! last holds for [`HOLDS`], in which another operator leads and has measured anew, and then fades evenly to nothing over
//! [`FADES`], so that what comes again does not come all at once. See ADR 24.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::gauge::Gauge;

use super::route::{Route, Stage};
use crate::routing::decide;
use crate::routing::report::{GivesWay as Said, PerStep};

/// Time for which what the leader said holds: that in which a new leader is found (12 s) and has sized twice (30 s).
pub const HOLDS: Duration = Duration::from_secs(45);
/// Time in which it fades after that.
pub const FADES: Duration = Duration::from_secs(45);

/// The metric that is also what requests read.
pub type Gauged = Gauge<f64, AtomicU64>;

/// A threshold that may be lowered.
pub struct GivesWay {
    /// By how much it is, in the unit of its score.
    lowered: Gauged,
    /// The most.
    most: f64,
}

impl GivesWay {
    /// A threshold that may be lowered by so much, and the gauge that says by how much it is.
    #[must_use]
    pub const fn new(lowered: Gauged, most: f64) -> Self {
        Self { lowered, most }
    }

    /// Whether an answer is accepted that missed the threshold by so little.
    #[must_use]
    pub fn accepts(&self, missed: f64) -> bool {
        decide::accepts_under_pressure(missed, self.lowered.get(), self.most)
    }
}

/// The part of a step's requests that goes to a pool instead.
pub struct Moves(Gauged);

impl Moves {
    /// The gauge that says the part.
    #[must_use]
    pub const fn new(part: Gauged) -> Self {
        Self(part)
    }

    /// Whether a request is in it; `random` draws below a bound.
    #[must_use]
    pub fn takes(&self, random: impl Fn(usize) -> usize) -> bool {
        /// As fine as shares are drawn.
        const OF: u32 = 1 << 20;
        let part = self.0.get();
        part > 0.0 && u32::try_from(random(OF as usize)).is_ok_and(|drawn| f64::from(drawn) < part * f64::from(OF))
    }
}

/// What the leader said last.
#[derive(Default)]
pub struct Told {
    said: Said,
    heard: Option<Instant>,
    /// Gauges that are not at 0: a step that a table leaves out must not come back with what was said of it.
    set: BTreeMap<Place, Gauged>,
}

/// Workload, step, and which of the two.
type Place = (String, String, usize);

/// What was said, and of a step its gauge with the most that it may say.
type Each<'t, 'r> = (&'t PerStep, fn(&'r Stage) -> Option<(&'r Gauged, f64)>);

impl Told {
    /// Takes in what the leader says.
    pub fn hear(&mut self, said: Said, now: Instant) {
        self.said = said;
        self.heard = Some(now);
    }

    /// Sets what gives way of the routes in force.
    pub fn apply<'r>(&mut self, routes: impl Iterator<Item = &'r Route>, now: Instant) {
        let part = self.heard.map_or(0.0, |heard| left(now.saturating_duration_since(heard)));
        if self.set.is_empty() && (self.said == Said::default() || part <= 0.0) {
            return;
        }
        let both: [Each<'_, 'r>; 2] = [
            (&self.said.lowered, |stage| stage.gives_way.as_ref().map(|it| (&it.lowered, it.most))),
            (&self.said.moved, |stage| stage.moves.as_ref().map(|it| (&it.0, 1.0))),
        ];
        let mut before = std::mem::take(&mut self.set);
        for route in routes {
            for (which, (said, gauge)) in both.iter().enumerate() {
                let Some(steps) = said.get(&route.workload) else { continue };
                for (step, stage) in route.path.steps.iter().zip(&route.stages) {
                    let (Some((gauge, most)), Some(nanos)) = (gauge(stage), steps.get(&step.name)) else { continue };
                    #[expect(clippy::cast_precision_loss, reason = "a part of the most, which is a float")]
                    let by = (*nanos as f64 / 1e9 * part).min(most);
                    if by > 0.0 {
                        gauge.set(by);
                        let place = (route.workload.clone(), step.name.clone(), which);
                        before.remove(&place);
                        self.set.insert(place, gauge.clone());
                    }
                }
            }
        }
        for gauge in before.values() {
            gauge.set(0.0);
        }
    }
}

/// The part of what was said so long ago that still holds.
fn left(age: Duration) -> f64 {
    let faded = age.saturating_sub(HOLDS).as_secs_f64() / FADES.as_secs_f64();
    (1.0 - faded).max(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::router::admission::budget::Budgets;
    use crate::router::metrics::Metrics;
    use crate::router::snapshot::Snapshot;
    use crate::routing::source::secrets::Secrets;

    #[test]
    fn what_is_not_said_again_holds_and_then_fades() {
        let at = |seconds| left(Duration::from_secs(seconds));
        assert_eq!([0, 45, 90, 1_000_000].map(at), [1.0, 1.0, 0.0, 0.0]);
        assert!((45..90).all(|second| at(second) > at(second + 1)), "evenly, without a jump");
    }

    fn snapshot(change: impl FnOnce(&mut serde_json::Value)) -> Snapshot {
        let tier = json!({
            "class": "Small", "dataClass": "Internal", "public": false, "model": "m", "contextTokens": 1000,
            "capabilities": ["Chat", "Logprobs"], "inputPrice": 1, "cachedInputPrice": 1, "outputPrice": 1,
            "concurrency": null, "account": null, "backend": {"url": {"baseUrl": "http://127.0.0.1/v1", "credential": null}}
        });
        let confidence = json!({"measure": "MeanLogprob", "quantile": null, "scope": "All", "atLeast": -0.4});
        let gate = json!({"onMissing": "Escalate", "required": false, "check": {"confidence": confidence}});
        let step = |name: &str, accept: serde_json::Value| json!({"name": name, "tiers": ["t"], "entry": "Always", "timeoutMs": 1, "attempts": 1, "accept": accept});
        let path = json!({
            "steps": [step("small", json!([gate])), step("large", json!([gate]))], "slack": 0.4, "deadlineMs": 1,
            "maxCost": null, "failoverOn": [], "commitAfterTokens": null, "direction": "Up", "onExhausted": "Error"
        });
        let workload = |risk: &str| {
            json!({
                "name": risk, "owner": "o", "risk": risk, "dataClass": "Internal", "models": [risk], "headers": [],
                "clients": [], "onlyByDefault": false, "path": "up", "limits": null
            })
        };
        let mut table = json!({
            "formatVersion": 1, "namespace": "ai", "policy": "p", "currency": "USD", "clients": null, "tiers": {"t": tier},
            "paths": {"up": path}, "workloads": [workload("Low"), workload("Medium"), workload("High")],
            "defaultWorkload": null, "accessLog": "JSON"
        });
        change(&mut table);
        let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
        let (secrets, budgets) = (Secrets::default(), Budgets::default());
        Snapshot::compile(&table.to_string(), &secrets, &metrics, &budgets, true, None)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// By how much the first step's threshold is lowered for each risk, of a snapshot.
    fn by(snapshot: &Snapshot) -> [Option<f64>; 3] {
        [0, 1, 2].map(|index| {
            let stage = snapshot.routes.workload(index)?.stages.first()?;
            stage.gives_way.as_ref().map(|gives_way| gives_way.lowered.get())
        })
    }

    #[test]
    fn what_the_leader_said_is_in_force_within_bounds_and_fades_when_it_is_silent() {
        let (snapshot, begin) = (snapshot(|_| ()), Instant::now());
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let all = snapshot.routes.all().flat_map(|route| &route.stages);
        assert_eq!(all.filter(|stage| stage.gives_way.is_some()).count(), 2, "neither High nor the last step");
        let each = || ("small".to_owned(), 300_000_000);
        let all = ["Low", "Medium", "High", "gone"].map(|w| (w.to_owned(), [each()].into())).into();
        let said = Said { lowered: all, ..Said::default() };
        let mut told = Told::default();
        told.apply(snapshot.routes.all(), at(0.0));
        assert_eq!(by(&snapshot), [Some(0.0), Some(0.0), None]);
        told.hear(said.clone(), at(0.0));
        for (seconds, part) in [(0.0, 1.0), (45.0, 1.0), (67.5, 0.5), (90.0, 0.0), (1e6, 0.0)] {
            told.apply(snapshot.routes.all(), at(seconds));
            let [low, medium, _] = by(&snapshot);
            let near = |value: Option<f64>, wanted: f64| value.is_some_and(|value| (value - wanted).abs() < 1e-9);
            assert!(near(low, 0.3 * part) && near(medium, (0.3 * part).min(0.2)), "{seconds}: {low:?} {medium:?}");
        }
        told.hear(said, at(1e6));
        told.apply(snapshot.routes.all(), at(1e6));
        assert_eq!(by(&snapshot)[0], Some(0.3), "it is there again");
        told.hear(Said::default(), at(1e6 + 1.0));
        told.apply(snapshot.routes.all(), at(1e6 + 1.0));
        assert_eq!(by(&snapshot), [Some(0.0), Some(0.0), None], "it is over");
    }

    #[test]
    fn a_step_that_a_table_leaves_out_does_not_stay_lowered() {
        let (before, now) = (snapshot(|_| ()), Instant::now());
        let lowered = [("Low".to_owned(), [("small".to_owned(), 100_000_000)].into())].into();
        let said = Said { lowered, ..Said::default() };
        let mut told = Told::default();
        told.hear(said, now);
        told.apply(before.routes.all(), now);
        assert_eq!(by(&before)[0], Some(0.1));
        let after = snapshot(|table| table["workloads"][0]["name"] = json!("other"));
        told.apply(after.routes.all(), now);
        assert_eq!(by(&before)[0], Some(0.0));
    }

    /// A path to a provider and then to a pool, for when the provider has no room.
    fn to_a_pool(table: &mut serde_json::Value) {
        let mut pool = table["tiers"]["t"].clone();
        pool["class"] = json!("Large");
        pool["backend"] = json!({"service": {"name": "pool", "port": 80, "portName": null, "health": null}});
        table["tiers"]["pool"] = pool;
        table["paths"]["up"]["steps"][1]["tiers"] = json!(["pool"]);
        table["paths"]["up"]["failoverOn"] = json!(["RateLimited"]);
    }

    /// Whether the first step's requests of each risk can go to a pool.
    fn movable(change: impl FnOnce(&mut serde_json::Value)) -> [bool; 3] {
        let snapshot = snapshot(change);
        [0, 1, 2].map(|index| snapshot.routes.workload(index).is_some_and(|route| route.stages[0].moves.is_some()))
    }

    #[test]
    fn who_has_a_large_pool_after_a_shortage_can_move_unless_of_high_risk() {
        let with = |change: fn(&mut serde_json::Value)| {
            movable(|table| {
                to_a_pool(table);
                change(table);
            })
        };
        assert_eq!(movable(|_| ()), [false; 3], "two providers");
        assert_eq!(with(|_| ()), [true, true, false]);
        assert_eq!(with(|table| table["tiers"]["pool"]["class"] = json!("Small")), [false; 3]);
        assert_eq!(with(|table| table["workloads"][0]["dataClass"] = json!("Restricted")), [false, true, false]);
        assert_eq!(with(|table| table["paths"]["up"]["failoverOn"] = json!(["Timeout"])), [false; 3]);
        let only_then =
            |table: &mut serde_json::Value| table["paths"]["up"]["steps"][1]["entry"] = json!("FailoverOnly");
        assert_eq!(with(only_then), [false; 3], "nothing falls down this path");
        let falls = |table: &mut serde_json::Value| {
            table["paths"]["up"]["steps"][1]["entry"] = json!("FailoverOnly");
            table["paths"]["up"]["direction"] = json!("UpThenDown");
        };
        assert_eq!(with(falls), [true, true, false]);
    }

    #[test]
    fn the_part_that_the_leader_said_is_moved_while_it_holds() {
        let (snapshot, begin) = (snapshot(to_a_pool), Instant::now());
        let moved = [("Low".to_owned(), [("small".to_owned(), 250_000_000)].into())].into();
        let mut told = Told::default();
        told.hear(Said { moved, ..Said::default() }, begin);
        for (seconds, part) in [(0, 0.25), (45, 0.25), (90, 0.0)] {
            told.apply(snapshot.routes.all(), begin + Duration::from_secs(seconds));
            let [low, medium] = [0, 1].map(|index| {
                let moves = snapshot.routes.workload(index).and_then(|route| route.stages[0].moves.as_ref());
                let moves = moves.expect("it can move");
                // Of a thousand draws, evenly.
                (0..1000).filter(|drawn| moves.takes(|bound| bound / 1000 * drawn)).count()
            });
            assert!((part * 1000.0 - low as f64).abs() <= 1.0 && medium == 0, "{seconds}: {low} {medium}");
        }
    }

    #[test]
    fn nothing_is_accepted_beyond_the_most() {
        let gives_way = GivesWay::new(Gauged::default(), 0.2);
        assert!(!gives_way.accepts(0.0), "there is no pressure");
        gives_way.lowered.set(0.1);
        assert_eq!([0.1, 0.11].map(|missed| gives_way.accepts(missed)), [true, false]);
        gives_way.lowered.set(7.0);
        assert_eq!(
            [0.2, 0.21, f64::INFINITY, f64::NAN].map(|missed| gives_way.accepts(missed)),
            [true, false, false, false]
        );
    }
}
