//! Writes log lines to standard error from a thread of its own, so that no request waits for the reader of the log.
//!
//! Lines wait in a bounded buffer. If it is full, they are dropped and counted. `tracing-appender` is not used: it bounds
//! the number of lines and not their bytes, waits for at most one second at the end, does not count the lines that could
//! not be written, and has eight dependencies for rotating files.

use std::{
    borrow::Cow,
    io::{self, Write},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

use super::ids;
use crate::error::{Error, Result};

/// Size of the buffer. As many bytes again may be in the process of being written.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How long the reader may take for the buffered lines when the process ends.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The queue of log lines. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Held to copy a line or to swap the buffer, not during writes.
    state: Mutex<State>,
    /// Signals that there are lines, or that the queue is closed.
    filled: Condvar,
    /// Signals that all lines are written and the thread ends.
    ended: Condvar,
    dropped: AtomicU64,
    are_ids_masked: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    is_closed: bool,
    has_ended: bool,
}

/// Keeps the log open. Dropping it writes the buffered lines, for at most two seconds.
#[derive(Debug)]
#[must_use = "the log ends with it"]
pub struct Guard(Queue);

impl Queue {
    /// Makes a queue, and starts the thread that writes its lines to `output`.
    pub(super) fn to(output: impl Write + Send + 'static) -> Result<(Self, Guard)> {
        let queue = Self::default();
        let shared = queue.0.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all(output))
            .map_err(Error::internal)?;
        Ok((queue.clone(), Guard(queue)))
    }

    /// Number of lines that were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn set_ids_masked(&self, is_masked: bool) {
        self.0.are_ids_masked.store(is_masked, Ordering::Relaxed);
    }
}

impl Shared {
    /// Adds one event. Line ends within it are escaped, so that no logged value can fake a second line.
    fn put(&self, event: &[u8]) {
        let event = event.strip_suffix(b"\n").unwrap_or(event);
        let escaped = memchr::memchr2(b'\n', b'\r', event).map(|_| {
            let text = String::from_utf8_lossy(event);
            text.replace('\n', "\\n").replace('\r', "\\r").into_bytes()
        });
        let line = escaped.as_deref().unwrap_or(event);
        let line = match self.are_ids_masked.load(Ordering::Relaxed) {
            true => ids::masked(line),
            false => Cow::Borrowed(line),
        };
        let mut state = self.state.lock();
        if state.is_closed || state.waiting.len() + line.len() >= WAITING_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The thread sleeps only while the buffer is empty.
        let wakes = state.waiting.is_empty();
        state.waiting.extend_from_slice(&line);
        state.waiting.push(b'\n');
        drop(state);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Writes lines until the queue is closed and empty.
    fn write_all(&self, mut output: impl Write) {
        let mut writing = Vec::new();
        loop {
            writing.clear();
            let mut state = self.state.lock();
            while state.waiting.is_empty() && !state.is_closed {
                self.filled.wait(&mut state);
            }
            if state.waiting.is_empty() {
                state.has_ended = true;
                self.ended.notify_all();
                return;
            }
            mem::swap(&mut state.waiting, &mut writing);
            drop(state);
            if output.write_all(&writing).is_err() {
                // The reader has closed the pipe. How many of these bytes it has read is not known.
                let lines = memchr::memchr_iter(b'\n', &writing).count();
                self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        state.is_closed = true;
        shared.filled.notify_one();
        // The result does not matter: the process ends either way.
        let _ = shared
            .ended
            .wait_while_for(&mut state, |state| !state.has_ended, END_PATIENCE);
    }
}

/// Each write is one event, because `tracing-subscriber` formats events as a whole first.
impl Write for &Queue {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.put(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Reports each write, and waits for permission to return from it.
    struct Gate {
        at: mpsc::Sender<Vec<u8>>,
        go: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.at.send(bytes.to_vec()).map_err(io::Error::other)?;
            self.go.recv().map_err(io::Error::other)??;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (
        Queue,
        Guard,
        mpsc::Receiver<Vec<u8>>,
        mpsc::Sender<io::Result<()>>,
    ) {
        let (at, written) = mpsc::channel();
        let (open, go) = mpsc::channel();
        let (queue, guard) = Queue::to(Gate { at, go }).unwrap();
        (queue, guard, written, open)
    }

    #[test]
    fn drops_and_counts_when_full() {
        let (queue, guard, written, open) = gated();
        (&queue).write_all(b"first\n").unwrap();
        assert_eq!(written.recv().unwrap(), b"first\n");
        // The writer is blocked. The buffer takes 1 MiB.
        let line = [b'x'; 1023];
        for _ in 0..1500 {
            (&queue).write_all(&line).unwrap();
        }
        assert_eq!(queue.dropped(), 1500 - 1024);
        assert_eq!(queue.0.state.lock().waiting.len(), WAITING_BYTES_MAX);
        open.send(Ok(())).unwrap();
        open.send(Ok(())).unwrap();
        drop(guard);
        assert_eq!(written.recv().unwrap().len(), WAITING_BYTES_MAX);
        // A line after the end is dropped and counted.
        (&queue).write_all(b"late\n").unwrap();
        assert_eq!(queue.dropped(), 1500 - 1024 + 1);
    }

    #[test]
    fn counts_lines_on_broken_pipe() {
        let (queue, guard, written, open) = gated();
        (&queue).write_all(b"first\n").unwrap();
        written.recv().unwrap();
        (&queue).write_all(b"second\n").unwrap();
        (&queue).write_all(b"third\n").unwrap();
        let broken = || Err(io::Error::from(io::ErrorKind::BrokenPipe));
        open.send(broken()).unwrap();
        open.send(broken()).unwrap();
        drop(guard);
        assert_eq!(queue.dropped(), 3);
    }

    #[test]
    fn end_ignores_stuck_reader() {
        let (queue, guard, written, _open) = gated();
        (&queue).write_all(b"first\n").unwrap();
        written.recv().unwrap();
        drop(guard);
    }

    #[test]
    fn escapes_line_ends() {
        let (queue, guard, written, open) = gated();
        (&queue).write_all(b"a\r\nINFO forged\nb\n").unwrap();
        open.send(Ok(())).unwrap();
        assert_eq!(written.recv().unwrap(), b"a\\r\\nINFO forged\\nb\n");
        drop(guard);
        assert_eq!(queue.dropped(), 0);
    }
}
