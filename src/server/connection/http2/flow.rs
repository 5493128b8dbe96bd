//! Counts the bytes of one HTTP/2 response that were sent, and detects a stalled stream. `answer.rs` does the counting.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::server::stall::Stall;

/// Upper limit of the bytes that h2 sends of one stream before the next stream's turn: a copied chunk of a body
/// (`delivery/body.rs`), the frame's head and the TLS record.
const TURN_BYTES: u64 = 34 * 1024;

/// Bytes of one response. Used by a single task.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes passed to hyper.
    given_bytes: AtomicU64,
    /// The part of them that was sent, or dropped with the stream.
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

    /// Whether hyper has bytes that it could not send yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.given_bytes.load(Ordering::Relaxed) > self.taken_bytes()
    }
}

/// State of the connection that its streams are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) now: Instant,
    /// Bytes written to the socket so far, and the acknowledged part of them.
    pub(super) written_bytes: u64,
    pub(super) acked_bytes: u64,
    /// The socket currently accepts no data.
    pub(super) is_blocked: bool,
    /// Streams that have data to send.
    pub(super) waiting_streams: usize,
}

/// Detects whether one stream has stalled.
///
/// A stream waits for one of two reasons. It may wait for its turn, because the connection as a whole is slow; then the
/// acknowledgements of the connection decide. Or its own window is closed, because the client does not read this
/// response; then the other responses on the connection must not keep it alive. hyper does not tell the reason, but its
/// turns are fair: if the connection has written as much as all waiting streams may send in one turn each, and nothing of
/// this stream, then the stream's window is closed.
#[derive(Debug, Clone)]
pub(super) struct StreamStall {
    stall: Stall,
    taken_bytes: u64,
    /// Bytes that the connection had written at the last progress of this stream, and the largest number of streams that
    /// have waited since then.
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

    /// Checks a stream. Returns whether its client has stalled.
    pub(super) fn look(&mut self, flow: &Flow, line: Line) -> bool {
        let taken_bytes = flow.taken_bytes();
        if taken_bytes != self.taken_bytes || !flow.is_waiting() {
            (self.taken_bytes, self.written_bytes) = (taken_bytes, line.written_bytes);
            self.waiting_streams = 0;
        }
        // Streams that have ended since then had their turns too.
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
