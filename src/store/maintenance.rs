//! The operations side of a store: its state, its recovery, the removal of expired objects, verification.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::{pending, ready},
    os::fd::OwnedFd,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::{BoxFuture, StoreFuture, key::Class};
use crate::{
    error::Result,
    metrics::Syncs,
    time::{Day, Timestamp},
};

/// What the background tasks, the operator's listener and the command line need of a store. The default methods are for
/// an engine that cannot fail, has no limit, and is never opened again.
pub trait Maintenance: Send + Sync {
    /// The known state. Does not access the storage.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Checks that the store can serve now. May block for one system call.
    ///
    /// # Errors
    /// `Unavailable` if the store is gone, `StorageFull` if writes are refused.
    fn check(&self, _access: Access) -> Result<()> {
        Ok(())
    }

    /// Bytes that the storage has left; `u64::MAX` if the engine knows no limit.
    ///
    /// # Errors
    /// `Unavailable` if the store is gone, `Internal` if the storage fails.
    fn free_bytes(&self) -> StoreFuture<'_, u64> {
        Box::pin(ready(Ok(u64::MAX)))
    }

    /// Removes what has ended of a class: objects, their derivatives, and what the engine keeps about days that have
    /// ended. Counts each removed object in `progress`.
    ///
    /// # Errors
    /// `Unavailable`, `StorageFull` or `Internal` if the storage fails. What was removed until then stays removed.
    fn expire(
        &self,
        class: Class,
        cutoffs: Cutoffs,
        mode: ExpireMode,
        progress: Arc<Progress>,
    ) -> StoreFuture<'_, Expired>;

    /// When [`Maintenance::record_sweep`] was last called, kept across restarts; `None` before the first call.
    ///
    /// # Errors
    /// `Internal` if the storage fails or the record is damaged.
    fn last_sweep(&self) -> StoreFuture<'_, Option<Timestamp>>;

    /// Records the time, so that a sweep notices a jump of the clock. Also frees what the engine no longer needs at
    /// that time.
    ///
    /// # Errors
    /// `Unavailable`, `StorageFull` or `Internal` if the storage fails.
    fn record_sweep(&self, now: Timestamp) -> StoreFuture<'_, ()>;

    /// Reads every byte of every object and compares checksums. Announces the objects in `progress`, and counts each
    /// one when it was read.
    ///
    /// # Errors
    /// `Internal` if the objects cannot be listed. An object that cannot be read is a damaged one.
    fn verify(&self, progress: Arc<Progress>) -> StoreFuture<'_, Verified>;

    /// Changes each time the store was opened again. Open objects belong to the previous opening then.
    fn openings(&self) -> watch::Receiver<u64> {
        static NEVER: LazyLock<watch::Sender<u64>> = LazyLock::new(Default::default);
        NEVER.subscribe()
    }

    /// Keeps trying to recover the store, until the future is dropped.
    fn mend(&self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }

    /// How long syncs to the storage took.
    fn syncs(&self) -> Arc<Syncs> {
        Arc::default()
    }

    /// A descriptor that lets a new process open the store while this process still serves. `None` if the engine has
    /// none, and so cannot be handed over.
    fn handover(&self) -> Option<OwnedFd> {
        None
    }
}

/// The state of a store. The texts are a few words for an operator and contain no paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing can be read, and so nothing written either.
    pub reads: Option<String>,
    /// Why nothing can be written.
    pub writes: Option<String>,
    /// Failed writes since the start.
    pub write_errors: u64,
    /// Bytes that uploads and other writes under way may still write.
    pub reserved_bytes: u64,
}

/// What a caller wants to do with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read objects.
    Read,
    /// Read and write objects.
    Write,
}

/// Whether [`Maintenance::expire`] removes what has ended or only counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpireMode {
    /// Count only.
    Report,
    /// Remove.
    Remove,
}

/// Which objects of a class have ended: those of days before a first kept day, which differs by tenant.
#[derive(Debug, Clone)]
pub struct Cutoffs {
    /// The first kept day, by the tenant's `org/app`; `None` keeps everything.
    pub by_tenant: HashMap<String, Option<Day>>,
    /// The same for all other tenants.
    pub others: Option<Day>,
}

impl Cutoffs {
    /// Whether the objects of a tenant of this day have ended.
    pub fn has_ended(&self, tenant: &str, day: Day) -> bool {
        let first_kept = self.by_tenant.get(tenant).unwrap_or(&self.others);
        first_kept.is_some_and(|first_kept| day < first_kept)
    }

    /// Whether every object of this day has ended.
    pub fn all_have_ended(&self, day: Day) -> bool {
        let mut all = self.by_tenant.values().chain([&self.others]);
        all.all(|first_kept| first_kept.is_some_and(|first_kept| day < first_kept))
    }

    /// Whether an object of this day may have ended.
    pub(super) fn any_has_ended(&self, day: Day) -> bool {
        let mut all = self.by_tenant.values().chain([&self.others]);
        all.any(|first_kept| first_kept.is_some_and(|first_kept| day < first_kept))
    }
}

/// Objects and their bytes. An engine may count what it stores beside a payload, and an object once for each of its
/// names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Number of objects.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
}

impl Volume {
    /// Adds one object.
    pub fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// How far a long operation has come. The operation counts, and another task may read the counts at any time.
#[derive(Debug, Default)]
pub struct Progress {
    done: Counts,
    total: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn add(&self, volume: Volume) {
        self.objects.fetch_add(volume.objects, Ordering::Relaxed);
        self.bytes.fetch_add(volume.bytes, Ordering::Relaxed);
    }

    fn get(&self) -> Volume {
        Volume {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Progress {
    /// Announces objects that the operation will process.
    pub fn expect(&self, volume: Volume) {
        self.total.add(volume);
    }

    /// Counts one processed object.
    pub fn count(&self, bytes: u64) {
        self.done.add(Volume { objects: 1, bytes });
    }

    /// What was processed so far.
    pub fn done(&self) -> Volume {
        self.done.get()
    }

    /// What was announced so far.
    pub fn total(&self) -> Volume {
        self.total.get()
    }
}

/// What [`Maintenance::expire`] removed, or would remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Days removed whole.
    pub days: BTreeSet<Day>,
    /// Single objects removed, of days in which other objects are kept.
    pub objects: u64,
    /// All objects removed, those of whole days too.
    pub volume: Volume,
}

/// What [`Maintenance::verify`] found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Objects read.
    pub volume: Volume,
    /// What is wrong with each object that is not as it was committed, by the name that the engine stores it under.
    pub damaged: BTreeMap<String, String>,
}
