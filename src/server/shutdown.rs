//! The end of the process: one signal to all that runs, and the owner of background tasks.
//!
//! Connections are not here: the accept loop owns them (`listener.rs`). What is in flight when the grace
//! has passed is dropped, so whatever must not be lost is safe under a drop.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    task::JoinHandle,
};
use tracing::{error, info, warn};

use crate::error::{Error, Result};

/// Take no new connection; answer what comes on the others, and say that it was the last.
const RETIRING: u8 = 1;
/// Finish what runs, begin nothing new.
const DRAINING: u8 = 2;
/// Do not wait for what runs either.
const ABORTED: u8 = 3;
/// How long a retiring server waits for what kept connections may still bring: a client may have sent a request
/// at the very moment when an idle connection is closed, and would not know what became of it.
const RETIREMENT: Duration = Duration::from_secs(5);

/// The wish to stop, shared by all that must hear it. It goes up only: running, retiring, draining, aborted.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // An atomic beside the Notify, so that a connection asks at each wake-up without taking a lock.
    level: AtomicU8,
    /// One for each level: who waits for a later one is not woken by those before, and so need not wait anew.
    reached: [Notify; ABORTED as usize],
    /// Another process serves new connections: nobody waits for the end of this one.
    is_handed_over: AtomicBool,
    hurried: Notify,
}

impl Shutdown {
    /// Nobody has asked to stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the first half of [`Shutdown::trigger`]: no further connection, and each answer the last on its
    /// own. Idle connections stay open.
    pub fn retire(&self) {
        self.raise(RETIRING);
    }

    /// Retires because another process has taken over. Running transfers then have more time, until
    /// [`Shutdown::hurry`].
    pub fn hand_over(&self) {
        self.shared.is_handed_over.store(true, Ordering::Release);
        self.retire();
    }

    /// Ends the time that a handover gives to running transfers: they have what a stop gives them, from now on.
    pub fn hurry(&self) {
        self.shared.is_handed_over.store(false, Ordering::Release);
        self.shared.hurried.notify_waiters();
    }

    /// Waits until running transfers have had their time: `handover_grace` if another process has taken over, or
    /// `shutdown_grace`.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn grace_over(&self, shutdown_grace: Duration, handover_grace: Duration) {
        // Made before the flag is read, as in `reached`.
        let hurried = self.shared.hurried.notified();
        if self.shared.is_handed_over.load(Ordering::Acquire) {
            tokio::select! {
                () = hurried => {}
                () = tokio::time::sleep(handover_grace) => return,
            }
        }
        tokio::time::sleep(shutdown_grace).await;
    }

    /// Asks everyone to finish what they do and to begin nothing new. Again does nothing.
    pub fn trigger(&self) {
        self.raise(DRAINING);
    }

    /// Ends the grace too: what runs is dropped where it stands. Includes [`Shutdown::trigger`].
    pub fn abort(&self) {
        self.raise(ABORTED);
    }

    /// Whether the end was asked for, in whichever form. Costs one atomic load.
    pub fn is_triggered(&self) -> bool {
        self.shared.level.load(Ordering::Acquire) >= RETIRING
    }

    /// Waits until the end is asked for, in whichever form; at once if it was before.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn triggered(&self) {
        self.reached(RETIRING).await;
    }

    /// Whether idle connections are to close. Costs one atomic load.
    pub fn is_draining(&self) -> bool {
        self.shared.level.load(Ordering::Acquire) >= DRAINING
    }

    /// Waits for [`Shutdown::trigger`]; at once if it was called before.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn draining(&self) {
        self.reached(DRAINING).await;
    }

    /// Turns a retirement into a drain, 5 s after it began. Ends then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the retirement as it is.
    pub async fn end_retirement(&self) {
        self.triggered().await;
        tokio::time::sleep(RETIREMENT).await;
        self.trigger();
    }

    /// Waits for [`Shutdown::abort`]; at once if it was called before.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn aborted(&self) {
        self.reached(ABORTED).await;
    }

    fn raise(&self, level: u8) {
        self.shared.level.fetch_max(level, Ordering::AcqRel);
        for reached in &self.shared.reached[..usize::from(level)] {
            reached.notify_waiters();
        }
    }

    async fn reached(&self, level: u8) {
        loop {
            // Made before the level is read: `notify_waiters` completes every `Notified` that exists by then.
            let reached = self.shared.reached[usize::from(level) - 1].notified();
            if self.shared.level.load(Ordering::Acquire) >= level {
                return;
            }
            reached.await;
        }
    }
}

/// Turns SIGTERM and SIGINT into a shutdown: SIGTERM retires, SIGINT triggers, a second one aborts the grace.
///
/// The handlers are installed by the call; the future does the rest and ends after the second signal, so
/// drive it beside the server (`select!`), not as a task that the end waits for. Once installed, these
/// signals have no other effect on the process, even after the future is dropped.
///
/// # Errors
/// `Internal` where the system refuses the handlers. Must be called within the runtime.
pub fn on_signals(shutdown: Shutdown) -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    Ok(async move {
        let name = next_signal(&mut terminate, &mut interrupt).await;
        info!(
            signal = name,
            "stopping: running transfers may finish, a second signal ends them"
        );
        shutdown.hurry();
        match name {
            TERMINATE => shutdown.retire(),
            _ => shutdown.trigger(),
        }
        let name = next_signal(&mut terminate, &mut interrupt).await;
        warn!(signal = name, "stopping now");
        shutdown.abort();
    })
}

/// Calls `work` at each SIGHUP, one after another. The handler is installed by the call; the future never ends.
///
/// # Errors
/// `Internal` where the system refuses the handler. Must be called within the runtime.
pub fn on_hangup(work: impl AsyncFn()) -> Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::internal)?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            work().await;
        }
    })
}

const TERMINATE: &str = "SIGTERM";

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => TERMINATE,
        _ = interrupt.recv() => "SIGINT",
    }
}

/// The background tasks of the process. Their number is what the program's start writes out, a handful;
/// nothing that a client causes is spawned here.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
}

impl Tasks {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that [`Tasks::join`] awaits. It should end by itself soon after the shutdown is
    /// triggered. If it panics, that is logged with its name when it happens, and nothing else stops.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // Nothing of the task is looked at after a panic, so no broken state can be seen.
        let task = AssertUnwindSafe(task).catch_unwind();
        // The one place that spawns: the handle is kept, and `join` awaits it.
        #[allow(clippy::disallowed_methods)]
        let handle = tokio::spawn(async move {
            if task.await.is_err() {
                error!(task = name, "background task panicked");
            }
        });
        self.tasks.push(Task { name, handle });
    }

    /// Waits until all have ended, together for at most `grace`, then aborts and awaits the rest.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the tasks running without an owner: only the process's end follows it.
    pub async fn join(mut self, grace: Duration) {
        let all = async {
            for task in &mut self.tasks {
                // A panic was logged where it happened, and nobody aborts before this ends.
                let _ = (&mut task.handle).await;
            }
        };
        if tokio::time::timeout(grace, all).await.is_ok() {
            return;
        }
        for task in self.tasks.iter().filter(|task| !task.handle.is_finished()) {
            warn!(
                task = task.name,
                "background task did not end in time, aborted"
            );
            task.handle.abort();
        }
        for task in self.tasks {
            // A handle must not be awaited a second time, and one that has ended needs no waiting.
            if !task.handle.is_finished() {
                let _ = task.handle.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test]
    async fn everyone_hears_a_trigger_before_and_after_it_comes() {
        let shutdown = Shutdown::new();
        let early = shutdown.triggered();
        let mut early = std::pin::pin!(early);
        assert!(early.as_mut().now_or_never().is_none() && !shutdown.is_triggered());
        shutdown.clone().trigger();
        early.await;
        shutdown.triggered().await;
        assert!(shutdown.is_triggered());
        assert!(shutdown.aborted().now_or_never().is_none());
        shutdown.abort();
        shutdown.aborted().await;
    }

    #[tokio::test]
    async fn tasks_are_awaited_and_a_panic_or_a_stuck_one_does_not_hold_the_end() {
        let shutdown = Shutdown::new();
        let ended = Arc::new(AtomicU32::new(0));
        let mut tasks = Tasks::new();
        let (heard, count) = (shutdown.clone(), ended.clone());
        tasks.spawn("listens", async move {
            heard.triggered().await;
            tokio::task::yield_now().await;
            count.fetch_add(1, Ordering::Relaxed);
        });
        tasks.spawn("panics", async { panic!("expected by the test") });
        tasks.spawn("stuck", std::future::pending());
        // Printing a panic with its stack can take longer than the grace below.
        while !tasks.tasks[1].handle.is_finished() {
            tokio::task::yield_now().await;
        }
        shutdown.trigger();
        tasks.join(Duration::from_millis(50)).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
}
