//! Uploads in parts: how many a user may have, how large their parts may be, and that each is completed once.
//!
//! Everything is reserved before it is used, because clients send four parts at once and hostile clients send more: an
//! entry in the table before the upload begins; bytes of the shares, of the daily quotas and of the disk before the
//! first byte of a part is read; the whole upload before its parts are joined. A guard, or a task that runs to its end,
//! holds each reservation, so that none is lost when the client disconnects.
//!
//! Key: the id of the upload. Bounds: `limits.part_uploads_max`, and a share of it for each tenant, client and user
//! (`limit/shares.rs`). Staleness: during a handover, two processes have a table each. An upload that is not in the
//! table is looked up in the store, and the table is compared with the store every ten minutes.

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
pub(crate) struct PartUploads(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    table: Mutex<Table>,
    clock: Clock,
}

/// A call on an unfinished upload of its owner. While it exists, the upload is not idle.
pub struct PartUpload {
    uploads: PartUploads,
    id: ObjectId,
    owner: Owner,
}

/// A part that is being received. Dropping it removes the received bytes and releases what was reserved for it.
pub struct ReceivedPart {
    writer: Box<dyn PartWriter>,
    bytes: u64,
    bytes_max: u64,
    upload_bytes_max: u64,
    claim: PartClaim,
    reserved: QuotaPermit,
}

/// The charge of a part that is being received. Dropping it takes the charge back.
struct PartClaim {
    upload: PartUpload,
    charge: u64,
}

impl PartUploads {
    /// Makes an empty table over a store. [`PartUploads::reconcile`] fills it.
    pub(super) fn new(store: Arc<dyn Store>, bounds: Bounds, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            store,
            table: Mutex::new(Table::new(bounds)),
            clock,
        }))
    }

    /// Begins an upload in parts.
    ///
    /// If the user has the largest allowed number of uploads, the new one replaces the one that was idle for longest,
    /// if that is at least a minute. Otherwise a phone that begins a new upload at each attempt would be locked out for
    /// a day by its abandoned uploads. Without an idle upload the call is refused, and web clients then send the file
    /// in one request.
    ///
    /// # Errors
    /// `Unavailable` if a share is full, `StorageFull` below the floor.
    ///
    /// # Cancel safety
    /// A dropped call either begins the upload or leaves nothing. The table is correct in both cases.
    pub(crate) async fn begin(&self, id: ObjectId, owner: Owner) -> Result<()> {
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
    /// `ObjectNotFound` if there is none, it belongs to another user, or it has expired.
    pub(crate) async fn find(&self, id: ObjectId, owner: Owner) -> Result<PartUpload> {
        if parts_have_expired(id, self.0.clock.now()) {
            return Err(Kind::ObjectNotFound.into());
        }
        if !self.table().contains(id) {
            self.adopt(id).await?;
        }
        let mut table = self.table();
        if !table.is_of(id, &owner) {
            return Err(Kind::ObjectNotFound.into());
        }
        table.enter(id)?;
        Ok(PartUpload {
            uploads: self.clone(),
            id,
            owner,
        })
    }

    /// Adds an upload to the table that is in the store.
    async fn adopt(&self, id: ObjectId) -> Result<()> {
        if let Some(found) = self.stored().find(id).await? {
            let parts: Vec<u64> = found.parts.iter().map(|part| part.bytes).collect();
            let now = self.0.clock.monotonic();
            self.table().adopt(id, owner_of(found.owner), &parts, now);
        }
        Ok(())
    }

    /// Compares the table with the store and corrects the table: at start, and every ten minutes, because another
    /// process may have begun, completed or removed uploads. Settles completions that a crash has interrupted.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn reconcile(&self) -> Result<()> {
        let idle = self.table().idle();
        for orphan in self.stored().list().await?.orphaned {
            let id = orphan.id;
            if let Err(error) = self.settle_orphan(orphan).await {
                tracing::warn!(%id, %error, "an interrupted completion cannot be settled");
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
            // Checked again, because it may have been claimed and given back while the list was read.
            if self.stored().find(id).await?.is_none() {
                self.table().remove_idle(id);
            }
        }
        Ok(())
    }

    /// The number of uploads and bytes, and how often a share was full.
    pub(super) fn levels(&self) -> PartLevels {
        self.table().levels()
    }

    fn stored(&self) -> &dyn PartStore {
        self.0.store.parts()
    }

    /// Locks the table, for a few look-ups. The lock is never held while waiting for the store.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock()
    }

    /// Waits for the exclusive right to change an upload. Checks that it is not being completed.
    async fn lock(&self, id: ObjectId) -> Result<OwnedMutexGuard<()>> {
        let lock = self.table().lock(id)?;
        let guard = lock.lock_owned().await;
        // The previous holder may have claimed or removed the upload.
        self.table().lock(id)?;
        Ok(guard)
    }

    /// Removes an upload from the table that another process has completed, aborted or swept.
    fn forget_if_gone<T>(&self, id: ObjectId, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| {
            if error.kind() == Kind::ObjectNotFound {
                self.table().remove(id);
            }
        })
    }
}

impl PartUpload {
    /// The id of the upload.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The stored parts, by number.
    ///
    /// # Errors
    /// `ObjectNotFound` if the upload is gone, `AlreadyExists` while it is being completed.
    pub async fn list(&self) -> Result<Vec<StoredPart>> {
        let _alone = self.uploads.lock(self.id).await?;
        let found = self.uploads.stored().find(self.id).await;
        let found = found.and_then(|found| found.ok_or_else(|| Kind::ObjectNotFound.into()));
        self.uploads
            .forget_if_gone(self.id, found.map(|found| found.parts))
    }

    /// Begins a part of at most `bytes_max` bytes, and charges them. A whole upload may have `upload_bytes_max` bytes.
    ///
    /// # Errors
    /// `StorageFull` if the part could go below the floor; `Unavailable` if a share is full; `ObjectNotFound` and
    /// `AlreadyExists` as [`PartUpload::list`].
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
            bytes_max,
            upload_bytes_max,
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
    /// Appends bytes.
    ///
    /// # Errors
    /// `TooLarge` at the first byte over the limit of the part; `StorageFull`, or `Internal` if the storage fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write`, the part can only be dropped.
    pub async fn write(&mut self, chunk: bytes::Bytes) -> Result<()> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(Kind::TooLarge.into());
        }
        self.writer.write(chunk).await
    }

    /// Stores the part under its number, in the place of an earlier one. The number is not needed before, because the
    /// web SDK sends it after the bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty part, `TooLarge`; `ObjectNotFound` and `AlreadyExists` as
    /// [`PartUpload::list`].
    pub async fn finish(self, number: u32) -> Result<StoredPart> {
        let Self {
            writer,
            bytes,
            upload_bytes_max,
            mut claim,
            reserved,
            ..
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
            // The charge of the part stays. What was charged beyond it, and the replaced parts, are taken back.
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

/// The client address is not stored.
fn owner_of(found: PartsOwner) -> Owner {
    Owner {
        tenant: found.tenant.into(),
        user: found.user.into(),
        client: None,
    }
}

/// Whether two owners are the same user of the same tenant, whatever their client addresses.
fn is_same_user(one: &Owner, other: &Owner) -> bool {
    (&one.tenant, &one.user) == (&other.tenant, &other.user)
}
