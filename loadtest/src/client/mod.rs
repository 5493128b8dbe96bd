//! The engine under every command: many HTTP/1.1 connections driven by one thread.
//!
//! An [`Engine`] is one thread's epoll loop over N non-blocking, kept-alive connections to one address. What is sent,
//! and when, is a [`Workload`]'s business; it says so when a connection is free, and hears how it ended:
//!
//! ```text
//!              next(connection) ──► Send(request)    connect if need be, send, receive, verify ──► done(connection)
//!                     ▲             Idle             parked until due() has come, then asked again, first parked first
//!                     │             SleepUntil(t)    this connection is asked again at t
//!                     └──────────── Stop             never asked again in this run
//! ```
//!
//! - **Closed loop**: `next` answers `Send` at once, and `Stop` when the time is over.
//! - **Open loop**: arrivals have their moments whatever the server does. `next` takes the earliest arrival that is
//!   due, else answers `Idle`; `due` says when the next one comes. [`Request::intended`] is the arrival's moment, and
//!   [`Outcome::latency`] counts from there: an arrival that found all connections busy has waited, and that shows.
//!
//! More load than one thread can make is several engines on several threads.
//!
//! Deliberately absent: pipelining, TLS, HTTP/2, redirects, and retries. A request that failed has failed.

mod body;
mod connection;
mod engine;
mod response;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(crate) use self::engine::{Engine, Settings};

/// Bytes of an answer's head; a longer one is [`Failure::BadHead`].
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of an answer; more are [`Failure::BadHead`].
pub(crate) const HEADERS_MAX: usize = 64;
/// Bytes kept of the body of an answer whose status was not accepted, so that it can be shown.
pub(crate) const REFUSAL_BYTES_MAX: usize = 4096;

/// What the connections of an engine send.
pub(crate) trait Workload {
    /// What `connection` (its number, from 0) does next. Asked at the start of a run, after each
    /// [`done`](Self::done), and as the answers say.
    fn next(&mut self, connection: usize, now: Instant) -> Next;

    /// When there is work for a connection that answered [`Next::Idle`]: the idle ones are asked from that moment on,
    /// one after the other, until one answers `Idle` again. `None` is "not that I know": it is asked again after each
    /// `done`. Not called when no connection is idle. The end of a run is due too: idle connections must be asked
    /// to be told [`Next::Stop`].
    fn due(&mut self) -> Option<Instant> {
        None
    }

    /// How the request that `connection` was given has ended, well or not. A failed one closes its connection; the
    /// next request opens a new one. After [`Failure::Connect`], the connection rests for 10 ms before it is asked
    /// again, so that a server that is away is not hammered.
    fn done(&mut self, connection: usize, outcome: &Outcome<'_>);
}

/// What a connection does next.
#[derive(Debug)]
pub(crate) enum Next {
    Send(Request),
    /// Nothing now; see [`Workload::due`].
    Idle,
    /// Nothing on this connection before then.
    SleepUntil(Instant),
    /// Nothing more in this run. The connection stays open, for the next run of the same engine.
    Stop,
}

/// One request, and what is to come back.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Request line and headers with the empty line, as they are sent. `Content-Length` is the maker's to write.
    pub(crate) head: Bytes,
    /// Sent after the head, one piece after the other: the frame of a form and a shared file need no copy.
    pub(crate) body: Vec<Bytes>,
    /// Which statuses are right; another is [`Failure::WrongStatus`], and the start of its body is collected.
    pub(crate) status: Status,
    /// What becomes of the body of an answer with a right status.
    pub(crate) answer: Answer,
    /// When it should have been sent: latencies count from here.
    pub(crate) intended: Instant,
    /// The workload's own; the engine does not look at it.
    pub(crate) tag: u64,
}

impl Request {
    /// A request without a body, any 2xx being right, whose answer is discarded.
    pub(crate) fn new(head: impl Into<Bytes>, intended: Instant) -> Self {
        Self {
            head: head.into(),
            body: Vec::new(),
            status: Status::Success,
            answer: Answer::Discard { length: None },
            intended,
            tag: 0,
        }
    }
}

/// The statuses that are right.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Status {
    /// 200 to 299.
    Success,
    OneOf(&'static [u16]),
    Any,
}

impl Status {
    pub(crate) fn accepts(self, status: u16) -> bool {
        match self {
            Self::Success => (200..300).contains(&status),
            Self::OneOf(right) => right.contains(&status),
            Self::Any => true,
        }
    }
}

/// What becomes of a body.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Thrown away, in the kernel wherever the framing allows: after the first read, which brings the head and up to
    /// 8 KiB, no byte of it is copied to this process. With a `length`, another one is [`Failure::WrongBody`].
    Discard { length: Option<u64> },
    /// Kept, as [`Outcome::body`]. A longer one is [`Failure::WrongBody`].
    Collect { bytes_max: usize },
    /// Compared with what it must be, byte by byte, as it comes.
    Equals(Arc<dyn Expected>),
}

/// A body that is known before it comes.
pub(crate) trait Expected: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Whether `bytes` is what stands at `offset`. Never called beyond [`length`](Self::length).
    fn matches(&self, offset: u64, bytes: &[u8]) -> bool;
}

impl Expected for Bytes {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn matches(&self, offset: u64, bytes: &[u8]) -> bool {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(bytes.len())?))
            == Some(bytes)
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Failure {
    /// No connection: refused, out of ports, unreachable.
    Connect,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the answer was whole.
    ClosedEarly,
    /// [`Settings::timeout`] was over, connecting included.
    TimedOut,
    /// The head is no HTTP/1.x head, is too long, or frames its body in a way that is not allowed.
    BadHead,
    /// The body is not what was expected, or its framing is broken.
    WrongBody,
    /// The status is not one that was expected. The body came whole.
    WrongStatus,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::ClosedEarly => "closed early",
            Self::TimedOut => "timed out",
            Self::BadHead => "bad head",
            Self::WrongBody => "wrong body",
            Self::WrongStatus => "wrong status",
        })
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) request: &'a Request,
    pub(crate) result: Result<(), Failure>,
    /// 0 where no head came.
    pub(crate) status: u16,
    /// The answer's head as it came; [`header`](Self::header) reads it.
    pub(crate) head: &'a [u8],
    /// What was collected of the body: [`Answer::Collect`], or the start of a refusal.
    pub(crate) body: &'a [u8],
    /// Bytes of the body that came, whatever became of them; without the framing of chunks.
    pub(crate) body_bytes: u64,
    /// When a connection took the request on: `started - intended` is the wait for a free one.
    pub(crate) started: Instant,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) finished: Instant,
    /// Whether a connection was opened for it.
    pub(crate) is_new_connection: bool,
}

impl Outcome<'_> {
    /// From the moment it should have been sent to the last byte of its answer.
    pub(crate) fn latency(&self) -> Duration {
        self.finished
            .saturating_duration_since(self.request.intended)
    }

    /// The first header of this name, where it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        response::header(self.head, name)
    }
}
