//! Uploads in parts: who may have how many, what their parts may hold, and their completion, once.
//!
//! Everything is claimed before it is done, since clients send four parts at once and hostile ones more: a place
//! before the directory is made, bytes of the shares, of the day's quotas and of the disk before a part's first
//! byte is asked for, the whole upload before its parts are joined. Each claim is held by a guard or by the
//! blocking call that does the work, so that none is lost when the client goes away.
//!
//! Key: the upload's id. Bounds: `limits.part_uploads_max`, and a share of them for each tenant, client and user
//! (`limit/shares.rs`). Staleness: another process that takes over has a table of its own for some seconds; what
//! is not in the table is looked for on the disk, and the table is compared with the disk once an hour.

mod completed;
mod completion;
mod table;

use std::{collections::HashSet, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OwnedMutexGuard;

use self::table::{Table, charge};
use crate::{
    error::{Error, Kind, Result},
    limit::{Owner, QuotaPermit},
    metrics::PartLevels,
    store::{
        ObjectId, PartStore, PartWriter, PartsOwner, PutPart, Store, StoredPart,
        parts_have_expired, to_end,
    },
    time::Clock,
};

pub use self::completion::Completion;
pub(super) use self::{completion::places, table::Bounds};

/// All unfinished uploads in parts. Cheap to clone; the clones are one table.
#[derive(Clone)]
pub struct PartUploads(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    table: Mutex<Table>,
    clock: Clock,
}

/// A call on an unfinished upload of the caller's; while it lives, the upload is not idle.
pub struct PartUpload {
    uploads: PartUploads,
    id: ObjectId,
    owner: Owner,
}

/// A part that is being received. Dropping it removes what came and gives back what it had claimed.
pub struct ReceivedPart {
    writer: Box<dyn PartWriter>,
    bytes: u64,
    claim: PartClaim,
    reserved: QuotaPermit,
}

/// What a part on its way counts for, given back when dropped.
struct PartClaim {
    upload: PartUpload,
    charge: u64,
}

impl PartUploads {
    /// Over a store. [`PartUploads::reconcile`] counts what is in it.
    pub fn new(store: Arc<dyn Store>, bounds: Bounds, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            store,
            table: Mutex::new(Table::new(bounds)),
            clock,
        }))
    }

    /// Begins an upload in parts.
    ///
    /// A user that has as many as it may loses the one that it has not used for longest, if that is idle for a
    /// minute: a phone that begins anew at each attempt would else be shut out for a day by its own dead
    /// uploads. With fewer idle ones the call is refused, and web clients send the file in one piece.
    ///
    /// # Errors
    /// `Unavailable` where a share is full, `StorageFull` below the floor.
    ///
    /// # Cancel safety
    /// A dropped call begins the upload all the same, or leaves nothing; either way it is counted.
    pub async fn begin(&self, id: ObjectId, owner: Owner) -> Result<()> {
        let this = self.clone();
        to_end(async move {
            let now = this.0.clock.monotonic();
            let replaced = this.table().begin(id, owner.clone(), now)?;
            for id in replaced {
                if let Err(error) = this.stored().abort(id).await {
                    tracing::warn!(%id, %error, "a replaced upload in parts could not be removed");
                }
            }
            let stored_owner = PartsOwner {
                tenant: owner.tenant.to_string(),
                user: owner.user.to_string(),
            };
            let begun = this.stored().begin(id, stored_owner).await;
            let mut table = this.table();
            match &begun {
                Ok(()) => table.leave(id, now),
                Err(_) => table.remove(id),
            }
            begun
        })
        .await
    }

    /// Finds an unfinished upload of `owner`.
    ///
    /// # Errors
    /// `ObjectNotFound` where there is none, it is another's, or it has expired.
    pub async fn find(&self, id: ObjectId, owner: Owner) -> Result<PartUpload> {
        if parts_have_expired(id, self.0.clock.now()) {
            return Err(Kind::ObjectNotFound.into());
        }
        if !self.table().contains(id) {
            self.adopt(id).await?;
        }
        let mut table = self.table();
        if table.is_of(id, &owner) != Some(true) {
            return Err(Kind::ObjectNotFound.into());
        }
        table.enter(id)?;
        Ok(PartUpload {
            uploads: self.clone(),
            id,
            owner,
        })
    }

    /// Counts an upload that is stored and not in the table.
    async fn adopt(&self, id: ObjectId) -> Result<()> {
        if let Some(found) = self.stored().find(id).await? {
            let parts: Vec<u64> = found.parts.iter().map(|part| part.bytes).collect();
            let now = self.0.clock.monotonic();
            self.table().adopt(id, owner_of(found.owner), &parts, now);
        }
        Ok(())
    }

    /// Makes the table agree with the store: after a start, and now and then, since another process may have begun,
    /// completed or swept uploads. Settles completions that a crash has cut short.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reconcile(&self) -> Result<()> {
        let idle = self.table().idle();
        for orphan in self.stored().list().await?.orphaned {
            let id = orphan.id;
            if let Err(error) = self.settle_orphan(orphan).await {
                tracing::warn!(%id, %error, "a completion that was cut short cannot be settled");
            }
        }
        let open = self.stored().list().await?.open;
        for &id in &open {
            if !self.table().contains(id) {
                self.adopt(id).await?;
            }
        }
        let open: HashSet<ObjectId> = open.into_iter().collect();
        for id in idle.into_iter().filter(|id| !open.contains(id)) {
            // Looked at once more: it may have been claimed and given back while the names were read.
            if self.stored().find(id).await?.is_none() {
                self.table().remove_idle(id);
            }
        }
        Ok(())
    }

    /// How much there is, and how often a share was full.
    pub fn levels(&self) -> PartLevels {
        self.table().levels()
    }

    fn stored(&self) -> &dyn PartStore {
        self.0.store.parts()
    }

    /// Held for a few look-ups, never while the store is waited for.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock()
    }

    /// Waits until this caller alone changes an upload that is not being completed.
    async fn lock(&self, id: ObjectId) -> Result<OwnedMutexGuard<()>> {
        let lock = self.table().lock(id)?;
        let guard = lock.lock_owned().await;
        // Whoever held it may have claimed or removed the upload.
        self.table().lock(id)?;
        Ok(guard)
    }

    /// Forgets an upload that another process has completed, aborted or swept.
    fn forget_if_gone<T>(&self, id: ObjectId, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| {
            if error.kind() == Kind::ObjectNotFound {
                self.table().remove(id);
            }
        })
    }
}

impl PartUpload {
    /// Its id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The parts that are there, by number.
    ///
    /// # Errors
    /// `ObjectNotFound` where the upload is gone, `AlreadyExists` while it is being completed.
    pub async fn list(&self) -> Result<Vec<StoredPart>> {
        let _alone = self.uploads.lock(self.id).await?;
        let found = self.uploads.stored().find(self.id).await;
        let found = found.and_then(|found| found.ok_or_else(|| Kind::ObjectNotFound.into()));
        self.uploads
            .forget_if_gone(self.id, found.map(|found| found.parts))
    }

    /// Claims what a part of at most `bytes_max` bytes may hold, and makes its file. `upload_bytes_max` are those of
    /// a whole upload.
    ///
    /// # Errors
    /// `StorageFull` where so many bytes could go below the floor, `Unavailable` where a share is full;
    /// `ObjectNotFound` and `AlreadyExists` as [`PartUpload::list`].
    pub async fn receive(
        self,
        bytes_max: u64,
        upload_bytes_max: u64,
        reserved: QuotaPermit,
    ) -> Result<ReceivedPart> {
        let writer = self.uploads.stored().begin_part(bytes_max).await?;
        let (id, free_bytes) = (self.id, writer.free_bytes());
        let charged = self
            .uploads
            .table()
            .charge_part(id, bytes_max, free_bytes, upload_bytes_max);
        charged?;
        Ok(ReceivedPart {
            writer,
            bytes: 0,
            claim: PartClaim {
                upload: self,
                charge: charge(bytes_max),
            },
            reserved,
        })
    }

    /// Removes the upload with all its parts.
    ///
    /// # Errors
    /// As [`PartUpload::list`].
    pub async fn abort(self) -> Result<()> {
        to_end(async move {
            let (uploads, id) = (&self.uploads, self.id);
            let _alone = uploads.lock(id).await?;
            uploads.stored().abort(id).await?;
            uploads.table().remove(id);
            Ok(())
        })
        .await
    }
}

impl ReceivedPart {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` where the disk fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write` the part can only be dropped.
    pub async fn write(&mut self, chunk: bytes::Bytes) -> Result<()> {
        self.bytes += chunk.len() as u64;
        self.writer.write(chunk).await
    }

    /// Puts the part in its place; one of the same number is replaced. (The web SDK sends the number after the
    /// bytes.) The parts together may have `upload_bytes_max`.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty part, `TooLarge`; `ObjectNotFound` and `AlreadyExists` as
    /// [`PartUpload::list`].
    pub async fn finish(self, number: u32, upload_bytes_max: u64) -> Result<StoredPart> {
        let Self {
            writer,
            bytes,
            mut claim,
            reserved,
        } = self;
        if bytes == 0 {
            return Err(Error::invalid("the part is empty."));
        }
        to_end(async move {
            let (uploads, id) = (claim.upload.uploads.clone(), claim.upload.id);
            let _alone = uploads.lock(id).await?;
            let put = writer.put(id, number, upload_bytes_max).await;
            let PutPart { part, replaced } = uploads.forget_if_gone(id, put)?;
            let mut table = uploads.table();
            let replaced_bytes = replaced.iter().map(|old| old.bytes).sum();
            table.keep_part(id, reserved, part.bytes, replaced_bytes);
            // What the part counts for stays; what it had claimed beyond that, and what it replaced, goes.
            let replaced: u64 = replaced.iter().map(|old| charge(old.bytes)).sum();
            let claimed = std::mem::take(&mut claim.charge);
            table.uncharge(id, claimed - charge(part.bytes).min(claimed) + replaced);
            drop(table);
            Ok(part)
        })
        .await
    }
}

impl Drop for PartUpload {
    fn drop(&mut self) {
        let now = self.uploads.0.clock.monotonic();
        self.uploads.table().leave(self.id, now);
    }
}

impl Drop for PartClaim {
    fn drop(&mut self) {
        if self.charge > 0 {
            self.upload
                .uploads
                .table()
                .uncharge(self.upload.id, self.charge);
        }
    }
}

/// From which address it was begun is not known any more.
fn owner_of(found: PartsOwner) -> Owner {
    Owner {
        tenant: found.tenant.into(),
        user: found.user.into(),
        client: None,
    }
}
