//! The control socket: how a command of the command line reaches the server that runs on the same store.
//!
//! One line asks, one line answers: `remove <id>` or `name` → `ok <text>` or `error <text>`. The socket's mode, 0600,
//! is the whole of its access control. What a command does, and whether an id is one, is the handler's. `take-over`
//! is `handover.rs`'s.
//!
//! A socket's address holds 108 bytes and a store's path may be longer, so the directory is opened and the
//! socket named as `/proc/self/fd/<fd>/control.sock`.

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
/// A request's or an answer's line with its line feed.
const LINE_BYTES_MAX: u64 = 1024;
/// For a request's line to arrive, and again for the answer to be taken.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the handler to do what it was asked.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
const BACKLOG: u32 = 16;
/// How long to leave accepting alone after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can be asked of a running server.
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

/// The listening control socket of a store. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that a later server's socket is not removed in its place.
    identity: (u64, u64),
    /// Another process listens at it too, and has it from now on.
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
            // A file left behind is replaced by the next server.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `<dir>/control.sock`, mode 0600. A file of that name is taken for a dead server's and
/// replaced: the caller holds the store's lock, so no other server lives. Must be called within the runtime.
///
/// # Errors
/// `Internal` where the directory or the socket cannot be had.
pub fn bind(dir: &Path) -> Result<Listener> {
    bind_in(dir)
        .map_err(|error| Error::internal(format!("control socket in {}: {error}", dir.display())))
}

fn bind_in(dir: &Path) -> io::Result<Listener> {
    let (_dir, address) = address_in(dir)?;
    match fs::remove_file(&address) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(&address)?;
    // Before listen(2): until then a connection is refused, so nobody slips in under the umask's mode.
    fs::set_permissions(&address, fs::Permissions::from_mode(0o600))?;
    let identity = identity(&address)?;
    Ok(Listener {
        listener: socket.listen(BACKLOG)?,
        path: dir.join(SOCKET),
        identity,
        is_handed_over: false,
    })
}

/// The socket of the server before, which has handed it over. Must be called within the runtime.
///
/// # Errors
/// `Internal` where it is no such socket.
pub fn inherit(dir: &Path, socket: OwnedFd) -> Result<Listener> {
    let inherit = || {
        let (_dir, address) = address_in(dir)?;
        Ok(Listener {
            listener: UnixListener::from_std(socket.into())?,
            path: dir.join(SOCKET),
            identity: identity(&address)?,
            is_handed_over: false,
        })
    };
    inherit().map_err(|error: io::Error| {
        Error::internal(format!("control socket in {}: {error}", dir.display()))
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A name of the socket that is short enough, good while the descriptor is open.
fn address_in(dir: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let fd = rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let address = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()));
    Ok((fd, address))
}

/// Answers commands until the shutdown is triggered, then finishes those that run and removes the socket.
/// A command that takes more than 30 s is dropped.
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
    // What ends now may be the handover that brought the end.
    while let Some(ended) = connections.join_next().await {
        listener.is_handed_over |= report(ended);
    }
}

/// Whether the command that has ended handed this server's sockets over.
fn report(ended: Result<bool, tokio::task::JoinError>) -> bool {
    ended.unwrap_or_else(|error| {
        if error.is_panic() {
            error!(%error, "a control command panicked");
        }
        false
    })
}

async fn answer<F, A>(
    mut stream: UnixStream,
    handler: Arc<F>,
    handover: Arc<Option<Handover>>,
) -> bool
where
    F: Fn(Command) -> A,
    A: Future<Output = Result<String>>,
{
    let outcome = match timeout(LINE_TIMEOUT, read_line(&mut stream)).await {
        Ok(Ok(line)) if line == handover::REQUEST => {
            let handed = match &*handover {
                Some(handover) => handover.to(&mut stream).await,
                None => Err(Error::invalid("this server hands nothing over")),
            };
            match handed {
                Ok(()) => return true,
                Err(error) => Err(error),
            }
        }
        Ok(Ok(line)) => match Command::parse(&line) {
            Ok(command) => timeout(HANDLER_TIMEOUT, handler(command))
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(Kind::Internal).public("the command took too long"))
                }),
            Err(error) => Err(error),
        },
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Kind::RequestTimeout).public("no command came")),
    };
    let (word, text) = match outcome {
        Ok(text) => ("ok", text),
        // Whoever may open the socket runs the server, so the causes are shown; there is no other answer.
        Err(error) => (
            "error",
            error
                .public_text()
                .map_or_else(|| error.to_string(), str::to_owned),
        ),
    };
    let line = answer_line(word, &text);
    // A client that has gone misses its answer; there is nobody to tell.
    let _ = timeout(LINE_TIMEOUT, stream.write_all(line.as_bytes())).await;
    false
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

/// The text of a whole line, without its end. One that has none was too long or broke off.
fn line_of(mut line: Vec<u8>) -> Result<String> {
    if line.pop() != Some(b'\n') {
        return Err(Error::invalid("the line is too long or has no end"));
    }
    String::from_utf8(line).map_err(|_| Error::invalid("the line is not UTF-8"))
}

/// One line whatever the text holds, cut at a character to what the other side takes.
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

/// Asks the server that runs on the store in `dir`; `None` where none does. Blocks, for at most about 45 s.
///
/// # Errors
/// `InvalidArgument` where the command cannot be sent as one line or the server refused it (the public text
/// is the server's); `Internal` where the talk broke off.
pub fn request(dir: &Path, command: &Command) -> Result<Option<String>> {
    let line = command.line()?;
    let answer = match ask(dir, &line) {
        Ok(Some(answer)) => line_of(answer)?,
        Ok(None) => return Ok(None),
        Err(error) => {
            return Err(Error::internal(error).public("the running server did not answer"));
        }
    };
    match answer.split_once(' ') {
        Some(("ok", text)) => Ok(Some(text.to_owned())),
        Some(("error", text)) => Err(Error::invalid(text.to_owned())),
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
    let failed = |error| Error::internal(error).public("the running server did not hand over");
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
        // No file, or one that a server which was killed has left.
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
