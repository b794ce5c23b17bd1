//! Routing tables: whatever a ConfigMap holds, it is in force as a whole, or it is refused and the text names what is wrong.
#![no_main]

mod contained;

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use smallfirst::router::metrics::Metrics;
use smallfirst::router::snapshot::{Refused, Snapshot};
use smallfirst::routing::decide::{Route, Signals, classify, names};
use smallfirst::routing::source::secrets::Secrets;

/// What a refusal of a part names.
const PARTS: [&str; 4] = ["path ", "tier ", "workload ", "Public tier "];

fn compiled(text: &str, before: Option<&Snapshot>) -> Result<Snapshot, Refused> {
    Snapshot::compile(
        text,
        &Secrets::default(),
        &Metrics::new(&mut Default::default()),
        &Default::default(),
        true,
        before,
    )
}

/// Whether a text says which field is wrong.
fn names_a_field(text: &str) -> bool {
    text.contains('`') || text.split_once(": ").is_some_and(|(field, _)| !field.contains(' '))
}

fn run(data: &str) {
    let snapshot = match compiled(data, None) {
        Ok(snapshot) => snapshot,
        Err(Refused::Part(what)) => {
            assert!(PARTS.iter().any(|part| what.starts_with(part)) && what.contains(": "), "{what}");
            return;
        }
        Err(Refused::Malformed(what)) => {
            let is_object = data.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(data).is_ok();
            assert!(!is_object || names_a_field(&what), "{what}");
            return;
        }
        Err(Refused::Version(version)) => return assert!(version > 1),
    };
    assert_eq!(snapshot.client("a key"), None);
    // Every request of every client goes somewhere, or is refused with words.
    let clients = snapshot.table.clients.as_ref().map_or(0, Vec::len).min(4);
    for client in std::iter::once(None).chain((0..clients).map(Some)) {
        let _ = snapshot.limiter(client);
        for model in names(&snapshot.table, client).iter().map(String::as_str).take(8).chain(["nobody's"]) {
            match classify(&snapshot.table, &Signals { client, model, header: &|_| Some("a value") }) {
                Ok(Route::Workload(index)) => assert!(snapshot.routes.workload(index).is_some()),
                Ok(Route::Tier(tier)) => assert!(snapshot.routes.tier(tier).is_some()),
                Err(_) => {}
            }
        }
    }
    let again = compiled(data, Some(&snapshot)).expect("it compiled before");
    assert_eq!(again.hash, snapshot.hash);
    // What is written is read.
    let text = snapshot.table.to_json();
    let read = compiled(&text, None).expect("it compiled before").table;
    assert_eq!(read.to_json(), text);
}

fuzz_target!(init: contained::init(), |data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        contained::run(|| run(text));
    }
});
