//! Waits for the first bytes of a connection: after the connect, and again after a PROXY header.

use std::{future::poll_fn, time::Instant};

use super::{Config, Entry, HTTP2_PREFACE};
use crate::{
    metrics::ConnectionCut,
    server::{deadlines::Watchdog, shutdown::Shutdown, socket::Socket},
    time::Clock,
};

/// A connection whose client has sent nothing yet.
///
/// A client that connects early or never sends costs its socket and this small state. hyper's state is created at the
/// first byte and boxed, so that it is not part of the connection's future.
pub(super) struct Silence<'a> {
    idle_deadline: Instant,
    pub(super) entry: &'a Entry,
    pub(super) config: &'a Config,
    shutdown: &'a Shutdown,
    pub(super) watchdog: Watchdog,
    /// The first bytes. They are still to be read from the socket.
    pub(super) first: [u8; HTTP2_PREFACE.len()],
}

impl<'a> Silence<'a> {
    pub(super) fn new(
        clock: &Clock,
        entry: &'a Entry,
        config: &'a Config,
        shutdown: &'a Shutdown,
    ) -> Self {
        let idle_deadline = clock.monotonic() + config.idle_timeout;
        Self {
            idle_deadline,
            entry,
            config,
            shutdown,
            watchdog: Watchdog::new(idle_deadline),
            first: [0; HTTP2_PREFACE.len()],
        }
    }

    /// Waits for the first bytes and returns their number in `first`; `None` if the connection must be closed.
    pub(super) async fn end(&mut self, socket: &Socket) -> Option<usize> {
        let Self {
            idle_deadline,
            entry,
            shutdown,
            watchdog,
            first,
            ..
        } = self;
        let mut is_draining = false;
        loop {
            tokio::select! {
                biased;
                // Not `readable()`, which may be ready on a new socket without data. hyper's state was then created for
                // every connection, and 10,000 silent connections took 192 MB.
                peeked = socket.peek(first) => return peeked.ok().filter(|bytes| *bytes > 0),
                () = shutdown.draining(), if !is_draining => {
                    is_draining = true;
                    // The kernel may hold a request that the runtime has not reported yet. It is answered.
                    if !socket.queues().is_ok_and(|queues| queues.unread_bytes > 0) {
                        entry.counts.cut(ConnectionCut::ExitIdle);
                        return None;
                    }
                }
                () = poll_fn(|cx| watchdog.poll_passed(cx, Some(*idle_deadline))) => {
                    entry.counts.cut(ConnectionCut::Idle);
                    return None;
                }
            }
        }
    }
}
