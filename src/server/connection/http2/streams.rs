//! The requests of one HTTP/2 connection: what hyper would have spawned, polled by the connection's own task.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::{Stream as _, stream::FuturesUnordered};
use hyper::rt::Executor;

use crate::time::Clock;

/// All requests of a connection.
pub(super) struct Streams {
    running: FuturesUnordered<StreamTask>,
    shared: Arc<Shared>,
    stall_timeout: Duration,
}

/// What the connection's parts tell each other. All of them run in one task: the locks are never waited for.
struct Shared {
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Handed over by hyper and not polled yet.
    new: Vec<StreamTask>,
    /// Of the request that hyper has just begun and hands over next.
    begun: Option<Arc<AtomicBool>>,
    /// Requests taken back before their answer, and since when they are counted.
    resets: u32,
    resets_since: Option<Instant>,
}

/// One request, or what else hyper hands over.
struct StreamTask {
    /// None once it was given up.
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Its answer is on the way.
    is_answered: Arc<AtomicBool>,
    polled_at: Instant,
    clock: Clock,
    waker: Option<Waker>,
}

impl Streams {
    pub(super) fn new(clock: Clock, stall_timeout: Duration) -> Self {
        let inner = Mutex::default();
        Self {
            running: FuturesUnordered::new(),
            shared: Arc::new(Shared { clock, inner }),
            stall_timeout,
        }
    }

    /// What hyper hands its futures to.
    pub(super) fn executor(&self) -> StreamExecutor {
        // The futures hold it, and are held by what it points to.
        StreamExecutor(Arc::downgrade(&self.shared))
    }

    /// Where requests announce themselves.
    pub(super) fn requests(&self) -> Requests {
        Requests(self.shared.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Lets every request that can go on do so.
    pub(super) fn poll_all(&mut self, cx: &mut Context<'_>) {
        loop {
            let new = std::mem::take(&mut self.shared.lock().new);
            let has_new = !new.is_empty();
            self.running.extend(new);
            let mut running = Pin::new(&mut self.running);
            while let Poll::Ready(Some(())) = running.as_mut().poll_next(cx) {}
            if !has_new {
                return;
            }
        }
    }

    /// Gives up the answers of which the client has taken nothing for too long: its streams are reset.
    pub(super) fn reset_stalled(&mut self, now: Instant) {
        for task in Pin::new(&mut self.running).iter_pin_mut() {
            let task = task.get_mut();
            let is_stalled = now.saturating_duration_since(task.polled_at) >= self.stall_timeout;
            if is_stalled && task.is_answered.load(Ordering::Relaxed) {
                task.work = None;
                if let Some(waker) = task.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Requests that the client took back before their answer, in the second that runs.
    pub(super) fn resets_in_a_second(&self) -> u32 {
        self.shared.lock().resets
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Outside the lock: what is dropped may look for it.
        let new = std::mem::take(&mut self.shared.lock().new);
        drop(new);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(work) = &mut this.work else {
            return Poll::Ready(());
        };
        this.polled_at = this.clock.monotonic();
        match work.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => {
                match &mut this.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    waker => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

/// hyper's executor: it spawns nothing.
#[derive(Clone)]
pub(super) struct StreamExecutor(Weak<Shared>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, work: F) {
        // Where it is gone, so is the connection.
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let clock = shared.clock.clone();
        let polled_at = clock.monotonic();
        let mut inner = shared.lock();
        let is_answered = inner.begun.take().unwrap_or_default();
        inner.new.push(StreamTask {
            work: Some(Box::pin(work)),
            is_answered,
            polled_at,
            clock,
            waker: None,
        });
    }
}

/// Where requests announce themselves.
pub(super) struct Requests(Arc<Shared>);

impl Requests {
    /// hyper has a request and hands it to the executor next.
    pub(super) fn begin(&self) -> UnderWay {
        let is_answered = Arc::<AtomicBool>::default();
        self.0.lock().begun = Some(is_answered.clone());
        UnderWay {
            is_answered,
            shared: self.0.clone(),
        }
    }
}

/// A request without an answer so far. Dropping it means that the client took it back.
pub(super) struct UnderWay {
    is_answered: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl UnderWay {
    pub(super) fn answered(self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.is_answered.load(Ordering::Relaxed) {
            return;
        }
        let now = self.shared.clock.monotonic();
        let mut inner = self.shared.lock();
        let is_over = |since: Instant| now - since >= Duration::from_secs(1);
        if inner.resets_since.is_none_or(is_over) {
            (inner.resets_since, inner.resets) = (Some(now), 0);
        }
        inner.resets += 1;
    }
}
