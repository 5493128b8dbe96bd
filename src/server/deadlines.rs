//! The time-outs of a connection: idle, request head, and an answer that the client does not take.
//!
//! hyper has one time-out, from the start of waiting for a head to its end, so it cannot tell an idle keep-alive
//! connection from a head that trickles. Here they are told apart: [`HeadTimer`], installed as hyper's timer, learns
//! from hyper when it waits for a head; the transport sees the first byte of it. Both write deadlines into
//! [`Progress`], and the connection's one [`Watchdog`] waits for them. How long a request's body may take is up to
//! the handler (`http/body.rs`).
//!
//! Whether the client takes its answer, only the kernel knows (`stall.rs`). hyper owns the socket and does not lend
//! it, so the question goes round: [`Progress::ask`], then a poll of hyper, in which the transport is called and
//! writes the answer into [`Progress`].

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

use super::{socket::Queues, stall::Stall};
use crate::{metrics::ConnectionCut as Cut, time::Clock};

/// No deadline.
const NEVER: u64 = u64::MAX;
/// The first byte of a head has come since the last look at the deadline.
const BEGUN: u64 = u64::MAX - 1;

/// What a connection has done and by when it must do more. All accesses are from the polls of one task,
/// one after another, so the atomics are there for `Sync` and are relaxed.
#[derive(Debug)]
pub(super) struct Progress {
    clock: Clock,
    /// The zero of the times below.
    opened: Instant,
    header_timeout: Duration,
    /// hyper waits for a head of which no byte has come.
    idle: AtomicBool,
    /// Milliseconds since `opened`: the end of the idle time, or of the head's once it has begun; `NEVER`
    /// while a request is handled; `BEGUN` until the deadline is asked for. Most heads come whole, and then it never
    /// is: a request costs one reading of the clock less.
    head_deadline_ms: AtomicU64,
    /// A head was complete.
    had_head: AtomicBool,
    /// The connection was found idle with an answer that the client has not acknowledged.
    is_lagging: AtomicBool,
    /// Since when the socket has taken nothing of what waits for it; `NEVER` while it takes what it is given.
    blocked_since_ms: AtomicU64,
    /// The transport is to write `queues`.
    is_asked: AtomicBool,
    queues: Mutex<Option<Queues>>,
}

impl Progress {
    pub(super) fn new(clock: Clock, header_timeout: Duration) -> Self {
        Self {
            opened: clock.monotonic(),
            clock,
            header_timeout,
            idle: AtomicBool::new(false),
            head_deadline_ms: AtomicU64::new(NEVER),
            had_head: AtomicBool::new(false),
            is_lagging: AtomicBool::new(false),
            blocked_since_ms: AtomicU64::new(NEVER),
            is_asked: AtomicBool::new(false),
            queues: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.monotonic()
    }

    /// A request is being read or answered.
    pub(super) fn is_busy(&self) -> bool {
        self.head_deadline_ms.load(Ordering::Relaxed) == NEVER
    }

    /// hyper waits for a head of which no byte has come.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    /// hyper waits for a head from now on; nothing of it has come.
    fn head_awaited(&self, idle_deadline: Instant) {
        self.idle.store(true, Ordering::Relaxed);
        self.is_lagging.store(false, Ordering::Relaxed);
        self.head_deadline_ms
            .store(self.ms_at(idle_deadline), Ordering::Relaxed);
    }

    /// The head is complete, or hyper does not wait for one any more.
    fn head_ended(&self) {
        self.idle.store(false, Ordering::Relaxed);
        self.had_head.store(true, Ordering::Relaxed);
        self.head_deadline_ms.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        if bytes > 0 && self.idle.load(Ordering::Relaxed) {
            self.head_begun();
        }
    }

    fn head_begun(&self) {
        self.idle.store(false, Ordering::Relaxed);
        self.head_deadline_ms.store(BEGUN, Ordering::Relaxed);
    }

    /// If the connection has had no request so far, times the first one as if it had begun.
    pub(super) fn expect_first_head(&self) {
        if self.is_idle() && !self.had_head.load(Ordering::Relaxed) {
            self.head_begun();
        }
    }

    /// The transport was given something to write, or to flush.
    pub(super) fn wrote<T>(&self, outcome: &Poll<T>) {
        let is_blocked = self.is_blocked();
        match outcome {
            Poll::Ready(_) if is_blocked => self.blocked_since_ms.store(NEVER, Ordering::Relaxed),
            Poll::Pending if !is_blocked => {
                let now_ms = self.ms_at(self.now());
                self.blocked_since_ms.store(now_ms, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// The socket takes nothing of what waits for it.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since_ms.load(Ordering::Relaxed) != NEVER
    }

    /// Asks the transport for the socket's queues; it answers when it is next called, which every poll of hyper
    /// does.
    pub(super) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
    }

    /// Called by the transport: what the answer is where it was asked for.
    pub(super) fn answer(&self, queues: impl FnOnce() -> Option<Queues>) {
        if self.is_asked.load(Ordering::Relaxed) {
            self.is_asked.store(false, Ordering::Relaxed);
            *self.queues.lock() = queues();
        }
    }

    /// The answer; `None` where the kernel or hyper did not give one.
    pub(super) fn take_answer(&self) -> Option<Queues> {
        let mut queues = self.queues.lock();
        match self.is_asked.swap(false, Ordering::Relaxed) {
            true => None,
            false => queues.take(),
        }
    }

    /// The end of the idle time, or of the head's. Asked after every poll, so a head is timed from the poll that
    /// brought its first byte.
    fn head_deadline(&self) -> Option<(Instant, Due)> {
        let mut ms = self.head_deadline_ms.load(Ordering::Relaxed);
        if ms == BEGUN {
            ms = self.ms_at(self.now() + self.header_timeout);
            self.head_deadline_ms.store(ms, Ordering::Relaxed);
        }
        let due = match self.is_idle() {
            true => Due::Idle,
            false => Due::Header,
        };
        (ms != NEVER).then(|| (self.instant(ms), due))
    }

    /// Moves the end of the idle time, as long as the connection is idle.
    fn postpone_idle(&self, deadline: Instant, is_lagging: bool) {
        self.is_lagging.store(is_lagging, Ordering::Relaxed);
        self.head_deadline_ms
            .store(self.ms_at(deadline), Ordering::Relaxed);
    }

    /// Since when the socket has taken nothing of what waits for it.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        let ms = self.blocked_since_ms.load(Ordering::Relaxed);
        (ms != NEVER).then(|| self.instant(ms))
    }

    fn instant(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
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
        self.0.now()
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

/// What a passed deadline was set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// A head that began must be complete.
    Header,
    /// A request must begin.
    Idle,
    /// Time to see what the client has taken.
    Look,
}

/// What to do next for an HTTP/1 connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the task is woken when that changes.
    Wait,
    /// Poll hyper, so that the transport answers, then [`Guard::poll`] again.
    Ask,
    /// End the connection.
    Cut(Cut),
}

/// Enforces the time-outs of an HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Guard {
    watchdog: Watchdog,
    idle_timeout: Duration,
    stall: Stall,
    /// The blocked write that was looked at last (by its beginning), and when to look again.
    looked: Option<(Instant, Instant)>,
    asked: Option<Due>,
}

impl Guard {
    pub(super) fn new(
        watchdog: Watchdog,
        progress: &Progress,
        idle_timeout: Duration,
        write_stall_timeout: Duration,
    ) -> Self {
        Self {
            watchdog,
            idle_timeout,
            stall: Stall::new(write_stall_timeout, progress.now()),
            looked: None,
            asked: None,
        }
    }

    /// To be called after each poll of hyper.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Step {
        if let Some(due) = self.asked.take()
            && let Some(cut) = self.judge(due, progress)
        {
            return Step::Cut(cut);
        }
        let deadline = self.deadline(progress);
        let passed = self.watchdog.poll_passed(cx, deadline.map(|(at, _)| at));
        match (passed, deadline) {
            (Poll::Ready(()), Some((_, Due::Header))) => Step::Cut(Cut::Header),
            (Poll::Ready(()), Some((_, due))) => {
                progress.ask();
                self.asked = Some(due);
                Step::Ask
            }
            _ => Step::Wait,
        }
    }

    fn deadline(&self, progress: &Progress) -> Option<(Instant, Due)> {
        let head = progress.head_deadline();
        let Some(since) = progress.blocked_since() else {
            return head;
        };
        let look = match self.looked {
            Some((looked, again)) if looked == since => again,
            _ => since + self.stall.looks_every(),
        };
        match head {
            Some((at, due)) if at < look => Some((at, due)),
            _ => Some((look, Due::Look)),
        }
    }

    /// After the transport has answered. What was due may have come in the same poll.
    fn judge(&mut self, due: Due, progress: &Progress) -> Option<Cut> {
        let now = progress.now();
        let queues = progress.take_answer();
        if let Some(since) = progress.blocked_since() {
            let again = now + self.stall.looks_every();
            self.looked = Some((since, again));
            if due == Due::Idle && progress.is_idle() {
                progress.postpone_idle(again, true);
            }
            return self.is_stalled(now, queues).then_some(Cut::WriteStall);
        }
        if due != Due::Idle || !progress.is_idle() {
            return None;
        }
        // An answer that the client still takes is no idleness, although nothing of it waits in this process.
        let is_lagging = queues.is_some_and(|queues| queues.unacked_bytes > 0);
        let was_lagging = progress.is_lagging.load(Ordering::Relaxed);
        match (was_lagging, is_lagging) {
            (false, false) => return Some(Cut::Idle),
            (true, false) => progress.postpone_idle(now + self.idle_timeout, false),
            (_, true) => {
                if self.is_stalled(now, queues) {
                    return Some(Cut::WriteStall);
                }
                progress.postpone_idle(now + self.stall.looks_every(), true);
            }
        }
        None
    }

    /// Where the kernel does not say, a blocked write is cut after the time-out.
    fn is_stalled(&mut self, now: Instant, queues: Option<Queues>) -> bool {
        let (acked_bytes, is_in_flight) = queues.map_or((0, true), |queues| {
            (queues.acked_bytes, queues.is_in_flight)
        });
        self.stall.look(now, acked_bytes, is_in_flight)
    }
}

#[cfg(test)]
mod tests;
