//! A router whose table is swapped on and on, for `swaps.py`: a file is looked at once a second, which is too seldom to
//! see what a swap costs. The router is that of the product, fed through the same channel.
#![expect(clippy::print_stdout, reason = "a program")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use smallfirst::router::control::{Inputs, no_services};
use smallfirst::router::run::{Config, start};
use smallfirst::routing::source::secrets::Secrets;
use smallfirst::routing::table::RoutingTable;
use tokio::sync::watch;

/// Serves two tables in turn. Prints `listening ADDRESS`, and `swapped N` when all swaps are done.
#[derive(Parser)]
#[command(name = "swaps")]
struct Args {
    /// A routing table, as /table of the admin port gives it.
    #[arg(long)]
    table: PathBuf,
    /// The key of its only client, in the Secret `keys` under `bench`.
    #[arg(long)]
    key: String,
    /// Address of the traffic port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How often to swap.
    #[arg(long)]
    swaps: u32,
    /// Time between two swaps, in milliseconds.
    #[arg(long, default_value_t = 20)]
    every_ms: u64,
}

fn main() -> anyhow::Result<()> {
    // Cargo says `--bench` to every benchmark; run as one of all, it has nothing to serve.
    let words: Vec<String> = std::env::args().filter(|word| word != "--bench").collect();
    if words.len() == 1 {
        println!("a router for swaps.py, no benchmark: see --help");
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(serve(Args::parse_from(words)))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut table: RoutingTable = serde_json::from_str(&std::fs::read_to_string(&args.table)?)?;
    let first: Arc<str> = Arc::from(table.to_json());
    // A deadline that is no other to anybody, and a table that is all the same another.
    for path in table.paths.values_mut() {
        path.deadline_ms += 1;
    }
    let both = [first, Arc::from(table.to_json())];
    let (tables, table) = watch::channel(Some(both[0].clone()));
    let key = (("keys".to_owned(), "bench".to_owned()), Bytes::from(args.key));
    let (_keys, secrets) = watch::channel(Secrets::from_iter([key]));
    let config = Config { access_log: Box::new(std::io::sink()), ..Config::new(args.listen) };
    let running = start(config, Inputs { table, secrets, addresses: no_services() }).await?;
    println!("listening {}", running.address);
    let mut tick = tokio::time::interval(Duration::from_millis(args.every_ms));
    for swap in 0..args.swaps {
        tick.tick().await;
        let next = both.get(usize::from(swap % 2 == 0)).cloned();
        tables.send(next).context("the router is gone")?;
    }
    println!("swapped {}", args.swaps);
    std::future::pending().await
}
