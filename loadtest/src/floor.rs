//! `loadtest floor`.

use std::process::ExitCode;

use crate::Error;

/// Arguments of `loadtest floor`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn main(_args: Args) -> Result<ExitCode, Error> {
    Err("loadtest floor: not there yet".into())
}
