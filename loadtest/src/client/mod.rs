//! The HTTP client of all commands: many HTTP/1.1 connections driven by one thread.
//!
//! An [`Engine`] runs an epoll loop over N non-blocking, kept-alive connections to one address. A [`Workload`] decides
//! what is sent and when: the engine asks it when a connection is free, and reports the result of each request:
//!
//! ```text
//!              next(connection) ──► Send(request)    connect if needed, send, receive, verify ──► done(connection)
//!                     ▲             Idle             wait until due(), then ask again, longest waiting first
//!                     │             SleepUntil(t)    ask this connection again at t
//!                     └──────────── Stop             do not ask again in this run
//! ```
//!
//! - **Closed loop**: `next` returns `Send` at once, and `Stop` when the time is over.
//! - **Open loop**: requests have start times that do not depend on the server. `next` returns the earliest due request,
//!   otherwise `Idle`; `due` returns the next start time. [`Request::intended`] is the start time, and
//!   [`Outcome::latency`] counts from it, so that the wait for a free connection is part of the latency.
//!
//! For more load than one thread can generate, run several engines on several threads.
//!
//! Not supported: pipelining, TLS, HTTP/2, redirects, and retries. A failed request stays failed.

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

/// Maximum length of a response head; a longer one is [`Failure::BadHead`].
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of response headers; more are [`Failure::BadHead`].
pub(crate) const HEADERS_MAX: usize = 64;
/// Bytes of the body kept from a response with an unexpected status, for error messages.
pub(crate) const REFUSAL_BYTES_MAX: usize = 4096;

/// Decides which requests the connections of an engine send.
pub(crate) trait Workload {
    /// Returns the next step of `connection` (numbered from 0). Called at the start of a run, after each
    /// [`done`](Self::done), and as earlier results request.
    fn next(&mut self, connection: usize, now: Instant) -> Next;

    /// When there is work for a connection that returned [`Next::Idle`]. From that moment, idle connections are asked
    /// one after the other until one returns `Idle` again. `None` means unknown: the method is called again after each
    /// `done`. It is not called if no connection is idle. The end of a run must be due as well, so that idle
    /// connections can return [`Next::Stop`].
    fn due(&mut self) -> Option<Instant> {
        None
    }

    /// Reports how a request of `connection` ended. After a failure the connection is closed, and the next request
    /// opens a new one. After [`Failure::Connect`], the connection pauses for 10 ms, so that an absent server is not
    /// flooded.
    fn done(&mut self, connection: usize, outcome: &Outcome<'_>);
}

/// The next step of a connection.
#[derive(Debug)]
pub(crate) enum Next {
    Send(Request),
    /// No work now; see [`Workload::due`].
    Idle,
    /// No work for this connection before this moment.
    SleepUntil(Instant),
    /// No more work in this run. The connection stays open for the next run of the engine.
    Stop,
}

/// A request and the expected response.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Request line, headers and empty line. The caller writes `Content-Length`.
    pub(crate) head: Bytes,
    /// Pieces sent after the head. Form delimiters and a shared file need no copy.
    pub(crate) body: Vec<Bytes>,
    /// Expected statuses. Any other is [`Failure::WrongStatus`], and the start of its body is collected.
    pub(crate) status: Status,
    /// What to do with the body of a response with an expected status.
    pub(crate) answer: Answer,
    /// The intended start; latencies count from here.
    pub(crate) intended: Instant,
    /// For the workload; the engine ignores it.
    pub(crate) tag: u64,
}

impl Request {
    /// A request without a body that accepts any 2xx and discards the response.
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

/// Expected statuses.
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

/// What to do with a body.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Discards the body, in the kernel where the framing allows: after the first read, which contains the head and up
    /// to 8 KiB, no byte is copied to this process. If `length` is set, any other length is [`Failure::WrongBody`].
    Discard { length: Option<u64> },
    /// Keeps the body as [`Outcome::body`]. A longer one is [`Failure::WrongBody`].
    Collect { bytes_max: usize },
    /// Compares each byte of the body as it arrives.
    Equals(Arc<dyn Expected>),
}

/// An expected body.
pub(crate) trait Expected: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Whether `bytes` are correct at `offset`. Never called beyond [`length`](Self::length).
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

/// Reason of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Failure {
    /// No connection: refused, no free port, or unreachable.
    Connect,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the response was complete.
    ClosedEarly,
    /// [`Settings::timeout`] expired, including the time to connect.
    TimedOut,
    /// The head is not HTTP/1.x, is too long, or frames its body incorrectly.
    BadHead,
    /// The body is not the expected one, or its framing is broken.
    WrongBody,
    /// Unexpected status. The body was received completely.
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

/// The result of a request.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) request: &'a Request,
    pub(crate) result: Result<(), Failure>,
    /// 0 if no head was received.
    pub(crate) status: u16,
    /// The response head as received; [`header`](Self::header) parses it.
    pub(crate) head: &'a [u8],
    /// The collected body: [`Answer::Collect`], or the start of a refusal.
    pub(crate) body: &'a [u8],
    /// Bytes of the body received, without the framing of chunks.
    pub(crate) body_bytes: u64,
    /// When a connection accepted the request: `started - intended` is the wait for a free connection.
    pub(crate) started: Instant,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) finished: Instant,
    /// Whether a connection was opened for this request.
    pub(crate) is_new_connection: bool,
}

impl Outcome<'_> {
    /// Time from the intended start to the last byte of the response.
    pub(crate) fn latency(&self) -> Duration {
        self.finished
            .saturating_duration_since(self.request.intended)
    }

    /// The first header of this name, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        response::header(self.head, name)
    }
}
