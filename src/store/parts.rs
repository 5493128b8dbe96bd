//! Unfinished uploads in parts: what an engine must keep of them until they are complete or expire.
//!
//! The engine stores parts and lets one completion claim them. How many uploads a user may have, and how large they may
//! be, is decided in `files/parts.rs`.

use bytes::Bytes;

use super::{
    BoxFuture, ExpireMode,
    key::{Key, ObjectId},
};
use crate::{
    error::Result,
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
    /// Begins an upload of `user` of `tenant`, with no parts.
    ///
    /// # Errors
    /// `StorageFull` below the free-space floor.
    fn begin<'a>(
        &'a self,
        id: ObjectId,
        tenant: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<()>>;

    /// Finds an unfinished upload; `None` if there is none.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<UnfinishedUpload>>>;

    /// Begins a part of at most `bytes_max` bytes, whose space is reserved first.
    ///
    /// # Errors
    /// `StorageFull` if the part, beside everything that is being written, could go below the free-space floor.
    fn begin_part(&self, bytes_max: u64) -> BoxFuture<'_, Result<Box<dyn PartWriter>>>;

    /// Takes an upload for its completion into the object `key`. From now on [`PartStore::find`] does not find it.
    ///
    /// # Errors
    /// `ObjectNotFound` if there is none, or another caller was first.
    fn claim(&self, id: ObjectId, key: Key) -> BoxFuture<'_, Result<Box<dyn ClaimedParts>>>;

    /// Removes an upload with all its parts. It is no error if there is none.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn abort(&self, id: ObjectId) -> BoxFuture<'_, Result<()>>;

    /// Lists all unfinished uploads.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn list(&self) -> BoxFuture<'_, Result<UnfinishedUploads>>;

    /// Removes the uploads that have expired at `now`; returns how many.
    ///
    /// # Errors
    /// `Internal` or `Unavailable` if the engine fails.
    fn expire(&self, now: Timestamp, mode: ExpireMode) -> BoxFuture<'_, Result<u64>>;
}

/// A part that is being received. Dropping it removes what was received.
pub trait PartWriter: Send {
    /// Bytes above the free-space floor that were free and not reserved when the part began; `u64::MAX` without a floor.
    fn free_bytes(&self) -> u64;

    /// Appends bytes.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` if the engine fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write`, the part can only be dropped.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>>;

    /// Stores the part under its number, from 1 to [`PART_NUMBER_MAX`]. Returns it, and the stored parts of the same
    /// number that it replaced.
    ///
    /// # Errors
    /// `TooLarge` if all parts together would have more than `upload_bytes_max`; `ObjectNotFound` if the upload is gone.
    fn put(
        self: Box<Self>,
        id: ObjectId,
        number: u32,
        upload_bytes_max: u64,
    ) -> BoxFuture<'static, Result<(StoredPart, Vec<StoredPart>)>>;
}

/// The parts of an upload that one caller is completing. If its process ends, [`PartStore::list`] shows them as
/// orphaned.
pub trait ClaimedParts: Send + Sync {
    /// The id of the upload.
    fn id(&self) -> ObjectId;

    /// The object that the parts are joined into.
    fn key(&self) -> Key;

    /// Reads whose upload it is, and its parts; `None` if that was lost in a power cut.
    ///
    /// # Errors
    /// `Internal` if the engine fails.
    fn find(&self) -> BoxFuture<'_, Result<Option<UnfinishedUpload>>>;

    /// Reads one part from its start. The reader does not check the checksum.
    fn read(&self, part: StoredPart) -> Box<dyn PartReader>;

    /// Removes a damaged part.
    ///
    /// # Errors
    /// `Internal` if the engine fails.
    fn remove(&self, part: StoredPart) -> BoxFuture<'_, Result<()>>;

    /// Makes the upload unfinished again.
    ///
    /// # Errors
    /// `ObjectNotFound` if it is gone, `Internal` if the engine fails. Then the next start tries again.
    fn give_back(self: Box<Self>) -> BoxFuture<'static, Result<()>>;

    /// Removes the parts after the object was committed.
    ///
    /// # Errors
    /// `Internal` if the engine fails. Then the next start tries again.
    fn discard(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// Reads a stored part.
pub trait PartReader: Send {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// `ObjectNotFound` if the part is gone, `Internal` if the engine fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped call, the reader can only be dropped.
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>>;
}

/// An unfinished upload in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The tenant's name.
    pub tenant: String,
    /// The user; empty for the application itself.
    pub user: String,
    /// Its parts, by number.
    pub parts: Vec<StoredPart>,
}

/// All unfinished uploads of an engine.
#[derive(Default)]
pub struct UnfinishedUploads {
    /// Uploads that can continue.
    pub open: Vec<ObjectId>,
    /// Uploads whose completion was interrupted because its process ended.
    pub orphaned: Vec<Box<dyn ClaimedParts>>,
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
