//! The control socket: how a command of the command line reaches the server that runs on the same store.
//!
//! One line asks, one line answers: `remove <id>` → `ok <text>` or `error <text>`. The socket's mode, 0600,
//! is the whole of its access control. What a command does, and whether an id is one, is the handler's.
//!
//! A socket's address holds 108 bytes and a store's path may be longer, so the directory is opened and the
//! socket named as `/proc/self/fd/<fd>/control.sock`.

use std::{
    fs,
    future::Future,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
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

use super::shutdown::Shutdown;
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
    /// Remove the object of this id: the text as it was typed, unvalidated.
    Remove(String),
}

impl Command {
    fn parse(line: &str) -> Result<Self> {
        match line.split_once(' ') {
            Some(("remove", id)) if !id.trim().is_empty() => Ok(Self::Remove(id.trim().to_owned())),
            _ => Err(Error::invalid("unknown command; known: remove <id>")),
        }
    }

    fn line(&self) -> Result<String> {
        let Self::Remove(id) = self;
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
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
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
pub async fn serve<F, A>(listener: Listener, handler: F, shutdown: Shutdown)
where
    F: Fn(Command) -> A + Send + Sync + 'static,
    A: Future<Output = Result<String>> + Send + 'static,
{
    let handler = Arc::new(handler);
    // Bounded by CONNECTIONS_MAX, each by its time-outs.
    let mut connections = JoinSet::new();
    let mut triggered = pin!(shutdown.triggered());
    loop {
        tokio::select! {
            biased;
            () = &mut triggered => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer(stream, handler.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a control command panicked");
    }
}

async fn answer<F, A>(stream: UnixStream, handler: Arc<F>)
where
    F: Fn(Command) -> A,
    A: Future<Output = Result<String>>,
{
    let (reader, mut writer) = stream.into_split();
    let outcome = match timeout(LINE_TIMEOUT, read_line(reader)).await {
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
    let _ = timeout(LINE_TIMEOUT, writer.write_all(line.as_bytes())).await;
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

fn ask(dir: &Path, line: &str) -> io::Result<Option<Vec<u8>>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let connected = address_in(dir).and_then(|(_dir, address)| BlockingStream::connect(address));
    let mut stream = match connected {
        Ok(stream) => stream,
        // No file, or one that a server which was killed has left.
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_write_timeout(Some(LINE_TIMEOUT))?;
    stream.set_read_timeout(Some(HANDLER_TIMEOUT + 2 * LINE_TIMEOUT))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_until(b'\n', &mut answer)?;
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask_in(dir: &Path, command: Command) -> Result<Option<String>> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || request(&dir, &command))
            .await
            .unwrap()
    }

    fn remove(id: &str) -> Command {
        Command::Remove(id.to_owned())
    }

    async fn handler(command: Command) -> Result<String> {
        match command {
            Command::Remove(id) if id == "known" => Ok("removed\nknown".to_owned()),
            Command::Remove(id) => {
                Err(Error::new(Kind::ObjectNotFound).public(format!("no object {id}")))
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_command_is_answered_while_a_server_runs_even_under_a_long_path() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120)).join("e".repeat(120));
        assert_eq!(
            ask_in(&dir, remove("known")).await.unwrap(),
            None,
            "no directory"
        );
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(
            ask_in(&dir, remove("known")).await.unwrap(),
            None,
            "no socket"
        );
        // What a killed server leaves behind: nobody listens, and the next server takes its place.
        let killed = UnixSocket::new_stream().unwrap();
        let (_dir, address) = address_in(&dir).unwrap();
        killed.bind(address).unwrap();
        drop(killed);
        assert_eq!(
            ask_in(&dir, remove("known")).await.unwrap(),
            None,
            "a stale socket"
        );

        let listener = bind(&dir).unwrap();
        let mode = fs::metadata(dir.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let shutdown = Shutdown::new();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, handler, shutdown.clone()));
        assert_eq!(
            ask_in(&dir, remove("known")).await.unwrap().as_deref(),
            Some("removed known")
        );
        let error = ask_in(&dir, remove("other")).await.unwrap_err();
        assert_eq!(error.public_text(), Some("no object other"));
        for id in ["", " ", "a\nremove known", &"x".repeat(1100)] {
            let kind = ask_in(&dir, remove(id)).await.unwrap_err().kind();
            assert_eq!(kind, Kind::InvalidArgument, "{id:?}");
        }
        shutdown.trigger();
        server.join_next().await.unwrap().unwrap();
        assert!(
            !dir.join(SOCKET).exists(),
            "the socket is removed at the end"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_line_that_is_no_command_is_answered_with_an_error() {
        let root = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let mut server = JoinSet::new();
        server.spawn(serve(bind(root.path()).unwrap(), handler, shutdown.clone()));
        for line in [
            "hello\n",
            "remove\n",
            "remove \n",
            "\n",
            "remove \u{e9}\u{0}x\n",
            &"x".repeat(2000),
        ] {
            let (dir, line) = (root.path().to_owned(), line.to_owned());
            let answer = tokio::task::spawn_blocking(move || ask(&dir, &line))
                .await
                .unwrap();
            let answer = String::from_utf8(answer.unwrap().unwrap()).unwrap();
            assert!(
                answer.starts_with("error ") && answer.ends_with('\n'),
                "{answer:?}"
            );
        }
        shutdown.trigger();
        server.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn an_answer_is_one_bounded_line() {
        let line = answer_line("error", &"é\n".repeat(2000));
        assert!(line.len() as u64 <= LINE_BYTES_MAX && line.len() as u64 > LINE_BYTES_MAX - 4);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with('\n'));
    }
}
