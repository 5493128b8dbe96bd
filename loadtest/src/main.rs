//! `loadtest`: a load generator for file servers over HTTP, and the benchmarks of this repository.
//!
//! `run/` is the tool for users. `versus/` compares this server with others on one machine; its commands `versus`, `floor`
//! and `closed` serve this repository. Both use the HTTP client in `client/`. Nothing here shares code with the server, so
//! that it measures and checks exactly what a client sees.

mod client;
mod run;
mod versus;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// An error that ends a command, with a message for the user.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(
    version,
    about = "Load generator for file servers, and the benchmarks of chatfiles"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate load against a running server, and check every status and the length of every download.
    Run(run::Args),
    /// Benchmark: compare chatfiles with nginx, libvips and others, each server on one core.
    Versus(versus::Args),
    /// Benchmark: serve files with a bare epoll and sendfile loop, the upper limit of this kernel.
    Floor(versus::floor::Args),
    /// Benchmark: send one kind of request over N connections in a closed loop.
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
        // If standard error is closed, the message cannot be shown.
        let _ = writeln!(io::stderr(), "loadtest: {error}");
        ExitCode::FAILURE
    })
}
