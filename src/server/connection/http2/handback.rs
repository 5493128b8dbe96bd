//! Gets a stream back from hyper's HTTP/2 connection, which has no method for that, and observes the frames that are read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::table::{Frames, TableBytes};
use crate::{
    delivery::SendFile,
    server::{socket::Queues, transport::Stream},
};

/// Receives the stream of a dropped [`Handback`].
pub(super) struct Slot<S>(Arc<Mutex<Option<S>>>);

impl<S> Slot<S> {
    /// The stream, if the [`Handback`] was dropped.
    pub(super) fn take(self) -> Option<S> {
        self.0.lock().take()
    }
}

/// A stream that is lent to hyper.
pub(super) struct Handback<S> {
    /// `None` only during the drop.
    stream: Option<S>,
    slot: Arc<Mutex<Option<S>>>,
    table_bytes: TableBytes,
    frames: Frames,
}

impl<S> Handback<S> {
    pub(super) fn new(stream: S) -> (Self, Slot<S>) {
        let table_bytes = TableBytes::default();
        let slot = Arc::new(Mutex::new(None));
        let handback = Self {
            stream: Some(stream),
            slot: slot.clone(),
            frames: table_bytes.frames(),
            table_bytes,
        };
        (handback, Slot(slot))
    }

    /// Bytes that the connection's header table may keep.
    pub(super) fn table_bytes(&self) -> TableBytes {
        self.table_bytes.clone()
    }

    fn lent(&self) -> io::Result<&S> {
        self.stream
            .as_ref()
            .ok_or(io::ErrorKind::NotConnected.into())
    }

    fn stream_mut(&mut self) -> io::Result<&mut S> {
        self.stream
            .as_mut()
            .ok_or(io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Handback<S> {
    fn drop(&mut self) {
        *self.slot.lock() = self.stream.take();
    }
}

/// HTTP/2 frames every byte, so nothing is sent as a file.
impl<S> SendFile for Handback<S> {}

impl<S: Stream> Stream for Handback<S> {
    fn written_bytes(&self) -> u64 {
        self.lent().map_or(0, S::written_bytes)
    }

    fn queues(&self) -> io::Result<Queues> {
        self.lent()?.queues()
    }

    fn reset_on_close(&self) {
        if let Ok(stream) = self.lent() {
            stream.reset_on_close();
        }
    }
}

impl<S: Stream> AsyncRead for Handback<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(self.stream_mut()?).poll_read(cx, buf);
        self.frames.read(&buf.filled()[before..]);
        outcome
    }
}

impl<S: Stream> AsyncWrite for Handback<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream_mut()?).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream_mut()?).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.lent().is_ok_and(|stream| stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream_mut()?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream_mut()?).poll_shutdown(cx)
    }
}
