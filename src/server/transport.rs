//! The byte stream under hyper: measures progress, and sends slices of mapped files by `sendfile`.
//!
//! hyper passes the slices of a body on by address, to `poll_write_vectored`; [`Loans`] finds the file that an address
//! lies in. What passes is noted in [`Progress`], which also asks here what waits in the kernel.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::{deadlines::Progress, socket::Socket};
use crate::delivery::{Loans, SendFile};

/// The byte stream of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + SendFile + Send + Unpin + 'static {
    /// The socket below. For TLS, it counts the bytes of records.
    fn socket(&self) -> &Socket;
}

impl Stream for Socket {
    fn socket(&self) -> &Socket {
        self
    }
}

/// Encryption reads every byte, so nothing is sent as a file.
impl SendFile for TlsStream<Socket> {}

impl Stream for TlsStream<Socket> {
    fn socket(&self) -> &Socket {
        self.get_ref().0
    }
}

/// Receives the stream of a dropped [`Transport`].
pub(super) type Slot<S> = Arc<Mutex<Option<S>>>;

/// A stream as hyper requires it. `F` sees the bytes that are read.
pub(super) struct Transport<S, F> {
    io: TokioIo<Observed<S, F>>,
    progress: Arc<Progress>,
    loans: Arc<Loans>,
    slot: Option<Slot<S>>,
}

impl<S: Stream, F> Transport<S, F> {
    pub(super) fn new(stream: S, progress: &Arc<Progress>, loans: &Arc<Loans>, on_read: F) -> Self {
        let stream = Some(stream);
        Self {
            io: TokioIo::new(Observed { stream, on_read }),
            progress: progress.clone(),
            loans: loans.clone(),
            slot: None,
        }
    }

    /// Gives the stream back when hyper drops it: hyper's HTTP/2 connection has no method for that.
    pub(super) fn give_back_to(self, slot: Slot<S>) -> Self {
        let mut this = self;
        this.slot = Some(slot);
        this
    }

    /// The stream itself, when hyper has finished with it.
    pub(super) fn into_inner(mut self) -> S {
        let stream = self.io.inner_mut().stream.take();
        stream.expect("taken only here and by the drop")
    }

    /// Runs an operation on the stream. Records whether the socket accepted something, and answers the query of
    /// [`Progress`], if there is one.
    fn write<T>(
        &mut self,
        operation: impl FnOnce(&mut S, &Loans) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let stream = &mut self.io.inner_mut().stream;
        let stream = stream.as_mut().expect("taken only by the end");
        let outcome = operation(stream, &self.loans);
        self.progress.wrote(&outcome);
        self.progress.answer(|| stream.socket().queues().ok());
        outcome
    }
}

impl<S, F> Drop for Transport<S, F> {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            *slot.lock() = self.io.inner_mut().stream.take();
        }
    }
}

impl<S: Stream, F: FnMut(&[u8]) + Unpin> Read for Transport<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: Stream, F: Unpin> Write for Transport<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream, _| Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(
            |stream, loans| match loans.poll_send_file(cx, stream, bufs) {
                Some(outcome) => outcome,
                None => Pin::new(stream).poll_write_vectored(cx, bufs),
            },
        )
    }

    fn is_write_vectored(&self) -> bool {
        let stream = &self.io.inner().stream;
        stream.as_ref().is_some_and(S::is_write_vectored)
    }

    /// hyper flushes when its queue is empty: everything lent is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.loans.clear();
        // TLS may have records that wait for the socket.
        self.write(|stream, _| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|stream, _| Pin::new(stream).poll_shutdown(cx))
    }
}

/// The reading side. Below `TokioIo`, because there tokio's `ReadBuf` tells which bytes were filled in; looking into
/// hyper's uninitialized buffer would need unsafe code.
struct Observed<S, F> {
    /// `None` at the end only.
    stream: Option<S>,
    on_read: F,
}

impl<S: AsyncRead + Unpin, F: FnMut(&[u8]) + Unpin> AsyncRead for Observed<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, on_read } = &mut *self;
        let stream = stream.as_mut().expect("taken only by the end");
        let before = buf.filled().len();
        let outcome = Pin::new(stream).poll_read(cx, buf);
        on_read(&buf.filled()[before..]);
        outcome
    }
}
