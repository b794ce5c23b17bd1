//! The one binary: allocator, TLS provider, exit code. Everything else is in the library.
//!
//! Exit codes, for every command: 0 done, 1 failed (the reason is on standard error), 2 the command line was wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// The traffic path allocates many small buffers on one thread and frees them on the same one, which mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Once per process, before any client: kube and the router then agree on one TLS provider. It can only
    // fail when one is installed already, and then there is nothing left to do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match smallfirst::cli::Cli::parse().run() {
        Ok(code) => code,
        // `smallfirst crds | head` is not a failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
