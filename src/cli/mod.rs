//! The command line: one file a command (and [`data_plane`] and [`manifests`], which two of them share), and here only the
//! list of them.
//!
//! A command has `Args` (its flags, parsed by clap) and `run`, which returns the exit code of a run that
//! went as it should, or an error for `main` to print. clap itself answers a wrong command line with exit code 2.
//! Colours appear only on a terminal: clap asks for that itself, and no command writes escape codes on its own.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod completion;
pub mod crds;
mod data_plane;
pub mod local;
mod manifests;
pub mod operator;
pub mod plan;
pub mod probe;
pub mod router;
pub mod simulate;

/// Mixed-model serving for Kubernetes: answer with the smallest model that is good enough, escalate when it is not.
#[derive(Debug, Parser)]
#[command(
    name = "smallfirst",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong command line."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions, as generated from the types of this binary.
    Crds(crds::Args),
    /// Run the operator: watch the three kinds and make what they ask for.
    Operator(operator::Args),
    /// Run the data plane: one process a pod, fed by the routing table of one RoutingPolicy.
    Router(router::Args),
    /// Serve manifests without a cluster, in this process.
    Local(local::Args),
    /// Replay a trace of requests through a policy in virtual time: cost, latency, escalation, sizes of pools.
    Simulate(simulate::Args),
    /// Say how many replicas pools need for a given demand, and why; what accounts lack; where escalating pays.
    Plan(plan::Args),
    /// Wait until an address of plain HTTP answers 200: what `helm test` runs.
    Probe(probe::Args),
    /// Print a completion script for a shell.
    Completion(completion::Args),
}

impl Cli {
    /// Runs the command that was named.
    ///
    /// # Errors
    /// Whatever the command says went wrong; `main` prints it and exits with 1.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Crds(args) => crds::run(&args),
            Command::Operator(args) => operator::run(args),
            Command::Router(args) => router::run(args),
            Command::Local(args) => local::run(args),
            Command::Simulate(args) => simulate::run(&args),
            Command::Plan(args) => plan::run(&args),
            Command::Probe(args) => probe::run(&args),
            Command::Completion(args) => completion::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// A flag without text is a flag that nobody can use.
    #[test]
    fn every_command_and_flag_has_help() {
        fn walk(command: &clap::Command, missing: &mut Vec<String>) {
            for arg in command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
                if arg.get_help().is_none() {
                    missing.push(format!("{} {}", command.get_name(), arg.get_id()));
                }
            }
            for sub in command.get_subcommands() {
                if sub.get_about().is_none() {
                    missing.push(sub.get_name().to_owned());
                }
                walk(sub, missing);
            }
        }
        let mut missing = Vec::new();
        walk(&Cli::command(), &mut missing);
        assert!(missing.is_empty(), "no help text: {missing:?}");
    }
}
