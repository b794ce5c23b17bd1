//! `smallfirst completion SHELL`: a completion script on standard output.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// What `smallfirst completion` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: source <(smallfirst completion bash)")]
pub struct Args {
    /// The shell that will read the script
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // clap_complete panics when its writer fails; a buffer does not.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "smallfirst", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
