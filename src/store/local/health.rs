//! Whether the store can be read and written, as the last operations on its disk have shown.
//!
//! Somebody else looks for the end of a trouble (`mend.rs`); here it is noted and told.

use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::io::Errno;
use tokio::sync::Notify;

use crate::{
    error::{Error, Kind},
    metrics::Counter,
};

/// What is wrong with a store: a few words for people, without its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Why nothing can be read, and so nothing written either: the directory is gone.
    pub reads: Option<String>,
    /// Why nothing can be written.
    pub writes: Option<String>,
}

/// Cells that every operation may move.
#[derive(Default)]
pub(super) struct Health {
    /// Held to read or to set it.
    troubles: Mutex<Troubles>,
    /// There are none. Read by every upload that has succeeded, so that it takes no lock.
    is_sound: AtomicBool,
    errors: Counter,
    noticed: Notify,
}

impl Health {
    pub(super) fn new(writes: Option<String>) -> Self {
        let health = Self::default();
        health.set(|troubles| troubles.writes = writes);
        health
    }

    /// Notes that a write has failed, where the disk is the reason and not the process or the client.
    pub(super) fn write_failed(&self, error: &io::Error) {
        if !is_of_disk(error) {
            return;
        }
        self.errors.add(1);
        self.set(|troubles| {
            if troubles.writes.is_none() {
                tracing::error!(%error, "a write failed: not ready for uploads until a trial write succeeds");
                troubles.writes = Some(format!("the last write failed: {error}"));
            }
        });
        self.noticed.notify_one();
    }

    /// Notes why trial writes do not succeed either.
    pub(super) fn still_unwritable(&self, why: String) {
        self.set(|troubles| {
            if troubles.writes.as_ref() != Some(&why) {
                tracing::error!(why, "uploads are refused");
                troubles.writes = Some(why);
            }
        });
    }

    /// Notes that a file was written, named and synced.
    pub(super) fn write_succeeded(&self) {
        if self.is_sound() {
            return;
        }
        self.set(|troubles| {
            if troubles.writes.take().is_some() {
                tracing::info!("the store can be written again");
            }
        });
    }

    /// Notes that the directory is not where it was.
    pub(super) fn root_is_gone(&self, why: &str) {
        self.set(|troubles| {
            if troubles.reads.is_none() {
                tracing::error!(why, "the store is gone: requests are told to come again");
                troubles.reads = Some(why.to_owned());
            }
        });
        self.noticed.notify_one();
    }

    /// Notes why what is in its place is not taken for it.
    pub(super) fn still_gone(&self, why: String) {
        self.set(|troubles| {
            if troubles.reads.as_ref() != Some(&why) {
                tracing::error!(why, "the store is not back");
                troubles.reads = Some(why);
            }
        });
    }

    /// Notes that it is.
    pub(super) fn root_is_there(&self) {
        if self.is_sound() {
            return;
        }
        self.set(|troubles| {
            if troubles.reads.take().is_some() {
                tracing::info!("the store is back");
            }
        });
    }

    pub(super) fn is_sound(&self) -> bool {
        self.is_sound.load(Ordering::Relaxed)
    }

    pub(super) fn troubles(&self) -> Troubles {
        self.lock().clone()
    }

    /// Writes that failed so far.
    pub(super) fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// Waits for the next trouble that is noticed; one that was noticed since the last call is not missed.
    pub(super) async fn trouble(&self) {
        self.noticed.notified().await;
    }

    fn set(&self, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = self.lock();
        change(&mut troubles);
        let is_sound = *troubles == Troubles::default();
        self.is_sound.store(is_sound, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the disk is the reason: everything but a name that is taken, and what the process itself has too few of.
/// One that is wrongly taken for the disk's costs a trial write.
fn is_of_disk(error: &io::Error) -> bool {
    !matches!(
        Errno::from_io_error(error),
        Some(Errno::EXIST | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::FBIG)
    )
}

/// A failure to write, told apart: a disk that takes no more is the client's to retry later, the rest is ours.
pub(super) fn storage_error(error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::ROFS) => {
            Error::new(Kind::StorageFull).source(error)
        }
        Some(Errno::EXIST) => Error::new(Kind::AlreadyExists).source(error),
        _ => Error::internal(error),
    }
}
