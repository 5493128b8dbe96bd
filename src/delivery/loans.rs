//! Zero copy by address: which file the bytes in a connection's write queue lie in.
//!
//! hyper knows no files. It takes slices of a mapped file from a [`Body`](super::Body) and hands them to the
//! connection's transport as bare addresses. A file stays in [`Loans`] from before its first slice is given out until
//! everything queued is written, so an address cannot mean two files. A slice that is not found is sent as ordinary
//! memory.

use std::{
    fs::File,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;

use crate::{files::OpenFile, limit::Client};

/// The files whose slices may be in the write queue of one connection.
///
/// Only the task of that connection uses it: the lock is there for `Sync` and is never waited for. Bound: the slices
/// that hyper queues before it flushes (16).
#[derive(Debug, Default)]
pub struct Loans {
    /// Spares the lock if there are none, as for every small response.
    any: AtomicBool,
    files: Mutex<Vec<Arc<OpenFile>>>,
}

impl Loans {
    /// Adds a file whose slices are about to be queued.
    pub(super) fn add(&self, file: &Arc<OpenFile>) {
        let mut files = self.files.lock();
        if !files.iter().any(|lent| Arc::ptr_eq(lent, file)) {
            files.push(file.clone());
        }
        self.any.store(true, Ordering::Relaxed);
    }

    /// Forgets all files. To be called when everything that was queued is written.
    pub fn clear(&self) {
        if !self.is_empty() {
            self.files.lock().clear();
            self.any.store(false, Ordering::Relaxed);
        }
    }

    /// Writes `bufs` up to and with the first slice that is worth a `sendfile`. The buffers before it, such as the head
    /// of the response, go ahead with `MSG_MORE` and share its segments.
    ///
    /// `None` if there is no such slice, or the file system cannot do it: the buffers are to be written as memory.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        stream: &mut impl SendFile,
        bufs: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.is_empty() {
            return None;
        }
        let bytes_min = stream.sendfile_bytes_min();
        let (index, (file, offset)) = bufs
            .iter()
            .enumerate()
            .filter(|(_, slice)| slice.len() >= bytes_min)
            .find_map(|(index, slice)| Some((index, self.find(slice)?)))?;
        let (before, len) = (&bufs[..index], bufs[index].len());
        let lent = file.object.mapped()?.file();
        match stream.poll_send_file(cx, before, lent, offset, len) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Unsupported => None,
            outcome => Some(outcome),
        }
    }

    /// The file that the slice lies in, and its offset there.
    fn find(&self, slice: &[u8]) -> Option<(Arc<OpenFile>, u64)> {
        self.files
            .lock()
            .iter()
            .find_map(|file| Some((file.clone(), file.object.mapped()?.offset_of(slice)?)))
    }

    fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }
}

/// A stream that may be able to send a part of a file without reading it into this process. By default it is not.
pub trait SendFile {
    /// Whether it is. If not, bodies are copied ([`FileBody::copy_out`]).
    const SENDS_FILES: bool = false;

    /// The least bytes of a file that are worth a call of [`SendFile::poll_send_file`].
    fn sendfile_bytes_min(&self) -> usize {
        usize::MAX
    }

    /// Sends `before`, then `len` bytes of `file` from `offset`; returns how many bytes the socket took.
    ///
    /// # Errors
    /// `Unsupported` if nothing was sent and the bytes must be written as memory. `UnexpectedEof` if the file is
    /// shorter.
    fn poll_send_file(
        &mut self,
        _cx: &mut Context<'_>,
        _before: &[IoSlice<'_>],
        _file: &File,
        _offset: u64,
        _len: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// A response body that may be made of files. A connection calls one of the two methods before it polls the body.
pub trait FileBody {
    /// Makes the body yield slices of mapped files, and add each file to `loans` before.
    fn lend_to(&mut self, loans: &Arc<Loans>);

    /// Makes the body yield memory of this process, read from the files and counted for the client.
    ///
    /// For bytes that this process reads itself, as TLS and HTTP/2 do. If it read a mapped page that the disk cannot
    /// deliver, SIGBUS would end it.
    fn copy_out(&mut self, client: &Arc<Client>);
}
