//! `loadtest versus`.

use std::process::ExitCode;

use crate::Error;

/// Arguments of `loadtest versus`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn main(_args: Args) -> Result<ExitCode, Error> {
    Err("loadtest versus: not there yet".into())
}
