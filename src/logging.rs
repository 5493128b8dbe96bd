//! Where log lines go. What they say is decided where the thing happens; no secret is ever given to them.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The logging of one process.
#[derive(Debug, Clone)]
pub struct Config {
    /// A level (`info`), or directives as of `tracing_subscriber::EnvFilter`.
    pub level: String,
    /// The form of a line.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: Format::Text,
        }
    }
}

/// Checks the directives of `level`.
///
/// # Errors
/// What is wrong with them.
pub fn check_level(level: &str) -> Result<(), String> {
    EnvFilter::try_new(level)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Sends the log to standard error, for the whole process, once.
///
/// # Errors
/// `Internal` where a logger is installed already or the level is none.
pub fn install(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.level).map_err(Error::internal)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false);
    match config.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    }
    .map_err(Error::internal)
}
