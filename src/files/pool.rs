//! A bounded place for decoding: so many at once, so many waiting, so much memory. Downloads never queue
//! behind it, because they never enter it. What decodes in a process of its own enters one of these too, and
//! brings its own bound of memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::{Error, Kind, Result},
    metrics::PoolLevels,
};

/// Memory is counted in units of this many bytes.
const MEMORY_UNIT_BYTES: u64 = 1 << 20;
/// When a client that found the queue full may come again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
const NEVER_CLOSED: &str = "the semaphores of the pool are never closed";

pub(super) struct Pool {
    places: usize,
    running: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    memory_units: u32,
    waiting: AtomicUsize,
    waiting_max: usize,
    /// The longest wait for a place; whoever waited for so long is refused as if the queue were full.
    wait_max: Duration,
}

/// Tells a computation that nobody waits for it any more.
#[derive(Clone, Default)]
pub(super) struct Cancel(Arc<AtomicBool>);

/// Cancels when dropped: with the future that waits.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Cancel {
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(
        threads: usize,
        waiting_max: usize,
        wait_max: Duration,
        bytes_max: u64,
    ) -> Self {
        let memory_units = u32::try_from(bytes_max.div_ceil(MEMORY_UNIT_BYTES))
            .unwrap_or(u32::MAX >> 4)
            .max(1);
        let places = threads.max(1);
        Self {
            places,
            running: Arc::new(Semaphore::new(places)),
            memory: Arc::new(Semaphore::new(memory_units as usize)),
            memory_units,
            waiting: AtomicUsize::new(0),
            waiting_max,
            wait_max,
        }
    }

    /// Waits for a place among those that run; it is held until the permit is dropped.
    ///
    /// # Errors
    /// `Unavailable` when the queue is full, or moves too slowly.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit> {
        let _waiting = self.enqueue()?;
        let permit = self.running.clone().acquire_owned();
        match tokio::time::timeout(self.wait_max, permit).await {
            Ok(permit) => Ok(permit.expect(NEVER_CLOSED)),
            Err(_) => Err(Error::from(Kind::Unavailable(RETRY_AFTER)).source("no place in time")),
        }
    }

    /// Runs `prepare`, which tells what memory the work needs, then `work`, both on blocking threads.
    ///
    /// # Errors
    /// As [`Pool::enter`]; whatever the two return.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work where it next looks; until then it keeps its place.
    pub(super) async fn run<P, T>(
        &self,
        prepare: impl FnOnce() -> Result<(P, u64)> + Send + 'static,
        work: impl FnOnce(P, Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T>
    where
        P: Send + 'static,
        T: Send + 'static,
    {
        let running = self.enter().await?;
        // The permits go where the work goes: a decoder that nobody waits for any more still counts.
        let prepared =
            tokio::task::spawn_blocking(move || prepare().map(|prepared| (prepared, running)));
        let ((prepared, bytes), running) = prepared.await.map_err(Error::internal)??;
        // One picture that needs more than all there is may run alone.
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES))
            .unwrap_or(u32::MAX)
            .clamp(1, self.memory_units);
        let memory = self
            .memory
            .clone()
            .acquire_many_owned(units)
            .await
            .expect(NEVER_CLOSED);
        let cancel = Cancel::default();
        let _cancel_on_drop = CancelOnDrop(cancel.clone());
        let worked = tokio::task::spawn_blocking(move || {
            let _permits = (running, memory);
            work(prepared, cancel)
        });
        worked.await.map_err(|error| match error.is_panic() {
            // A decoder that gives up this way gives up every time: told and remembered as no thumbnail.
            true => Error::new(Kind::NoThumbnail).source(error),
            false => Error::internal(error),
        })?
    }

    pub(super) fn levels(&self) -> PoolLevels {
        PoolLevels {
            waiting: self.waiting.load(Ordering::Relaxed),
            busy: self.places - self.running.available_permits(),
            places: self.places,
        }
    }

    fn enqueue(&self) -> Result<Waiting<'_>> {
        let place = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return Err(Kind::Unavailable(RETRY_AFTER).into());
        }
        Ok(place)
    }
}
