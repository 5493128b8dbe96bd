//! Decides whether a peer still takes what it is sent.
//!
//! That the socket takes a byte says little about the peer: with megabytes of send buffer, Linux reports a socket as
//! writable only after a third of it has drained, and a reader of 20 KB/s needs more than a minute for that. So the
//! judgement is made on bytes that the peer acknowledged. It is made from time to time, at [`Stall::looks_every`];
//! between two looks nothing is measured, and so a fast transfer pays nothing.

use std::time::{Duration, Instant};

/// Less than this, on average over the time-out, is no progress: otherwise a byte every 29 s holds a connection
/// for ever. A phone on the worst link still takes several times as much.
const PROGRESS_BYTES_PER_SECOND: u64 = 128;
/// A receiver acknowledges what reaches its kernel, and then may acknowledge nothing until its program has read a
/// part of that. So the patience with a closed window grows with what was acknowledged, as if the program read it
/// at this pace.
const READ_BYTES_PER_SECOND: u64 = 512;
/// The most of that patience, in time-outs. Linux asks a peer with a closed window again after 102, 204 and 324 s,
/// and learns only then that the window is open (measured over loopback: gaps of 101 and 202 s at 1 to 20 KB/s).
/// With the default of 30 s this is 360 s.
const PATIENCE_TIMEOUTS_MAX: u32 = 12;

/// How long a peer that has taken something before may acknowledge nothing of what is on its way to it, in time-outs.
/// TCP sends again after 0.3, 0.6, 1.2 ... s. So a phone that comes out of a tunnel after 20 s is only reached some 38 s
/// after it went in.
const OUTAGE_TIMEOUTS: u32 = 2;

/// The state of one peer, or of one HTTP/2 stream, that owes progress.
#[derive(Debug, Clone)]
pub(super) struct Stall {
    timeout: Duration,
    looked_at: Instant,
    /// What the peer had acknowledged at the last look.
    taken_bytes: u64,
    /// Since when every look found data on the way to the peer and nothing new acknowledged. A single such look says
    /// nothing: a window may just have opened again after a minute.
    in_flight_since: Option<Instant>,
    /// What it had acknowledged when it last made enough progress, and until when that is enough.
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

    /// The time between two looks. A peer is cut at most this much later than it could be.
    pub(super) fn looks_every(&self) -> Duration {
        self.timeout / 4
    }

    /// The peer owes nothing at `now`, or something else holds it up.
    pub(super) fn rest(&mut self, now: Instant) {
        self.in_flight_since = None;
        self.patient_until = self.patient_until.max(now + self.timeout);
    }

    /// Looks at a peer that owes progress: it has taken `taken_bytes` since the beginning. Returns whether it has
    /// stalled. `is_in_flight`: the peer was sent more than that, so it is not its window that holds things up,
    /// and there is no reason to wait longer than an outage may last ([`OUTAGE_TIMEOUTS`]).
    ///
    /// After a time without looks the judgement begins anew: nobody looks while nothing is owed, and a process that
    /// was held up must not cut the clients for it.
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

    /// Looks as often as a server does, at a peer of which `taken` says what it has taken after so many seconds;
    /// returns after how many seconds it is cut, if it is within an hour.
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
    fn cuts_a_peer_that_takes_nothing() {
        assert_eq!(cut_after(true, |_| 0), Some(30));
        assert_eq!(cut_after(false, |_| 0), Some(30));
        // Its kernel has taken something, its program nothing: a first window, and a large one.
        assert_eq!(cut_after(false, |_| 65_536), Some(172));
        assert_eq!(cut_after(false, |_| 6 << 20), Some(367));
        // Or the link has broken in between.
        assert_eq!(cut_after(true, |_| 6 << 20), Some(67));
    }

    #[test]
    fn keeps_steady_readers_however_slow() {
        for pace in [150, 1024, 2048, 5 * 1024, 20 * 1024, 100 * 1024] {
            let steady = |seconds: f64| (seconds * f64::from(pace)) as u64;
            assert_eq!(cut_after(true, steady), None, "{pace} B/s");
        }
        for pace in [1024, 2048, 5 * 1024, 20 * 1024, 100 * 1024] {
            // Seen in steps, as a receive window opens: at once what is read in 200 s.
            let steps = |seconds: f64| ((seconds / 200.0).floor() as u64 + 1) * pace * 200;
            assert_eq!(cut_after(false, steps), None, "{pace} B/s in steps");
        }
    }

    #[test]
    fn keeps_a_peer_through_a_tunnel() {
        // 40 s without a word after every minute.
        let with_outages = |seconds: f64| {
            let reading = (seconds / 100.0).floor() * 60.0 + (seconds % 100.0).min(60.0);
            (reading * 20_480.0) as u64
        };
        assert_eq!(cut_after(true, with_outages), None);
    }

    #[test]
    fn cuts_a_trickle_within_minutes() {
        assert_eq!(
            cut_after(true, |seconds| seconds as u64 / 7),
            Some(30),
            "a byte now and then"
        );
        let later = |seconds: f64| 65_536 + seconds as u64 * 64;
        assert!(cut_after(true, later).is_some_and(|after| after < 400));
    }

    #[test]
    fn begins_anew_after_time_without_looks() {
        let start = Clock::system().monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::new(TIMEOUT, start);
        for seconds in [1000, 1010, 1020, 1029] {
            assert!(!stall.look(at(seconds), 0, true), "{seconds}");
        }
        assert!(stall.look(at(1030), 0, true));
    }

    #[test]
    fn window_that_has_just_opened_is_no_silence() {
        let start = Clock::system().monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stall = Stall::new(TIMEOUT, start);
        assert!(!stall.look(at(1), 1 << 20, true));
        for seconds in (8..90).step_by(7) {
            assert!(!stall.look(at(seconds), 1 << 20, false), "{seconds}");
        }
        assert!(!stall.look(at(96), 1 << 20, true), "on its way again");
        assert!(!stall.look(at(103), 2 << 20, false));
    }
}
