//! Runs a program once: starts it, limits it, reads its output, and makes sure that it ends.
//!
//! The arguments are in `arguments.rs`. The program gets no shell, no terminal, no directory of ours, and only two
//! variables of our environment. All its resources are limited ([`Limits`]).
//!
//! ```text
//! the waiting future               a blocking thread, for the lifetime of the process
//!   requests a run         ──────▶   spawns, sets the limits
//!   reads stdout, stderr   ◀──────   pipes
//!                                    waits for the exit without reaping
//!                                    kills the rest of the process group, then reaps
//!   status                 ◀──────   releases the permit of the pool
//! ```
//!
//! A process group keeps its id until its leader is reaped, so a signal cannot reach another group: only the thread reaps,
//! and it holds the lock of [`Group`] while it does. A process that leaves the group by `setsid` cannot be killed, and only
//! its own CPU limit ends it; ffmpeg starts no processes.

use std::{
    fmt, fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, prlimit,
    waitid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
};

/// Bytes of standard error that are kept. The rest is read and discarded.
const LOG_BYTES_MAX: usize = 512;
/// Open descriptors of the program. ffmpeg needs its three standard ones, the input, and one library at a time.
const OPEN_FILES_MAX: u64 = 32;
/// The variables of our environment that the program gets: a wrapper finds its programs by them, and a private build its
/// libraries. They contain no secrets.
const ENVIRONMENT: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// The limits of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Wall time of the run.
    pub(super) timeout: Duration,
    /// Seconds of CPU time. Unlike wall time, it does not depend on other programs.
    pub(super) cpu_seconds_max: u64,
    /// Bytes of address space.
    pub(super) memory_bytes_max: u64,
    /// Bytes of standard output.
    pub(super) output_bytes_max: u64,
}

/// Why a run has no output.
#[derive(Debug)]
pub(super) enum Failure {
    /// The program could not be started, or its limits could not be set.
    Start(io::Error),
    /// The program reached [`Limits::timeout`] and was killed.
    TimedOut(Duration),
    /// The program wrote more than [`Limits::output_bytes_max`] and was killed.
    TooMuchOutput(u64),
    /// The program ended with an error or by a signal, which its limits also cause.
    Failed { status: ExitStatus, log: String },
    /// The pipes could not be read.
    Pipe(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the program could not be started: {error}"),
            Self::TimedOut(after) => write!(f, "killed after {} ms", after.as_millis()),
            Self::TooMuchOutput(bytes) => write!(f, "killed after {bytes} bytes of output"),
            // The Debug format escapes: messages of a decoder may quote the file.
            Self::Failed { status, log } => write!(f, "{status}: {log:?}"),
            Self::Pipe(error) => write!(f, "the output of the program could not be read: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs a program with a file as its standard input, and returns its standard output. `permit` is dropped when the process
/// has ended and was reaped, not before, even if the future is dropped.
///
/// # Errors
/// [`Failure`]; the process and its group are killed.
///
/// # Cancel safety
/// Dropping the future kills the process and its group.
pub(super) async fn run<P: Send + 'static>(
    program: &Path,
    arguments: &[String],
    input: Option<fs::File>,
    limits: Limits,
    permit: P,
) -> Result<Vec<u8>, Failure> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT.iter().filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some((name, value))
        }))
        .current_dir("/")
        .process_group(0)
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match tokio::time::timeout(limits.timeout, run_to_end(command, limits, permit)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TimedOut(limits.timeout)),
    }
}

async fn run_to_end<P: Send + 'static>(
    command: Command,
    limits: Limits,
    permit: P,
) -> Result<Vec<u8>, Failure> {
    let group = Arc::new(Group::default());
    let _kill_on_drop = KillOnDrop(group.clone());
    let (send_pipes, pipes) = oneshot::channel();
    // Starting blocks until the program is loaded, which takes long from a cold disk.
    let life = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        live(command, limits, &group, send_pipes)
    });
    let ended = async {
        let status = life.await.map_err(io::Error::other);
        status.flatten().map_err(Failure::Start)
    };
    let (status, (output, log)) =
        tokio::try_join!(ended, read_outputs(pipes, limits.output_bytes_max))?;
    if !status.success() {
        return Err(Failure::Failed { status, log });
    }
    if !log.is_empty() {
        tracing::debug!(
            ?log,
            "the program succeeded but wrote to its standard error"
        );
    }
    Ok(output)
}

/// Reads standard output, and the start of standard error.
async fn read_outputs(
    pipes: oneshot::Receiver<Pipes>,
    bytes_max: u64,
) -> Result<(Vec<u8>, String), Failure> {
    // Without pipes the program was not started, and its end has the cause.
    let Ok((stdout, stderr)) = pipes.await else {
        return Ok((Vec::new(), String::new()));
    };
    let stdout = tokio::process::ChildStdout::from_std(stdout).map_err(Failure::Pipe)?;
    let stderr = tokio::process::ChildStderr::from_std(stderr).map_err(Failure::Pipe)?;
    tokio::try_join!(read_bounded(stdout, bytes_max), read_start(stderr))
}

/// Reads everything. An error at the first byte above the limit.
async fn read_bounded(pipe: impl AsyncRead + Unpin, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut pipe = pipe.take(bytes_max.saturating_add(1));
    pipe.read_to_end(&mut bytes).await.map_err(Failure::Pipe)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Failure::TooMuchOutput(bytes_max)),
        false => Ok(bytes),
    }
}

/// Reads everything, so that the writer never blocks, and returns the first bytes as text.
async fn read_start(mut pipe: impl AsyncRead + Unpin) -> Result<String, Failure> {
    let mut start = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match pipe.read(&mut buffer).await.map_err(Failure::Pipe)? {
            0 => return Ok(String::from_utf8_lossy(&start).into_owned()),
            read => {
                let room = LOG_BYTES_MAX - start.len();
                start.extend_from_slice(&buffer[..read.min(room)]);
            }
        }
    }
}

type Pipes = (ChildStdout, ChildStderr);

/// Starts the process, and waits for its end. Blocking.
fn live(
    mut command: Command,
    limits: Limits,
    group: &Group,
    pipes: oneshot::Sender<Pipes>,
) -> io::Result<ExitStatus> {
    if group.is_given_up() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let mut child = command.spawn()?;
    // Closes our own end of the standard input.
    drop(command);
    let pid = Pid::from_child(&child);
    let limited = limit(pid, limits);
    group.is_led_by(pid);
    if limited.is_err() {
        group.kill();
    }
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        // If the receiver is gone, the group was killed, or will be killed when it is dropped.
        let _ = pipes.send((stdout, stderr));
    }
    // NOWAIT leaves a zombie, whose id no other process can get.
    let exit = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), exit))
        .inspect_err(|_| group.is_reaped())?;
    let status = group.kill_and_reap(&mut child);
    limited.and(status)
}

/// Limits the resources of a process that was started about 100 µs ago. It loads its libraries for another 30 ms (ffmpeg
/// has 200), so it has not read any input. If this thread is delayed, the limits still count all earlier use. Limits before
/// the start would need code between fork and exec, which is unsafe.
///
/// The number of processes is not limited: the kernel counts all threads of a user, including ours.
fn limit(pid: Pid, limits: Limits) -> io::Result<()> {
    for (resource, max) in [
        (Resource::As, limits.memory_bytes_max),
        (Resource::Cpu, limits.cpu_seconds_max),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nofile, OPEN_FILES_MAX),
    ] {
        // A lower limit that was inherited from us cannot be raised.
        let max = getrlimit(resource)
            .maximum
            .map_or(max, |inherited| inherited.min(max));
        let limit = Rlimit {
            current: Some(max),
            maximum: Some(max),
        };
        prlimit(Some(pid), resource, limit)?;
    }
    Ok(())
}

/// The process group of one program.
#[derive(Default)]
struct Group {
    // A synchronous Mutex: nothing is awaited while it is held, and a kill or a reap takes microseconds.
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Starting,
    /// The leader was not reaped: its id belongs to this group.
    Running(Pid),
    /// The future was dropped before the process was started.
    GivenUp,
    Reaped,
}

impl Group {
    fn is_given_up(&self) -> bool {
        matches!(*self.state.lock(), State::GivenUp)
    }

    /// Sets the leader. Kills it at once if the future was dropped before.
    fn is_led_by(&self, pid: Pid) {
        let mut state = self.state.lock();
        if matches!(*state, State::GivenUp) {
            kill(pid);
        }
        *state = State::Running(pid);
    }

    /// Notes that the kernel has reaped the leader, since SIGCHLD is ignored. Another process may have the id now.
    fn is_reaped(&self) {
        *self.state.lock() = State::Reaped;
    }

    fn kill(&self) {
        let mut state = self.state.lock();
        match *state {
            State::Starting => *state = State::GivenUp,
            State::Running(pid) => kill(pid),
            State::GivenUp | State::Reaped => {}
        }
    }

    /// Kills the processes that the leader left in its group, then reaps the leader, which frees the id.
    fn kill_and_reap(&self, leader: &mut Child) -> io::Result<ExitStatus> {
        let mut state = self.state.lock();
        if let State::Running(pid) = *state {
            kill(pid);
        }
        *state = State::Reaped;
        leader.wait()
    }
}

fn kill(group: Pid) {
    // ESRCH and EPERM mean that no process is left to kill.
    let _ = kill_process_group(group, Signal::KILL);
}

/// Kills the group when the waiting future is dropped.
struct KillOnDrop(Arc<Group>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}
