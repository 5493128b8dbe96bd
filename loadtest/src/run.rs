//! `loadtest run`.

use std::process::ExitCode;

use crate::Error;

/// Arguments of `loadtest run`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn main(_args: Args) -> Result<ExitCode, Error> {
    Err("loadtest run: not there yet".into())
}
