//! The socket of a connection, and the data that was read ahead from it.

use std::{
    fs::File,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustix::{
    io::{Errno, ioctl_fionread},
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tracing::debug;

use super::{
    send_queue::{self, SendQueue},
    unsent_limit::{UnsentLimit, Write},
};
use crate::delivery::SendFile;

/// The congestion control towards a proxy on this machine. Without a network, pacing (BBR, where the system chooses it)
/// costs a timer for every few segments and gains nothing (decision 0010). Other connections keep the system's choice.
const LOOPBACK_CONGESTION: &str = "cubic";

/// Slices of at least this size are sent by `sendfile`, shorter ones are copied. If the reader is on this machine, the
/// second system call for smaller slices costs more than it saves, and copies of larger ones displace other cache lines.
const LOCAL_SENDFILE_BYTES_MIN: usize = 32 << 10;
/// The same for connections over a network device: there the pages of a `sendfile` of 256 KB cost twice as much as copying
/// them, and from 1 MB on both cost the same (decision 0010).
const REMOTE_SENDFILE_BYTES_MIN: usize = 512 << 10;

/// Bytes that the reader of a Unix socket may have read unnoticed: the kernel counts a buffer as unread until its last byte
/// is read, and the largest buffer has 52 KB.
const UNIX_BUFFER_BYTES: u64 = 64 << 10;

/// A connected socket. Reads return the data that was read ahead first.
pub(super) struct Socket {
    io: Io,
    ahead: Bytes,
    sendfile_bytes_min: usize,
    /// Bytes accepted by the kernel so far.
    written_bytes: u64,
    unsent_limit: UnsentLimit,
}

/// The state of a socket's queues in the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queues {
    /// Bytes written so far.
    pub(super) written_bytes: u64,
    /// Written bytes that the peer has acknowledged. An estimate for a Unix socket, where it may decrease with a write.
    pub(super) acked_bytes: u64,
    /// Written bytes that the peer has not acknowledged.
    pub(super) unacked_bytes: u64,
    /// Some of them were sent; if not, the peer's receive window is closed.
    pub(super) is_in_flight: bool,
    /// Bytes that were received and that this process has not read.
    pub(super) unread_bytes: u64,
}

enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::new(Io::Tcp(stream))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::new(Io::Unix(stream))
    }
}

/// Evaluates `$work` with `$name` bound to the stream of either kind.
macro_rules! each {
    ($io:expr, $name:ident => $work:expr) => {
        match $io {
            Io::Tcp($name) => $work,
            Io::Unix($name) => $work,
        }
    };
}

impl Socket {
    fn new(io: Io) -> Self {
        Self {
            io,
            ahead: Bytes::new(),
            sendfile_bytes_min: LOCAL_SENDFILE_BYTES_MIN,
            written_bytes: 0,
            unsent_limit: UnsentLimit::default(),
        }
    }

    /// Sets the socket's options.
    ///
    /// # Errors
    /// If the connection is already closed.
    pub(super) fn prepare(&mut self, peer: Option<SocketAddr>) -> io::Result<()> {
        let Io::Tcp(stream) = &self.io else {
            return Ok(());
        };
        // The last segment of a response must not wait for the client's delayed acknowledgement.
        stream.set_nodelay(true)?;
        if peer.is_none_or(|peer| !peer.ip().to_canonical().is_loopback()) {
            self.sendfile_bytes_min = REMOTE_SENDFILE_BYTES_MIN;
        } else if let Err(error) =
            rustix::net::sockopt::set_tcp_congestion(stream, LOOPBACK_CONGESTION)
        {
            debug!(%error, "cannot set the congestion control; keeping the system's choice");
        }
        Ok(())
    }

    /// Copies the first available bytes without consuming them; 0 at the end. Waits for at least one byte.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.ahead.is_empty() {
            let len = buf.len().min(self.ahead.len());
            buf[..len].copy_from_slice(&self.ahead[..len]);
            return Ok(len);
        }
        match &self.io {
            Io::Tcp(stream) => stream.peek(buf).await,
            Io::Unix(stream) => {
                let mut peek =
                    || Ok(recv(stream, &mut *buf, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0);
                stream.async_io(Interest::READABLE, &mut peek).await
            }
        }
    }

    /// Reads at least one and at most `more` bytes ahead. Returns everything that was read ahead, or `None` at the end.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn read_ahead(&mut self, more: usize) -> io::Result<Option<&[u8]>> {
        let mut buf = BytesMut::with_capacity(more);
        let mut limited = (&mut buf).limit(more);
        let read = each!(&mut self.io, stream => stream.read_buf(&mut limited).await?);
        if read == 0 {
            return Ok(None);
        }
        let mut ahead = BytesMut::from(&*self.ahead);
        ahead.extend_from_slice(&buf);
        self.ahead = ahead.freeze();
        Ok(Some(&self.ahead))
    }

    /// Discards the first bytes of the data that was read ahead.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.ahead.advance(bytes);
    }

    /// Bytes accepted by the kernel so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Asks the kernel for the queues, in two or three system calls.
    pub(super) fn queues(&self) -> io::Result<Queues> {
        let (queue, unread_bytes, hidden_bytes) = match &self.io {
            Io::Tcp(stream) => (send_queue::of_tcp(stream)?, ioctl_fionread(stream)?, 0),
            Io::Unix(stream) => {
                let queue = send_queue::of_unix(stream)?;
                (queue, ioctl_fionread(stream)?, UNIX_BUFFER_BYTES)
            }
        };
        let SendQueue {
            unacked_bytes,
            is_in_flight,
        } = queue;
        let surely_unacked_bytes = unacked_bytes.saturating_sub(hidden_bytes);
        Ok(Queues {
            written_bytes: self.written_bytes,
            acked_bytes: self.written_bytes.saturating_sub(surely_unacked_bytes),
            unacked_bytes,
            is_in_flight,
            unread_bytes: unread_bytes + self.ahead.len() as u64,
        })
    }

    /// Must be called before a write.
    fn limit_unsent(&mut self, write: Write) {
        // The buffer of a Unix socket does not grow.
        if let Io::Tcp(stream) = &self.io
            && let Some(bytes) = self.unsent_limit.change(write, self.written_bytes)
            && let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(bytes)
        {
            debug!(%error, "cannot limit unsent data; only the send buffer limits it");
        }
    }

    fn wrote(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &outcome {
            self.written_bytes += *bytes as u64;
        }
        outcome
    }

    /// Makes the drop of this socket discard unacknowledged data and send a reset. The data of a Unix socket is kept: the
    /// peer can still read it.
    pub(super) fn reset_on_close(&self) {
        if let Io::Tcp(stream) = &self.io {
            // If this fails, the connection is closed already.
            let _ = stream.set_zero_linger();
        }
    }
}

impl SendFile for Socket {
    const SENDS_FILES: bool = true;

    fn sendfile_bytes_min(&self) -> usize {
        self.sendfile_bytes_min
    }

    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        self.limit_unsent(Write::File(len));
        loop {
            let sent = each!(&self.io, stream => {
                ready!(stream.poll_write_ready(cx))?;
                let send = || send_file(stream.as_fd(), before, file, offset, len);
                stream.try_io(Interest::WRITABLE, send)
            });
            // Only an explicit EAGAIN says that the socket is full. A call may end early for other reasons, and if readiness
            // were cleared then, the task would wait for an edge that never comes.
            if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return self.wrote(Poll::Ready(sent));
            }
        }
    }
}

fn send_file(
    socket: BorrowedFd<'_>,
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
        // The next call reports it again; the bytes that were sent must be reported first.
        _ if before_len > 0 => Ok(before_len),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is shorter than when it was opened",
        )),
        // The file system does not support splicing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        Err(error) => Err(error.into()),
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let len = buf.remaining().min(self.ahead.len());
            buf.put_slice(&self.ahead[..len]);
            self.ahead.advance(len);
            return Poll::Ready(Ok(()));
        }
        each!(&mut self.io, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.limit_unsent(Write::Copied(buf.len()));
        let outcome = each!(&mut self.io, stream => Pin::new(stream).poll_write(cx, buf));
        self.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limit_unsent(Write::Copied(bufs.iter().map(|buf| buf.len()).sum()));
        let outcome = each!(&mut self.io, stream => Pin::new(stream).poll_write_vectored(cx, bufs));
        self.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.io, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.io, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.io, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
