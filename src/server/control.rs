//! The control socket: commands of the command line use it to reach the server that runs on the same store.
//!
//! One line asks, one line answers: `remove <id>` or `name` → `ok <text>` or `error <text>`. Access control
//! is the socket's mode, 0600. The handler executes the commands and checks ids. `handover.rs` handles `take-over`.
//!
//! The address of a socket has at most 108 bytes, and the path of a store may be longer. So the directory is opened,
//! and the socket is addressed as `/proc/self/fd/<fd>/control.sock`.

use std::{
    fs,
    future::Future,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixStream as BlockingStream,
        },
    },
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixSocket, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tracing::{error, warn};

use super::{
    handover::{self, Handover, Inherited},
    shutdown::Shutdown,
};
use crate::error::{Error, Kind, Result};

const SOCKET: &str = "control.sock";
/// The largest line of a request or an answer, with its line feed.
const LINE_BYTES_MAX: u64 = 1024;
/// The longest time for the line of a request to arrive, and for the client to read the answer.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time for the handler to execute a command.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
/// Concurrent connections. Others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
const BACKLOG: u32 = 16;
/// The pause after an error of accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A command for a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Removes the object of this id: the text as it was typed, unvalidated.
    Remove(String),
    /// Asks for the random name of the server, which `/healthz` shows too.
    Name,
}

impl Command {
    fn parse(line: &str) -> Result<Self> {
        match line.split_once(' ') {
            Some(("remove", id)) if !id.trim().is_empty() => Ok(Self::Remove(id.trim().to_owned())),
            None if line == "name" => Ok(Self::Name),
            _ => Err(Error::invalid("unknown command; known: remove <id>, name")),
        }
    }

    fn line(&self) -> Result<String> {
        let id = match self {
            Self::Remove(id) => id,
            Self::Name => return Ok("name\n".to_owned()),
        };
        let line = format!("remove {id}\n");
        if id.trim().is_empty()
            || id.contains(char::is_control)
            || line.len() as u64 > LINE_BYTES_MAX
        {
            return Err(Error::invalid("not an id"));
        }
        Ok(line)
    }
}

/// The listening control socket of a store. Dropping it removes the file of the socket.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that the socket of a later server is not removed.
    identity: (u64, u64),
    /// Whether another process has taken the socket over.
    is_handed_over: bool,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.is_handed_over && identity(&self.path).is_ok_and(|found| found == self.identity) {
            // The next server replaces a file that stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `<dir>/control.sock` with mode 0600. Replaces an existing file: the caller has opened the store, so no
/// other server runs on it. Must be called within the runtime.
///
/// # Errors
/// `Internal` if the directory cannot be opened or the socket cannot be bound.
pub fn bind(dir: &Path) -> Result<Listener> {
    listener(dir, |address| {
        match fs::remove_file(address) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixSocket::new_stream()?;
        socket.bind(address)?;
        // Before listen(2). Until then, connections are refused, so the mode that the umask gives cannot be used.
        fs::set_permissions(address, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)
    })
}

/// Uses the socket that a running server has handed over. Must be called within the runtime.
///
/// # Errors
/// `Internal` if the descriptor is not such a socket.
pub fn inherit(dir: &Path, socket: OwnedFd) -> Result<Listener> {
    listener(dir, |_| UnixListener::from_std(socket.into()))
}

fn listener(dir: &Path, open: impl FnOnce(&Path) -> io::Result<UnixListener>) -> Result<Listener> {
    let listener = || {
        let (_dir, address) = address_in(dir)?;
        Ok(Listener {
            listener: open(&address)?,
            path: dir.join(SOCKET),
            identity: identity(&address)?,
            is_handed_over: false,
        })
    };
    listener().map_err(|error: io::Error| {
        Error::internal(format!("control socket in {}: {error}", dir.display()))
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Returns a short path of the socket, which is valid while the descriptor is open.
fn address_in(dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let fd = rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let address = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()));
    Ok((fd, address))
}

/// Answers commands until the shutdown is triggered, then finishes running commands and removes the socket. A command
/// that takes more than 30 s is dropped.
///
/// # Cancel safety
/// Dropping the future drops running commands and removes the socket.
pub async fn serve<F, A>(
    mut listener: Listener,
    handler: F,
    handover: Option<Handover>,
    shutdown: Shutdown,
) where
    F: Fn(Command) -> A + Send + Sync + 'static,
    A: Future<Output = Result<String>> + Send + 'static,
{
    let handler = Arc::new(handler);
    let handover = Arc::new(handover);
    // Bounded by CONNECTIONS_MAX, each by its time-outs.
    let mut connections = JoinSet::new();
    let mut triggered = pin!(shutdown.triggered());
    loop {
        tokio::select! {
            biased;
            () = &mut triggered => break,
            Some(ended) = connections.join_next() => {
                listener.is_handed_over |= report(ended);
            }
            accepted = listener.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer(stream, handler.clone(), handover.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // The handover that triggered the shutdown may end here.
    while let Some(ended) = connections.join_next().await {
        listener.is_handed_over |= report(ended);
    }
}

/// Whether the command has handed over the sockets of this server. Logs a panic.
fn report(ended: Result<bool, tokio::task::JoinError>) -> bool {
    ended.unwrap_or_else(|error| {
        if error.is_panic() {
            error!(%error, "a control command panicked");
        }
        false
    })
}

/// Answers one command. Returns whether it has handed over the sockets of this server.
async fn answer<F, A>(
    mut stream: UnixStream,
    handler: Arc<F>,
    handover: Arc<Option<Handover>>,
) -> bool
where
    F: Fn(Command) -> A,
    A: Future<Output = Result<String>>,
{
    let line = timeout(LINE_TIMEOUT, read_line(&mut stream)).await;
    let line =
        line.unwrap_or_else(|_| Err(Error::new(Kind::RequestTimeout).public("no command came")));
    let outcome = match (line, &*handover) {
        (Ok(line), Some(handover)) if line == handover::REQUEST => {
            match handover.to(&mut stream).await {
                Ok(()) => return true,
                Err(error) => Err(error),
            }
        }
        (Ok(line), None) if line == handover::REQUEST => {
            Err(Error::invalid("this server hands nothing over"))
        }
        (Ok(line), _) => execute(&line, &*handler).await,
        (Err(error), _) => Err(error),
    };
    let line = match outcome {
        Ok(text) => answer_line("ok", &text),
        // Only the user of the server can open the socket, so the answer contains the causes.
        Err(error) => match error.public_text() {
            Some(text) => answer_line("error", text),
            None => answer_line("error", &error.to_string()),
        },
    };
    // The error of a client that has disconnected is of no interest.
    let _ = timeout(LINE_TIMEOUT, stream.write_all(line.as_bytes())).await;
    false
}

async fn execute<A>(line: &str, handler: impl Fn(Command) -> A) -> Result<String>
where
    A: Future<Output = Result<String>>,
{
    let done = timeout(HANDLER_TIMEOUT, handler(Command::parse(line)?)).await;
    done.unwrap_or_else(|_| Err(Error::new(Kind::Internal).public("the command took too long")))
}

async fn read_line(reader: impl tokio::io::AsyncRead + Unpin) -> Result<String> {
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(reader.take(LINE_BYTES_MAX));
    reader
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| Error::new(Kind::Disconnected).source(error))?;
    line_of(line)
}

/// Returns the text of a line without its end. A line without an end was too long or incomplete.
fn line_of(mut line: Vec<u8>) -> Result<String> {
    if line.pop() != Some(b'\n') {
        return Err(Error::invalid("the line is too long or has no end"));
    }
    String::from_utf8(line).map_err(|_| Error::invalid("the line is not UTF-8"))
}

/// Formats an answer as one line, cut at a character boundary to the largest size.
fn answer_line(word: &str, text: &str) -> String {
    let text_bytes_max = LINE_BYTES_MAX as usize - word.len() - " \n".len();
    let mut line = format!("{word} ");
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() - word.len() - 1 + c.len_utf8() > text_bytes_max {
            break;
        }
        line.push(c);
    }
    line.push('\n');
    line
}

/// Sends a command to the server that runs on the store in `dir`. Returns `None` if none runs. Blocks for at most 45 s.
///
/// # Errors
/// `InvalidArgument` if the command cannot be sent as one line; `Internal` if the server refused it, with the server's
/// text, or if the connection failed.
pub fn request(dir: &Path, command: &Command) -> Result<Option<String>> {
    let line = command.line()?;
    let answer = match ask(dir, &line) {
        Ok(Some(answer)) => line_of(answer)?,
        Ok(None) => return Ok(None),
        Err(error) => {
            let socket = dir.join(SOCKET);
            let text = format!(
                "{}: the running server did not answer: {error}",
                socket.display()
            );
            return Err(Error::internal(text));
        }
    };
    match answer.split_once(' ') {
        Some(("ok", text)) => Ok(Some(text.to_owned())),
        Some(("error", text)) => Err(Error::new(Kind::Internal).public(text.to_owned())),
        _ => Err(Error::internal(format!(
            "unexpected answer on the control socket: {answer:?}"
        ))),
    }
}

/// Asks the server that runs on the store in `dir` to hand over; `None` if none runs. Blocking.
///
/// # Errors
/// If the server refuses or cannot hand over.
pub fn take_over(dir: &Path) -> Result<Option<Inherited>> {
    let failed = |error| {
        let socket = dir.join(SOCKET);
        let text = format!(
            "{}: the running server did not hand over: {error}",
            socket.display()
        );
        Error::internal(text)
    };
    let stream = connect(dir).map_err(failed)?;
    stream.map(handover::take_over).transpose()
}

/// Connects to the server that runs on the store in `dir`; `None` if none runs.
fn connect(dir: &Path) -> io::Result<Option<BlockingStream>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let connected = address_in(dir).and_then(|(_dir, address)| BlockingStream::connect(address));
    match connected {
        Ok(stream) => {
            stream.set_write_timeout(Some(LINE_TIMEOUT))?;
            Ok(Some(stream))
        }
        // There is no file, or a killed server has left it.
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

fn ask(dir: &Path, line: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(mut stream) = connect(dir)? else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(HANDLER_TIMEOUT + 2 * LINE_TIMEOUT))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_until(b'\n', &mut answer)?;
    Ok(Some(answer))
}

#[cfg(test)]
mod tests;
