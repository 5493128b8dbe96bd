//! The byte stream under hyper, with zero copy: what of an answer lies in a lent map leaves by `sendfile`.
//!
//! hyper knows nothing of files. It passes a body's slices on by address, to `poll_write_vectored`; where an
//! address lies in a file that is lent to this connection ([`Lent`]), the kernel is given the file and not the
//! memory, so that its pages go out as they lie in the page cache. The bytes before it (the head of an answer,
//! of a part) go ahead with `MSG_MORE` and so travel in the same segments. Anything else is ordinary memory.
//!
//! What passes is noted in [`Progress`], which also asks here what waits in the kernel.

use std::{
    fs::File,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::{
    deadlines::Progress,
    socket::{Queues, Socket},
};
use crate::files::Lent;

/// What a connection runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Files can leave without being read by this process.
    const SENDS_FILES: bool;

    /// How many bytes of a file are worth a call of [`Stream::poll_send_file`].
    fn sendfile_bytes_min(&self) -> usize;

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

    /// Bytes that the kernel has taken so far.
    fn written_bytes(&self) -> u64;

    /// What waits in the kernel, in both directions.
    fn queues(&self) -> io::Result<Queues>;

    /// Makes the drop of this stream discard what the peer has not acknowledged and send a reset.
    fn reset_on_close(&self);
}

impl Stream for Socket {
    const SENDS_FILES: bool = true;

    fn sendfile_bytes_min(&self) -> usize {
        Socket::sendfile_bytes_min(self)
    }

    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        Socket::poll_send_file(self, cx, before, file, offset, len)
    }

    fn written_bytes(&self) -> u64 {
        Socket::written_bytes(self)
    }

    fn queues(&self) -> io::Result<Queues> {
        Socket::queues(self)
    }

    fn reset_on_close(&self) {
        Socket::reset_on_close(self);
    }
}

/// What is sent is encrypted, so it is memory of ours: nothing is ever lent here.
impl Stream for TlsStream<Socket> {
    const SENDS_FILES: bool = false;

    fn sendfile_bytes_min(&self) -> usize {
        usize::MAX
    }

    fn poll_send_file(
        &mut self,
        _: &mut Context<'_>,
        _: &[IoSlice<'_>],
        _: &File,
        _: u64,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn written_bytes(&self) -> u64 {
        self.get_ref().0.written_bytes()
    }

    /// Of the socket below: bytes of TLS records.
    fn queues(&self) -> io::Result<Queues> {
        self.get_ref().0.queues()
    }

    fn reset_on_close(&self) {
        self.get_ref().0.reset_on_close();
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

    /// Notes whether the socket took something, and answers what [`Progress`] asks.
    fn report<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Metered { stream, progress } = self.io.inner();
        progress.wrote(&outcome);
        progress.answer(|| stream.queues().ok());
        outcome
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
        let bytes_min = self.io.inner().stream.sendfile_bytes_min();
        let (index, (file, offset)) = bufs
            .iter()
            .enumerate()
            .filter(|(_, slice)| slice.len() >= bytes_min)
            .find_map(|(index, slice)| Some((index, self.lent.find(slice)?)))?;
        let (before, len) = (&bufs[..index], bufs[index].len());
        let stream = &mut self.io.inner_mut().stream;
        let lent = file.object.mapped()?.file();
        match stream.poll_send_file(cx, before, lent, offset, len) {
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
        self.report(outcome)
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
        self.report(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when nothing is queued any more: all that was lent is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lent.take_back();
        // TLS has records of its own that wait for the socket.
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.report(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.report(outcome)
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
