//! The command line: arguments, exit codes, and what is printed.
//!
//! Settings come from a TOML file, then the environment (`CHATFILES_…`), then flags; each command takes the
//! same ones. What a command does lies in `commands.rs`; what a starting server says in `welcome.rs`.

mod commands;
mod welcome;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use toml::{Table, Value};

use crate::{
    config::{Config, Source},
    error::{Error, Kind, Result},
    logging,
    store::local::Durability,
};

/// The file service of a chat backend.
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
    /// Serve until SIGTERM or SIGINT (the default)
    Serve(ServeArgs),
    /// Print a token, signed with the store's key
    Token(TokenArgs),
    /// Print a store token: opens one file of the Lanying API for an hour, without an access token
    StoreToken(StoreTokenArgs),
    /// Hash the password on standard input for a tenant's account
    HashPassword,
    /// Say what would be in force, and what a sweep would remove
    CheckConfig {
        /// Fetch the health check through server.public_url, and see whether this store's server answers
        #[arg(long)]
        probe: bool,
    },
    /// Remove what has expired, now
    Sweep {
        /// Remove even where the clock is more than 48 hours from the last sweep
        #[arg(long)]
        yes: bool,
    },
    /// Read every object and compare its checksum; exit 1 and a list where any is bad
    Scrub,
    /// Take a file down: its object, every derivative, and the caches of a running server
    Rm {
        /// The file's id, a UUID, or its object's name, class.YYYY-MM-DD.uuid
        id: String,
    },
    /// Make a new token key; the present ones verify for a while longer
    RotateKeys {
        /// For how many days
        #[arg(long, default_value_t = 61, value_parser = clap::value_parser!(u64).range(0..=36_500))]
        overlap_days: u64,
    },
}

#[derive(Args, Default)]
struct ServeArgs {
    /// Take the place of the server that runs on this store, without refusing a connection: it serves what it has
    /// to the end. Where none runs, just serve
    #[arg(long)]
    take_over: bool,
}

#[derive(Args)]
struct TokenArgs {
    /// A token of this user
    #[arg(long, required_unless_present = "app")]
    user: Option<String>,
    /// A token of the application itself: good for `inherit` grants
    #[arg(long, conflicts_with = "user")]
    app: bool,
    /// The tenant, org/app; else the first that is configured
    #[arg(long)]
    tenant: Option<String>,
    /// Its life in seconds; 0 = without end
    #[arg(long, default_value_t = crate::auth::grant::TTL_DEFAULT_SECS)]
    ttl_seconds: u64,
}

#[derive(Args)]
struct StoreTokenArgs {
    /// The object's name, class.YYYY-MM-DD.uuid
    object: String,
    /// The user on whose behalf it opens
    #[arg(long)]
    user: String,
    /// The tenant, org/app; else the first that is configured
    #[arg(long)]
    tenant: Option<String>,
}

/// What overrides the file. Every flag is also a variable; the flag wins.
#[derive(Args, Clone)]
struct Settings {
    /// The configuration, a TOML file
    #[arg(long, global = true, env = "CHATFILES_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Addresses to listen on (server.listen); port 0 takes a free one
    #[arg(
        long,
        global = true,
        env = "CHATFILES_LISTEN",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    listen: Option<Vec<String>>,
    /// Address of the metrics and the probes, none by default (operator.listen)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_OPERATOR_LISTEN",
        value_name = "ADDRESS"
    )]
    operator_listen: Option<String>,
    /// Scheme and host as clients see them (server.public_url)
    #[arg(long, global = true, env = "CHATFILES_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// The store's directory (store.path)
    #[arg(long, global = true, env = "CHATFILES_STORE_PATH", value_name = "DIR")]
    store_path: Option<PathBuf>,
    /// Whether an answered upload survives a power cut (store.durability)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_DURABILITY",
        value_name = "WHICH"
    )]
    durability: Option<Durability>,
    /// Refuse uploads while fewer bytes are free (store.free_space_min_bytes)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_FREE_SPACE_MIN_BYTES",
        value_name = "BYTES"
    )]
    free_space_min_bytes: Option<u64>,
    /// Bytes of one file (limits.upload_bytes_max)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_UPLOAD_BYTES_MAX",
        value_name = "BYTES"
    )]
    upload_bytes_max: Option<u64>,
    /// Calls per second for one client address and interface, 0 = no limit (limits.calls_per_second)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_CALLS_PER_SECOND",
        value_name = "N"
    )]
    calls_per_second: Option<u32>,
    /// Calls that may come back to back (limits.calls_burst)
    #[arg(long, global = true, env = "CHATFILES_CALLS_BURST", value_name = "N")]
    calls_burst: Option<u32>,
    /// Networks that are not limited (limits.exempt)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_EXEMPT",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    exempt: Option<Vec<String>>,
    /// Networks whose forwarding header is believed (limits.trusted_proxies)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    trusted_proxies: Option<Vec<String>>,
    /// Days that a chat file lives, 0 = for ever (retention.chatfile_days)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_CHATFILE_DAYS",
        value_name = "DAYS"
    )]
    chatfile_days: Option<u32>,
    /// error, warn, info, debug, trace or off, or several as in warn,access=info (log.level)
    #[arg(long, global = true, env = "CHATFILES_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// The form of a log line (log.format)
    #[arg(long, global = true, env = "CHATFILES_LOG_FORMAT", value_name = "FORM")]
    log_format: Option<logging::Format>,
    /// Log one request in N when its answer has ended, 0 = none (log.access_sample)
    #[arg(
        long,
        global = true,
        env = "CHATFILES_LOG_ACCESS_SAMPLE",
        value_name = "N"
    )]
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
        let mut table = Table::new();
        let mut set = |section: &str, key: &str, value: Option<Value>| {
            let Some(value) = value else { return };
            let section = table.entry(section).or_insert(Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.into(), value);
            }
        };
        set("server", "listen", value(&self.listen)?);
        set("operator", "listen", value(&self.operator_listen)?);
        set("server", "public_url", value(&self.public_url)?);
        set("store", "path", value(&self.store_path)?);
        set("store", "durability", value(&self.durability)?);
        set(
            "store",
            "free_space_min_bytes",
            value(&self.free_space_min_bytes)?,
        );
        set("limits", "upload_bytes_max", value(&self.upload_bytes_max)?);
        set("limits", "calls_per_second", value(&self.calls_per_second)?);
        set("limits", "calls_burst", value(&self.calls_burst)?);
        set("limits", "exempt", value(&self.exempt)?);
        set("limits", "trusted_proxies", value(&self.trusted_proxies)?);
        set("retention", "chatfile_days", value(&self.chatfile_days)?);
        set("log", "level", value(&self.log_level)?);
        set("log", "format", value(&self.log_format)?);
        set("log", "access_sample", value(&self.log_access_sample)?);
        Ok(Source::text(table.to_string()))
    }
}

fn value<T: Serialize>(flag: &Option<T>) -> Result<Option<Value>> {
    let value = flag.as_ref().map(Value::try_from).transpose();
    value.map_err(|error| Error::invalid(error.to_string()))
}

/// Runs the command of this process's arguments. Exit codes: 0 done; 1 failed, which may be different later (a port
/// or a store in use); 2 wrong usage or configuration, which stays wrong. The systemd unit tries again after 1 only.
pub fn main() -> ExitCode {
    let Cli { command, settings } = Cli::parse();
    match run(
        command.unwrap_or(Command::Serve(ServeArgs::default())),
        settings,
    ) {
        Ok(code) => code,
        Err(error) => {
            let text = error
                .public_text()
                .map_or_else(|| error.causes(), str::to_owned);
            // Where standard error is closed, the exit code alone must say it.
            let _ = writeln!(std::io::stderr(), "chatfiles: {text}");
            ExitCode::from(if error.kind() == Kind::InvalidArgument {
                2
            } else {
                1
            })
        }
    }
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

/// Says something on standard error, where the result on standard output is for another program.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "chatfiles: warning: {text}");
}

/// Prints lines on standard output; a reader that went away is no failure of ours.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_argument_has_help() {
        let command = Cli::command();
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
