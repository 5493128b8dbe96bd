//! `loadtest run`: generates the load that a scenario describes against one server.
//!
//! The steps: check the arguments and the scenario; check the server and the token; upload files; run the load; report.

mod api;
mod arrivals;
mod ask;
mod content;
mod files;
mod fill;
mod live;
mod mix;
mod picture;
mod preflight;
mod progress;
mod report;
mod scenario;
mod session;
mod stats;
mod target;
mod template;
mod workload;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use self::{
    arrivals::Spread,
    ask::Asker,
    content::mix,
    files::Maker,
    report::{Report, Setup},
    scenario::{Action, Kind, Scenario, TokenSource},
    session::{Filled, Session},
    target::Target,
};
use crate::Error;

/// Exit code for wrong arguments and scenarios, as in clap.
const USAGE: u8 = 2;
/// Exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;
/// Upper limits of threads and requests per second, to catch typing errors.
const THREADS_MAX: usize = 256;
const RATE_MAX: f64 = 10e6;
/// Descriptors needed besides those of connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// Arguments of `loadtest run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Base URL of the server: http://host:port
    #[arg(required_unless_present = "print_scenario")]
    target: Option<String>,
    /// Scenario file in TOML; the built-in scenario simulates chat clients
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Print the built-in scenario, as a template for your own
    #[arg(long)]
    print_scenario: bool,
    /// Open loop: start N requests per second, independent of the server; without this option, a closed loop
    #[arg(long)]
    rate: Option<f64>,
    /// Distribution of start times in an open loop
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Spread,
    /// Number of connections; each has one request in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Number of threads of the generator
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Duration of the measurement: 20s, 5m, 500ms
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Duration of the load before the measurement
    #[arg(long, default_value = "2s", value_parser = duration)]
    warmup: Duration,
    /// Timeout of a request; also how long after the end waiting requests are still sent
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Number of files to upload before the run; the default is in the scenario
    #[arg(long)]
    files: Option<usize>,
    /// Seed of files, choices and start times, to repeat a run; random by default
    #[arg(long)]
    seed: Option<u64>,
    /// Token for the server
    #[arg(long)]
    token: Option<String>,
    /// Connect from N loopback addresses (127.0.0.2 and up), so that a limit per address does not hide the server; only
    /// for a server on 127.0.0.0/8
    #[arg(long, default_value_t = 0, value_name = "N")]
    sources: usize,
    /// Compare every byte of every file, and read back files uploaded in the run; without this option, statuses and the
    /// lengths of downloads are checked, and bodies are discarded in the kernel
    #[arg(long)]
    verify: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as an HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Exit with code 1 if any request failed
    #[arg(long)]
    fail_on_error: bool,
}

pub(crate) fn main(args: Args) -> Result<ExitCode, Error> {
    if args.print_scenario {
        io::stdout().write_all(scenario::CHAT.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match check(&args) {
        Ok((target, scenario)) => run(&args, &target, scenario),
        Err(error) => {
            writeln!(io::stderr(), "loadtest: {error}")?;
            Ok(ExitCode::from(USAGE))
        }
    }
}

/// Checks the arguments and the scenario before anything is done.
fn check(args: &Args) -> Result<(Target, Scenario), String> {
    let target = Target::parse(args.target.as_deref().unwrap_or_default())?;
    let (name, text) = match &args.scenario {
        None => ("the scenario".to_owned(), scenario::CHAT.to_owned()),
        Some(path) => {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
            (name, text)
        }
    };
    let mut scenario = Scenario::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    if let Some(files) = args.files {
        if !(1..=scenario::FILES_MAX).contains(&files) {
            return Err(format!("--files: from 1 to {}", scenario::FILES_MAX));
        }
        scenario.files = files;
    }
    let classes = scenario
        .classes
        .iter()
        .filter(|class| class.weight > 0.0)
        .count();
    if scenario.files < classes {
        return Err(format!("files: at least {classes}, one of each class"));
    }
    if args
        .rate
        .is_some_and(|rate| !(rate.is_finite() && rate > 0.0 && rate <= RATE_MAX))
    {
        return Err(format!("--rate: above 0, up to {RATE_MAX}"));
    }
    if !(1..=THREADS_MAX).contains(&args.threads) {
        return Err(format!("--threads: from 1 to {THREADS_MAX}"));
    }
    if args.connections < args.threads {
        return Err("--connections: at least one per thread".to_owned());
    }
    if args.sources > args.connections {
        return Err("--sources: each needs its own connection; raise --connections".to_owned());
    }
    if args.duration.is_zero() || args.timeout.is_zero() {
        return Err("--duration and --timeout: above 0".to_owned());
    }
    target.sources(args.sources)?;
    if let Some(token) = &args.token {
        preflight::check_token(token).map_err(|error| format!("--token: {error}"))?;
        scenario.token = TokenSource::Fixed(token.clone());
    }
    if scenario.token == TokenSource::Given {
        return Err(
            "a token is needed: --token \"$(target/release/chatfiles token --user loadtest)\", or \
                    token_command or token_grant in the scenario"
                .to_owned(),
        );
    }
    for path in [&args.json, &args.html].into_iter().flatten() {
        // Check now that the file can be written, not at the end of a long run.
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    raise_descriptors(args.connections)?;
    Ok((target, scenario))
}

fn run(args: &Args, target: &Target, scenario: Scenario) -> Result<ExitCode, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first signal ends the run, the second one the program.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    let started = SystemTime::now();
    // Start times differ only in their nanoseconds; mixing spreads the difference over all bits.
    let seed = args
        .seed
        .unwrap_or_else(|| mix(since_1970(started).as_nanos() as u64) >> 1);

    preflight::check_server(target)?;
    let asker = Asker {
        api: scenario.api.clone(),
        origin: target.origin.clone(),
        token: preflight::token(target, &scenario)?,
        maker: Maker::new(&scenario.classes, seed)?,
        is_verifying: args.verify,
    };
    preflight::check_round_trip(target, &asker, seed)?;

    let mut session = Session::new(
        target,
        args.connections,
        args.threads,
        args.sources,
        args.timeout,
    )?;
    let filled = session.fill(&asker, &scenario, seed, &stop)?;
    let load = session::Load {
        rate: args.rate,
        spread: args.arrivals,
        warmup: args.warmup,
        duration: args.duration,
        patience: args.timeout,
        seed,
    };
    let seen = session.load(&asker, &scenario, &filled.files, &load, &stop)?;

    let mut setup = setup(args, target, &scenario, &filled, seed, started);
    if has_bursts(&scenario) && !session.has_bursts() {
        let note = "bursts were left out: they need their own source addresses, which only works with a server on 127.0.0.0/8";
        setup.notes.push(note.to_owned());
    }
    let names: Vec<&str> = scenario.kinds.iter().map(|kind| &*kind.name).collect();
    let report = Report::new(setup, &names, &seen.stats, seen.measured, seen.interval);
    write(args, &report)?;
    Ok(match args.fail_on_error && report.errors > 0 {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn has_bursts(scenario: &Scenario) -> bool {
    let is_burst = |kind: &Kind| matches!(kind.action, Action::Burst { .. }) && kind.weight > 0.0;
    scenario.kinds.iter().any(is_burst)
}

/// The settings of the run, for the report.
fn setup(
    args: &Args,
    target: &Target,
    scenario: &Scenario,
    filled: &Filled,
    seed: u64,
    started: SystemTime,
) -> Setup {
    Setup {
        scenario: scenario.name.clone(),
        target: target.url.clone(),
        mode: args.rate.map_or("closed", |_| "open"),
        rate: args.rate,
        arrivals: args.rate.map(|_| args.arrivals.name()),
        connections: args.connections,
        threads: args.threads,
        sources: args.sources,
        seed,
        verified: args.verify,
        files: filled.files.len(),
        file_bytes: filled.files.iter().map(|file| file.length).sum(),
        fill_s: filled.took.as_secs_f64(),
        warmup_s: args.warmup.as_secs_f64(),
        started_unix_s: since_1970(started).as_secs(),
        started: httpdate::fmt_http_date(started),
        notes: Vec::new(),
    }
}

fn write(args: &Args, report: &Report) -> Result<(), Error> {
    let to = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    // Write the files first, because standard output may be closed.
    if let Some(path) = &args.json {
        to(path, &serde_json::to_string_pretty(report)?)?;
    }
    if let Some(path) = &args.html {
        to(path, &report::html::render(report)?)?;
    }
    writeln!(io::stdout(), "{}", report::table::render(report))?;
    Ok(())
}

/// Raises the limit of open descriptors to what the connections need.
fn raise_descriptors(connections: usize) -> Result<(), String> {
    let needed = connections as u64 + DESCRIPTORS_SPARE;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let maximum = limit.maximum.unwrap_or_default();
        return Err(format!(
            "--connections: this process may have {maximum} descriptors (ulimit -Hn)"
        ));
    }
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).map_err(|error| format!("the limit of descriptors: {error}"))
}

/// Parses `20s`, `5m`, `1h`, `500ms`; a bare number means seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number
        .parse()
        .map_err(|_| "expected a number with ms, s, m or h".to_owned())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("{unit:?} is not a unit; expected ms, s, m or h")),
    };
    // A year is longer than any run and cannot overflow a clock.
    if !(0.0..=31_536_000.0).contains(&seconds) {
        return Err("at most one year".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations() {
        for (text, ms) in [
            ("20s", 20_000),
            ("20", 20_000),
            ("1.5m", 90_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1x", "-1s", "1e9h", "99999999h", "1.2.3"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
