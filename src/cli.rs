//! The command line: runs the command that the arguments name, and returns its exit code.
//!
//! A flag overrides an environment variable (`CHATFILES_…`), which overrides the TOML file. All commands take the
//! same settings. `arguments.rs` has the arguments, `commands.rs` and `upkeep.rs` the commands, `welcome.rs` the text
//! that a starting server prints.

mod arguments;
mod commands;
mod progress;
mod store;
mod upkeep;
mod welcome;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::FromArgMatches;
use toml::{Table, Value};

use self::arguments::{Cli, Command, ServeArgs, Settings};
use crate::{
    config::{Config, Source},
    error::{Error, Kind, Result},
};

impl Settings {
    /// Reads flags, environment and file, and checks all settings.
    fn load(&self) -> Result<Config> {
        let mut sources = vec![self.source()?];
        if let Some(file) = &self.config {
            sources.push(Source::file(file)?);
        }
        Config::read(&sources)
    }

    /// The flags and variables that are set, as a configuration of their own.
    fn source(&self) -> Result<Source> {
        let invalid = |error: toml::ser::Error| Error::invalid(error.to_string());
        // Each line is `"section.key" = value`: without the quotes, TOML reads the name as a path.
        let table = Table::try_from(self).map_err(invalid)?;
        let line = |(name, value): (String, Value)| format!("{name} = {value}\n");
        Ok(Source::text(
            table.into_iter().map(line).collect::<String>(),
        ))
    }
}

/// Runs the command that the arguments of the process name.
///
/// Exit codes: 0 = success; 1 = a failure that may go away, such as a port in use; 2 = wrong arguments or
/// configuration. The systemd unit restarts the server after 1 only.
pub fn main() -> ExitCode {
    let matches = arguments::command().get_matches();
    let Cli { command, settings } =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = command.unwrap_or(Command::Serve(ServeArgs::default()));
    match run(command, settings) {
        Ok(code) => code,
        Err(error) => {
            // If standard error is closed, the exit code still tells.
            let _ = writeln!(io::stderr(), "chatfiles: {}", explained(&error));
            match error.kind() {
                Kind::InvalidArgument => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command, settings: Settings) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => {
            let file = settings.config.clone();
            commands::serve(settings.load()?, file, &args, move || settings.load())
        }
        Command::Token(args) => commands::token(&settings.load()?, &args),
        Command::StoreToken(args) => commands::store_token(&settings.load()?, &args),
        Command::CheckConfig { probe } => commands::check_config(&settings.load()?, probe),
        Command::Sweep { yes } => upkeep::sweep(&settings.load()?, yes),
        Command::Scrub => upkeep::scrub(&settings.load()?),
        Command::Rm { id } => upkeep::rm(&settings.load()?, &id),
        Command::RotateKeys { overlap_days } => {
            commands::rotate_keys(&settings.load()?, overlap_days)
        }
        // These need no configuration, and work if there is an error in it.
        Command::HashPassword => commands::hash_password(),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man { command } => commands::man(command.as_deref()),
    }
}

/// Prints a warning on standard error, because standard output may be read by another program.
fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "chatfiles: warning: {text}");
}

/// Prints lines on standard output, and returns the exit code of a success. A closed pipe is not an error.
fn say(text: &str) -> Result<ExitCode> {
    print(format!("{text}\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<ExitCode> {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The error for an argument that is not allowed.
pub(super) fn expected(argument: &str, found: &str, allowed: &str) -> Error {
    Error::invalid(format!("{argument}: expected {allowed}, found \"{found}\""))
}

/// The text of an error for the operator.
fn explained(error: &Error) -> String {
    error
        .public_text()
        .map_or_else(|| error.causes(), str::to_owned)
}
