//! The arguments: commands, settings, and which settings the help of a command shows.
//!
//! Every command accepts every setting, before or after its name, so that one set of flags serves all commands. The help
//! of a command shows only those that it uses.

use std::path::PathBuf;

use clap::{Arg, Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;

use crate::{
    auth::grant::TTL_DEFAULT_SECS,
    logging,
    settings::{parse_bytes, parse_seconds},
    store::local::Durability,
};

/// The version, in one line.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version, and what the program was built from. `build.rs` sets the variables.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit:   ",
    env!("CHATFILES_COMMIT"),
    "\nfeatures: ",
    env!("CHATFILES_FEATURES"),
    "\ntarget:   ",
    env!("CHATFILES_TARGET"),
);
const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  a failure that may go away: a port or store in use, a missing permission, a file that does not exist
  2  wrong arguments or configuration; a service manager should not try again";
const ALL_SETTINGS: &str = "\
Without a command, `chatfiles` runs `chatfiles serve`. `chatfiles serve --help` shows all settings.

Sizes have units: 64KiB, 10MiB, 2GiB (powers of 1024) or 500kB, 10MB (powers of 1000). Times: 30s, 5m, 1m30s, 2h.
Numbers without a unit are bytes and seconds.
";

/// File service for chat backends
#[derive(Parser)]
#[command(name = "chatfiles", version = VERSION, long_version = LONG_VERSION, about, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) settings: Settings,
}

#[derive(Subcommand)]
pub(super) enum Command {
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
    /// Print a completion script for a shell
    Completions {
        /// The shell. For bash, save the output as /etc/bash_completion.d/chatfiles
        shell: Shell,
    },
    /// Print the manual page of chatfiles, or of one command
    Man {
        /// The command; without it, the page of chatfiles itself
        command: Option<String>,
    },
}

#[derive(Args, Default)]
pub(super) struct ServeArgs {
    /// Take over the listeners of the server that runs on this store, without refusing a connection. The old server
    /// finishes its requests. If no server runs, start normally
    #[arg(long)]
    pub(super) take_over: bool,
}

#[derive(Args)]
pub(super) struct TokenArgs {
    /// The user of the token
    #[arg(long, required_unless_present = "app")]
    pub(super) user: Option<String>,
    /// Print a token of the application itself, which `inherit` grants accept
    #[arg(long, conflicts_with = "user")]
    pub(super) app: bool,
    /// The tenant, as org/app; the first one in the configuration by default
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Lifetime, in seconds or with a unit such as 12h; 0 = unlimited
    #[arg(long, value_name = "TIME", default_value_t = TTL_DEFAULT_SECS, value_parser = parse_seconds)]
    pub(super) ttl_seconds: u64,
}

#[derive(Args)]
pub(super) struct StoreTokenArgs {
    /// The name of the object: class.YYYY-MM-DD.uuid
    pub(super) object: String,
    /// The user who may open the file
    #[arg(long)]
    pub(super) user: String,
    /// The tenant, as org/app; the first one in the configuration by default
    #[arg(long)]
    pub(super) tenant: Option<String>,
}

/// Settings that override the file. Each one is a flag and an environment variable; the flag wins. Serialized, each has
/// the name of its key in the file.
#[derive(Args, Clone, Serialize)]
#[command(next_help_heading = "Settings")]
pub(super) struct Settings {
    /// The configuration file, in TOML
    #[arg(long, env = "CHATFILES_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,
    /// Addresses to listen on: 127.0.0.1:8080, 8080 or localhost:8080 (this machine only), :8080 (all addresses); port 0
    /// selects a free port (server.listen)
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
    /// Refuse uploads if less space is free (store.free_space_min_bytes)
    #[arg(
        long,
        env = "CHATFILES_FREE_SPACE_MIN_BYTES",
        value_name = "SIZE",
        value_parser = parse_bytes
    )]
    #[serde(rename = "store.free_space_min_bytes")]
    free_space_min_bytes: Option<u64>,
    /// Maximum size of a file (limits.upload_bytes_max)
    #[arg(
        long,
        env = "CHATFILES_UPLOAD_BYTES_MAX",
        value_name = "SIZE",
        value_parser = parse_bytes
    )]
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

/// The command line. Every command accepts the settings, and its help shows those that it uses.
pub(super) fn command() -> clap::Command {
    let root = Cli::command()
        .mut_args(|setting| setting.global(true))
        .after_help(EXIT_CODES)
        .after_long_help(format!("{ALL_SETTINGS}\n{EXIT_CODES}"));
    let settings: Vec<Arg> = root.get_arguments().cloned().collect();
    let with_settings = |command: clap::Command| {
        let name = command.get_name().to_owned();
        let shown = |setting: &Arg| {
            let is_shown = is_used(&name, setting.get_id().as_str());
            setting.clone().hide(!is_shown)
        };
        let command = command.args(settings.iter().map(shown));
        match name.as_str() {
            "serve" => command.after_help(EXIT_CODES),
            _ => command,
        }
    };
    root.mut_subcommands(with_settings)
        .mut_args(|setting| match setting.get_id().as_str() {
            "config" | "store_path" | "listen" => setting,
            _ => setting.hide(true),
        })
}

/// Whether a command uses a setting.
fn is_used(command: &str, setting: &str) -> bool {
    let uses: &[&str] = match command {
        "serve" | "check-config" => return true,
        "token" | "store-token" | "scrub" | "rotate-keys" => &["config", "store_path"],
        "sweep" => &["config", "store_path", "chatfile_days"],
        // They are for the audit line.
        "rm" => &["config", "store_path", "log_level", "log_format"],
        _ => &[],
    };
    uses.contains(&setting)
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

    #[test]
    fn used_settings_exist() {
        let command = command();
        let settings: Vec<&str> = command
            .get_arguments()
            .map(|setting| setting.get_id().as_str())
            .collect();
        for name in [
            "config",
            "store_path",
            "chatfile_days",
            "log_level",
            "log_format",
            "listen",
        ] {
            assert!(settings.contains(&name), "{name}");
        }
        for subcommand in command.get_subcommands() {
            let arguments: Vec<_> = subcommand.get_arguments().map(Arg::get_id).collect();
            for setting in &settings {
                assert!(
                    arguments.iter().any(|id| id.as_str() == *setting),
                    "{setting}"
                );
            }
        }
    }
}
