//! The body of a request on its way in: counted, bounded, and never waited for without end.
//!
//! Knows nothing of what the bytes mean (`multipart.rs` does).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, Sleep};

use crate::{
    error::{Error, Kind, Result},
    time::deadline,
};

/// Pieces that a body may come in, whatever their size. A piece is a chunk of HTTP/1.1 or a DATA frame of HTTP/2, and
/// costs about 1.5 µs: in one-byte pieces, 1 MB took 1.5 s of CPU.
const PIECES_FREE: u64 = 2048;
/// Bytes that allow one piece more. A frame of an AMR voice at 12.2 kbit/s has as many.
const BYTES_PER_PIECE: u64 = 32;
/// Pieces more that each second allows. A recorder that sends each frame of 20 ms as it is made sends half as many,
/// silence in frames of a few bytes included.
const PIECES_PER_SECOND: u64 = 100;

/// How fast a body has to come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest wait for a further byte. A body may take as long again before [`Pace::bytes_per_second_min`]
    /// counts.
    pub idle_timeout: Duration,
    /// The least on average; 0 = any. Without it, a byte now and then keeps an upload open for days.
    pub bytes_per_second_min: u64,
    /// From the request's head to the end of its body, whatever its pace: the others bound what a client gives up,
    /// not how long it keeps a place.
    pub whole_timeout: Duration,
}

/// A request's body.
pub struct RequestBody {
    incoming: Incoming,
    /// Bytes so far.
    received: u64,
    /// Pieces that they came in.
    pieces: u64,
    /// Bytes at the most; more end in `TooLarge`.
    bytes_max: u64,
    pace: Pace,
    /// By when all of it must be there; `None` where there is no body.
    whole_by: Option<Instant>,
    /// Fires when the body is too slow or takes too long; made at the first wait.
    wait: Option<Wait>,
    started: bool,
    ended: bool,
    had_trailers: bool,
    /// Broken, or not waited for any longer: nothing more comes, and yet it has not ended.
    failed: bool,
}

impl Pace {
    /// By when the byte after so many must be there.
    fn next_by(&self, whole_by: Option<Instant>, first_by: Instant, received: u64) -> Instant {
        let idle_by = deadline(self.idle_timeout);
        let idle_by = whole_by.map_or(idle_by, |whole_by| idle_by.min(whole_by));
        match received
            .saturating_mul(1000)
            .checked_div(self.bytes_per_second_min)
        {
            Some(ms) => idle_by.min(first_by + Duration::from_millis(ms)),
            None => idle_by,
        }
    }
}

/// How many pieces so many bytes may come in, so long after the request's head.
fn pieces_max(received: u64, passed: Duration) -> u64 {
    let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
    PIECES_FREE
        .saturating_add(received / BYTES_PER_PIECE)
        .saturating_add(ms.saturating_mul(PIECES_PER_SECOND) / 1000)
}

struct Wait {
    sleep: Pin<Box<Sleep>>,
    /// By when the first byte must be there; each further one has the time that it may take.
    first_by: Instant,
}

impl RequestBody {
    /// Wraps hyper's body, whose head has just come.
    pub fn new(incoming: Incoming, pace: Pace) -> Self {
        let ended = incoming.is_end_stream();
        Self {
            incoming,
            received: 0,
            pieces: 0,
            bytes_max: u64::MAX,
            pace,
            // Most requests have no body, and need no clock.
            whole_by: (!ended).then(|| deadline(pace.whole_timeout)),
            wait: None,
            started: false,
            ended,
            had_trailers: false,
            failed: false,
        }
    }

    /// From here on, a body of more than `bytes_max` bytes in all ends in `TooLarge`.
    pub fn limit(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// The length that the client announced; `None` for a chunked body.
    pub fn announced(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Bytes read so far.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Whether any of the body was asked for: from then on a client that waits for `100 Continue` has it.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether the whole body was read.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether fields came after it.
    pub fn had_trailers(&self) -> bool {
        self.had_trailers
    }

    /// Whether the rest will not come: the client broke it off or paused for too long.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// The next bytes; `None` at the end of the body, and after an error of it.
    ///
    /// # Errors
    /// `TooLarge`, `RequestTimeout` when the client pauses too long, is too slow or takes too long, `InvalidArgument`
    /// for malformed chunks and too many small ones, `Disconnected` when the client is gone.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.started = true;
        loop {
            if self.ended || self.failed {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers carry nothing for us.
                    let Ok(data) = frame.into_data() else {
                        self.had_trailers = true;
                        continue;
                    };
                    self.received += data.len() as u64;
                    self.pieces += 1;
                    if let Some(wait) = &mut self.wait {
                        let by = self
                            .pace
                            .next_by(self.whole_by, wait.first_by, self.received);
                        wait.sleep.as_mut().reset(by);
                    }
                    if self.received > self.bytes_max {
                        return Poll::Ready(Some(Err(Kind::TooLarge.into())));
                    }
                    if self.has_too_many_pieces() {
                        self.failed = true;
                        return Poll::Ready(Some(Err(Error::invalid(format!(
                            "the body comes in too many small pieces: send at least {BYTES_PER_PIECE} bytes in each."
                        )))));
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed = true;
                    // A chunk that is no chunk is the client's fault and can be told; the rest is a client
                    // that is gone.
                    let kind = if error.is_parse() {
                        Kind::InvalidArgument
                    } else {
                        Kind::Disconnected
                    };
                    return Poll::Ready(Some(Err(Error::new(kind).source(error))));
                }
                Poll::Pending => {
                    let (pace, whole_by, received) = (self.pace, self.whole_by, self.received);
                    let wait = self.wait.get_or_insert_with(|| {
                        let first_by = deadline(pace.idle_timeout);
                        let by = pace.next_by(whole_by, first_by, received);
                        Wait {
                            sleep: Box::pin(tokio::time::sleep_until(by)),
                            first_by,
                        }
                    });
                    ready!(wait.sleep.as_mut().poll(cx));
                    self.failed = true;
                    return Poll::Ready(Some(Err(Kind::RequestTimeout.into())));
                }
            }
        }
    }

    /// Whether the body came in more pieces than its bytes and its time allow. Reads the clock only where its bytes do
    /// not allow them, which ordinary clients never reach.
    fn has_too_many_pieces(&self) -> bool {
        if self.pieces <= pieces_max(self.received, Duration::ZERO) {
            return false;
        }
        let left = self.whole_by.map_or(Duration::ZERO, |whole_by| {
            whole_by.saturating_duration_since(deadline(Duration::ZERO))
        });
        let passed = self.pace.whole_timeout.saturating_sub(left);
        self.pieces > pieces_max(self.received, passed)
    }

    /// The next bytes; `None` at the end of the body.
    ///
    /// # Errors
    /// As [`RequestBody::poll_data`].
    ///
    /// # Cancel safety
    /// Cancel safe: no byte is lost.
    pub async fn data(&mut self) -> Option<Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The whole body, which must be small.
    ///
    /// # Errors
    /// As [`RequestBody::poll_data`], and `TooLarge` over `bytes_max`.
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Vec<u8>> {
        self.limit(bytes_max as u64);
        let mut whole = Vec::new();
        while let Some(data) = self.data().await {
            whole.extend_from_slice(&data?);
        }
        Ok(whole)
    }

    /// Reads and throws away what is left, so that a client that writes first and reads after finds the
    /// answer and not a broken pipe. Returns whether the end was reached within the bounds.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn drain(&mut self, bytes_max: u64, time_max: Duration) -> bool {
        self.limit(self.received.saturating_add(bytes_max));
        let drained = async { while let Some(Ok(_)) = self.data().await {} };
        let _ = tokio::time::timeout(time_max, drained).await;
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn pieces_are_bounded_by_bytes_and_time() {
        for (received, seconds, max) in [
            (0, 0, 2048),
            (31, 0, 2048),
            (32, 0, 2049),
            (1 << 20, 0, 2048 + 32_768),
            // Ten minutes of a voice in frames of 13 bytes, live: 30,000 pieces.
            (390_000, 600, 2048 + 12_187 + 60_000),
            (0, 3600, 2048 + 360_000),
        ] {
            assert_eq!(pieces_max(received, secs(seconds)), max);
        }
        // No overflow.
        assert!(pieces_max(u64::MAX, Duration::MAX) > 1 << 50);
    }

    #[test]
    fn the_next_byte_is_waited_for_until_the_first_of_the_bounds() {
        let pace = Pace {
            idle_timeout: secs(30),
            bytes_per_second_min: 1000,
            whole_timeout: secs(3600),
        };
        let start = deadline(Duration::ZERO);
        let first_by = start + secs(30);
        // Seconds of the request that are left, bytes received, and how long the next one has from now on.
        for (left, received, expected) in [
            (3600, 0, 30),
            (3600, 1_000_000, 30),
            (29, 1_000_000, 29),
            (1, 1_000_000, 1),
            (0, 1_000_000, 0),
            (60, 0, 30),
        ] {
            let by = pace.next_by(Some(start + secs(left)), first_by, received);
            let has = by.saturating_duration_since(start);
            // The clock goes on between the two readings.
            assert!(
                (secs(expected)..secs(expected + 5)).contains(&has),
                "{left} {received}: {has:?}"
            );
        }
        let slow = pace.next_by(Some(start + secs(3600)), start, 2000);
        assert_eq!(slow, start + secs(2));
    }
}
