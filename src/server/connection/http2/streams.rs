//! The requests of one HTTP/2 connection: what hyper would have spawned, polled by the connection's own task.

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

/// Ended requests that are kept until the next look. Above the number of streams that a client may have open: only
/// that many can really wait.
const ENDED_MAX: usize = 2 * STREAMS_MAX as usize;

/// All requests of a connection.
pub(super) struct Streams {
    running: FuturesUnordered<StreamTask>,
    /// Answers that hyper has given away as a whole, while their last bytes still wait for the client's windows.
    /// At most as many as the client may have streams open.
    leaving: Vec<(Arc<Flow>, StreamStall)>,
    shared: Arc<Shared>,
}

/// What the connection's parts tell each other. All of them run in one task: the locks are never waited for.
struct Shared {
    clock: Clock,
    stall_timeout: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Handed over by hyper and not polled yet.
    new: Vec<StreamTask>,
    /// Of the request that hyper has just begun and hands over next.
    begun: Option<Arc<Flow>>,
    /// Of requests that have just ended while bytes of their answers wait.
    ended: Vec<(Arc<Flow>, StreamStall)>,
    /// Requests taken back before their answer, and since when they are counted.
    resets: u32,
    resets_since: Option<Instant>,
}

/// One request, or what else hyper hands over.
struct StreamTask {
    /// None once it was given up.
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

    /// What hyper hands its futures to.
    pub(super) fn executor(&self) -> StreamExecutor {
        // The futures hold it, and are held by what it points to.
        StreamExecutor(Arc::downgrade(&self.shared))
    }

    /// Where requests announce themselves.
    pub(super) fn requests(&self) -> Requests {
        Requests(self.shared.clone())
    }

    /// Requests that are not answered as far as hyper is concerned.
    pub(super) fn len(&self) -> usize {
        self.running.len()
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

    /// Looks at all answers that wait for the client, and resets the streams of those that it does not take. Returns
    /// how many, and whether there are some that cannot be reset, because hyper has given them away as a whole: then
    /// the connection has to end.
    pub(super) fn look(&mut self, mut line: Line) -> (u64, bool) {
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
        // All are looked at: no short cut.
        let hopeless = looks.filter_map(|(flow, stall)| stall.look(flow, line).then_some(()));
        (resets, hopeless.count() > 0)
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
        self.inner.lock()
    }
}

impl Inner {
    /// Nearly every answer ends here while its last bytes wait for the next poll of hyper, so those that have left are
    /// sorted out from time to time.
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

/// hyper's executor: it spawns nothing.
#[derive(Clone)]
pub(super) struct StreamExecutor(Weak<Shared>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, work: F) {
        // Where it is gone, so is the connection.
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

/// Where requests announce themselves.
pub(super) struct Requests(Arc<Shared>);

impl Requests {
    /// hyper has a request and hands it to the executor next.
    pub(super) fn begin(&self) -> (UnderWay, Arc<Flow>) {
        let flow = Arc::<Flow>::default();
        self.0.lock().begun = Some(flow.clone());
        let under_way = UnderWay {
            is_answered: false,
            shared: self.0.clone(),
        };
        (under_way, flow)
    }
}

/// A request without an answer so far. Dropping it means that the client took it back.
pub(super) struct UnderWay {
    is_answered: bool,
    shared: Arc<Shared>,
}

impl UnderWay {
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for UnderWay {
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
