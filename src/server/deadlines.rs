//! When a silent peer has used up its time.
//!
//! hyper has one time-out, from the start of waiting for a head to its end, so it cannot tell an idle
//! keep-alive connection from a head that trickles. Here they are told apart: [`HeadTimer`], installed as
//! hyper's timer, learns from hyper itself when it waits for a head; the transport sees the first byte of
//! it. Both only write deadlines into [`Progress`]; the connection's one [`Watchdog`] waits for them.
//! How long a request's body may take is the handler's to bound.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

use crate::time::Clock;

/// No deadline.
const NEVER: u64 = u64::MAX;
/// The first byte of a head has come since the last look at the deadline.
const BEGUN: u64 = u64::MAX - 1;

/// What a connection has done and by when it must do more. All accesses are from the polls of one task,
/// one after another, so the atomics are there for `Sync` and are relaxed.
#[derive(Debug)]
pub(super) struct Progress {
    clock: Clock,
    /// The zero of the deadlines below.
    opened: Instant,
    header_timeout: Duration,
    write_stall_timeout: Duration,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    /// hyper waits for a head of which no byte has come.
    idle: AtomicBool,
    /// Milliseconds since `opened`: the end of the idle time, or of the head's once it has begun; `NEVER`
    /// while a request is handled; `BEGUN` until somebody asks when the head must end. Most heads come whole,
    /// and then nobody asks: a request costs one reading of the clock less.
    head_deadline_ms: AtomicU64,
    /// The same for the next byte that the socket must take; `NEVER` while it takes what it is given.
    write_deadline_ms: AtomicU64,
}

/// Why a connection was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// No request within the idle time.
    Idle,
    /// A head that began and did not end in time.
    Header,
    /// The peer took no byte of the answer in time.
    WriteStall,
    /// The peer took back more requests in a second than it may.
    Resets,
}

impl Progress {
    pub(super) fn new(
        clock: Clock,
        header_timeout: Duration,
        write_stall_timeout: Duration,
    ) -> Self {
        Self {
            opened: clock.monotonic(),
            clock,
            header_timeout,
            write_stall_timeout,
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            head_deadline_ms: AtomicU64::new(NEVER),
            write_deadline_ms: AtomicU64::new(NEVER),
        }
    }

    /// Bytes read from the socket so far.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that the socket took so far.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// A request is being read or answered.
    pub(super) fn is_busy(&self) -> bool {
        self.head_deadline_ms.load(Ordering::Relaxed) == NEVER
    }

    /// hyper waits for a head from now on; nothing of it has come.
    fn head_awaited(&self, idle_deadline: Instant) {
        self.idle.store(true, Ordering::Relaxed);
        self.head_deadline_ms
            .store(self.ms_at(idle_deadline), Ordering::Relaxed);
    }

    /// The head is complete, or nobody waits for it any more.
    fn head_ended(&self) {
        self.idle.store(false, Ordering::Relaxed);
        self.head_deadline_ms.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        if self.idle.load(Ordering::Relaxed) {
            self.idle.store(false, Ordering::Relaxed);
            self.head_deadline_ms.store(BEGUN, Ordering::Relaxed);
        }
    }

    pub(super) fn sent(&self, outcome: &Poll<io::Result<usize>>) {
        let pending = self.write_deadline_ms.load(Ordering::Relaxed) != NEVER;
        match outcome {
            Poll::Ready(Ok(bytes)) => {
                self.sent_bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
                if pending {
                    self.write_deadline_ms.store(NEVER, Ordering::Relaxed);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if pending => {}
            Poll::Pending => {
                let deadline = self.clock.monotonic() + self.write_stall_timeout;
                self.write_deadline_ms
                    .store(self.ms_at(deadline), Ordering::Relaxed);
            }
        }
    }

    /// The nearest moment at which the connection must be cut unless something happens before. Asked after
    /// every poll, so a head is timed from the poll that brought its first byte.
    pub(super) fn deadline(&self) -> Option<(Instant, Cut)> {
        let mut head_ms = self.head_deadline_ms.load(Ordering::Relaxed);
        if head_ms == BEGUN {
            head_ms = self.ms_at(self.clock.monotonic() + self.header_timeout);
            self.head_deadline_ms.store(head_ms, Ordering::Relaxed);
        }
        let write_ms = self.write_deadline_ms.load(Ordering::Relaxed);
        let (ms, cut) = if write_ms <= head_ms {
            (write_ms, Cut::WriteStall)
        } else if self.idle.load(Ordering::Relaxed) {
            (head_ms, Cut::Idle)
        } else {
            (head_ms, Cut::Header)
        };
        (ms != NEVER).then(|| (self.opened + Duration::from_millis(ms), cut))
    }

    /// Rounded up: a connection is never cut early.
    fn ms_at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.opened);
        // Far below NEVER and far below what Instant can hold: a time-out longer than a year is a year.
        const YEAR_MS: u64 = 365 * 86_400_000;
        u64::try_from(since.as_micros().div_ceil(1000))
            .unwrap_or(YEAR_MS)
            .min(YEAR_MS)
    }
}

/// hyper's timer for `header_read_timeout`, set to the idle time-out. hyper asks for a sleep when it begins
/// to wait for a head and drops it when the head is parsed: exactly the two moments that cannot be seen
/// from outside (a pipelined head comes in the same read as the body before it). The sleep itself never
/// ends; the [`Watchdog`] does the waiting, so that a request costs no registration with tokio's timers.
#[derive(Debug, Clone)]
pub(super) struct HeadTimer(pub(super) Arc<Progress>);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.head_awaited(deadline);
        Box::pin(HeadWait(self.0.clone()))
    }

    fn now(&self) -> Instant {
        self.0.clock.monotonic()
    }

    // In place: the default drops the old sleep after the new one is made, which would end the wait.
    fn reset(&self, _sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.0.head_awaited(deadline);
    }
}

struct HeadWait(Arc<Progress>);

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for HeadWait {}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.0.head_ended();
    }
}

/// The one timer of a connection. It is moved only when a deadline comes nearer than what it is set to,
/// and looks again when it fires early: a keep-alive connection that is busy re-registers about once per
/// idle time-out, however many requests it carries.
#[derive(Debug)]
pub(super) struct Watchdog {
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl Watchdog {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep_until(deadline.into())),
        }
    }

    /// Ready when `deadline` has passed. With none, the timer may be left to fire for nothing.
    pub(super) fn poll_passed(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> Poll<()> {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else {
            return Poll::Pending;
        };
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
