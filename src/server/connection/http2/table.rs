//! Limits the memory that h2's header table keeps (HPACK's dynamic table, RFC 7541 §2.3.2).
//!
//! A client fills the table of its connection, which counts 4,096 bytes. But h2 does not copy the `:path`, `:authority`
//! and `:scheme` of an entry: the entry keeps the whole buffer that it was read into, so 110 entries can keep 2 MB, and
//! more with CONTINUATION frames. h2 does not report the size of its table, and does not shrink it if a smaller one is
//! announced. So the frame heads are read on their way to h2, and the upper limit of the kept memory is computed from the
//! distances between header blocks, including an unfinished block. Usual requests are short and share buffers, so they
//! keep less than 64 KiB. Memory above [`FREE_BYTES`] is counted for the client ([`Resource::TableBytes`]). If none is
//! left, the connection is told to end, and the client opens a new one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::limit::clients::{Client, Permit, Resource};

/// Memory that the table of any connection may keep. Three uploads over one connection stay below it, as does any number
/// of short requests.
const FREE_BYTES: u64 = 64 * 1024;
/// A connection that was told to end is cut if its table may keep this much more than it was granted.
const OVER_BYTES_MAX: u64 = 16 * 1024;
/// Bytes granted at a time, so that connections rarely ask.
const STEP_BYTES: u64 = 128 * 1024;
/// Entries that fit into the table: the smallest entry that keeps a buffer is an empty `:path`, which counts 37 bytes.
const ENTRIES_MAX: usize = 4096 / 37;
/// A buffer for a frame of 16 KiB, with the rounding of the allocator.
const BUFFER_BYTES: u64 = 20 * 1024;
/// Up to this length, a buffer of 8 KiB is filled except for the frame that did not fit: at most an eighth is lost.
const SHORT_BYTES: u64 = 1024;
/// RFC 9113 §3.4.
const PREFACE_BYTES: u64 = 24;
/// RFC 9113 §4.1.
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// The memory that is counted for a connection's table.
pub(super) struct Allowance {
    client: Arc<Client>,
    /// Bytes that the table may keep, written by [`Frames`].
    kept_bytes: Arc<AtomicU64>,
    permit: Option<Permit>,
    granted_bytes: u64,
    /// More was refused once, so the connection is ending.
    is_refused: bool,
}

/// Whether a connection may continue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may continue.
    GoOn,
    /// It must accept no further request.
    Close,
    /// It was told to end, but the client continues.
    Cut,
}

impl Allowance {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            kept_bytes: Arc::default(),
            permit: None,
            granted_bytes: FREE_BYTES,
            is_refused: false,
        }
    }

    /// Observes the frames of the connection.
    pub(super) fn frames(&self) -> Frames {
        Frames::new(self.kept_bytes.clone())
    }

    /// Requests memory for what the table may keep by now. Must be called after frames were read.
    pub(super) fn look(&mut self) -> Verdict {
        // Written by this task.
        let bytes = self.kept_bytes.load(Ordering::Relaxed);
        if bytes <= self.granted_bytes {
            return Verdict::GoOn;
        }
        let over = bytes - self.granted_bytes;
        if !self.is_refused && self.take(over.next_multiple_of(STEP_BYTES)) {
            return Verdict::GoOn;
        }
        self.is_refused = true;
        match over > OVER_BYTES_MAX {
            true => Verdict::Cut,
            false => Verdict::Close,
        }
    }

    fn take(&mut self, more: u64) -> bool {
        let is_granted = match &mut self.permit {
            Some(permit) => permit.grow(more),
            permit => {
                *permit = self.client.take(Resource::TableBytes, more);
                permit.is_some()
            }
        };
        if is_granted {
            self.granted_bytes += more;
        }
        is_granted
    }
}

/// Observes the heads of the frames that a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: Arc<AtomicU64>,
    /// Bytes left of the preface or of a frame's payload.
    skip: u64,
    head: [u8; FRAME_HEAD_BYTES],
    /// Bytes of the next frame's head that have arrived.
    head_len: usize,
    /// Bytes since the last frame of a header block.
    since_block: u64,
    /// Bytes of the current header block.
    block: u64,
    largest: Largest,
}

impl Frames {
    fn new(bytes: Arc<AtomicU64>) -> Self {
        Self {
            bytes,
            skip: PREFACE_BYTES,
            head: [0; FRAME_HEAD_BYTES],
            head_len: 0,
            since_block: 0,
            block: 0,
            largest: Largest::default(),
        }
    }

    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len() as u64);
                self.skip -= passed;
                bytes = &bytes[passed as usize..];
                continue;
            }
            let taken = (FRAME_HEAD_BYTES - self.head_len).min(bytes.len());
            let (first, rest) = bytes.split_at(taken);
            self.head[self.head_len..][..taken].copy_from_slice(first);
            self.head_len += taken;
            bytes = rest;
            if self.head_len == FRAME_HEAD_BYTES {
                self.head_len = 0;
                self.begin_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, ..] = self.head;
        let len = u64::from(u32::from_be_bytes([0, a, b, c]));
        self.skip = len;
        self.since_block += FRAME_HEAD_BYTES as u64 + len;
        // A frame has one buffer. A continued header block has one buffer, which may have doubled.
        let buffer_max = match kind {
            HEADERS => {
                self.block = len;
                BUFFER_BYTES
            }
            CONTINUATION => {
                self.block += len;
                BUFFER_BYTES.max(2 * self.block)
            }
            _ => return,
        };
        // A buffer is at least half full, or the next frame was too long for the rest.
        let kept = match self.since_block {
            bytes if bytes <= SHORT_BYTES => bytes + bytes / 4,
            bytes => (2 * bytes).min(buffer_max),
        };
        self.since_block = 0;
        self.largest.add(kept);
        self.bytes.store(self.largest.sum, Ordering::Relaxed);
    }
}

/// The sum of the largest numbers, since it is not known which blocks the table's entries came from.
#[derive(Debug, Default)]
struct Largest {
    numbers: Vec<u64>,
    least: u64,
    sum: u64,
}

impl Largest {
    fn add(&mut self, number: u64) {
        if self.numbers.len() < ENTRIES_MAX {
            self.numbers.push(number);
        } else if number <= self.least {
            return;
        } else if let Some(least) = self.numbers.iter_mut().find(|one| **one == self.least) {
            *least = number;
            self.sum -= self.least;
        }
        self.sum += number;
        self.least = self.numbers.iter().copied().min().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(len).unwrap().to_be_bytes();
        let mut bytes = vec![a, b, c, kind, 0, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD_BYTES + len, 0);
        bytes
    }

    /// Bytes that the table may keep after these frames, read in pieces of `piece` bytes.
    fn kept(frames: &[(u8, usize)], piece: usize) -> u64 {
        let table = Arc::<AtomicU64>::default();
        let mut follower = Frames::new(table.clone());
        let mut bytes = vec![0; PREFACE_BYTES as usize];
        bytes.extend(frames.iter().flat_map(|(kind, len)| frame(*kind, *len)));
        for piece in bytes.chunks(piece) {
            follower.read(piece);
        }
        table.load(Ordering::Relaxed)
    }

    #[test]
    fn counts_buffers_of_header_blocks() {
        const DATA: u8 = 0;
        let usual = vec![(HEADERS, 191); 10_000];
        let uploads = [(HEADERS, 191), (DATA, 16_384)].repeat(1000);
        let blocks = [(HEADERS, 16_384), (CONTINUATION, 16_384)].repeat(1000);
        for piece in [1, 7, 8192, usize::MAX] {
            assert_eq!(kept(&[], piece), 0);
            assert_eq!(kept(&[(DATA, 10_000)], piece), 0);
            // Short blocks share buffers.
            assert_eq!(kept(&usual, piece), 110 * 250);
            assert_eq!(kept(&[(HEADERS, 791), (DATA, 100_000)], piece), 1000);
            assert_eq!(kept(&uploads, piece), 110 * BUFFER_BYTES);
            // The second frame of each block is added to the rest of the first.
            assert_eq!(kept(&blocks, piece), 110 * 2 * 16_393);
        }
    }

    #[test]
    fn sums_the_largest() {
        let mut largest = Largest::default();
        for number in (0..500).chain((0..1000).rev()) {
            largest.add(number);
        }
        assert_eq!(largest.sum, (1000 - 110..1000).sum::<u64>());
    }
}
