//! Runs dear work in its turn, on blocking threads: so many jobs at once, so much memory, so many that wait.
//!
//! Who is next is decided by `fair_queue.rs`. Downloads never queue behind a decoder, because they never enter here. A
//! job in a process of its own enters one of these too, and brings its own bound of memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    error::{Error, Kind, Result},
    fair_queue::{Claimant, Config, FairQueue, Permit, Refused},
    metrics::PoolLevels,
};

/// When a client that found the queue full may come again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    queue: FairQueue,
    places: usize,
    refused_full: AtomicU64,
    refused_late: AtomicU64,
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

impl Pool {
    pub(super) fn new(config: Config) -> Self {
        Self {
            queue: FairQueue::new(config),
            places: config.jobs_max.max(1),
            refused_full: AtomicU64::new(0),
            refused_late: AtomicU64::new(0),
        }
    }

    /// Waits for a place, which is held until the permit is dropped.
    ///
    /// # Errors
    /// `Unavailable` when the queue is full, or moves too slowly; `NoThumbnail` for a job that can never have its
    /// memory.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub(super) async fn enter(&self, claimant: Claimant, memory_bytes: u64) -> Result<Permit> {
        let permit = self.queue.acquire(claimant, memory_bytes).await;
        permit.map_err(|refused| match refused {
            Refused::QueueFull => {
                self.refused_full.fetch_add(1, Ordering::Relaxed);
                Error::from(Kind::Unavailable(RETRY_AFTER)).source("the queue is full")
            }
            Refused::TimedOut => {
                self.refused_late.fetch_add(1, Ordering::Relaxed);
                Error::from(Kind::Unavailable(RETRY_AFTER)).source("no place in time")
            }
            Refused::TooLarge => Error::new(Kind::NoThumbnail).source(format!(
                "it needs {memory_bytes} bytes of memory, more than thumbnails.decode_bytes_max"
            )),
        })
    }

    /// Runs `work`, which takes so many bytes of memory, on a blocking thread.
    ///
    /// # Errors
    /// As [`Pool::enter`]; whatever `work` returns.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work where it next looks; until then it keeps its place.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        claimant: Claimant,
        memory_bytes: u64,
        work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.enter(claimant, memory_bytes).await?;
        Self::run_with(permit, work).await
    }

    /// Runs `work` on a blocking thread, in a place that was waited for before.
    ///
    /// # Errors
    /// Whatever `work` returns.
    ///
    /// # Cancel safety
    /// As [`Pool::run`].
    pub(super) async fn run_with<T: Send + 'static>(
        permit: Permit,
        work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cancel = Cancel::default();
        let _cancel_on_drop = CancelOnDrop(cancel.clone());
        let worked = tokio::task::spawn_blocking(move || {
            // The permit goes where the work goes: a decoder that nobody waits for any more still counts.
            let _permit = permit;
            work(&cancel)
        });
        worked.await.map_err(|error| match error.is_panic() {
            // A decoder that gives up this way gives up every time: told and remembered as no thumbnail.
            true => Error::new(Kind::NoThumbnail).source(error),
            false => Error::internal(error),
        })?
    }

    pub(super) fn levels(&self) -> PoolLevels {
        let levels = self.queue.levels();
        PoolLevels {
            waiting: levels.waiting,
            busy: levels.running,
            places: self.places,
            refused_full: self.refused_full.load(Ordering::Relaxed),
            refused_late: self.refused_late.load(Ordering::Relaxed),
        }
    }
}
