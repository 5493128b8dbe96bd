//! One run of a program: started, limited, read, and surely gone.
//!
//! What it is asked to do is in `arguments.rs`. No shell, no environment but two variables, no directory of
//! ours, no terminal. Everything that it may take has a bound ([`Limits`]).
//!
//! ```text
//! the waiting future               a blocking thread, for as long as the process lives
//!   asks for it            ──────▶   spawn, limits
//!   reads stdout, stderr   ◀──────   pipes
//!                                    waits for the exit, reaps nothing yet
//!                                    kills what is left of the group, then reaps
//!   status                 ◀──────   gives the place in the pool back
//! ```
//!
//! A process group keeps its id as long as its leader is not reaped, so a signal meets it and nobody else: the
//! thread alone reaps, and [`Group`]'s lock is held while it does. What leaves the group by `setsid` is out of
//! reach, and bounded by its own CPU limit only; ffmpeg starts no processes.

use std::{
    fmt, fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process_group, prlimit,
    waitid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
};

/// What is kept of standard error, in bytes; the rest is read and forgotten.
const LOG_BYTES_MAX: usize = 512;
/// Descriptors that the program may have open. ffmpeg needs its three, the input and a library at a time.
const OPEN_FILES_MAX: u64 = 32;
/// Of our environment, what a program is started with: where a wrapper finds its programs, and a private build
/// its libraries. No secret of ours is in them.
const ENVIRONMENT: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// What one run may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Wall time from the start to the end.
    pub(super) timeout: Duration,
    /// Seconds of CPU. Not lower where other programs take the CPU, as the wall time is.
    pub(super) cpu_seconds_max: u64,
    /// Address space, in bytes.
    pub(super) memory_bytes_max: u64,
    /// Bytes of standard output.
    pub(super) output_bytes_max: u64,
}

/// Why there is no output.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be started, or not be limited.
    Start(io::Error),
    /// It ran into [`Limits::timeout`], and was killed.
    TimedOut(Duration),
    /// It wrote more than [`Limits::output_bytes_max`], and was killed.
    TooMuchOutput(u64),
    /// It ended with an error, or by a signal: its own limits end it so, too.
    Failed { status: ExitStatus, log: String },
    /// Its pipes could not be read.
    Pipe(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "it could not be started: {error}"),
            Self::TimedOut(after) => write!(f, "killed after {} ms", after.as_millis()),
            Self::TooMuchOutput(bytes) => write!(f, "killed after {bytes} bytes of output"),
            // Debug escapes: what a decoder says may quote the file.
            Self::Failed { status, log } => write!(f, "{status}: {log:?}"),
            Self::Pipe(error) => write!(f, "its output could not be read: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs a program with a file as its standard input, and gives its standard output. `place` is dropped when
/// the process is gone and reaped, not before, also where nobody waits for it any more.
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
    place: P,
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
    match tokio::time::timeout(limits.timeout, run_to_end(command, limits, place)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TimedOut(limits.timeout)),
    }
}

async fn run_to_end<P: Send + 'static>(
    command: Command,
    limits: Limits,
    place: P,
) -> Result<Vec<u8>, Failure> {
    let group = Arc::new(Group::default());
    let _kill_on_drop = KillOnDrop(group.clone());
    let (send_pipes, pipes) = oneshot::channel();
    // Starting blocks until the program is loaded, which a cold disk makes long.
    let life = tokio::task::spawn_blocking(move || {
        let _place = place;
        live(command, limits, &group, send_pipes)
    });
    let ended = async {
        let status = life.await.map_err(io::Error::other);
        status.flatten().map_err(Failure::Start)
    };
    let outputs = async {
        // Where there are no pipes there was no start, and `ended` says why.
        let Ok((stdout, stderr)) = pipes.await else {
            return Ok((Vec::new(), String::new()));
        };
        let stdout = tokio::process::ChildStdout::from_std(stdout).map_err(Failure::Pipe)?;
        let stderr = tokio::process::ChildStderr::from_std(stderr).map_err(Failure::Pipe)?;
        tokio::try_join!(
            read_bounded(stdout, limits.output_bytes_max),
            read_start(stderr)
        )
    };
    let (status, (output, log)) = tokio::try_join!(ended, outputs)?;
    if !status.success() {
        return Err(Failure::Failed { status, log });
    }
    if !log.is_empty() {
        tracing::debug!(?log, "a program that succeeded wrote on its standard error");
    }
    Ok(output)
}

/// Everything, or an error with the first byte too many.
async fn read_bounded(pipe: impl AsyncRead + Unpin, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut pipe = pipe.take(bytes_max.saturating_add(1));
    pipe.read_to_end(&mut bytes).await.map_err(Failure::Pipe)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Failure::TooMuchOutput(bytes_max)),
        false => Ok(bytes),
    }
}

/// The first bytes as text. The rest is read as well, lest the writer wait for ever.
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

/// The life of one process, on a thread that waits for its end. Blocking.
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
    // Our own ends of its standard input are closed with the command.
    drop(command);
    let pid = Pid::from_child(&child);
    let limited = limit(pid, limits);
    group.is_led_by(pid);
    if limited.is_err() {
        group.kill();
    }
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        // A receiver that is gone has killed the group, or will as soon as it is dropped.
        let _ = pipes.send((stdout, stderr));
    }
    // NOWAIT leaves it a zombie, whose id is nobody else's.
    let exit = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), exit))
        .inspect_err(|_| group.is_reaped())?;
    let status = group.kill_and_reap(&mut child);
    limited.and(status)
}

/// Bounds what a process may take. It was started some 100 µs ago, and loads its libraries for 30 ms more
/// (ffmpeg has 200): not a byte of its input was read. Should this thread be kept waiting, the limits still
/// count all that was taken before. Set before the start they would need code between fork and exec, which is
/// unsafe.
///
/// Processes are not limited: the kernel counts all threads of a user, ours too.
fn limit(pid: Pid, limits: Limits) -> io::Result<()> {
    for (resource, max) in [
        (Resource::As, limits.memory_bytes_max),
        (Resource::Cpu, limits.cpu_seconds_max),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nofile, OPEN_FILES_MAX),
    ] {
        // A limit that is lower already, as inherited from us, cannot be raised.
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
    /// Led by a process that was not reaped: its id is the group's and nobody else's.
    Running(Pid),
    /// Whoever asked has given up before there was a process.
    GivenUp,
    Reaped,
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn is_given_up(&self) -> bool {
        matches!(*self.state(), State::GivenUp)
    }

    /// Takes note of the leader; kills at once where that was asked for before.
    fn is_led_by(&self, pid: Pid) {
        let mut state = self.state();
        if matches!(*state, State::GivenUp) {
            kill(pid);
        }
        *state = State::Running(pid);
    }

    /// Takes note that somebody else has reaped: the kernel, where SIGCHLD is ignored. The id may be another's.
    fn is_reaped(&self) {
        *self.state() = State::Reaped;
    }

    fn kill(&self) {
        let mut state = self.state();
        match *state {
            State::Starting => *state = State::GivenUp,
            State::Running(pid) => kill(pid),
            State::GivenUp | State::Reaped => {}
        }
    }

    /// Kills what a leader that has ended left behind in its group, then frees the group's id.
    fn kill_and_reap(&self, leader: &mut Child) -> io::Result<ExitStatus> {
        let mut state = self.state();
        if let State::Running(pid) = *state {
            kill(pid);
        }
        *state = State::Reaped;
        leader.wait()
    }
}

fn kill(group: Pid) {
    // ESRCH and EPERM say that nobody is left that could be killed.
    let _ = kill_process_group(group, Signal::KILL);
}

/// Kills the group with the future that waits for it.
struct KillOnDrop(Arc<Group>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}
