//! The end of a connection whose client may still send, or may still have to take its answer.
//!
//! Closing a socket that holds unread bytes, or that receives bytes later, makes the kernel send a reset, and with it
//! the client loses what it has not read of the answer. So the write side is closed first, and the rest of the
//! request is read and discarded until the client closes too.

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

/// What is read and thrown away at once.
const DISCARD_BYTES: usize = 16 * 1024;
/// What the kernel delivers by itself after a close: a client's receive window has room for so much. Of more, a
/// slow client may still have to take the larger part, and after a close the kernel gives up on a client whose window
/// stays closed for some 200 s.
const UNACKED_BYTES_MAX: u64 = 64 * 1024;

/// Whether so much of the last answer is unacknowledged that closing the socket would endanger it.
pub(super) fn has_unacked(stream: &impl Stream) -> bool {
    stream.written_bytes() > UNACKED_BYTES_MAX
        && stream
            .queues()
            .is_ok_and(|queues| queues.unacked_bytes > UNACKED_BYTES_MAX)
}

/// Closes the write side, then reads and discards until the client closes too, sends too much
/// ([`Config::linger_bytes_max`]), or takes too long: [`Config::linger_timeout`] from the moment when it has
/// acknowledged the whole answer. Returns `false` where it stalled before that: it was reset then.
pub(super) async fn linger<S: Stream>(mut stream: S, config: &Config) -> bool {
    // Only the monotonic reading is used, which is the same for every Clock.
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
        // Interrupting the work loses nothing: it is a shutdown or a read.
        let wait = wait.max(Duration::from_millis(1));
        match timeout(wait, state.work(&mut stream)).await {
            Ok(Ok(Rest::Unread)) | Ok(Err(_)) => return true,
            // It sends nothing more, and may still read: an HTTP/1.0 client closes its write side early.
            Ok(Ok(Rest::Ended)) if has_unacked(&stream) => tokio::time::sleep(wait).await,
            Ok(Ok(Rest::Ended)) => return true,
            Err(_) => {}
        }
        let now = clock.monotonic();
        let queues = stream.queues().ok();
        match queues.filter(|queues| queues.unacked_bytes > 0) {
            Some(queues) => {
                if stall.look(now, queues.acked_bytes, queues.is_in_flight) {
                    stream.reset_on_close();
                    return false;
                }
                until = now + config.linger_timeout;
            }
            None if now >= until => return true,
            None => stall.rest(now),
        }
    }
}

/// What is left to read.
enum Rest {
    /// Nothing.
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
