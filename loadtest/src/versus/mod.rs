//! The benchmarks of this repository: `loadtest versus` compares chatfiles with other servers on the same machine, file
//! system and client; `floor` and `closed` are the pieces that can run alone.
//!
//! Servers run on one core, the client on another. The servers take turns in each round, so that changes of the
//! machine's speed affect all of them. The report shows the median of the rounds, with the lowest and the highest
//! value. Figures that have an aim (`aims.rs`) are marked met or missed.
//!
//! CPU is the user and system time of all processes of a server, from `/proc`. It is counted in ticks of 10 ms, half a
//! percent of a round of 2 s on a busy core.

mod aims;
mod batch;
pub(crate) mod closed;
mod cold;
mod cpu;
mod downloads;
pub(crate) mod floor;
mod memory;
mod misses;
mod network;
mod nginx;
mod objects;
mod ours;
mod peers;
mod photo;
mod plot;
mod process;
mod report;
mod rounds;
mod thumbnails;
mod uploads;

use std::{
    cell::Cell,
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::ValueEnum;

use self::{network::Network, report::Report};
use crate::Error;

/// Sizes of downloads, in bytes.
const DOWNLOADS: [u64; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 9 << 20];
/// Sizes of uploads, in bytes.
const UPLOADS: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, 9 << 20];

/// Shorter files are not truncated, because they take little space.
const EMPTIED_FROM_BYTES: u64 = 256 << 10;

/// Arguments of `loadtest versus`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Path of the chatfiles program
    #[arg(long, default_value = "target/release/chatfiles")]
    chatfiles: PathBuf,
    /// Path of the nginx program, or its name in PATH
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
    /// Parent of the data directories; use a real disk, not tmpfs
    #[arg(long)]
    dir: Option<PathBuf>,
    /// CPU core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// CPU core of the client
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per round and server
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measure only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure only downloads and uploads of these sizes: 4k, 16k, 1m …
    #[arg(long, value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<u64>,
    /// Number of objects in the full store of the part `objects`, which is skipped without this option
    #[arg(long)]
    objects: Option<usize>,
    /// Measure all parts, with 500,000 objects
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Use fewer and shorter rounds, to check that everything works; the figures are not reliable
    #[arg(long)]
    quick: bool,
    /// Run the servers in their own network namespace, over a veth pair; downloads only, needs root
    #[arg(long)]
    veth: bool,
    /// Write all measurements to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep figures of an earlier `--json` file that this run does not measure
    #[arg(long, requires = "json")]
    merge: bool,
    /// Write plots to this directory
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Downloads of 4 KB to 9 MB, compared with nginx, the floor, dufs and miniserve
    Downloads,
    /// Uploads of 4 KB to 9 MB, compared with nginx
    Uploads,
    /// A thumbnail from memory, compared with a 4 KB download
    Thumbnails,
    /// A new thumbnail, compared with libvips
    Misses,
    /// Memory of 10,000 connections
    Memory,
    /// Hot downloads while cold files are read
    Cold,
    /// Downloads with few and with many stored objects
    Objects,
}

/// Settings shared by all parts.
pub(crate) struct Bench {
    chatfiles: PathBuf,
    nginx: PathBuf,
    /// Removed at the end; a killed run leaves it.
    dir: tempfile::TempDir,
    /// Number of directories made in `dir`.
    directories: Cell<usize>,
    server_core: usize,
    rounds: usize,
    round: Duration,
    warm_up: Duration,
    is_quick: bool,
    network: Network,
}

impl Bench {
    /// Client addresses. chatfiles limits the rate per address, so the load comes from many, as in production.
    fn sources(&self) -> Vec<IpAddr> {
        self.network.sources()
    }

    /// Makes a new directory.
    fn fresh_dir(&self) -> io::Result<Fresh> {
        let number = self.directories.get();
        self.directories.set(number + 1);
        let path = self.dir.path().join(number.to_string());
        fs::create_dir(&path)?;
        Ok(Fresh(path))
    }

    /// Removes all files. The sync shortens the time in which creating files is slow from six minutes to one (see
    /// [`Fresh`]).
    fn finish(self) -> io::Result<()> {
        let parent = fs::File::open(self.dir.path().join(".."))?;
        self.dir.close()?;
        Ok(rustix::fs::syncfs(parent)?)
    }

    /// Prints progress on standard error, because a run takes minutes.
    fn say(&self, what: impl std::fmt::Display) {
        // If standard error is closed, progress cannot be shown.
        let _ = writeln!(io::stderr(), "{what}");
    }
}

/// A new directory. Dropping it truncates its files; they are removed at the end of the run. ext4 does not reuse an
/// inode for minutes after its file was removed, and scans all such inodes whenever a file is created. Removing files
/// between turns raised the CPU of a 4 KB upload from 169 µs to 940 µs.
struct Fresh(PathBuf);

impl Fresh {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // A file that cannot be truncated takes space until the end. If space runs out, a later write fails.
        let _ = each_file(&self.0, &mut |path, length| {
            if length < EMPTIED_FROM_BYTES {
                return Ok(());
            }
            fs::File::options().write(true).open(path)?.set_len(0)
        });
    }
}

/// Calls `each` with the path and the length of every file below `directory`.
fn each_file(
    directory: &Path,
    each: &mut impl FnMut(&Path, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                each(&entry.path(), entry.metadata()?.len())?;
            }
        }
    }
    Ok(())
}

pub(crate) fn main(args: Args) -> Result<ExitCode, Error> {
    let chatfiles = fs::canonicalize(&args.chatfiles)
        .map_err(|error| format!("{}: {error}", args.chatfiles.display()))?;
    let bench = Bench {
        chatfiles,
        nginx: args.nginx.clone(),
        dir: tempfile::Builder::new()
            .prefix("loadtest-")
            .tempdir_in(args.dir.clone().unwrap_or_else(std::env::temp_dir))?,
        directories: Cell::new(0),
        server_core: args.server_core,
        rounds: if args.quick { 2 } else { args.rounds.max(1) },
        round: Duration::from_secs_f64(if args.quick { 0.5 } else { args.seconds }),
        warm_up: Duration::from_millis(if args.quick { 100 } else { 300 }),
        is_quick: args.quick,
        network: Network::new(args.veth)?,
    };
    cpu::pin(args.client_core)?;
    process::raise_descriptors()?;
    let mut report = Report::new(&bench);
    for part in parts(&args) {
        bench.say(format_args!("== {part:?}"));
        run(part, &bench, &args, &mut report)?;
    }
    if args.merge
        && let Some(path) = args.json.as_deref().filter(|path| path.exists())
    {
        report.merge(&fs::read(path)?)?;
    }
    write!(io::stdout(), "{report}")?;
    if let Some(path) = &args.json {
        write_file(path, &report.to_json()?)?;
    }
    if let Some(directory) = &args.plots {
        fs::create_dir_all(directory)?;
        for (name, svg) in plot::all(&report, args.veth)? {
            write_file(&directory.join(name), svg.as_bytes())?;
        }
    }
    bench.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn parts(args: &Args) -> Vec<Part> {
    let all = Part::value_variants().iter().copied();
    let is_chosen = |part: &Part| {
        if !args.only.is_empty() {
            return args.only.contains(part);
        }
        match part {
            Part::Downloads => true,
            _ if args.veth => false,
            Part::Objects => args.full || args.objects.is_some(),
            _ => true,
        }
    };
    all.filter(is_chosen).collect()
}

fn run(part: Part, bench: &Bench, args: &Args, report: &mut Report) -> Result<(), Error> {
    let chosen = |sizes: &[u64]| -> Vec<u64> {
        let is_chosen = |size: &&u64| args.sizes.is_empty() || args.sizes.contains(size);
        sizes.iter().filter(is_chosen).copied().collect()
    };
    match part {
        Part::Downloads => downloads::run(bench, &chosen(&DOWNLOADS), report),
        Part::Uploads => uploads::run(bench, &chosen(&UPLOADS), report),
        Part::Thumbnails => thumbnails::run(bench, report),
        Part::Misses => misses::run(bench, report),
        Part::Memory => memory::run(bench, report),
        Part::Objects => objects::run(bench, args.objects.unwrap_or(500_000), report),
        Part::Cold => cold::run(bench, report),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Parses `4k`, `1m`, or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("invalid size: {text}"))?;
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("invalid size: {text}"))
}

/// Formats a size for people.
fn size_text(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

/// Returns pseudo-random bytes, the same in every run. They cannot be compressed, and no format is detected in them.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64: its quality does not matter here.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Returns the head of a `GET` request.
fn get_head(path: &str, authority: &str, headers: &str) -> bytes::Bytes {
    format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n").into()
}

/// Loopback addresses that clients connect from.
fn loopback_sources() -> Vec<IpAddr> {
    (2..18)
        .map(|last| Ipv4Addr::new(127, 0, 0, last).into())
        .collect()
}
