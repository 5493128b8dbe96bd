//! One connection: the request being sent, the response being received, and their system calls.
//!
//! The socket is watched edge-triggered, so each call repeats until the kernel reports that it has no more: `EAGAIN`,
//! or a read shorter than the buffer. After the peer has closed its side, a short read means nothing, because the edge
//! for the end has already been reported (`has_peer_closed`).

use std::{
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, bind,
        connect, getpeername, recv, sendmsg, socket_with, sockopt,
    },
};

use super::{
    Failure, HEAD_BYTES_MAX, Outcome, Request,
    body::Sink,
    response::{self, Chunks, Framing, Step},
};

/// Size of the first read of a response: a small response needs one call, and little of a large one is copied.
const FIRST_READ_BYTES: usize = 8 * 1024;
/// Size of a read whose bytes are examined.
const READ_BYTES: usize = 256 * 1024;
/// Bytes discarded by one call. The kernel does not write to the buffer, but requires its size: this is address space,
/// not memory.
const SKIP_BYTES: usize = 4 * 1024 * 1024;
/// Pieces of a request passed to the kernel in one call.
const SLICES_MAX: usize = 8;

/// Read buffer, shared by all connections of an engine.
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; SKIP_BYTES])
    }
}

/// Whether an exchange continues.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Pending,
    /// The exchange has ended; [`Connection::finish`] reports it.
    Ended(Result<(), Failure>),
}

/// A connection, open or closed.
pub(super) struct Connection {
    source: Option<IpAddr>,
    socket: Option<OwnedFd>,
    is_connecting: bool,
    /// The peer has closed its side; bytes that it sent before may still be unread.
    has_peer_closed: bool,
    exchange: Option<Exchange>,
    /// The head being received; its buffer is reused.
    head: Vec<u8>,
}

/// A request and the part of the response received so far.
struct Exchange {
    request: Request,
    /// Bytes sent, head and body.
    sent: usize,
    total: usize,
    cannot_send: bool,
    status: u16,
    body: Option<Body>,
    /// Whether the response is complete.
    is_answered: bool,
    is_kept_alive: bool,
    sink: Sink,
    started: Instant,
    first_byte: Option<Instant>,
    is_new_connection: bool,
}

/// How much of a body is still expected.
enum Body {
    Length(u64),
    Chunked(Chunks),
    Close,
}

impl Connection {
    pub(super) fn new(source: Option<IpAddr>) -> Self {
        Self {
            source,
            socket: None,
            is_connecting: false,
            has_peer_closed: false,
            exchange: None,
            head: Vec::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Whether the connection is established, whatever epoll has reported.
    pub(super) fn is_connected(&self) -> bool {
        let peer = self.socket.as_ref().map(getpeername);
        peer.is_some_and(|peer| peer.is_ok())
    }

    /// Start of the current exchange.
    pub(super) fn started(&self) -> Option<Instant> {
        Some(self.exchange.as_ref()?.started)
    }

    /// Starts to connect. The caller adds the socket to the epoll set.
    pub(super) fn open(&mut self, target: SocketAddr) -> Result<&OwnedFd, Errno> {
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(source) = self.source {
            bind(&socket, &SocketAddr::new(source, 0))?;
        }
        self.is_connecting = match connect(&socket, &target) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error),
        };
        self.has_peer_closed = false;
        Ok(self.socket.insert(socket))
    }

    /// Closes the connection, whatever its state.
    pub(super) fn close(&mut self) {
        self.socket = None;
        self.is_connecting = false;
    }

    /// Records that the peer has closed its side or the connection.
    pub(super) fn peer_closed(&mut self) {
        self.has_peer_closed = true;
    }

    /// Accepts a request; [`advance`](Self::advance) sends it.
    pub(super) fn begin(&mut self, request: Request, now: Instant, is_new_connection: bool) {
        self.head.clear();
        let body: usize = request.body.iter().map(bytes::Bytes::len).sum();
        self.exchange = Some(Exchange {
            sent: 0,
            total: request.head.len() + body,
            cannot_send: false,
            status: 0,
            body: None,
            is_answered: false,
            is_kept_alive: false,
            sink: Sink::new(&request.answer),
            started: now,
            first_byte: None,
            is_new_connection,
            request,
        });
    }

    /// Sends and receives as much as the kernel allows.
    pub(super) fn advance(&mut self, scratch: &mut Scratch) -> Progress {
        let (Some(socket), Some(exchange)) = (&self.socket, &mut self.exchange) else {
            return Progress::Pending;
        };
        if self.is_connecting {
            match sockopt::socket_error(socket) {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Progress::Ended(Err(Failure::Connect)),
            }
            // A connecting socket also reports no error.
            if getpeername(socket).is_err() {
                return Progress::Pending;
            }
            self.is_connecting = false;
        }
        exchange.send(socket);
        if !exchange.is_answered {
            match exchange.receive(socket, &mut self.head, scratch, self.has_peer_closed) {
                Ok(is_answered) => exchange.is_answered = is_answered,
                Err(failure) => return Progress::Ended(Err(failure)),
            }
        }
        // A server that responds early and keeps the connection expects the rest of the body. One that closes does not.
        let has_sent = exchange.sent == exchange.total || exchange.cannot_send;
        if !exchange.is_answered || (exchange.is_kept_alive && !has_sent) {
            return Progress::Pending;
        }
        Progress::Ended(if exchange.request.status.accepts(exchange.status) {
            exchange.sink.end()
        } else {
            Err(Failure::WrongStatus)
        })
    }

    /// Passes the ended exchange to `report`. Closes the connection if it cannot be reused.
    pub(super) fn finish(
        &mut self,
        result: Result<(), Failure>,
        now: Instant,
        report: impl FnOnce(&Outcome<'_>),
    ) {
        let Some(exchange) = self.exchange.take() else {
            return;
        };
        let is_usable = matches!(result, Ok(()) | Err(Failure::WrongStatus))
            && exchange.is_kept_alive
            && !exchange.cannot_send
            && !self.has_peer_closed;
        if !is_usable {
            self.close();
        }
        report(&Outcome {
            request: &exchange.request,
            result,
            status: exchange.status,
            head: &self.head,
            body: exchange.sink.kept(),
            body_bytes: exchange.sink.bytes(),
            started: exchange.started,
            first_byte: exchange.first_byte,
            finished: now,
            is_new_connection: exchange.is_new_connection,
        });
    }
}

impl Exchange {
    /// Sends the remaining bytes. A peer that accepts no more may still have responded, so an error here is not a
    /// failure: the reads decide.
    fn send(&mut self, socket: &OwnedFd) {
        while self.sent < self.total && !self.cannot_send {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            let mut skip = self.sent;
            for piece in std::iter::once(&self.request.head).chain(&self.request.body) {
                if skip >= piece.len() {
                    skip -= piece.len();
                    continue;
                }
                if count == SLICES_MAX {
                    break;
                }
                slices[count] = IoSlice::new(&piece[skip..]);
                count += 1;
                skip = 0;
            }
            let mut control = SendAncillaryBuffer::default();
            match sendmsg(socket, &slices[..count], &mut control, SendFlags::NOSIGNAL) {
                Ok(bytes) => self.sent += bytes,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.cannot_send = true,
            }
        }
    }

    /// Receives available bytes. Returns whether the response is complete.
    fn receive(
        &mut self,
        socket: &OwnedFd,
        head: &mut Vec<u8>,
        scratch: &mut Scratch,
        has_peer_closed: bool,
    ) -> Result<bool, Failure> {
        loop {
            let is_skipping = self.sink.is_blind() && !matches!(self.body, Some(Body::Chunked(_)));
            let (room, flags) = match &self.body {
                None => (FIRST_READ_BYTES, RecvFlags::empty()),
                Some(_) if is_skipping => (SKIP_BYTES, RecvFlags::TRUNC),
                Some(_) => (READ_BYTES, RecvFlags::empty()),
            };
            // Read no byte beyond the body: it would belong to the next response and be lost.
            let room = match self.body {
                Some(Body::Length(left)) => {
                    usize::try_from(left).map_or(room, |left| left.min(room))
                }
                _ => room,
            };
            let bytes = match read(socket, &mut scratch.0[..room], flags) {
                Ok(0) => return self.closed(),
                Ok(bytes) => bytes,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Failure::Reset),
                Err(_) => return Err(Failure::ClosedEarly),
            };
            let is_whole = match (&mut self.body, is_skipping) {
                (Some(body), true) => {
                    self.sink.skip(bytes as u64);
                    match body {
                        Body::Length(left) => {
                            *left -= bytes as u64;
                            *left == 0
                        }
                        Body::Chunked(_) | Body::Close => false,
                    }
                }
                (Some(body), false) => body.take(&scratch.0[..bytes], &mut self.sink)?,
                (None, _) => {
                    self.first_byte.get_or_insert_with(Instant::now);
                    self.take_head(head, &scratch.0[..bytes])?
                }
            };
            if is_whole {
                return Ok(true);
            }
            if bytes < room && !has_peer_closed {
                return Ok(false);
            }
        }
    }

    /// Handles the end of the stream.
    fn closed(&mut self) -> Result<bool, Failure> {
        match self.body {
            Some(Body::Close) => Ok(true),
            // A failed send is the better explanation: the peer did not accept the request.
            _ if self.cannot_send => Err(Failure::Reset),
            _ => Err(Failure::ClosedEarly),
        }
    }

    /// Takes bytes until the head is complete; the rest is body. Returns whether the response is complete.
    fn take_head(&mut self, head: &mut Vec<u8>, bytes: &[u8]) -> Result<bool, Failure> {
        let is_head_request = self.request.head.starts_with(b"HEAD ");
        let mut before = head.len();
        let mut rest = bytes;
        loop {
            head.extend_from_slice(rest);
            let Some(parsed) = response::parse(head, is_head_request)? else {
                return Ok(false);
            };
            if parsed.bytes > HEAD_BYTES_MAX {
                return Err(Failure::BadHead);
            }
            head.truncate(parsed.bytes);
            // All earlier bytes belong to the head, otherwise it would have been parsed before.
            rest = &rest[parsed.bytes - before..];
            if parsed.status < 200 {
                // An interim response; the final one follows.
                head.clear();
                before = 0;
                continue;
            }
            self.status = parsed.status;
            self.is_kept_alive = parsed.is_kept_alive;
            if !self.request.status.accepts(parsed.status) {
                self.sink = Sink::refusal();
            }
            let body = self.body.insert(match parsed.framing {
                Framing::Length(length) => Body::Length(length),
                Framing::Chunked => Body::Chunked(Chunks::new()),
                Framing::Close => Body::Close,
            });
            return body.take(rest, &mut self.sink);
        }
    }
}

impl Body {
    /// Takes bytes of the body. Returns whether it is complete.
    fn take(&mut self, mut bytes: &[u8], sink: &mut Sink) -> Result<bool, Failure> {
        match self {
            Self::Length(left) => {
                *left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or(Failure::WrongBody)?;
                sink.take(bytes)?;
                Ok(*left == 0)
            }
            Self::Close => sink.take(bytes).map(|()| false),
            Self::Chunked(chunks) => loop {
                match chunks.next(&mut bytes)? {
                    Step::Data(data) => sink.take(data)?,
                    Step::More => return Ok(false),
                    Step::End if bytes.is_empty() => return Ok(true),
                    Step::End => return Err(Failure::WrongBody),
                }
            },
        }
    }
}

/// Performs one read; with `TRUNC`, the bytes are discarded.
fn read(socket: impl AsFd, room: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    loop {
        match recv(&socket, &mut *room, flags) {
            Err(Errno::INTR) => {}
            done => return done.map(|(_, bytes)| bytes),
        }
    }
}
