//! Memory for file bytes that TLS and HTTP/2 send: each chunk is read before it can be sent, and kept until it is sent.
//!
//! `limit/clients.rs` bounds this memory over all connections, and per client as soon as others need it. If none is
//! left, a response continues with one small chunk at a time.

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

/// Size of the chunk that every response may always have. Large enough for the overhead of a frame or a TLS record;
/// the chunks of 20,000 responses take 80 MB.
const SMALL_CHUNK_BYTES: u64 = 4 << 10;

/// The memory of one response.
pub(super) struct Copies {
    client: Arc<Client>,
    small: Arc<SmallChunk>,
}

/// The small chunk of a response: whether it is in use, and the task that waits for it.
#[derive(Default)]
struct SmallChunk {
    is_used: AtomicBool,
    waiting: AtomicWaker,
}

/// Permission to keep a chunk in memory. Dropping it releases the memory.
pub(super) struct Room {
    /// The largest chunk that fits.
    pub(super) bytes: u64,
    _held: Held,
}

enum Held {
    Permit { _permit: Permit },
    Small(Arc<SmallChunk>),
}

/// A chunk with its room, which is released when the last slice of the chunk is dropped.
struct Kept {
    bytes: Bytes,
    _room: Room,
}

impl Copies {
    /// The memory of a response to this client.
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            small: Arc::default(),
        }
    }

    /// Room for a chunk of `bytes`, or for a smaller one if memory is short. Waits only until the response's own small
    /// chunk is sent.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, bytes: u64) -> Poll<Room> {
        if let Some(permit) = self.client.take(Resource::FileBytes, bytes) {
            return Poll::Ready(Room {
                bytes,
                _held: Held::Permit { _permit: permit },
            });
        }
        // Registered first, because the chunk may be sent between the check and the registration.
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
    /// Ties the room to the chunk that was read into it.
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
    fn continues_in_small_chunks_without_memory() {
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
