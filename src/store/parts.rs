//! Unfinished uploads in parts: what an engine must keep of them until they are complete or expire.
//!
//! The engine stores parts and lets one completion claim them. How many uploads a user may have, and how large they may
//! be, is decided in `files/parts.rs`.

use std::future::ready;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{
    ExpireMode, Sink, StoreFuture,
    key::{Key, ObjectId},
};
use crate::{
    error::{Kind, Result},
    time::{MS_PER_DAY, Timestamp},
};

/// Parts are numbered from 1 to this number.
pub const PART_NUMBER_MAX: u32 = 10_000;
/// The size of a part that clients are told to send at least. The last part may be smaller.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// How long an upload in parts may stay unfinished.
pub(crate) const PARTS_LIFETIME_MS: i64 = MS_PER_DAY;

/// Keeps unfinished uploads in parts, also across a restart.
///
/// The caller never changes the same upload from two places at once, except that another process may claim, abort or
/// expire it at any time.
pub trait PartStore: Send + Sync {
    /// Begins an upload of `owner`.
    ///
    /// # Errors
    /// `StorageFull` below the free-space floor.
    fn begin(&self, id: ObjectId, owner: PartsOwner) -> StoreFuture<'_, ()>;

    /// Finds an unfinished upload; `None` if there is none.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn find(&self, id: ObjectId) -> StoreFuture<'_, Option<UnfinishedUpload>>;

    /// Begins a part of at most `bytes_max` bytes, whose space is reserved first.
    ///
    /// # Errors
    /// `StorageFull` if the part, beside everything that is being written, could go below the free-space floor.
    fn begin_part(&self, bytes_max: u64) -> StoreFuture<'_, Box<dyn PartWriter>>;

    /// Takes an upload for its completion into the object `key`. From now on [`PartStore::find`] does not find it.
    ///
    /// # Errors
    /// `ObjectNotFound` if there is none, or another caller was first.
    fn claim(&self, id: ObjectId, key: Key) -> StoreFuture<'_, ClaimedUpload>;

    /// Removes an upload with all its parts. It is no error if there is none.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn abort(&self, id: ObjectId) -> StoreFuture<'_, ()>;

    /// Lists all unfinished uploads.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn list(&self) -> StoreFuture<'_, UnfinishedUploads>;

    /// Removes the uploads that have expired at `now`; returns how many.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn expire(&self, now: Timestamp, mode: ExpireMode) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let mut expired = self.list().await?.open;
            expired.retain(|id| parts_have_expired(*id, now));
            for id in expired.iter().filter(|_| mode == ExpireMode::Remove) {
                self.abort(*id).await?;
            }
            Ok(expired.len() as u64)
        })
    }
}

/// A part that is being received. Dropping it removes what was received.
pub trait PartWriter: Sink {
    /// Bytes above the free-space floor that were free and not reserved when the part began.
    fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Stores the part under its number, from 1 to [`PART_NUMBER_MAX`]. Stored parts of the same number are replaced.
    ///
    /// # Errors
    /// `TooLarge` if all parts together would have more than `upload_bytes_max`; `ObjectNotFound` if the upload is
    /// gone.
    fn put(
        self: Box<Self>,
        id: ObjectId,
        number: u32,
        upload_bytes_max: u64,
    ) -> StoreFuture<'static, PutPart>;
}

/// An upload that one caller is completing. If its process ends, [`PartStore::list`] shows it as orphaned.
pub struct ClaimedUpload {
    /// The id of the upload.
    pub id: ObjectId,
    /// The object that the parts are joined into.
    pub key: Key,
    /// What was found of the upload; `None` if that was lost in a power cut.
    pub found: Option<UnfinishedUpload>,
    /// Its parts.
    pub parts: Box<dyn ClaimedParts>,
}

impl ClaimedUpload {
    /// An upload `id` that is being completed into the object `key`.
    pub fn new(
        id: ObjectId,
        key: Key,
        found: Option<UnfinishedUpload>,
        parts: Box<dyn ClaimedParts>,
    ) -> Self {
        Self {
            id,
            key,
            found,
            parts,
        }
    }
}

/// The parts of a claimed upload.
pub trait ClaimedParts: Send + Sync {
    /// Reads one part. The caller compares the checksum. The stream fails with `ObjectNotFound` if the part is gone,
    /// and with `Internal` if the engine fails.
    fn read(&self, part: StoredPart) -> BoxStream<'static, Result<Bytes>>;

    /// Removes a damaged part. The default is for an engine whose parts cannot be damaged.
    ///
    /// # Errors
    /// `Internal` if the engine fails.
    fn remove(&self, _part: StoredPart) -> StoreFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    /// Makes the upload unfinished again.
    ///
    /// # Errors
    /// `ObjectNotFound` if it is gone, `Internal` if the engine fails. Then the next start tries again.
    fn give_back(self: Box<Self>) -> StoreFuture<'static, ()>;

    /// Removes the parts after the object was committed.
    ///
    /// # Errors
    /// `Internal` if the engine fails. Then the next start tries again.
    fn discard(self: Box<Self>) -> StoreFuture<'static, ()>;
}

/// The tenant and the user that an upload in parts belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartsOwner {
    /// The tenant's name.
    pub tenant: String,
    /// The user; empty for the application itself.
    pub user: String,
}

/// An unfinished upload in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// Its tenant and user.
    pub owner: PartsOwner,
    /// Its parts, by number.
    pub parts: Vec<StoredPart>,
}

impl UnfinishedUpload {
    /// An upload without parts.
    pub fn new(owner: PartsOwner) -> Self {
        Self {
            owner,
            parts: Vec::new(),
        }
    }

    /// Adds a part, in the place of those of the same number.
    ///
    /// # Errors
    /// `TooLarge` if all parts together would have more than `bytes_max` bytes.
    pub fn put(&mut self, part: StoredPart, bytes_max: u64) -> Result<PutPart> {
        let others = self.parts.iter().filter(|old| old.number != part.number);
        let others_bytes: u64 = others.map(|old| old.bytes).sum();
        if others_bytes.saturating_add(part.bytes) > bytes_max {
            return Err(Kind::TooLarge.into());
        }
        let replaced = self.parts.extract_if(.., |old| old.number == part.number);
        let replaced = replaced.collect();
        self.parts.push(part);
        self.parts.sort_unstable();
        Ok(PutPart { part, replaced })
    }
}

impl StoredPart {
    /// A part of these bytes.
    pub fn new(number: u32, bytes: &[u8]) -> Self {
        Self {
            number,
            bytes: bytes.len() as u64,
            crc: crc32fast::hash(bytes),
        }
    }
}

/// All unfinished uploads of an engine.
#[derive(Default)]
pub struct UnfinishedUploads {
    /// Uploads that can continue.
    pub open: Vec<ObjectId>,
    /// Uploads whose completion was interrupted because its process ended.
    pub orphaned: Vec<ClaimedUpload>,
}

/// A part that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutPart {
    /// The part.
    pub part: StoredPart,
    /// The stored parts of the same number that it replaced.
    pub replaced: Vec<StoredPart>,
}

/// A stored part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPart {
    /// From 1 to [`PART_NUMBER_MAX`].
    pub number: u32,
    /// Its size in bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE) of its bytes.
    pub crc: u32,
}

/// Whether an upload in parts of this id has expired at `now`.
pub fn parts_have_expired(id: ObjectId, now: Timestamp) -> bool {
    now.ms().saturating_sub(id.created().ms()) > PARTS_LIFETIME_MS
}
