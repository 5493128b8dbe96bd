//! Closes a connection whose client may still be sending, or has not acknowledged the whole response.
//!
//! If a socket is closed while it holds unread bytes, or receives bytes afterwards, the kernel sends a reset, and the
//! client loses the part of the response that it has not read. So the write side is shut down first, and the rest of the
//! request is read and discarded until the client closes its side.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::Config;
use crate::{
    server::{stall::Stall, transport::Stream},
    time::Clock,
};

/// Bytes that are read and discarded at a time.
const DISCARD_BYTES: usize = 16 * 1024;
/// Unacknowledged bytes that the kernel delivers reliably after a close, because they fit into the client's receive
/// window. With more, a slow client may not have received most of them, and after a close the kernel gives up on a client
/// whose window stays closed for about 200 s.
const UNACKED_BYTES_MAX: u64 = 64 * 1024;

/// Whether closing the socket now could lose the end of the last response.
pub(super) fn has_unacked(stream: &impl Stream) -> bool {
    let socket = stream.socket();
    socket.written_bytes() > UNACKED_BYTES_MAX
        && socket
            .queues()
            .is_ok_and(|queues| queues.unacked_bytes > UNACKED_BYTES_MAX)
}

/// Shuts down the write side, then reads and discards until the client closes its side, has sent
/// [`Config::linger_bytes_max`], or [`Config::linger_timeout`] has passed since it acknowledged the whole response.
/// Returns `false` if the client stalled before that; then the connection is reset.
pub(super) async fn linger<S: Stream>(mut stream: S, config: &Config) -> bool {
    // Only the monotonic time is used, which is the same for all clocks.
    let clock = Clock::system();
    let begun = clock.monotonic();
    let mut stall = Stall::new(config.write_stall_timeout, begun);
    let mut until = begun + config.linger_timeout;
    let step = stall.looks_every().min(config.linger_timeout);
    let mut state = Discarding {
        is_shut: false,
        left_bytes: config.linger_bytes_max,
        buffer: vec![0; DISCARD_BYTES],
    };
    loop {
        let wait = step.min(until.saturating_duration_since(clock.monotonic()));
        // Dropping the future loses nothing: it is in a shutdown or a read.
        let wait = wait.max(Duration::from_millis(1));
        match timeout(wait, state.work(&mut stream)).await {
            Ok(Ok(Rest::Unread)) | Ok(Err(_)) => return true,
            // The client sends nothing more but may still read: an HTTP/1.0 client shuts down its write side early.
            Ok(Ok(Rest::Ended)) if has_unacked(&stream) => tokio::time::sleep(wait).await,
            Ok(Ok(Rest::Ended)) => return true,
            Err(_) => {}
        }
        let now = clock.monotonic();
        let queues = stream.socket().queues().ok();
        match queues.filter(|queues| queues.unacked_bytes > 0) {
            Some(queues) => {
                if stall.look(now, queues.acked_bytes, queues.is_in_flight) {
                    stream.socket().reset_on_close();
                    return false;
                }
                until = now + config.linger_timeout;
            }
            None if now >= until => return true,
            None => stall.rest(now),
        }
    }
}

/// What the client may still send.
enum Rest {
    /// Nothing: it has closed its side.
    Ended,
    /// More than is read.
    Unread,
}

struct Discarding {
    is_shut: bool,
    left_bytes: u64,
    buffer: Vec<u8>,
}

impl Discarding {
    async fn work(&mut self, stream: &mut impl Stream) -> io::Result<Rest> {
        if !self.is_shut {
            stream.shutdown().await?;
            self.is_shut = true;
        }
        while self.left_bytes > 0 {
            let read = stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Ok(Rest::Ended);
            }
            self.left_bytes = self.left_bytes.saturating_sub(read as u64);
        }
        Ok(Rest::Unread)
    }
}
