//! Records whether the store can be read and written, as the last disk operations have shown.
//!
//! It starts no operation itself: `mend.rs` tries again until the store works, and `observe.rs` reports the state.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::sync::Notify;

use crate::{
    error::{Error, Kind},
    metrics::Counter,
};

/// What is wrong with a store, in a few words for an operator. The texts do not contain the store's path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Troubles {
    /// Why nothing can be read, and so nothing written either: the directory is gone.
    pub(super) reads: Option<String>,
    /// Why nothing can be written.
    pub(super) writes: Option<String>,
}

/// The state of the store, shared by all operations.
#[derive(Default)]
pub(super) struct Health {
    troubles: Mutex<Troubles>,
    /// `true` while there are no troubles. Each successful upload reads this instead of taking the lock.
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

    /// Records a failed write, unless the process or the client caused the failure.
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

    /// Records why a trial write failed.
    pub(super) fn still_unwritable(&self, why: String) {
        self.set(|troubles| {
            if troubles.writes.as_ref() != Some(&why) {
                tracing::error!(why, "uploads are refused");
                troubles.writes = Some(why);
            }
        });
    }

    /// Records that a file was written, named and synced.
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

    /// Records that the path no longer leads to the directory that was opened.
    pub(super) fn root_is_gone(&self, why: &str) {
        self.set(|troubles| {
            if troubles.reads.is_none() {
                tracing::error!(why, "the store is gone: requests are told to come again");
                troubles.reads = Some(why.to_owned());
            }
        });
        self.noticed.notify_one();
    }

    /// Records why the directory that the path leads to now was not accepted.
    pub(super) fn still_gone(&self, why: String) {
        self.set(|troubles| {
            if troubles.reads.as_ref() != Some(&why) {
                tracing::error!(why, "the store is not back");
                troubles.reads = Some(why);
            }
        });
    }

    /// Records that the path leads to the directory again.
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
        self.troubles.lock().clone()
    }

    /// Number of failed writes since the start.
    pub(super) fn errors(&self) -> u64 {
        self.errors.get()
    }

    /// Waits until a trouble is recorded. Returns at once if one was recorded since the last call.
    pub(super) async fn trouble(&self) {
        self.noticed.notified().await;
    }

    fn set(&self, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = self.troubles.lock();
        change(&mut troubles);
        let is_sound = *troubles == Troubles::default();
        self.is_sound.store(is_sound, Ordering::Relaxed);
    }
}

/// Whether the disk caused an error. Excluded are a name that is taken, a file that is too large, and resources that
/// the process has run out of. A wrong guess costs one trial write.
fn is_of_disk(error: &io::Error) -> bool {
    !matches!(
        Errno::from_io_error(error),
        Some(Errno::EXIST | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::FBIG)
    )
}

/// Maps an error of a write to what the client is told: 507 where the disk accepts no more data, so that the client
/// tries again later, and 500 for the rest.
pub(super) fn storage_error(error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::ROFS) => {
            Error::new(Kind::StorageFull).source(error)
        }
        Some(Errno::EXIST) => Error::new(Kind::AlreadyExists).source(error),
        _ => Error::internal(error),
    }
}
