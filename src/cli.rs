//! The command line: arguments, settings and exit codes.
//!
//! A flag overrides an environment variable (`CHATFILES_…`), which overrides the TOML file. All commands take the
//! same settings. `commands.rs` has the commands, `welcome.rs` the text that a starting server prints.

mod commands;
mod welcome;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;
use toml::{Table, Value};

use crate::{
    config::{Config, Source},
    error::{Error, Kind, Result},
    logging,
    store::local::Durability,
};

/// File service for chat backends
#[derive(Parser)]
#[command(name = "chatfiles", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT (the default command)
    Serve(ServeArgs),
    /// Print a token for a user or for the application
    Token(TokenArgs),
    /// Print a store token, which opens one file of the Lanying API for one hour without an access token
    StoreToken(StoreTokenArgs),
    /// Read a password from standard input and print its hash, for password_hash of a tenant's account
    HashPassword,
    /// Check the configuration, print the settings, and list the files that a sweep would remove
    CheckConfig {
        /// Request the health check through server.public_url, and check that the server of this store answers
        #[arg(long)]
        probe: bool,
    },
    /// Remove expired files now
    Sweep {
        /// Remove files even if the last sweep was more than 48 hours ago, or in the future
        #[arg(long)]
        yes: bool,
    },
    /// Verify the checksum of every file; list the damaged ones and exit with 1 if there are any
    Scrub,
    /// Remove a file with its thumbnails and converted forms, also from the caches of a running server
    Rm {
        /// The UUID of the file, or the name of its object: class.YYYY-MM-DD.uuid
        id: String,
    },
    /// Sign new tokens with a new key; the old keys stay valid for some days
    RotateKeys {
        /// Days that the old keys stay valid
        #[arg(long, default_value_t = 61, value_parser = clap::value_parser!(u64).range(0..=36_500))]
        overlap_days: u64,
    },
}

#[derive(Args, Default)]
struct ServeArgs {
    /// Take over the listeners of the server that runs on this store, without refusing a connection. The old server
    /// finishes its requests. If no server runs, start normally
    #[arg(long)]
    take_over: bool,
}

#[derive(Args)]
struct TokenArgs {
    /// The user of the token
    #[arg(long, required_unless_present = "app")]
    user: Option<String>,
    /// Print a token of the application itself, which `inherit` grants accept
    #[arg(long, conflicts_with = "user")]
    app: bool,
    /// The tenant, as org/app; the first one in the configuration by default
    #[arg(long)]
    tenant: Option<String>,
    /// Lifetime in seconds; 0 = unlimited
    #[arg(long, default_value_t = crate::auth::grant::TTL_DEFAULT_SECS)]
    ttl_seconds: u64,
}

#[derive(Args)]
struct StoreTokenArgs {
    /// The name of the object: class.YYYY-MM-DD.uuid
    object: String,
    /// The user who may open the file
    #[arg(long)]
    user: String,
    /// The tenant, as org/app; the first one in the configuration by default
    #[arg(long)]
    tenant: Option<String>,
}

/// Settings that override the file. Each one is a flag and an environment variable; the flag wins. Serialized, each has
/// the name of its key in the file.
#[derive(Args, Clone, Serialize)]
struct Settings {
    /// The configuration file, in TOML
    #[arg(long, env = "CHATFILES_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Addresses to listen on; port 0 selects a free port (server.listen)
    #[arg(
        long,
        env = "CHATFILES_LISTEN",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    #[serde(rename = "server.listen")]
    listen: Option<Vec<String>>,
    /// Address of the metrics, probes and console; none by default (operator.listen)
    #[arg(long, env = "CHATFILES_OPERATOR_LISTEN", value_name = "ADDRESS")]
    #[serde(rename = "operator.listen")]
    operator_listen: Option<String>,
    /// Scheme and host as clients see them (server.public_url)
    #[arg(long, env = "CHATFILES_PUBLIC_URL", value_name = "URL")]
    #[serde(rename = "server.public_url")]
    public_url: Option<String>,
    /// Directory of the store (store.path)
    #[arg(long, env = "CHATFILES_STORE_PATH", value_name = "DIR")]
    #[serde(rename = "store.path")]
    store_path: Option<PathBuf>,
    /// Whether an acknowledged upload survives a power failure (store.durability)
    #[arg(long, env = "CHATFILES_DURABILITY", value_name = "WHICH")]
    #[serde(rename = "store.durability")]
    durability: Option<Durability>,
    /// Refuse uploads if fewer bytes are free (store.free_space_min_bytes)
    #[arg(long, env = "CHATFILES_FREE_SPACE_MIN_BYTES", value_name = "BYTES")]
    #[serde(rename = "store.free_space_min_bytes")]
    free_space_min_bytes: Option<u64>,
    /// Maximum size of a file (limits.upload_bytes_max)
    #[arg(long, env = "CHATFILES_UPLOAD_BYTES_MAX", value_name = "BYTES")]
    #[serde(rename = "limits.upload_bytes_max")]
    upload_bytes_max: Option<u64>,
    /// Requests per second per client address and rate class; 0 = unlimited (limits.calls_per_second)
    #[arg(long, env = "CHATFILES_CALLS_PER_SECOND", value_name = "N")]
    #[serde(rename = "limits.calls_per_second")]
    calls_per_second: Option<u32>,
    /// Maximum burst of requests (limits.calls_burst)
    #[arg(long, env = "CHATFILES_CALLS_BURST", value_name = "N")]
    #[serde(rename = "limits.calls_burst")]
    calls_burst: Option<u32>,
    /// Networks that are exempt from the rate limit (limits.exempt)
    #[arg(
        long,
        env = "CHATFILES_EXEMPT",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    #[serde(rename = "limits.exempt")]
    exempt: Option<Vec<String>>,
    /// Networks of proxies whose X-Forwarded-For or Forwarded header is trusted (limits.trusted_proxies)
    #[arg(
        long,
        env = "CHATFILES_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    #[serde(rename = "limits.trusted_proxies")]
    trusted_proxies: Option<Vec<String>>,
    /// Days to keep files sent in chats; 0 = unlimited (retention.chatfile_days)
    #[arg(long, env = "CHATFILES_CHATFILE_DAYS", value_name = "DAYS")]
    #[serde(rename = "retention.chatfile_days")]
    chatfile_days: Option<u32>,
    /// error, warn, info, debug, trace or off, or several directives, such as warn,access=info (log.level)
    #[arg(long, env = "CHATFILES_LOG_LEVEL", value_name = "LEVEL")]
    #[serde(rename = "log.level")]
    log_level: Option<String>,
    /// Format of log lines (log.format)
    #[arg(long, env = "CHATFILES_LOG_FORMAT", value_name = "FORM")]
    #[serde(rename = "log.format")]
    log_format: Option<logging::Format>,
    /// Log one of N requests when its response has ended; 0 = none (log.access_sample)
    #[arg(long, env = "CHATFILES_LOG_ACCESS_SAMPLE", value_name = "N")]
    #[serde(rename = "log.access_sample")]
    log_access_sample: Option<u32>,
}

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
/// Exit codes: 0 = success; 1 = a failure that may be temporary, such as a port in use; 2 = wrong arguments or
/// configuration. The systemd unit restarts the server after 1 only.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let Cli { command, settings } =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = command.unwrap_or(Command::Serve(ServeArgs::default()));
    match run(command, settings) {
        Ok(code) => code,
        Err(error) => {
            // If standard error is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "chatfiles: {}", explained(&error));
            match error.kind() {
                Kind::InvalidArgument => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The command line. Every command takes the settings.
fn command() -> clap::Command {
    Cli::command().mut_args(|setting| setting.global(true))
}

fn run(command: Command, settings: Settings) -> Result<ExitCode> {
    if matches!(command, Command::HashPassword) {
        return commands::hash_password();
    }
    let file = settings.config.clone();
    let config = settings.load()?;
    match command {
        Command::HashPassword => commands::hash_password(),
        Command::Serve(args) => commands::serve(config, file, &args, move || settings.load()),
        Command::Token(args) => commands::token(&config, &args),
        Command::StoreToken(args) => commands::store_token(&config, &args),
        Command::CheckConfig { probe } => commands::check_config(&config, probe),
        Command::Sweep { yes } => commands::sweep(&config, yes),
        Command::Scrub => commands::scrub(&config),
        Command::Rm { id } => commands::rm(&config, &id),
        Command::RotateKeys { overlap_days } => commands::rotate_keys(&config, overlap_days),
    }
}

/// Prints a warning on standard error, because standard output may be read by another program.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "chatfiles: warning: {text}");
}

/// Prints lines on standard output, and returns the exit code of a success. A closed pipe is not an error.
fn say(text: &str) -> Result<ExitCode> {
    match writeln!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The text of an error for the operator.
fn explained(error: &Error) -> String {
    error
        .public_text()
        .map_or_else(|| error.causes(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_has_help() {
        let command = command();
        command.clone().debug_assert();
        let with_help = |command: &clap::Command| {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        };
        with_help(&command);
        for subcommand in command.get_subcommands() {
            assert!(
                subcommand.get_about().is_some(),
                "{}",
                subcommand.get_name()
            );
            with_help(subcommand);
        }
    }
}
