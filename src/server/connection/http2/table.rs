//! Bounds the memory that h2's table of header fields keeps (HPACK's dynamic table, RFC 7541 §2.3.2).
//!
//! A client fills the table of its connection, which counts 4,096 bytes. But h2 does not copy the `:path`, `:authority`
//! and `:scheme` of an entry: the entry keeps the whole buffer that it was read in, so 110 entries can keep 2 MB, and more
//! with CONTINUATION frames. h2 says nothing about its table, and goes on with it where a smaller one was announced. So
//! the heads of frames are read on their way to h2, and the most that entries may keep is computed from the distances
//! between header blocks. A block that has not ended is included. Usual requests are short and share buffers, so they
//! keep less than 64 KiB. What is above [`FREE_BYTES`] is counted for the client ([`Resource::TableBytes`]). If there is
//! no more, the connection is told to end, and the client opens another one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::limit::clients::{Client, Permit, Resource};

/// What the table of any connection may keep. Three uploads over one connection are below it, and any number of short
/// requests.
const FREE_BYTES: u64 = 64 * 1024;
/// A connection that was told to end, and goes on, is cut when its table may keep so much more than it was granted.
const OVER_BYTES_MAX: u64 = 16 * 1024;
/// Granted at a time, so that a connection asks seldom.
const STEP_BYTES: u64 = 128 * 1024;
/// Entries that fit in the table: the smallest that keeps a buffer is an empty `:path`, which counts 37 bytes.
const ENTRIES_MAX: usize = 4096 / 37;
/// A buffer for a frame of 16 KiB, as the allocator rounds it up.
const BUFFER_BYTES: u64 = 20 * 1024;
/// A buffer of 8 KiB is full but for the frame that did not fit: of frames that are no longer, an eighth is lost.
const SHORT_BYTES: u64 = 1024;
/// RFC 9113 §3.4.
const PREFACE_BYTES: u64 = 24;
/// RFC 9113 §4.1.
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// The bytes that one connection's table may keep.
#[derive(Debug, Clone, Default)]
pub(super) struct TableBytes(Arc<AtomicU64>);

impl TableBytes {
    /// Follows the frames of a connection that has just opened.
    pub(super) fn frames(&self) -> Frames {
        Frames {
            bytes: self.0.clone(),
            skip: PREFACE_BYTES,
            head: [0; FRAME_HEAD_BYTES],
            head_len: 0,
            since_block: 0,
            block: 0,
            largest: Largest::default(),
        }
    }
}

/// What a connection holds for its table.
pub(super) struct Allowance {
    client: Arc<Client>,
    table: TableBytes,
    permit: Option<Permit>,
    granted_bytes: u64,
    /// There was no more once, so the connection is ending.
    is_refused: bool,
}

/// Whether a connection may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    GoOn,
    /// It is to take no further request.
    Close,
    /// It was told to end and has not stopped.
    Cut,
}

impl Allowance {
    pub(super) fn new(client: Arc<Client>, table: TableBytes) -> Self {
        Self {
            client,
            table,
            permit: None,
            granted_bytes: FREE_BYTES,
            is_refused: false,
        }
    }

    /// Takes what the table may keep by now. To be called after frames were read.
    pub(super) fn look(&mut self) -> Verdict {
        // Written by the same task.
        let bytes = self.table.0.load(Ordering::Relaxed);
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

/// Follows the frames that a client sends, by their heads.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: Arc<AtomicU64>,
    /// Bytes to come of the preface or of a frame's payload.
    skip: u64,
    head: [u8; FRAME_HEAD_BYTES],
    /// Bytes of the next frame's head that have come.
    head_len: usize,
    /// Bytes since the last frame of a header block.
    since_block: u64,
    /// Bytes of the header block that has begun last.
    block: u64,
    largest: Largest,
}

impl Frames {
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
        // A frame has one buffer. What has come of a header block, once it is continued, has one that may have doubled.
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
        // A buffer is filled by half at least, or the frame that follows was too long for the rest.
        let kept = match self.since_block {
            bytes if bytes <= SHORT_BYTES => bytes + bytes / 4,
            bytes => (2 * bytes).min(buffer_max),
        };
        self.since_block = 0;
        self.largest.add(kept);
        self.bytes.store(self.largest.sum, Ordering::Relaxed);
    }
}

/// The sum of the largest numbers: which of all blocks the table's entries came in is not known.
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

    /// What a connection with these frames may keep, read in pieces of `piece` bytes.
    fn kept(frames: &[(u8, usize)], piece: usize) -> u64 {
        let table = TableBytes::default();
        let mut follower = table.frames();
        let mut bytes = vec![0; PREFACE_BYTES as usize];
        bytes.extend(frames.iter().flat_map(|(kind, len)| frame(*kind, *len)));
        for piece in bytes.chunks(piece) {
            follower.read(piece);
        }
        table.0.load(Ordering::Relaxed)
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
            // Short ones share buffers.
            assert_eq!(kept(&usual, piece), 110 * 250);
            assert_eq!(kept(&[(HEADERS, 791), (DATA, 100_000)], piece), 1000);
            assert_eq!(kept(&uploads, piece), 110 * BUFFER_BYTES);
            // The second frame of each is added to what is left of the first.
            assert_eq!(kept(&blocks, piece), 110 * 2 * 16_393);
        }
    }

    #[test]
    fn keeps_the_largest() {
        let mut largest = Largest::default();
        for number in (0..500).chain((0..1000).rev()) {
            largest.add(number);
        }
        assert_eq!(largest.sum, (1000 - 110..1000).sum::<u64>());
    }
}
