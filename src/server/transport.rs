//! The byte stream under hyper: measures progress, and sends slices of mapped files by `sendfile`.
//!
//! hyper passes the slices of a body on by address, to `poll_write_vectored`; [`Loans`] finds the file that an address
//! lies in. What passes is noted in [`Progress`], which also asks here what waits in the kernel.

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
use crate::delivery::{Loans, SendFile};

/// The byte stream of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + SendFile + Send + Unpin + 'static {
    /// Bytes that the kernel has taken so far.
    fn written_bytes(&self) -> u64;

    /// What waits in the kernel, in both directions.
    fn queues(&self) -> io::Result<Queues>;

    /// Makes the drop of this stream discard what the peer has not acknowledged and send a reset.
    fn reset_on_close(&self);
}

impl SendFile for Socket {
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
}

impl Stream for Socket {
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

/// Encryption reads every byte, so nothing is sent as a file.
impl SendFile for TlsStream<Socket> {}

impl Stream for TlsStream<Socket> {
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

/// The stream as hyper requires it.
pub(super) struct Transport<S> {
    io: TokioIo<Metered<S>>,
    loans: Arc<Loans>,
}

impl<S: Stream> Transport<S> {
    pub(super) fn new(stream: S, progress: Arc<Progress>, loans: Arc<Loans>) -> Self {
        Self {
            io: TokioIo::new(Metered { stream, progress }),
            loans,
        }
    }

    /// The stream itself, when hyper has finished with it.
    pub(super) fn into_inner(self) -> S {
        self.io.into_inner().stream
    }

    /// Records whether the socket accepted something, and answers the query of [`Progress`], if there is one.
    fn report<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Metered { stream, progress } = self.io.inner();
        progress.wrote(&outcome);
        progress.answer(|| stream.queues().ok());
        outcome
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
        let Self { io, loans } = &mut *self;
        let outcome = match loans.poll_send_file(cx, &mut io.inner_mut().stream, bufs) {
            Some(outcome) => outcome,
            None => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
        self.report(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when its queue is empty: everything lent is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.loans.clear();
        // TLS may have records that wait for the socket.
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.report(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.report(outcome)
    }
}

/// Counts the bytes that are read. Below `TokioIo`, because there tokio's `ReadBuf` tells how many bytes were filled in;
/// counting them in hyper's uninitialized buffer would need unsafe code.
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
