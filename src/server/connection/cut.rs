//! Counts and logs connections that the server ends.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tracing::{debug, info};

use super::{Config, ConnectionInfo, Session};
use crate::{
    metrics::{ConnectionCut as Cut, Connections, Label},
    server::shutdown::Shutdown,
};

/// For each reason, the first connections are logged, then one in [`LOGGED_ONE_IN`], because clients can cause any number
/// of them.
const LOGGED_FIRST: u64 = 10;
const LOGGED_ONE_IN: u64 = 100;

/// Counts a connection that the server ends, and logs it.
pub(super) fn cut(info: &ConnectionInfo, config: &Config, counts: &Connections, why: Cut) {
    let count = counts.cut(why);
    let peer = info.peer;
    let is_logged = count <= LOGGED_FIRST || count.is_multiple_of(LOGGED_ONE_IN);
    match why {
        Cut::WriteStall if is_logged => {
            let seconds = config.write_stall_timeout.as_secs();
            info!(%peer, count, "connection closed: client acknowledged too little data (server.write_stall_timeout_seconds = {seconds})");
        }
        Cut::Header if is_logged => {
            let seconds = config.header_timeout.as_secs();
            info!(%peer, count, "connection closed: request head incomplete after {seconds} s (server.header_timeout_seconds)");
        }
        Cut::Resets if is_logged => {
            info!(%peer, count, "connection closed: client resets HTTP/2 requests too fast");
        }
        Cut::Fields if is_logged => {
            info!(%peer, count, "connection closed: client makes the server keep too much memory for its HTTP/2 header table");
        }
        _ => debug!(%peer, reason = why.name(), "connection closed"),
    }
}

/// Counts requests that the handler has not answered yet. Used by a single task.
#[derive(Debug, Default)]
pub(super) struct Unanswered(AtomicUsize);

impl Unanswered {
    /// Adds one until the guard is dropped.
    pub(super) fn begin(&self) -> impl Drop + '_ {
        self.add(1);
        UnansweredOne(self)
    }

    fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    // A single task needs no read-modify-write.
    fn add(&self, more: isize) {
        let count = self.0.load(Ordering::Relaxed);
        self.0
            .store(count.wrapping_add_signed(more), Ordering::Relaxed);
    }
}

struct UnansweredOne<'a>(&'a Unanswered);

impl Drop for UnansweredOne<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// The work of a connection. If it is dropped because the shutdown grace period has passed, it is counted.
pub(super) struct Counted {
    // Declared first and so dropped first: it inspects the state of the work.
    pub(super) exit: ExitCount,
    pub(super) work: Work,
}

/// The work of a connection.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.work.as_mut().poll(cx);
        self.exit.is_finished = polled.is_ready();
        polled
    }
}

pub(super) struct ExitCount {
    info: Arc<ConnectionInfo>,
    counts: Arc<Connections>,
    shutdown: Shutdown,
    is_finished: bool,
}

impl ExitCount {
    pub(super) fn new<H>(session: &Session<H>) -> Self {
        Self {
            info: session.info.clone(),
            counts: session.counts.clone(),
            shutdown: session.shutdown.clone(),
            is_finished: false,
        }
    }
}

impl Drop for ExitCount {
    fn drop(&mut self) {
        // A panic also ends the connection, and is reported by the accept loop.
        if self.is_finished || !self.shutdown.is_triggered() {
            return;
        }
        let is_begun = !self.info.progress.is_busy() && !self.info.progress.is_idle();
        let why = if is_begun || !self.info.unanswered.is_none() {
            Cut::ExitRequest
        } else if self.info.is_answering() {
            Cut::ExitAnswer
        } else {
            Cut::ExitIdle
        };
        self.counts.cut(why);
    }
}
