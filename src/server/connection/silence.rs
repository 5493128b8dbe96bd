//! Waits for the first bytes of a connection: after the connect, and again after a PROXY header.

use std::{future::poll_fn, time::Instant};

use super::{Entry, HTTP2_PREFACE};
use crate::{
    metrics::ConnectionCut,
    server::{deadlines::Watchdog, shutdown::Shutdown, socket::Socket},
};

/// A connection whose client has sent nothing yet.
///
/// A client that connects early or never sends costs its socket and this small state. hyper's state is created at the
/// first byte and boxed, so that it is not part of the connection's future.
pub(super) struct Silence {
    idle_deadline: Instant,
    pub(super) watchdog: Watchdog,
    /// The first bytes. They are still to be read from the socket.
    pub(super) first: [u8; HTTP2_PREFACE.len()],
}

impl Silence {
    pub(super) fn new(idle_deadline: Instant) -> Self {
        Self {
            idle_deadline,
            watchdog: Watchdog::new(idle_deadline),
            first: [0; HTTP2_PREFACE.len()],
        }
    }

    /// Waits for the first bytes and returns their number in `first`; 0 if the connection must be closed.
    pub(super) async fn end(
        &mut self,
        socket: &Socket,
        entry: &Entry,
        shutdown: &Shutdown,
    ) -> usize {
        let Self {
            idle_deadline,
            watchdog,
            first,
        } = self;
        let mut is_draining = false;
        loop {
            tokio::select! {
                biased;
                // Not `readable()`, which may be ready on a new socket without data. hyper's state was then created for
                // every connection, and 10,000 silent connections took 192 MB.
                peeked = socket.peek(first) => return peeked.unwrap_or(0),
                () = shutdown.draining(), if !is_draining => {
                    is_draining = true;
                    // The kernel may hold a request that the runtime has not reported yet. It is answered.
                    if !socket.queues().is_ok_and(|queues| queues.unread_bytes > 0) {
                        entry.counts.cut(ConnectionCut::ExitIdle);
                        return 0;
                    }
                }
                () = poll_fn(|cx| watchdog.poll_passed(cx, Some(*idle_deadline))) => {
                    entry.counts.cut(ConnectionCut::Idle);
                    return 0;
                }
            }
        }
    }
}
