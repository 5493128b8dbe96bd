//! `loadtest versus`: this server beside others on the same machine, file system and client.
//!
//! Each server is kept on one core and the client on another. The servers take turns, round after round, so that
//! what changes on the machine meanwhile meets all of them; what is told is the median of the rounds, with the lowest
//! and the highest beside it. Where an aim is known (`versus/aims.rs`), it stands in the row, met or missed.
//!
//! CPU is user and system time of all of a server's processes from `/proc`, which counts in ticks of 10 ms: over a
//! round of 2 s on a full core, half a percent.

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

/// Shorter files are left as they are: they take little room.
const EMPTIED_FROM_BYTES: u64 = 256 << 10;

/// Arguments of `loadtest versus`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// This server's program.
    #[arg(long, default_value = "target/release/chatfiles")]
    chatfiles: PathBuf,
    /// nginx's program, a path or a name in PATH.
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
    /// Where data directories are made; on a real disk, not in memory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the client.
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one round of one server.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// These parts only.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Downloads and uploads of these sizes only: 4k, 16k, 1m …
    #[arg(long, value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<u64>,
    /// Objects of the full store in the part `objects`; without it the part is left out.
    #[arg(long)]
    objects: Option<usize>,
    /// All parts, with 500,000 objects.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Fewer and shorter rounds: to see that it works, not to tell the figures.
    #[arg(long)]
    quick: bool,
    /// Servers in a network namespace of their own, over a veth pair: downloads only, needs root.
    #[arg(long)]
    veth: bool,
    /// Write everything that was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Take what this run does not measure from the file of `--json`, as it was.
    #[arg(long, requires = "json")]
    merge: bool,
    /// Draw plots into this directory.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Downloads of 4 KB to 9 MB, against nginx, the floor, dufs and miniserve.
    Downloads,
    /// Uploads of 4 KB to 9 MB, against nginx.
    Uploads,
    /// A thumbnail in memory against a 4 KB download.
    Thumbnails,
    /// A thumbnail that is made, against libvips.
    Misses,
    /// Memory of 10,000 connections.
    Memory,
    /// Hot downloads while cold files are read.
    Cold,
    /// Downloads with few and with many objects stored.
    Objects,
}

/// What all parts need to know.
pub(crate) struct Bench {
    chatfiles: PathBuf,
    nginx: PathBuf,
    /// It is removed at the end; a killed run leaves it.
    dir: tempfile::TempDir,
    /// Made in it.
    directories: Cell<usize>,
    server_core: usize,
    rounds: usize,
    round: Duration,
    warm_up: Duration,
    is_quick: bool,
    network: Network,
}

impl Bench {
    /// Client addresses: the rate of this server is per address, so the load is spread as clients' would be.
    fn sources(&self) -> Vec<IpAddr> {
        self.network.sources()
    }

    /// A fresh directory.
    fn fresh_dir(&self) -> io::Result<Fresh> {
        let number = self.directories.get();
        self.directories.set(number + 1);
        let path = self.dir.path().join(number.to_string());
        fs::create_dir(&path)?;
        Ok(Fresh(path))
    }

    /// Removes what was made. Synced, it makes files dear for one minute, else for six (see [`Fresh`]).
    fn finish(self) -> io::Result<()> {
        let parent = fs::File::open(self.dir.path().join(".."))?;
        self.dir.close()?;
        Ok(rustix::fs::syncfs(parent)?)
    }

    /// Says on standard error what is being done: a run takes minutes.
    fn say(&self, what: impl std::fmt::Display) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "{what}");
    }
}

/// A directory that nobody used before. When it is dropped its files are emptied, and only at the end of the run
/// removed: ext4 does not use an inode again for minutes after its file was removed, and looks over all such inodes
/// whenever a file is made. Between turns, that made an upload of 4 KB cost 940 µs of CPU, which was 169 µs before.
struct Fresh(PathBuf);

impl Fresh {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // What cannot be emptied takes room until the end, and fails whoever has none left.
        let _ = each_file(&self.0, &mut |path, length| {
            if length < EMPTIED_FROM_BYTES {
                return Ok(());
            }
            fs::File::options().write(true).open(path)?.set_len(0)
        });
    }
}

/// Calls `each` with the path and the length of every file below.
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

/// Runs the command.
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

/// `4k`, `1m`, or bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| format!("no size: {text}"))?;
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("no size: {text}"))
}

/// A size for people.
fn size_text(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

/// Bytes that no compression and no sniffing makes anything of, the same in every run.
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

/// A `GET` of this path.
fn get_head(path: &str, authority: &str, headers: &str) -> bytes::Bytes {
    format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n").into()
}

/// Addresses of the loopback network that clients connect from.
fn loopback_sources() -> Vec<IpAddr> {
    (2..18)
        .map(|last| Ipv4Addr::new(127, 0, 0, last).into())
        .collect()
}
