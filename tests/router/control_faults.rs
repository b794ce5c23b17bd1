//! What may be wrong with what a router is told: beside a table that does not compile (router.rs) and a start without an
//! API server (restart.rs), an operator that is gone, Secrets that are missing, and clocks that jump.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use smallfirst::routing::source::secrets::Secrets;

use super::fake_upstream::{Behaviour, FakeUpstream};
use super::harness::{Harness, body, get, key, post, table};
use super::process::{Process, command, file};
use super::{LARGE, SURE, pair};

#[tokio::test]
async fn a_source_that_ended_takes_nothing_from_the_others() {
    let (_small, _large, mut router) = pair(SURE, LARGE).await;
    // Whoever told of tables is gone for good.
    router.table = tokio::sync::watch::channel(None).0;
    assert_eq!(router.ask(&body("intent")).await.status, 200);
    router.secrets.send(Secrets::from_iter([key("client-keys", "finance", "k-new")])).unwrap();
    let begin = Instant::now();
    while router.ask_as("k-new", &body("intent")).await.status != 200 {
        assert!(begin.elapsed() < Duration::from_secs(3), "a changed key was not taken");
    }
    assert_eq!(get(router.admin, "/readyz").await.status, 200);
}

#[tokio::test]
async fn a_secret_that_is_missing_costs_only_what_needs_it() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let mut given = table(small.port, large.port);
    given["tiers"]["small"]["backend"]["url"]["credential"] = serde_json::json!({"name": "provider", "key": "token"});
    let router = Harness::start(given).await;
    let reply = router.ask(&body("intent")).await;
    assert_eq!(
        (reply.status, reply.header("x-smallfirst-steps")),
        (200, "small:skipped(SecretMissing) large:accepted")
    );
    assert_eq!(small.count(), 0, "nobody is asked without the key");
    // It comes, without a restart; then the clients' own are gone.
    let keys = [key("client-keys", "finance", "k-finance"), key("provider", "token", "t")];
    router.secrets.send(Secrets::from_iter(keys)).unwrap();
    let begin = Instant::now();
    while router.ask(&body("intent")).await.header("x-smallfirst-steps") != "small:accepted" {
        assert!(begin.elapsed() < Duration::from_secs(3), "the key was not taken");
    }
    router.secrets.send(Secrets::default()).unwrap();
    while router.ask(&body("intent")).await.status != 401 {
        assert!(begin.elapsed() < Duration::from_secs(6), "a key that is gone still opens");
    }
    assert_eq!(get(router.admin, "/readyz").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_that_is_removed_ends_what_it_is_on() {
    let slow = Behaviour::Slow(Duration::from_millis(250), "small says");
    let (first, second) = (FakeUpstream::start(slow.clone()).await, FakeUpstream::start(slow).await);
    let large = FakeUpstream::start(LARGE).await;
    let mut given = table(1, large.port);
    given["tiers"]["small"]["backend"] =
        serde_json::json!({"service": {"name": "small", "port": 80, "portName": null, "health": "/health"}});
    let router = Harness::start(given).await;
    let ready = |fakes: &[&FakeUpstream]| {
        let ready = fakes.iter().map(|fake| ([127, 0, 0, 1], fake.port).into()).collect();
        router.addresses.send(BTreeMap::from([(("ai".to_owned(), "small".to_owned(), String::new()), ready)])).unwrap();
    };
    ready(&[&first]);
    let begin = Instant::now();
    while router.ask(&body("intent")).await.header("x-smallfirst-steps") != "small:accepted" {
        assert!(begin.elapsed() < Duration::from_secs(3), "the endpoint was not taken");
    }
    let (asked, address) = (first.count(), router.address);
    let asking = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
    while first.count() == asked {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ready(&[&second]);
    let reply = asking.await.unwrap();
    assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "small:accepted"), "{}", reply.body);
    while second.count() == 0 {
        assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
        assert!(begin.elapsed() < Duration::from_secs(9), "the other endpoint was not taken");
    }
    let asked = first.count();
    assert_eq!(router.ask(&body("intent")).await.header("x-smallfirst-steps"), "small:accepted");
    assert_eq!(first.count(), asked, "who is removed is not asked");
}

#[tokio::test]
async fn clocks_that_jump_and_an_hour_without_an_operator_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/router/clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success());
    let clocks = folder.path().join("clocks");
    std::fs::File::create(&clocks).unwrap().write_all(&[0; 16]).unwrap();
    let slow = Behaviour::Slow(Duration::from_millis(200), "small says");
    let (small, large) = (FakeUpstream::start(slow).await, FakeUpstream::start(LARGE).await);
    let path = file(folder.path(), "table.json", &table(small.port, large.port).to_string());
    file(folder.path(), "secrets/client-keys/finance", "k-finance");
    let mut router = command("router");
    router.args(["--table", &path, "--secrets-dir", folder.path().join("secrets").to_str().unwrap()]);
    router.args(["--lame-duck-seconds", "0"]).env("LD_PRELOAD", &library).env("CLOCKS", &clocks);
    let router = Process::serving(router).await;
    let move_to = |day: i64, monotonic: i64| {
        let file = std::fs::OpenOptions::new().write(true).open(&clocks).unwrap();
        file.write_all_at(&[day.to_ne_bytes(), monotonic.to_ne_bytes()].concat(), 0).unwrap();
    };
    let hour = 3600;
    // The clock of the day jumps while a request is on its way: its deadline of a second is none of that.
    for day in [hour, -hour, 24 * 365 * hour, 0] {
        let (asked, address) = (small.count(), router.address);
        let asking = tokio::spawn(async move { post(address, "k-finance", body("intent").as_bytes()).await });
        while small.count() == asked {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        move_to(day, 0);
        let reply = asking.await.unwrap();
        assert_eq!(
            (reply.status, reply.header("x-smallfirst-steps")),
            (200, "small:accepted"),
            "{day}: {}",
            reply.body
        );
    }
    // An hour passes in which nobody told the router anything: its table does not grow old.
    move_to(hour, hour);
    for _ in 0..3 {
        let reply = post(router.address, "k-finance", body("intent").as_bytes()).await;
        assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "small:accepted"), "{}", reply.body);
    }
    assert_eq!(router.stop().await.0, Some(0));
}
