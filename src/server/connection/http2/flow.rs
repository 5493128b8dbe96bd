//! How much of one HTTP/2 answer has left this process, and whether its client takes the rest. `answer.rs` counts.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::server::stall::Stall;

/// The most of one stream that is sent before another one has its turn: a copied chunk of a body
/// (`delivery/body.rs`), its frame's head and TLS around it.
const TURN_BYTES: u64 = 34 * 1024;

/// Bytes of one answer. Used by one task only.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Given to hyper.
    given_bytes: AtomicU64,
    /// Of these, sent, or given up with the stream.
    taken_bytes: AtomicU64,
}

impl Flow {
    pub(super) fn given(&self, bytes: usize) {
        self.given_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn taken(&self, bytes: usize) {
        self.taken_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    /// Whether hyper has bytes that it could not send so far.
    pub(super) fn is_waiting(&self) -> bool {
        self.given_bytes.load(Ordering::Relaxed) > self.taken_bytes()
    }
}

/// What the connection's bytes say about its streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) now: Instant,
    /// Written to the socket so far, and of that acknowledged.
    pub(super) written_bytes: u64,
    pub(super) acked_bytes: u64,
    /// The socket takes no more at the moment.
    pub(super) is_blocked: bool,
    /// Streams that have something to send.
    pub(super) waiting_streams: usize,
}

/// Decides whether one stream has stalled.
///
/// A stream waits for one of two things. It may wait for its turn, because the connection as a whole is slow: then
/// its client is to be judged by what it acknowledges of the connection. Or its own window is closed, because the
/// client does not take this answer: then the other answers on the connection must not keep it alive. hyper does
/// not say which, but its turns are fair: once the connection has written as much as all waiting streams may send in
/// one turn each, and nothing of this one, it is its own window that is closed.
#[derive(Debug, Clone)]
pub(super) struct StreamStall {
    stall: Stall,
    taken_bytes: u64,
    /// What the connection had written when this stream was last seen to move, and the most streams that have waited
    /// since then.
    written_bytes: u64,
    waiting_streams: usize,
}

impl StreamStall {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            stall: Stall::new(timeout, now),
            taken_bytes: 0,
            written_bytes: 0,
            waiting_streams: 0,
        }
    }

    /// Looks at a stream; returns whether its client has stalled.
    pub(super) fn look(&mut self, flow: &Flow, line: Line) -> bool {
        let taken_bytes = flow.taken_bytes();
        if taken_bytes != self.taken_bytes || !flow.is_waiting() {
            (self.taken_bytes, self.written_bytes) = (taken_bytes, line.written_bytes);
            self.waiting_streams = 0;
        }
        // Those that have ended since then have had their turns too.
        self.waiting_streams = self.waiting_streams.max(line.waiting_streams);
        let turn_bytes = (self.waiting_streams as u64 + 1) * TURN_BYTES;
        let is_its_turn_over = line.written_bytes - self.written_bytes >= turn_bytes;
        let is_on_the_way = line.acked_bytes < self.written_bytes;
        let waits_for_others = is_on_the_way || (line.is_blocked && !is_its_turn_over);
        if waits_for_others || !flow.is_waiting() {
            self.stall.rest(line.now);
        }
        self.stall.look(line.now, taken_bytes, false) && flow.is_waiting()
    }
}
