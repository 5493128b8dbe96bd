//! Runs the requests of one HTTP/2 connection: the futures that hyper would spawn are polled by the connection's task.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::{Stream as _, stream::FuturesUnordered};
use hyper::rt::Executor;
use parking_lot::{Mutex, MutexGuard};

use super::{
    STREAMS_MAX,
    flow::{Flow, Line, StreamStall},
};
use crate::time::Clock;

/// Ended requests that are kept until the next check. Above the number of streams that a client may have open, since only
/// so many can have unsent data.
const ENDED_MAX: usize = 2 * STREAMS_MAX as usize;

/// All requests of a connection.
pub(super) struct Streams {
    running: FuturesUnordered<StreamTask>,
    /// Responses that hyper has passed to h2 completely, while their last bytes wait for the client's windows. At most as
    /// many as the client may have streams open.
    leaving: Vec<(Arc<Flow>, StreamStall)>,
    shared: Arc<Shared>,
}

/// Result of a check of all streams.
pub(super) struct Looked {
    /// Streams that were reset.
    pub(super) resets: u64,
    /// Some stalled streams cannot be reset, because hyper has passed their response to h2 completely. The connection must
    /// end.
    pub(super) has_stalled_for_good: bool,
}

/// State shared by the parts of a connection. They run in one task, so the lock is never contended.
struct Shared {
    clock: Clock,
    stall_timeout: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Futures from hyper that were not polled yet.
    new: Vec<StreamTask>,
    /// The flow of the request whose future hyper will pass to the executor next.
    begun: Option<Arc<Flow>>,
    /// Requests that have ended while bytes of their responses wait.
    ended: Vec<(Arc<Flow>, StreamStall)>,
    /// Requests that were cancelled before their response, and since when they are counted.
    resets: u32,
    resets_since: Option<Instant>,
}

/// One request, or another future of hyper.
struct StreamTask {
    /// `None` once the stream was given up.
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    flow: Arc<Flow>,
    stall: StreamStall,
    shared: Weak<Shared>,
    waker: Option<Waker>,
}

impl Streams {
    pub(super) fn new(clock: Clock, stall_timeout: Duration) -> Self {
        Self {
            running: FuturesUnordered::new(),
            leaving: Vec::new(),
            shared: Arc::new(Shared {
                clock,
                stall_timeout,
                inner: Mutex::default(),
            }),
        }
    }

    /// hyper's executor.
    pub(super) fn executor(&self) -> StreamExecutor {
        // Weak, because the shared state owns futures that hold the executor.
        StreamExecutor(Arc::downgrade(&self.shared))
    }

    /// Registers new requests.
    pub(super) fn requests(&self) -> Requests {
        Requests(self.shared.clone())
    }

    /// Requests that hyper has not finished.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// Polls all requests that can make progress.
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

    /// Checks all responses that wait for the client, and resets the streams that have stalled.
    pub(super) fn look(&mut self, mut line: Line) -> Looked {
        self.leaving.append(&mut self.shared.lock().ended);
        self.leaving.retain(|(flow, _)| flow.is_waiting());
        let running = Pin::new(&mut self.running);
        let waiting = running.iter_pin_mut().filter(|task| task.flow.is_waiting());
        line.waiting_streams = self.leaving.len() + waiting.count();
        let mut resets = 0;
        for task in Pin::new(&mut self.running).iter_pin_mut() {
            let task = task.get_mut();
            if task.stall.look(&task.flow, line) && task.work.take().is_some() {
                resets += 1;
                if let Some(waker) = task.waker.take() {
                    waker.wake();
                }
            }
        }
        let looks = self.leaving.iter_mut();
        // `any` would stop at the first one, but all must be checked.
        let hopeless = looks.filter_map(|(flow, stall)| stall.look(flow, line).then_some(()));
        Looked {
            resets,
            has_stalled_for_good: hopeless.count() > 0,
        }
    }

    /// Requests that the client cancelled before their response within the current second.
    pub(super) fn resets_in_a_second(&self) -> u32 {
        self.shared.lock().resets
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Dropped without the lock, because dropping a future may take it.
        let new = std::mem::take(&mut self.shared.lock().new);
        drop(new);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    /// Nearly every response comes here while its last bytes wait for the next poll of hyper, so those that were sent
    /// meanwhile are removed from time to time.
    fn keep(&mut self, ended: (Arc<Flow>, StreamStall)) {
        if self.ended.len() >= ENDED_MAX {
            self.ended.retain(|(flow, _)| flow.is_waiting());
        }
        self.ended.push(ended);
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(work) = &mut this.work else {
            return Poll::Ready(());
        };
        match work.as_mut().poll(cx) {
            Poll::Ready(()) => {
                if this.flow.is_waiting()
                    && let Some(shared) = this.shared.upgrade()
                {
                    let ended = (this.flow.clone(), this.stall.clone());
                    shared.lock().keep(ended);
                }
                Poll::Ready(())
            }
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

/// hyper's executor. It spawns nothing.
#[derive(Clone)]
pub(super) struct StreamExecutor(Weak<Shared>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, work: F) {
        // Without the shared state there is no connection any more.
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let stall = StreamStall::new(shared.stall_timeout, shared.clock.monotonic());
        let mut inner = shared.lock();
        let flow = inner.begun.take().unwrap_or_default();
        inner.new.push(StreamTask {
            work: Some(Box::pin(work)),
            flow,
            stall,
            shared: self.0.clone(),
            waker: None,
        });
    }
}

/// Registers new requests.
pub(super) struct Requests(Arc<Shared>);

impl Requests {
    /// Registers the request whose future hyper passes to the executor next.
    pub(super) fn begin(&self) -> (Unanswered, Arc<Flow>) {
        let flow = Arc::<Flow>::default();
        self.0.lock().begun = Some(flow.clone());
        let unanswered = Unanswered {
            is_answered: false,
            shared: self.0.clone(),
        };
        (unanswered, flow)
    }
}

/// A request that is not answered yet. Dropping it means that the client cancelled the request.
pub(super) struct Unanswered {
    is_answered: bool,
    shared: Arc<Shared>,
}

impl Unanswered {
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.is_answered {
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
