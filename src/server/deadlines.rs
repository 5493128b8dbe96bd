//! The timeouts of a connection: idle, request head, and a response that the client does not read.
//!
//! hyper has a single timeout, from the start of waiting for a head to its end, so it cannot distinguish an idle keep-alive
//! connection from a head that trickles in. Here they are separate: hyper tells [`HeadTimer`], which is installed as its
//! timer, when it waits for a head, and the transport sees the first byte of it. Both write deadlines into [`Progress`],
//! and the connection's only [`Watchdog`] waits for them. Handlers limit the time of request bodies (`http/body.rs`).
//!
//! Only the kernel knows whether the client receives its response (`stall.rs`). hyper owns the socket and does not lend
//! it, so the question takes a detour: [`Progress::ask`], then a poll of hyper, which calls the transport, which writes
//! the answer into [`Progress`].

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
/// The first byte of a head has arrived since the deadline was last read.
const BEGUN: u64 = u64::MAX - 1;

/// What a connection has done, and its deadlines. Only the polls of one task access it, one after another, so the atomics
/// exist for `Sync` and are relaxed.
#[derive(Debug)]
pub(super) struct Progress {
    clock: Clock,
    /// The origin of the times below.
    opened: Instant,
    header_timeout: Duration,
    /// hyper waits for a head, and none of its bytes has arrived.
    idle: AtomicBool,
    /// Milliseconds since `opened`: the end of the idle time, or of the head's time once the head has begun; `NEVER` while a
    /// request is handled; `BEGUN` until the deadline is read. Most heads arrive complete, so that it is never read, which
    /// saves one clock reading per request.
    head_deadline_ms: AtomicU64,
    /// At least one head was complete.
    had_head: AtomicBool,
    /// The connection was idle with a response that the client has not acknowledged.
    is_lagging: AtomicBool,
    /// Since when the socket has accepted none of the waiting data; `NEVER` while it accepts data.
    blocked_since_ms: AtomicU64,
    /// The transport must write `queues`.
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

    /// hyper waits for a head, and none of its bytes has arrived.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    /// hyper begins to wait for a head.
    fn head_awaited(&self, idle_deadline: Instant) {
        self.idle.store(true, Ordering::Relaxed);
        self.is_lagging.store(false, Ordering::Relaxed);
        self.head_deadline_ms
            .store(self.ms_at(idle_deadline), Ordering::Relaxed);
    }

    /// The head is complete, or hyper no longer waits for one.
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

    /// Starts the time of the first head if the connection has had no request yet.
    pub(super) fn expect_first_head(&self) {
        if self.is_idle() && !self.had_head.load(Ordering::Relaxed) {
            self.head_begun();
        }
    }

    /// Records the outcome of a write or flush of the transport.
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

    /// The socket accepts none of the waiting data.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since_ms.load(Ordering::Relaxed) != NEVER
    }

    /// Asks the transport for the state of the socket's queues. It answers at its next call, which every poll of hyper makes.
    pub(super) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
    }

    /// Called by the transport: answers if it was asked.
    pub(super) fn answer(&self, queues: impl FnOnce() -> Option<Queues>) {
        if self.is_asked.load(Ordering::Relaxed) {
            self.is_asked.store(false, Ordering::Relaxed);
            *self.queues.lock() = queues();
        }
    }

    /// The answer; `None` if the kernel or hyper gave none.
    pub(super) fn take_answer(&self) -> Option<Queues> {
        let mut queues = self.queues.lock();
        match self.is_asked.swap(false, Ordering::Relaxed) {
            true => None,
            false => queues.take(),
        }
    }

    /// The end of the idle time, or of the head's time. Read after every poll, so the time of a head starts with the poll that
    /// received its first byte.
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

    /// Postpones the end of the idle time while the connection is idle.
    fn postpone_idle(&self, deadline: Instant, is_lagging: bool) {
        self.is_lagging.store(is_lagging, Ordering::Relaxed);
        self.head_deadline_ms
            .store(self.ms_at(deadline), Ordering::Relaxed);
    }

    /// Since when the socket has accepted none of the waiting data.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        let ms = self.blocked_since_ms.load(Ordering::Relaxed);
        (ms != NEVER).then(|| self.instant(ms))
    }

    fn instant(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
    }

    /// Rounded up, so that no connection is cut early.
    fn ms_at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.opened);
        // Far below NEVER and the range of Instant: a timeout of more than a year is a year.
        const YEAR_MS: u64 = 365 * 86_400_000;
        u64::try_from(since.as_micros().div_ceil(1000))
            .unwrap_or(YEAR_MS)
            .min(YEAR_MS)
    }
}

/// hyper's timer for `header_read_timeout`, which is set to the idle timeout. hyper requests a sleep when it begins to wait
/// for a head, and drops it when the head is parsed: the two moments that cannot be observed from outside, because a
/// pipelined head arrives in the same read as the body before it. The sleep never ends by itself; the [`Watchdog`] does
/// the waiting, so that a request registers nothing with tokio's timers.
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

    // In place: the default drops the old sleep after it has made the new one, which would end the wait.
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

/// The only timer of a connection. It is moved only if a deadline is earlier than the current one, and checks again when it
/// fires early. So a busy keep-alive connection registers about once per idle timeout, however many requests it has.
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

    /// Ready when `deadline` has passed. Without a deadline, the timer may fire without effect.
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

/// The purpose of a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The head that has begun must be complete.
    Header,
    /// A request must begin.
    Idle,
    /// Time to check what the client has received.
    Look,
}

/// What to do next with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait: the task is woken when something changes.
    Wait,
    /// Poll hyper, so that the transport answers, then check again.
    Ask,
    /// Tell hyper to shut down, then poll it.
    Close,
    /// End the connection.
    Cut(Cut),
}

impl Step {
    /// The next step, if this one is to wait.
    pub(super) fn or_else(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Wait => next(),
            step => step,
        }
    }
}

/// Enforces the timeouts of an HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Guard {
    watchdog: Watchdog,
    idle_timeout: Duration,
    stall: Stall,
    /// When the last checked blocked write began, and when to check it again.
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

    /// Must be called after each poll of hyper.
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

    /// Decides after the transport has answered. The expected event may have happened in the same poll.
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
        // While the client still receives a response, the connection is not idle, even if no data waits in this process.
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

    /// If the kernel does not answer, a blocked write is cut after the timeout.
    fn is_stalled(&mut self, now: Instant, queues: Option<Queues>) -> bool {
        let (acked_bytes, is_in_flight) = queues.map_or((0, true), |queues| {
            (queues.acked_bytes, queues.is_in_flight)
        });
        self.stall.look(now, acked_bytes, is_in_flight)
    }
}

#[cfg(test)]
mod tests;
