//! The rules, as data.

use super::scan::Scan;

/// Rooms that do no I/O, read no clock and draw no randomness. Besides these, every module named `decide`.
pub const PURE: [&str; 28] = [
    "api",
    "lease",
    "operator/concurrency",
    "operator/demand",
    "operator/metrics_api/documents",
    "operator/metrics_api/request",
    "operator/plan",
    "operator/pressure",
    "operator/status",
    "operator/sync/routers",
    "operator/validate",
    "routing/counts",
    "routing/lent",
    "routing/misses",
    "routing/packed",
    "routing/table",
    "router/admission/escalations",
    "router/admission/room",
    "router/admission/store/book",
    "router/answer",
    "router/body",
    "router/continuation",
    "router/gates",
    "router/json",
    "router/money",
    "router/sse",
    "simulate",
    "sizing",
];

/// Pure rooms that draw randomness from a seed that they are given.
const SEEDED: [&str; 1] = ["simulate"];

/// Rooms that may hold a client of the API server.
const CLIENT: [&str; 8] = [
    "cli",
    "operator/apply",
    "operator/controller",
    "operator/metrics_api",
    "operator/observe",
    "operator/sync",
    "routing/source",
    "runtime",
];

/// Rooms that speak HTTP.
const HTTP: [&str; 5] = ["operator/metrics_api", "operator/scaler", "operator/sync", "router", "runtime/admin"];

/// The room that speaks to a store.
const STORE: &str = "router/admission/store";

/// What a pure room may not name: a path starts with one of these,
const IMPURE: [&str; 13] = [
    "tokio",
    "rand",
    "fastrand",
    "getrandom",
    "hyper",
    "hyper_util",
    "axum",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "crate::runtime",
];
/// but for these, which are plain data,
const PLAIN: [&str; 4] = ["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr", "std::net::SocketAddr"];
/// or has one of these in it.
const IMPURE_ANYWHERE: [&str; 5] = ["SystemTime", "Instant::now", "Timestamp::now", "Zoned::now", "RandomState::new"];

fn in_room(file: &str, room: &str) -> bool {
    file.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn in_any(file: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| in_room(file, room))
}

fn is_pure(file: &str) -> bool {
    in_any(file, &PURE) || file.trim_end_matches(".rs").split('/').any(|part| part == "decide")
}

/// Whether `path` starts with the segments of `prefix`; a glob import names everything below it.
fn starts_with(path: &str, prefix: &str) -> bool {
    let glob = path.strip_suffix("*").is_some_and(|above| prefix.starts_with(above));
    glob || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn contains(path: &str, part: &str) -> bool {
    format!("::{path}::").contains(&format!("::{part}::"))
}

/// The breaches of one file, by its path below `src`.
pub fn breaches(file: &str, scan: &Scan) -> Vec<String> {
    let mut found = Vec::new();
    for path in &scan.paths {
        let mut breach = |rule: &str| found.push(format!("src/{file} names {path}: {rule}"));
        let client = starts_with(path, "kube") && path.split("::").last() == Some("Client");
        if client && !in_any(file, &CLIENT) {
            breach("only rooms with I/O on the API server hold a client");
        }
        let http = ["hyper", "hyper_util", "axum"].iter().any(|name| starts_with(path, name));
        if http && !in_any(file, &HTTP) {
            breach("only the router and the operator's servers speak HTTP");
        }
        if starts_with(path, "redis") && !in_room(file, STORE) {
            breach("only the room of the quota's store speaks to it");
        }
        let plain = PLAIN.iter().any(|name| starts_with(path, name) && !path.ends_with('*'));
        let impure = IMPURE.iter().any(|name| starts_with(path, name)) && !plain
            || IMPURE_ANYWHERE.iter().any(|name| contains(path, name));
        let seeded = starts_with(path, "rand") && in_any(file, &SEEDED);
        if impure && !seeded && is_pure(file) {
            breach("this room is pure");
        }
    }
    found
}
