//! The byte stream under hyper, with zero copy: what of an answer lies in a lent map leaves by `sendfile`.
//!
//! hyper knows nothing of files. It passes a body's slices on by address, to `poll_write_vectored`; where an
//! address lies in a file that is lent to this connection ([`Lent`]), the kernel is given the file and not the
//! memory, so that its pages go out as they lie in the page cache. The bytes before it (the head of an answer,
//! of a part) go ahead with `MSG_MORE` and so travel in the same segments. Anything else is ordinary memory.
//!
//! What passes is counted and timed in [`Progress`]; what it means is hyper's business.

use std::{
    fs::File,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, sendmsg},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::deadlines::Progress;
use crate::files::Lent;

/// Shorter slices are copied: with a second call, `sendfile` costs more than it saves (decision 0010).
const SENDFILE_BYTES_MIN: usize = 32 * 1024;

/// What a connection runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Sends `before`, then `len` bytes of `file` from `offset`; returns how many bytes the socket took.
    ///
    /// # Errors
    /// `Unsupported`, and nothing was sent: the file must go by address. `UnexpectedEof` where it is shorter.
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>>;
}

impl Stream for TcpStream {
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            let sent = self.try_io(Interest::WRITABLE, || {
                send_file(self, before, file, offset, len)
            });
            // An explicit EAGAIN alone says that the socket is full: a call may end early for other reasons,
            // and a readiness cleared for nothing would wait for an edge that never comes.
            if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(sent);
            }
        }
    }
}

fn send_file(
    socket: &TcpStream,
    before: &[IoSlice<'_>],
    file: &File,
    mut offset: u64,
    len: usize,
) -> io::Result<usize> {
    let before_len: usize = before.iter().map(|slice| slice.len()).sum();
    if before_len > 0 {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let taken = sendmsg(socket, before, &mut SendAncillaryBuffer::default(), flags)?;
        if taken < before_len {
            return Ok(taken);
        }
    }
    match rustix::fs::sendfile(socket, file, Some(&mut offset), len) {
        Ok(sent) if sent > 0 => Ok(before_len + sent),
        // The next call says it again: what was sent must be told first.
        _ if before_len > 0 => Ok(before_len),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is shorter than when it was opened",
        )),
        // Of a file system that cannot splice.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A stream as hyper wants it.
pub(super) struct Transport<S> {
    io: TokioIo<Metered<S>>,
    lent: Arc<Lent>,
}

impl<S: Stream> Transport<S> {
    pub(super) fn new(stream: S, progress: Arc<Progress>, lent: Arc<Lent>) -> Self {
        Self {
            io: TokioIo::new(Metered { stream, progress }),
            lent,
        }
    }

    /// The stream itself, once hyper has done with it.
    pub(super) fn into_inner(self) -> S {
        self.io.into_inner().stream
    }

    /// Sends up to and with the first slice that is worth it by `sendfile`; `None` where there is none, or the
    /// file system cannot.
    fn poll_write_lent(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        if self.lent.is_empty() {
            return None;
        }
        let (index, (file, offset)) = bufs
            .iter()
            .enumerate()
            .filter(|(_, slice)| slice.len() >= SENDFILE_BYTES_MIN)
            .find_map(|(index, slice)| Some((index, self.lent.find(slice)?)))?;
        let (before, len) = (&bufs[..index], bufs[index].len());
        let stream = &mut self.io.inner_mut().stream;
        match stream.poll_send_file(cx, before, file.object.file(), offset, len) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Unsupported => None,
            outcome => Some(outcome),
        }
    }
}

impl<S: AsyncRead + Unpin> Read for Transport<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: Stream> Write for Transport<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.io.inner().progress.sent(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = match self.poll_write_lent(cx, bufs) {
            Some(outcome) => outcome,
            None => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
        self.io.inner().progress.sent(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when nothing is queued any more: all that was lent is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lent.take_back();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The stream below `TokioIo`, which fills hyper's uninitialised buffer (that takes unsafe code) but tells
/// nobody by how much; below it, tokio's `ReadBuf` does.
#[derive(Debug)]
struct Metered<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.progress.received(buf.filled().len() - before);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
