//! Stops the process: one signal that everything observes, signal handlers, and the owner of background tasks.
//!
//! The accept loop owns the connections (`listener.rs`). Work in progress is dropped when the grace period has passed, so
//! everything that must not be lost is safe when it is dropped.

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

/// Accept no new connection. Answer requests on open connections, and tell clients that each response is the last.
const RETIRING: u8 = 1;
/// Finish work in progress and start nothing new.
const DRAINING: u8 = 2;
/// Drop work in progress too.
const ABORTED: u8 = 3;
/// How long a retiring server waits for requests on idle connections: a client may have sent one at the moment when an idle
/// connection is closed, and could not know whether it was processed.
const RETIREMENT: Duration = Duration::from_secs(5);

/// The shutdown state, shared by everything that must observe it. It only advances: running, retiring, draining, aborted.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // An atomic besides the Notify, so that a connection reads the state at each wake-up without a lock.
    level: AtomicU8,
    /// One for each level, so that a task which waits for a later level is not woken by earlier ones.
    reached: [Notify; ABORTED as usize],
    /// Another process serves new connections, so this one may take longer to end.
    is_handed_over: AtomicBool,
    hurried: Notify,
}

impl Shutdown {
    /// Nothing was requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the first half of [`Shutdown::trigger`]: no new connections, and each response is the last on its connection.
    /// Idle connections stay open.
    pub fn retire(&self) {
        self.raise(RETIRING);
    }

    /// Retires after a handover to another process. Running transfers have more time, until [`Shutdown::hurry`].
    pub(super) fn hand_over(&self) {
        self.shared.is_handed_over.store(true, Ordering::Release);
        self.retire();
    }

    /// Ends the longer time of a handover: running transfers have the time of an ordinary stop from now on.
    fn hurry(&self) {
        self.shared.is_handed_over.store(false, Ordering::Release);
        self.shared.hurried.notify_waiters();
    }

    /// Waits for the end of the grace period: `handover_grace` after a handover to another process, else `shutdown_grace`.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn grace_over(&self, shutdown_grace: Duration, handover_grace: Duration) {
        // Created before the flag is read, as in `reached`.
        let hurried = self.shared.hurried.notified();
        if self.shared.is_handed_over.load(Ordering::Acquire) {
            tokio::select! {
                () = hurried => {}
                () = tokio::time::sleep(handover_grace) => return,
            }
        }
        tokio::time::sleep(shutdown_grace).await;
    }

    /// Requests that everything finishes its work and starts nothing new. Idempotent.
    pub fn trigger(&self) {
        self.raise(DRAINING);
    }

    /// Also ends the grace period: work in progress is dropped. Includes [`Shutdown::trigger`].
    pub fn abort(&self) {
        self.raise(ABORTED);
    }

    /// Whether a stop was requested in any form. Costs one atomic load.
    pub(super) fn is_triggered(&self) -> bool {
        self.shared.level.load(Ordering::Acquire) >= RETIRING
    }

    /// Waits until a stop is requested in any form; returns at once if it was.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn triggered(&self) {
        self.reached(RETIRING).await;
    }

    /// Whether idle connections must close. Costs one atomic load.
    pub(super) fn is_draining(&self) -> bool {
        self.shared.level.load(Ordering::Acquire) >= DRAINING
    }

    /// Waits for [`Shutdown::trigger`]; returns at once if it was called.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn draining(&self) {
        self.reached(DRAINING).await;
    }

    /// Waits for a retirement and turns it into a drain 5 s later.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the retirement as it is.
    pub(super) async fn end_retirement(&self) {
        self.triggered().await;
        tokio::time::sleep(RETIREMENT).await;
        self.trigger();
    }

    /// Waits for [`Shutdown::abort`]; returns at once if it was called.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn aborted(&self) {
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
            // Created before the level is read: `notify_waiters` completes every `Notified` that exists at that time.
            let reached = self.shared.reached[usize::from(level) - 1].notified();
            if self.shared.level.load(Ordering::Acquire) >= level {
                return;
            }
            reached.await;
        }
    }
}

/// Turns SIGTERM and SIGINT into a shutdown: SIGTERM retires, SIGINT triggers, and a second signal aborts the grace period.
///
/// The call installs the handlers. The future does the rest and ends after the second signal, so run it beside the server
/// (`select!`), not as a task that the shutdown waits for. Once installed, these signals have no other effect on the
/// process, even after the future is dropped.
///
/// # Errors
/// `Internal` if the system refuses the handlers. Must be called within the runtime.
pub fn on_signals(shutdown: Shutdown) -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    Ok(async move {
        let name = next_signal(&mut terminate, &mut interrupt).await;
        info!(
            signal = name,
            "stopping: running transfers may finish; a second signal ends them"
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

/// Calls `work` at each SIGHUP, one call after another. The call installs the handler; the future never ends.
///
/// # Errors
/// `Internal` if the system refuses the handler. Must be called within the runtime.
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

/// The background tasks of the process: a handful that are started with the program. Nothing that a client causes is
/// spawned here.
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
    /// No tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that [`Tasks::join`] awaits. It should end by itself soon after the shutdown is triggered. A panic is
    /// logged with the task's name when it happens, and stops nothing else.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // No state of the task is used after a panic, so no broken state can be observed.
        let task = AssertUnwindSafe(task).catch_unwind();
        // The only place that spawns tasks: the handle is kept, and `join` awaits it.
        #[allow(clippy::disallowed_methods)]
        let handle = tokio::spawn(async move {
            if task.await.is_err() {
                error!(task = name, "background task panicked");
            }
        });
        self.tasks.push(Task { name, handle });
    }

    /// Waits until all tasks have ended, for at most `grace` in total, then aborts and awaits the rest.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the tasks running without an owner; only the end of the process may follow.
    pub async fn join(mut self, grace: Duration) {
        let all = async {
            for task in &mut self.tasks {
                // A panic was logged when it happened, and nothing is aborted before this loop ends.
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
            // A handle must not be awaited twice, and a finished task needs no waiting.
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
    async fn trigger_reaches_early_and_late_waiters() {
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
    async fn join_survives_panicking_and_stuck_tasks() {
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
        // Printing a panic with its backtrace can take longer than the grace period below.
        while !tasks.tasks[1].handle.is_finished() {
            tokio::task::yield_now().await;
        }
        shutdown.trigger();
        tasks.join(Duration::from_millis(50)).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
}
