//! `loadtest`: load, soak and comparison runs against a file server over HTTP.
//!
//! It shares no code with the server: what it measures and verifies is what a client sees. One engine
//! (`client/`) stands under all commands; each command is a workload for it.

mod client;
mod run;
mod versus;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// What ends a command: its text is for people.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(
    version,
    about = "Load, soak and comparison runs against a file server"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load of many kinds against a running server, with every answer verified.
    Run(run::Args),
    /// This server beside others, each on one core.
    Versus(versus::Args),
    /// A bare epoll and sendfile loop: what this kernel can do at best.
    Floor(versus::floor::Args),
    /// A closed loop of one kind of request over N connections.
    Closed(versus::closed::Args),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(args) => run::main(args),
        Command::Versus(args) => versus::main(args),
        Command::Floor(args) => versus::floor::main(args),
        Command::Closed(args) => versus::closed::main(args),
    };
    done.unwrap_or_else(|error| {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "loadtest: {error}");
        ExitCode::FAILURE
    })
}
