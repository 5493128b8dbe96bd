//! Where log lines go, and which there are. What they say is decided where the thing happens; no secret is ever
//! given to them.
//!
//! The log is the process's, as `tracing` has it: one is installed, once, and what may be asked of it later
//! (what was dropped, the level) is asked here.

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

pub use self::writer::Guard;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The logging of one process: `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// A level (`info`), or several directives (`warn,access=info`).
    #[serde(deserialize_with = "directives::deserialize")]
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

/// The log of this process, once it has one.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    queue: Queue,
    /// As it was given. A synchronous Mutex: held while the filter is exchanged, so that the two agree; no request
    /// takes it.
    level: Mutex<String>,
    filter: reload::Handle<Targets, Registry>,
}

/// Sends the log to standard error, for the whole process, once; panics too, which would else be written by
/// whoever panics.
///
/// # Errors
/// `Internal` where a logger is installed already; what is wrong with the level.
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
    // There is one subscriber, so there is one of these.
    let _ = INSTALLED.set(installed);
    panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panicked")));
    Ok(guard)
}

/// Lines that were dropped because nobody read them in time, or not at all.
pub fn lines_dropped() -> u64 {
    INSTALLED.get().map_or(0, |log| log.queue.dropped())
}

/// Whether lines show the fingerprints of ids and not the ids, from now on: for a server where an id opens a file.
pub fn set_ids_masked(is_masked: bool) {
    if let Some(log) = INSTALLED.get() {
        log.queue.set_ids_masked(is_masked);
    }
}

/// The directives in force.
pub fn level() -> String {
    let level = |log: &Installed| {
        let level = log.level.lock();
        level.clone()
    };
    INSTALLED.get().map_or_else(|| "off".into(), level)
}

/// Other directives, from now on.
///
/// # Errors
/// What is wrong with them; the old ones stay in force.
pub fn set_level(text: &str) -> Result<(), String> {
    let filter = directives::parse(text)?;
    let log = INSTALLED.get().ok_or("this process has no log")?;
    let mut level = log.level.lock();
    // Under the old ones: a log that falls silent says why.
    tracing::warn!(from = %level, to = text, "the log's level is changed");
    log.filter
        .reload(filter)
        .map_err(|error| error.to_string())?;
    *level = text.to_owned();
    Ok(())
}
