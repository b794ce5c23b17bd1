//! The house's boundaries (CONTRIBUTING): which room may do I/O, and that no file is lost or overgrown.
//!
//! Reads the sources themselves, so that a rule can't be forgotten in review. Code under `#[cfg(test)]` is free.
#![expect(clippy::unwrap_used, reason = "tests")]

mod boundary {
    pub mod named;
    pub mod rules;
    pub mod scan;
}

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use boundary::named::{named, tests, unknown};
use boundary::rules::{PURE, breaches};
use boundary::scan::{Scan, scan};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Files below a folder of the repository, by path relative to it, hidden and built ones left out.
fn files(folder: &str) -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') || ["target", "vendor", "node_modules", "__pycache__"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let root = Path::new(ROOT).join(folder);
    let mut found = Vec::new();
    walk(&root, &mut found);
    let mut names: Vec<String> =
        found.iter().map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn read(folder: &str, file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(folder).join(file)).unwrap()
}

fn sources() -> Vec<(String, Scan)> {
    let files = files("src").into_iter().filter(|file| file.ends_with(".rs"));
    files.map(|file| (file.clone(), scan(&read("src", &file)).unwrap_or_else(|e| panic!("{file}: {e}")))).collect()
}

/// Where a module that `file` declares may be.
fn candidates(file: &str, module: &str) -> [String; 2] {
    let folder = match file.rsplit_once('/').unwrap_or(("", file)) {
        (folder, "mod.rs" | "lib.rs" | "main.rs") => folder.to_owned(),
        _ => file.trim_end_matches(".rs").to_owned(),
    };
    let base = if folder.is_empty() { module.to_owned() } else { format!("{folder}/{module}") };
    [format!("{base}.rs"), format!("{base}/mod.rs")]
}

/// Files that are part of the crate, and those among them that only tests see.
fn reachable(sources: &[(String, Scan)]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut all, mut tests) = (BTreeSet::new(), BTreeSet::new());
    let mut next = vec![("lib.rs".to_owned(), false), ("main.rs".to_owned(), false)];
    while let Some((file, test)) = next.pop() {
        let Some((_, scan)) = sources.iter().find(|(name, _)| *name == file) else { continue };
        for module in &scan.modules {
            next.extend(candidates(&file, &module.name).map(|file| (file, test || module.test)));
        }
        if test {
            tests.insert(file.clone());
        }
        all.insert(file);
    }
    (all, tests)
}

#[test]
fn every_room_keeps_its_boundary() {
    let sources = sources();
    let (_, tests) = reachable(&sources);
    let code = sources.iter().filter(|(file, _)| !tests.contains(file));
    let found: Vec<String> = code.flat_map(|(file, scan)| breaches(file, scan)).collect();
    assert!(found.is_empty(), "{found:#?}");
    // A room that was renamed must not slip out of the rule.
    for room in PURE {
        let here = |file: &String| *file == format!("{room}.rs") || file.starts_with(&format!("{room}/"));
        assert!(sources.iter().any(|(file, _)| here(file)), "{room}: no such room; change tests/boundary/rules.rs");
    }
}

#[test]
fn every_source_file_is_declared_by_a_module() {
    let sources = sources();
    let (declared, _) = reachable(&sources);
    let orphans: Vec<&String> = sources.iter().map(|(file, _)| file).filter(|file| !declared.contains(*file)).collect();
    assert!(orphans.is_empty(), "no module declares {orphans:?}");
}

#[test]
fn no_source_file_is_longer_than_800_lines() {
    let mut long = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for file in files(folder) {
            let is_source = [".rs", ".go", ".py", ".sh"].iter().any(|ending| file.ends_with(ending));
            let lines = if is_source { read(folder, &file).lines().count() } else { 0 };
            if lines > 800 {
                long.push(format!("{folder}/{file}: {lines} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn every_test_that_the_router_s_readme_names_exists() {
    let readme = read("tests/router", "README.md");
    let names = named(&readme);
    assert!(names.len() > 40, "the table was not understood: {names:?}");
    let files = files("tests/router").into_iter().filter_map(|file| {
        let name = file.strip_suffix(".rs")?.to_owned();
        Some((name, tests(&read("tests/router", &file)).unwrap()))
    });
    let unknown = unknown(&names, &tests(&read("tests", "router.rs")).unwrap(), &files.collect());
    assert!(unknown.is_empty(), "tests/router/README.md names what is no test: {unknown:#?}");
}

#[test]
fn a_name_in_a_table_is_a_test_s_a_file_s_or_wrong() {
    let code = "#[test] fn a() {} #[tokio::test(flavor = \"multi_thread\")] async fn b() {} fn helper() {}";
    let root = tests(code).unwrap();
    assert_eq!(root, ["a", "b"]);
    let files = BTreeMap::from([("file".to_owned(), vec!["c".to_owned()]), ("helpers".to_owned(), Vec::new())]);
    let document = "Text | a | b\n\n| fault | test |\n| --- | --- |\n| **Part** | |\n| x | a, file::c, file |\n\
                    | x | helper, file::a, helpers, gone::c |";
    assert_eq!(unknown(&named(document), &root, &files), ["helper", "file::a", "helpers", "gone::c"]);
}

/// What a snippet breaches as the given file.
fn breach(file: &str, code: &str) -> Vec<String> {
    breaches(file, &scan(code).unwrap())
}

#[test]
fn the_scanner_sees_every_way_to_name_a_thing() {
    for code in [
        "use std::fs;",
        "use std::{collections::BTreeMap, fs::{self, File}};",
        "use ::std::net::TcpStream as Wire;",
        "fn f() { let _ = std::fs::read(\"x\"); }",
        "use std::net::{IpAddr, ToSocketAddrs};",
        "use std::net;",
        "use std::net::*;",
        "use tokio as rt;",
        "async fn f() { tokio::task::yield_now().await }",
        "use std::time::Instant; fn f() { Instant::now(); }",
        "fn f(clock: fn() -> std::time::Instant) {} fn g() { f(std::time::Instant::now) }",
        "use std::time::SystemTime;",
        "fn f() { println!(\"{:?}\", std::env::var(\"X\")); }",
        "use rand::Rng;",
        "fn f() { jiff::Timestamp::now(); }",
        "use kube::{Api, Client};",
        "mod inner { use std::fs; }",
        "impl X { fn f() { std::process::exit(1) } }",
        "use std::*;",
    ] {
        assert!(!breach("operator/plan/pool.rs", code).is_empty(), "{code}");
    }
}

#[test]
fn the_scanner_is_not_fooled_by_text_and_tests() {
    for code in [
        "//! Reads no std::fs and no tokio.\n/* use std::fs; */",
        "const X: &str = \"use std::fs; tokio::spawn\";",
        "use std::net::IpAddr; fn f(_: std::net::SocketAddr) { IpAddr::from([0; 4]); }",
        "use std::time::Duration; use std::time::Instant; fn f(now: Instant) -> Instant { now }",
        "#[cfg(test)] mod tests { use std::fs; use tokio::test; }",
        "#[cfg(test)] fn f() { std::fs::read(\"x\"); }",
        "use crate::routing::table::Gate; fn tokio() {}",
        "#[cfg(all(test, unix))] use std::fs;",
    ] {
        assert_eq!(breach("operator/plan/pool.rs", code), Vec::<String>::new(), "{code}");
    }
    // What only looks like a test is code.
    assert!(!breach("operator/plan/pool.rs", "#[cfg(not(test))] use std::fs;").is_empty());
}

#[test]
fn rooms_may_do_what_they_are_for_and_no_more() {
    let client = "use kube::Client;";
    let client_elsewhere = "fn f(c: kube::client::Client) {}";
    let http = "use hyper::body::Incoming;";
    for (file, code, allowed) in [
        ("operator/observe/watch.rs", client, true),
        ("operator/apply.rs", client_elsewhere, true),
        ("routing/source/config_map.rs", client, true),
        ("cli/operator.rs", client, true),
        ("runtime/leader.rs", client, true),
        ("router/server.rs", client, false),
        ("operator/observer.rs", client, false),
        ("routing/mod.rs", client_elsewhere, false),
        ("lib.rs", client, false),
        ("router/server.rs", http, true),
        ("runtime/admin.rs", "use axum::Router;", true),
        ("operator/sync/mod.rs", "use hyper_util::rt::TokioIo;", true),
        ("runtime/leader.rs", http, false),
        ("operator/apply/mod.rs", "use axum::Router;", false),
        ("router/gates/mod.rs", http, false),
        ("router/admission/store/keeper.rs", "use redis::Client;", true),
        ("router/admission/account.rs", "use redis::Client;", false),
        ("router/decide.rs", "use std::fs;", false),
        ("operator/status.rs", "use std::fs;", false),
        ("operator/statuses.rs", "use std::fs;", true),
    ] {
        assert_eq!(breach(file, code).is_empty(), allowed, "{file}: {code}");
    }
}

#[test]
fn an_undeclared_file_is_seen() {
    let scanned = |files: &[(&str, &str)]| {
        files.iter().map(|(name, code)| ((*name).to_owned(), scan(code).unwrap())).collect::<Vec<_>>()
    };
    let sources = scanned(&[
        ("lib.rs", "pub mod a; #[cfg(test)] mod testkit;"),
        ("a.rs", "mod b; mod inline { mod not_a_file {} }"),
        ("a/b.rs", "mod c;"),
        ("a/b/c/mod.rs", "mod d;"),
        ("a/b/c/d.rs", ""),
        ("testkit/mod.rs", "mod e;"),
        ("testkit/e.rs", ""),
        ("a/lost.rs", ""),
    ]);
    let (all, tests) = reachable(&sources);
    let lost: Vec<&str> = sources.iter().map(|(f, _)| f.as_str()).filter(|f| !all.contains(*f)).collect();
    assert_eq!(lost, ["a/lost.rs"]);
    assert_eq!(tests.into_iter().collect::<Vec<_>>(), ["testkit/e.rs", "testkit/mod.rs"]);
}
