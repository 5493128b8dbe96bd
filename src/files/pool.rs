//! Runs costly jobs on blocking threads, with limits of concurrent jobs, of their memory, and of waiting jobs.
//!
//! `fair_queue.rs` decides which job is next. Downloads never wait behind a decoder, since they do not use a pool. Runs of
//! ffmpeg use a pool as well, and have a memory limit of their own.

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

/// The `Retry-After` of a request that found the queue full.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    queue: FairQueue,
    places: usize,
    refused_full: AtomicU64,
    refused_late: AtomicU64,
}

/// Tells a job that its request was dropped.
#[derive(Clone, Default)]
pub(super) struct Cancel(Arc<AtomicBool>);

/// Cancels the job when the waiting future is dropped.
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

    /// Waits for a place, which the permit holds until it is dropped.
    ///
    /// # Errors
    /// `Unavailable` where the queue is full, or no place is free in time; `NoThumbnail` for a job that needs more memory
    /// than the limit.
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

    /// Runs `work`, which takes `memory_bytes` of memory, on a blocking thread.
    ///
    /// # Errors
    /// As [`Pool::enter`], and the error of `work`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the work at its next check. Until then it keeps its place.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        claimant: Claimant,
        memory_bytes: u64,
        work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.enter(claimant, memory_bytes).await?;
        Self::run_with(permit, work).await
    }

    /// Runs `work` on a blocking thread, with a permit from [`Pool::enter`].
    ///
    /// # Errors
    /// The error of `work`.
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
            // The permit moves into the job: a decoder still counts after its request was dropped.
            let _permit = permit;
            work(&cancel)
        });
        worked.await.map_err(|error| match error.is_panic() {
            // A decoder that panics on a file panics every time, so the file has no thumbnail.
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
