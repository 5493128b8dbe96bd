//! Memory for bytes of files that are sent by TLS or HTTP/2: read before they can be sent, and kept until they are.
//!
//! What waits for clients that take nothing is bounded over all connections, and for one client as soon as others need
//! it (`limit/clients.rs`). Where nothing is left, an answer goes on with one small chunk at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::limit::clients::{Client, Permit, Resource};

/// Bytes of the chunk that an answer may always have: a frame or a record of them is not all overhead yet, and those
/// of 20,000 answers are 80 MB.
const SMALL_CHUNK_BYTES: u64 = 4 << 10;

/// The memory of one answer.
pub(super) struct Copies {
    client: Arc<Client>,
    small: Arc<SmallChunk>,
}

/// Says whether an answer's small chunk is in use, and who waits for it.
#[derive(Default)]
struct SmallChunk {
    is_used: AtomicBool,
    waiting: AtomicWaker,
}

/// Permission to keep a chunk in memory.
pub(super) struct Room {
    /// Bytes of the chunk at the most.
    pub(super) bytes: u64,
    _held: Held,
}

enum Held {
    Permit { _permit: Permit },
    Small(Arc<SmallChunk>),
}

/// A chunk and its room, given back when the last of its bytes has been sent.
struct Kept {
    bytes: Bytes,
    _room: Room,
}

impl Copies {
    /// For an answer to this client.
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            small: Arc::default(),
        }
    }

    /// Room for a chunk of `bytes`, or for less where memory is short. Waits for the answer's own small chunk to be
    /// sent, and for nothing else.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, bytes: u64) -> Poll<Room> {
        if let Some(permit) = self.client.take(Resource::FileBytes, bytes) {
            return Poll::Ready(Room {
                bytes,
                _held: Held::Permit { _permit: permit },
            });
        }
        // Registered first: the chunk may be sent between the look at it and the registration.
        self.small.waiting.register(cx.waker());
        match self.small.is_used.swap(true, Ordering::AcqRel) {
            true => Poll::Pending,
            false => Poll::Ready(Room {
                bytes: bytes.min(SMALL_CHUNK_BYTES),
                _held: Held::Small(self.small.clone()),
            }),
        }
    }
}

impl Room {
    /// The chunk that was read into it.
    pub(super) fn keep(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Kept { bytes, _room: self })
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Small(small) = self {
            small.is_used.store(false, Ordering::Release);
            small.waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::limit::clients::{Bound, ClientLimiter, Config};

    #[test]
    fn goes_on_in_small_chunks_without_memory() {
        let mut config = Config::new(10, 10, Vec::new());
        config.file_bytes = Bound {
            total_max: 40_000,
            client_max: 40_000,
            contended_from: 0,
        };
        let clients = Arc::new(ClientLimiter::new(config));
        let copies = || Copies::new(clients.exempt_client());
        let (one, other) = (copies(), copies());
        let mut cx = Context::from_waker(Waker::noop());
        let mut room = |copies: &Copies| match copies.poll_room(&mut cx, 32_768) {
            Poll::Ready(room) => Some(room),
            Poll::Pending => None,
        };
        let first = room(&one).unwrap();
        assert_eq!(first.bytes, 32_768);
        let first = first.keep(Bytes::from_static(b"first"));
        let rest = first.slice(2..);
        let small = room(&one).unwrap();
        assert_eq!(small.bytes, SMALL_CHUNK_BYTES);
        assert!(room(&one).is_none(), "one small chunk at a time");
        assert!(room(&other).is_some(), "each answer has its own");
        drop(first);
        assert!(
            room(&one).is_none(),
            "a part of the chunk is still to be sent"
        );
        drop(small);
        assert_eq!(room(&one).unwrap().bytes, SMALL_CHUNK_BYTES);
        drop(rest);
        assert_eq!(room(&one).unwrap().bytes, 32_768);
    }
}
