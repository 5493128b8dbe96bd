//! The body of a request: counts its bytes, and limits its size, its number of pieces and its duration.
//!
//! Does not interpret the bytes; `multipart.rs` parses forms.

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
    settings::{seconds, size},
    time::deadline,
};

/// Pieces that every body may have. A piece is an HTTP/1.1 chunk or an HTTP/2 DATA frame, and costs about 1.5 µs: 1 MB
/// in pieces of one byte took 1.5 s of CPU.
const PIECES_FREE: u64 = 2048;
/// Bytes that allow one more piece: one frame of AMR speech at 12.2 kbit/s.
const BYTES_PER_PIECE: u64 = 32;
/// Pieces that each second allows in addition. A recorder that sends each frame of 20 ms at once, silence included,
/// sends half as many.
const PIECES_PER_SECOND: u64 = 100;
/// How often the deadline of a slow body is computed again: the required rate may change in the meantime.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The required speed of a body: from `[server]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// The longest wait for the next bytes. Also the grace period before [`Pace::bytes_per_second_min`] applies.
    #[serde(rename = "body_idle_timeout_seconds", deserialize_with = "seconds")]
    pub idle_timeout: Duration,
    /// The lowest average rate; 0 = any. Without a limit, one byte now and then keeps an upload open for days.
    #[serde(
        rename = "body_bytes_per_second_min",
        deserialize_with = "size::<0, 1_000_000, _, _>"
    )]
    pub bytes_per_second_min: u64,
    /// The longest time from the head of the request to the end of its body, whatever the rate.
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

/// The body of a request.
pub struct RequestBody {
    incoming: Incoming,
    /// Bytes received so far.
    received: u64,
    /// Pieces received so far.
    pieces: u64,
    /// Size limit. A larger body ends in `TooLarge`.
    bytes_max: u64,
    pace: Pace,
    /// Multiplies the required rate; `None` stands for 1.
    urgency: Option<Urgency>,
    /// When the whole body must have arrived; `None` without a body.
    whole_by: Option<Instant>,
    /// The timer of a slow body, started at the first wait.
    wait: Option<Wait>,
    started: bool,
    ended: bool,
    had_trailers: bool,
    /// The body broke off or timed out before its end.
    failed: bool,
}

/// Returns the factor, at least 1, by which a body must be faster than its pace.
type Urgency = Box<dyn Fn() -> u64 + Send + Sync>;

impl Pace {
    /// When more bytes must arrive to keep the average rate; `None` without a minimum rate. `begun` is the first wait.
    /// A higher urgency raises the rate and shortens the grace period.
    fn average_by(&self, begun: Instant, received: u64, urgency: u64) -> Option<Instant> {
        let urgency = urgency.max(1);
        let rate = self.bytes_per_second_min.saturating_mul(urgency);
        let ms = received.saturating_mul(1000).checked_div(rate)?;
        let grace = self.idle_timeout / u32::try_from(urgency).unwrap_or(u32::MAX);
        Some(begun + grace + Duration::from_millis(ms))
    }
}

/// The most pieces for this many bytes, this long after the head of the request.
fn pieces_max(received: u64, passed: Duration) -> u64 {
    let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
    PIECES_FREE
        .saturating_add(received / BYTES_PER_PIECE)
        .saturating_add(ms.saturating_mul(PIECES_PER_SECOND) / 1000)
}

struct Wait {
    sleep: Pin<Box<Sleep>>,
    /// The first wait.
    begun: Instant,
    /// When the next bytes must arrive, whatever the average rate.
    idle_by: Instant,
}

impl RequestBody {
    /// Wraps hyper's body. Its head has just arrived.
    pub fn new(incoming: Incoming, pace: Pace) -> Self {
        let ended = incoming.is_end_stream();
        Self {
            incoming,
            received: 0,
            pieces: 0,
            bytes_max: u64::MAX,
            pace,
            urgency: None,
            // Most requests have no body and need no clock.
            whole_by: (!ended).then(|| deadline(pace.whole_timeout)),
            wait: None,
            started: false,
            ended,
            had_trailers: false,
            failed: false,
        }
    }

    /// Sets the size limit for the whole body.
    pub fn limit(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Makes the body multiply its required rate by the urgency from now on.
    pub fn hurry(&mut self, urgency: Urgency) {
        self.urgency = Some(urgency);
    }

    /// The announced length; `None` for a chunked body.
    pub fn announced(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Bytes received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Whether the body was polled. From then on, hyper has sent `100 Continue` to a client that waits for it.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether the whole body was read.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether trailer fields followed it.
    pub fn had_trailers(&self) -> bool {
        self.had_trailers
    }

    /// Whether the rest will not arrive: the client broke off, or was too slow.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// The next bytes, with the errors of [`RequestBody::data`].
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.started = true;
        loop {
            if self.ended || self.failed {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(self.count(&data).map(|()| data))),
                    // Trailers are ignored.
                    Err(_) => self.had_trailers = true,
                },
                Poll::Ready(Some(Err(error))) => {
                    self.failed = true;
                    // A client that sends a malformed chunk can still read the response.
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

    /// Counts a piece, and checks the limits.
    fn count(&mut self, piece: &Bytes) -> Result<()> {
        self.received += piece.len() as u64;
        self.pieces += 1;
        if let Some(wait) = &mut self.wait {
            // Checked when the sleep ends. Resetting the sleep for each piece would cost more.
            wait.idle_by = deadline(self.pace.idle_timeout);
        }
        if self.received > self.bytes_max {
            return Err(Kind::TooLarge.into());
        }
        if self.has_too_many_pieces() {
            self.failed = true;
            return Err(Error::invalid(format!(
                "the body has too many small pieces: send at least {BYTES_PER_PIECE} bytes in each."
            )));
        }
        Ok(())
    }

    /// Whether the body has more pieces than its bytes and its time allow. Reads the clock only if the bytes alone do
    /// not allow them, which does not happen with ordinary clients.
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

    /// Ready when the body is too slow.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wait = self.wait.take().unwrap_or_else(|| self.begin_to_wait());
        let mut polled = wait.sleep.as_mut().poll(cx);
        while polled.is_ready() {
            let (now, late_at) = (wait.sleep.deadline(), self.late_at(&wait));
            if late_at <= now {
                break;
            }
            // More bytes arrived in the meantime, or the sleep was shorter than the deadline.
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

    /// The next bytes; `None` at the end of the body, and after an error.
    ///
    /// # Errors
    /// `TooLarge`; `RequestTimeout` if the client is too slow; `InvalidArgument` for malformed chunks and too many
    /// small pieces; `Disconnected` if the client is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: no bytes are lost.
    pub async fn data(&mut self) -> Option<Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Reads the whole body into memory.
    ///
    /// # Errors
    /// As [`RequestBody::data`], and `TooLarge` over `bytes_max`.
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Vec<u8>> {
        self.limit(bytes_max as u64);
        let mut whole = Vec::new();
        while let Some(data) = self.data().await {
            whole.extend_from_slice(&data?);
        }
        Ok(whole)
    }

    /// Reads and discards the rest, so that a client that writes its whole request before it reads gets the response
    /// and not a broken pipe. Returns whether the end was reached within the limits.
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
    fn limits_pieces_by_bytes_and_time() {
        for (received, seconds, max) in [
            (0, 0, 2048),
            (31, 0, 2048),
            (32, 0, 2049),
            (1 << 20, 0, 2048 + 32_768),
            // Ten minutes of live speech in frames of 13 bytes: 30,000 pieces.
            (390_000, 600, 2048 + 12_187 + 60_000),
            (0, 3600, 2048 + 360_000),
        ] {
            assert_eq!(pieces_max(received, secs(seconds)), max);
        }
        // No overflow.
        assert!(pieces_max(u64::MAX, Duration::MAX) > 1 << 50);
    }

    #[test]
    fn average_applies_after_grace_period() {
        let pace = Pace {
            idle_timeout: secs(30),
            bytes_per_second_min: 1000,
            whole_timeout: secs(3600),
        };
        let begun = deadline(Duration::ZERO);
        // Bytes received, urgency, and when more must have arrived.
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
