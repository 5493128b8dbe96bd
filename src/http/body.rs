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
use serde::Deserialize;
use tokio::time::{Instant, Sleep};

use crate::{
    error::{Error, Kind, Result},
    settings::{number, seconds},
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
/// A body that has to be waited for is looked at so often: how fast it has to come may change meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How fast a body has to come: from `[server]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// The longest wait for a further byte. A body may take as long again before [`Pace::bytes_per_second_min`]
    /// counts.
    #[serde(rename = "body_idle_timeout_seconds", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// The least on average; 0 = any. Without it, a byte now and then keeps an upload open for days.
    #[serde(
        rename = "body_bytes_per_second_min",
        deserialize_with = "number::<0, 1_000_000, _, _>"
    )]
    pub bytes_per_second_min: u64,
    /// From the request's head to the end of its body, whatever its pace: the others bound what a client gives up,
    /// not how long it keeps a place.
    #[serde(rename = "request_timeout_seconds", deserialize_with = "seconds")]
    pub whole_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            bytes_per_second_min: 1000,
            whole_timeout: Duration::from_secs(3600),
        }
    }
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
    /// How many times as fast as the pace it has to come just now; as fast, where there is none.
    urgency: Option<Urgency>,
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

/// Says how many times as fast as the pace a body has to come, at least 1.
pub type Urgency = Box<dyn Fn() -> u64 + Send + Sync>;

impl Pace {
    /// By when a body that was first waited for at `begun`, and of which so much has come, must go on to keep to the
    /// average; `None` where any will do. The more urgent it is, the less may pass before the average counts.
    fn average_by(&self, begun: Instant, received: u64, urgency: u64) -> Option<Instant> {
        let urgency = urgency.max(1);
        let rate = self.bytes_per_second_min.saturating_mul(urgency);
        let ms = received.saturating_mul(1000).checked_div(rate)?;
        let grace = self.idle_timeout / u32::try_from(urgency).unwrap_or(u32::MAX);
        Some(begun + grace + Duration::from_millis(ms))
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
    /// When the body was first waited for.
    begun: Instant,
    /// By when the next byte must be there, whatever the average.
    idle_by: Instant,
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
            urgency: None,
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

    /// From here on, the body has to come so many times as fast as the pace.
    pub fn hurry(&mut self, urgency: Urgency) {
        self.urgency = Some(urgency);
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
                        // Looked at when the sleep ends: to move that for each piece would cost more.
                        wait.idle_by = deadline(self.pace.idle_timeout);
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
                    ready!(self.poll_late(cx));
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

    /// Ready when the body is late: it was waited for longer than it may take.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wait = self.wait.take().unwrap_or_else(|| self.begin_to_wait());
        let mut polled = wait.sleep.as_mut().poll(cx);
        while polled.is_ready() {
            let (now, late_at) = (wait.sleep.deadline(), self.late_at(&wait));
            if late_at <= now {
                break;
            }
            // More came meanwhile, or it was only to look again.
            wait.sleep.as_mut().reset(late_at.min(now + LOOK_EVERY));
            polled = wait.sleep.as_mut().poll(cx);
        }
        self.wait = Some(wait);
        polled
    }

    fn begin_to_wait(&self) -> Wait {
        let begun = deadline(Duration::ZERO);
        let idle_by = begun + self.pace.idle_timeout;
        let mut wait = Wait {
            sleep: Box::pin(tokio::time::sleep_until(idle_by)),
            begun,
            idle_by,
        };
        let first = self.late_at(&wait).min(begun + LOOK_EVERY);
        wait.sleep.as_mut().reset(first);
        wait
    }

    fn late_at(&self, wait: &Wait) -> Instant {
        let urgency = self.urgency.as_ref().map_or(1, |urgency| urgency());
        let average_by = self.pace.average_by(wait.begun, self.received, urgency);
        let by = [self.whole_by, average_by].into_iter().flatten();
        by.fold(wait.idle_by, Instant::min)
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
    fn average_counts_after_the_grace() {
        let pace = Pace {
            idle_timeout: secs(30),
            bytes_per_second_min: 1000,
            whole_timeout: secs(3600),
        };
        let begun = deadline(Duration::ZERO);
        // Bytes received, urgency, and by when more must have come.
        for (received, urgency, by) in [
            (0, 1, secs(30)),
            (2000, 1, secs(32)),
            (2000, 0, secs(32)),
            (20_000, 2, secs(15 + 10)),
            (100_000, 10, secs(3 + 10)),
        ] {
            let expected = Some(begun + by);
            assert_eq!(
                pace.average_by(begun, received, urgency),
                expected,
                "{received}"
            );
        }
        let any = Pace {
            bytes_per_second_min: 0,
            ..pace
        };
        assert_eq!(any.average_by(begun, 0, 5), None);
    }
}
