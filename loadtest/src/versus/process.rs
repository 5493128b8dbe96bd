//! Starts server processes on a core, measures them, and makes sure that they end.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
};

use super::{Bench, network::Network};
use crate::Error;

/// Time in which a server must accept connections. One with many objects may sweep first.
const START_MAX: Duration = Duration::from_secs(60);
/// Time in which a server must end when asked to; then it is killed.
const STOP_MAX: Duration = Duration::from_secs(40);

/// A server process. Dropping it ends it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` on the servers' core or on all cores; its output goes to `log`.
    ///
    /// `setpriv` (util-linux) makes the kernel end the server if this process is killed, because then nothing is
    /// dropped. `setpriv` and `taskset` replace themselves by the program they start, so the child's process id is the
    /// server's.
    pub(crate) fn spawn(
        bench: &Bench,
        program: &Path,
        arguments: &[&str],
        is_pinned: bool,
        log: PathBuf,
    ) -> Result<Self, Error> {
        let cores = if is_pinned {
            bench.server_core.to_string()
        } else {
            format!("0-{}", cores()? - 1)
        };
        let output = File::create(&log)?;
        let mut command: Command = match &bench.network {
            Network::Loopback => Command::new("taskset"),
            Network::Veth(veth) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", veth.namespace(), "taskset"]);
                command
            }
        };
        command
            .args(["-c", &cores, "setpriv", "--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Waits until the server accepts connections.
    pub(crate) fn wait_for(mut self, address: SocketAddr) -> Result<Self, Error> {
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the server ended early ({status}): {}", self.said()).into());
            }
            if start.elapsed() > START_MAX {
                return Err(format!(
                    "the server does not accept connections on {address}: {}",
                    self.said()
                )
                .into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(self)
    }

    /// The last part of its output.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(2000)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    /// User and system time of the process and its children.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let ticks = tree(self.child.id())?.iter().map(|stat| stat.ticks).sum();
        Ok(duration_of(ticks))
    }

    /// Resident memory of the process and its children, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for stat in tree(self.child.id())? {
            bytes += field(&format!("/proc/{}/status", stat.pid), "VmRSS:")? * 1024;
        }
        Ok(bytes)
    }

    /// Number of open descriptors.
    pub(crate) fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Bytes that the kernel read from a disk for it.
    pub(crate) fn disk_read_bytes(&self) -> Result<u64, Error> {
        field(&format!("/proc/{}/io", self.child.id()), "read_bytes:")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A child that has ended cannot be signalled; it is reaped below.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let start = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if start.elapsed() > STOP_MAX {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// User and system time of the children of this process that have ended.
pub(crate) fn ended_children_cpu() -> io::Result<Duration> {
    Ok(duration_of(Stat::read(std::process::id())?.ended_ticks))
}

/// Length of a tick of the CPU times.
pub(crate) fn tick() -> Duration {
    duration_of(1)
}

/// Raises the limit of open descriptors to the maximum allowed; children inherit it.
pub(crate) fn raise_descriptors() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(())
}

fn cores() -> io::Result<usize> {
    // `available_parallelism` would return 1, because this process is pinned to one core.
    let listed = fs::read_to_string("/proc/cpuinfo")?;
    let cores = listed.lines().filter(|line| line.starts_with("processor"));
    Ok(cores.count().max(1))
}

fn duration_of(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
}

/// Fields of `/proc/PID/stat`.
struct Stat {
    pid: u32,
    parent: u32,
    /// Ticks of the process and of its ended children.
    ticks: u64,
    ended_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(pid, &text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat: {text}")))
    }

    /// proc(5): fields are counted from 1; the second one, the name in parentheses, may contain any character.
    fn parse(pid: u32, text: &str) -> Option<Self> {
        let after_name = &text[text.rfind(')')? + 1..];
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ended_ticks = number(16)? + number(17)?;
        Some(Self {
            pid,
            parent: u32::try_from(number(4)?).ok()?,
            ticks: number(14)? + number(15)? + ended_ticks,
            ended_ticks,
        })
    }
}

/// A process and its descendants.
fn tree(root: u32) -> io::Result<Vec<Stat>> {
    let mut found = vec![Stat::read(root)?];
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends meanwhile is not ours.
        if let Ok(stat) = Stat::read(pid) {
            others.push(stat);
        }
    }
    let mut next = 0;
    while next < found.len() {
        let parent = found[next].pid;
        let (children, rest) = others.into_iter().partition(|stat| stat.parent == parent);
        found.extend::<Vec<_>>(children);
        others = rest;
        next += 1;
    }
    Ok(found)
}

/// The number after `name` in a file of `name number` lines.
fn field(path: &str, name: &str) -> Result<u64, Error> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    let number = number.ok_or_else(|| format!("{path} has no {name}"))?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_stat_with_odd_names() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 99";
        let stat = Stat::parse(7, text).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.ended_ticks), (3, 50, 27));
    }

    #[test]
    fn tree_contains_this_process() {
        let pids: Vec<_> = tree(std::process::id())
            .unwrap()
            .iter()
            .map(|stat| stat.pid)
            .collect();
        assert_eq!(pids[0], std::process::id());
    }
}
