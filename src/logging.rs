//! Configures the log of the process: level, format, and the queue to standard error.
//!
//! A process installs its log once, as `tracing` requires. The level can change later. Callers of `tracing` must not pass
//! secrets to it.

mod audit;
mod directives;
mod ids;
mod writer;

use std::{io, panic, sync::OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use self::writer::Queue;
use crate::error::{Error, Result};

pub use self::{
    audit::{Actor, audit},
    writer::Guard,
};

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Settings of the log: `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// A level (`info`), or several directives (`warn,access=info`).
    #[serde(deserialize_with = "directives::deserialize")]
    pub level: String,
    /// Format of log lines.
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

/// The log of this process, once it is installed.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    queue: Queue,
    /// As it was given. A synchronous Mutex: held while the filter is exchanged, so that the two agree; no request
    /// takes it.
    level: Mutex<String>,
    filter: reload::Handle<Targets, Registry>,
}

/// Installs the log of the process, which goes to standard error. Panics are also logged, because the default hook
/// blocks the panicking thread on standard error.
///
/// # Errors
/// `Internal`: a log is installed already. `InvalidArgument`: the level is not valid.
pub fn install(config: &Config) -> Result<Guard> {
    let filter = directives::parse(&config.level).map_err(Error::invalid)?;
    let (queue, guard) = Queue::to(io::stderr())?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(queue.clone()).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        Format::Text => registry.with(lines).try_init(),
        Format::Json => registry.with(lines.json()).try_init(),
    }
    .map_err(Error::internal)?;
    let installed = Installed {
        queue,
        level: Mutex::new(config.level.clone()),
        filter: handle,
    };
    // `try_init` has succeeded, so this is the first call.
    let _ = INSTALLED.set(installed);
    panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panicked")));
    Ok(guard)
}

/// Number of lines that were dropped, because standard error was too slow or closed.
pub fn lines_dropped() -> u64 {
    INSTALLED.get().map_or(0, |log| log.queue.dropped())
}

/// Sets whether log lines show fingerprints in place of ids. For servers on which an id alone opens a file.
pub fn set_ids_masked(is_masked: bool) {
    if let Some(log) = INSTALLED.get() {
        log.queue.set_ids_masked(is_masked);
    }
}

/// The current level or directives.
pub fn level() -> String {
    let level = |log: &Installed| log.level.lock().clone();
    INSTALLED.get().map_or_else(|| "off".into(), level)
}

/// Changes the level or directives.
///
/// # Errors
/// They are not valid; the old ones stay in force.
pub fn set_level(text: &str) -> Result<(), String> {
    let filter = directives::parse(text)?;
    let log = INSTALLED.get().ok_or("this process has no log")?;
    let mut level = log.level.lock();
    // Logged before the change, so that a log that is switched off says why.
    tracing::warn!(from = %level, to = text, "the log level is changed");
    let reloaded = log.filter.reload(filter);
    reloaded.map_err(|error| error.to_string())?;
    *level = text.to_owned();
    Ok(())
}
