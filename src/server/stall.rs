//! Detects a peer that no longer receives data.
//!
//! That a socket accepts a byte says little about the peer: with megabytes of send buffer, Linux reports a socket as
//! writable only after a third of the buffer has drained, and a reader of 20 KB/s needs more than a minute for that. So
//! the decision is based on the bytes that the peer acknowledged. It is made every [`Stall::looks_every`]. Nothing is
//! measured in between, so a fast transfer pays nothing.

use std::time::{Duration, Instant};

/// A lower average rate over the timeout counts as no progress. Otherwise a byte every 29 s would hold a connection
/// forever. A phone on a very bad link still receives several times as much.
const PROGRESS_BYTES_PER_SECOND: u64 = 128;
/// A receiver acknowledges what its kernel has received, and may then acknowledge nothing until its program has read part
/// of that. So the allowed time with a closed window grows with the acknowledged bytes, as if the program read them at
/// this rate.
const READ_BYTES_PER_SECOND: u64 = 512;
/// Upper limit of that time, in timeouts. Linux probes a closed window after 102, 204 and 324 s, and only then learns that
/// it is open again (measured over loopback: gaps of 101 and 202 s at 1 to 20 KB/s). With the default of 30 s the limit
/// is 360 s.
const PATIENCE_TIMEOUTS_MAX: u32 = 12;

/// How long a peer that has received something before may acknowledge nothing while data is in flight, in timeouts. TCP
/// retransmits after 0.3, 0.6, 1.2 ... s, so a phone that leaves a tunnel after 20 s is reached only about 38 s after it
/// entered.
const OUTAGE_TIMEOUTS: u32 = 2;

/// Progress of one peer, or of one HTTP/2 stream, that has data to receive.
#[derive(Debug, Clone)]
pub(super) struct Stall {
    timeout: Duration,
    looked_at: Instant,
    /// Bytes acknowledged at the last check.
    taken_bytes: u64,
    /// Since when every check found data in flight and no new acknowledgement. A single such check means nothing: a window
    /// may just have opened after a minute.
    in_flight_since: Option<Instant>,
    /// Bytes acknowledged when the peer last made enough progress, and until when that progress counts.
    credited_bytes: u64,
    patient_until: Instant,
}

impl Stall {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            looked_at: now,
            taken_bytes: 0,
            in_flight_since: None,
            credited_bytes: 0,
            patient_until: now + timeout,
        }
    }

    /// The interval between two checks. A stalled peer is detected at most this much late.
    pub(super) fn looks_every(&self) -> Duration {
        self.timeout / 4
    }

    /// Records that the peer has nothing to receive at `now`, or is held up by something else.
    pub(super) fn rest(&mut self, now: Instant) {
        self.in_flight_since = None;
        self.patient_until = self.patient_until.max(now + self.timeout);
    }

    /// Checks a peer that has data to receive, and has received `taken_bytes` in total. Returns whether it has stalled.
    /// `is_in_flight`: more data was sent than that, so the peer's window is not closed, and there is no reason to wait
    /// longer than an outage may last ([`OUTAGE_TIMEOUTS`]).
    ///
    /// After a time without checks, the measurement starts again: there are no checks while nothing is to be received, and
    /// clients must not be cut because this process was suspended.
    pub(super) fn look(&mut self, now: Instant, taken_bytes: u64, is_in_flight: bool) -> bool {
        if now > self.looked_at + 2 * self.looks_every() {
            self.rest(now);
        }
        self.looked_at = now;
        if taken_bytes > self.taken_bytes || !is_in_flight {
            self.in_flight_since = None;
        }
        self.taken_bytes = self.taken_bytes.max(taken_bytes);
        let fresh_bytes = self.taken_bytes - self.credited_bytes;
        if u128::from(fresh_bytes) * 1000
            >= u128::from(PROGRESS_BYTES_PER_SECOND) * self.timeout.as_millis()
        {
            self.credited_bytes = self.taken_bytes;
            let reading = Duration::from_secs(fresh_bytes / READ_BYTES_PER_SECOND);
            let patience = (self.timeout + reading).min(self.timeout * PATIENCE_TIMEOUTS_MAX);
            self.patient_until = self.patient_until.max(now + patience);
        }
        if is_in_flight {
            let since = *self.in_flight_since.get_or_insert(now);
            if now >= since + self.timeout * OUTAGE_TIMEOUTS {
                return true;
            }
        }
        now >= self.patient_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Checks a peer at the server's interval, where `taken` gives the bytes received after a number of seconds. Returns
    /// after how many seconds the peer is cut, if that is within an hour.
    fn cut_after(is_in_flight: bool, taken: impl Fn(f64) -> u64) -> Option<u64> {
        let start = Clock::system().monotonic();
        let mut stall = Stall::new(TIMEOUT, start);
        let mut now = start;
        while now < start + Duration::from_secs(3600) {
            now += stall.looks_every();
            let seconds = now - start;
            if stall.look(now, taken(seconds.as_secs_f64()), is_in_flight) {
                return Some(seconds.as_secs());
            }
        }
        None
    }

    #[test]
    fn cuts_peer_that_receives_nothing() {
        assert_eq!(cut_after(true, |_| 0), Some(30));
        assert_eq!(cut_after(false, |_| 0), Some(30));
        // Its kernel has received something, its program nothing: a first window, and a large one.
        assert_eq!(cut_after(false, |_| 65_536), Some(172));
        assert_eq!(cut_after(false, |_| 6 << 20), Some(367));
        // Or the link broke in between.
        assert_eq!(cut_after(true, |_| 6 << 20), Some(67));
    }

    #[test]
    fn keeps_slow_steady_readers() {
        for pace in [150, 1024, 2048, 5 * 1024, 20 * 1024, 100 * 1024] {
            let steady = |seconds: f64| (seconds * f64::from(pace)) as u64;
            assert_eq!(cut_after(true, steady), None, "{pace} B/s");
        }
        for pace in [1024, 2048, 5 * 1024, 20 * 1024, 100 * 1024] {
            // In steps, as a receive window opens: everything that is read in 200 s at once.
            let steps = |seconds: f64| ((seconds / 200.0).floor() as u64 + 1) * pace * 200;
            assert_eq!(cut_after(false, steps), None, "{pace} B/s in steps");
        }
    }

    #[test]
    fn keeps_peer_through_outages() {
        // 40 s without an acknowledgement after every minute.
        let with_outages = |seconds: f64| {
            let reading = (seconds / 100.0).floor() * 60.0 + (seconds % 100.0).min(60.0);
            (reading * 20_480.0) as u64
        };
        assert_eq!(cut_after(true, with_outages), None);
    }

    #[test]
    fn cuts_trickle_within_minutes() {
        assert_eq!(
            cut_after(true, |seconds| seconds as u64 / 7),
            Some(30),
            "a byte now and then"
        );
        let later = |seconds: f64| 65_536 + seconds as u64 * 64;
        assert!(cut_after(true, later).is_some_and(|after| after < 400));
    }

    #[test]
    fn starts_again_after_time_without_checks() {
        let start = Clock::system().monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::new(TIMEOUT, start);
        for seconds in [1000, 1010, 1020, 1029] {
            assert!(!stall.look(at(seconds), 0, true), "{seconds}");
        }
        assert!(stall.look(at(1030), 0, true));
    }

    #[test]
    fn opened_window_is_no_stall() {
        let start = Clock::system().monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::new(TIMEOUT, start);
        assert!(!stall.look(at(1), 1 << 20, true));
        for seconds in (8..90).step_by(7) {
            assert!(!stall.look(at(seconds), 1 << 20, false), "{seconds}");
        }
        assert!(!stall.look(at(96), 1 << 20, true), "in flight again");
        assert!(!stall.look(at(103), 2 << 20, false));
    }
}
