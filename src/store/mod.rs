//! Stores objects: the traits of an engine, keys, metadata, the file format, and the local engine.
//!
//! An object is never modified after its commit. This layer does not decide who may open an object (`files/`) or when
//! it has expired (`retention/`), and knows nothing about HTTP.

mod key;
mod maintenance;
mod mapped;
mod meta;
mod parts;
mod payload;
mod trailer;

pub mod local;

use std::{future::Future, pin::Pin};

use bytes::Bytes;

use crate::{
    derivative::Derivative,
    error::{Error, Result},
    time::Day,
};

pub use self::{
    key::{Class, Key, ObjectId},
    maintenance::{
        Access, Cutoffs, ExpireMode, Expired, Health, Maintenance, Progress, Verified, Volume,
    },
    mapped::{CHUNK_BYTES, MappedFile},
    meta::{Dialect, META_BYTES_MAX, Meta, SECRET_HASH_BYTES},
    parts::{
        ClaimedParts, ClaimedUpload, PART_BYTES_MIN, PART_NUMBER_MAX, PartStore, PartWriter,
        PartsOwner, PutPart, StoredPart, UnfinishedUpload, UnfinishedUploads, parts_have_expired,
    },
    payload::{Opened, Payload, ReadRange},
    trailer::FOOTER_BYTES,
};

/// A boxed future: engines are the one open set behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A call of an engine.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T>>;

/// An engine that keeps objects. One contract suite (`tests/it/store/contract.rs`) runs against every engine.
pub trait Store: Send + Sync + 'static {
    /// Begins an upload that will be committed under `key`.
    ///
    /// # Errors
    /// `StorageFull` if the upload, beside all others under way, could go below the free-space floor. An engine may
    /// report that at a later call, but before it writes anything.
    fn begin(&self, key: Key, size: UploadSize) -> StoreFuture<'_, Box<dyn Upload>>;

    /// Opens a committed object; `None` if there is none.
    ///
    /// # Errors
    /// `Internal` if the storage fails or the object is damaged; `Unavailable` if the storage cannot be reached. "None"
    /// is only returned by a storage that can.
    fn open(&self, key: Key) -> StoreFuture<'_, Option<Opened>>;

    /// Whether a commit under this key would be refused, because there is an object or because one was taken down.
    ///
    /// # Errors
    /// As [`Store::open`].
    fn is_taken(&self, key: Key) -> StoreFuture<'_, bool> {
        Box::pin(
            async move { Ok(self.open(key).await?.is_some() || self.is_taken_down(key).await?) },
        )
    }

    /// Whether an object of this key was taken down and a commit may not notice it any more, for example because that
    /// was long ago.
    ///
    /// # Errors
    /// As [`Store::open`].
    fn is_taken_down(&self, key: Key) -> StoreFuture<'_, bool>;

    /// Makes a committed object durably available under a later day too, for as long as that day is kept. It is no
    /// error if it already is. `false` if there is no object of this key.
    ///
    /// # Errors
    /// `StorageFull`; otherwise as [`Store::open`].
    fn extend_life(&self, key: Key, day: Day) -> StoreFuture<'_, bool>;

    /// Takes an object down under every key it has, with all its derivatives; `false` if there was none. No later
    /// upload can be committed under its first key.
    ///
    /// # Errors
    /// As [`Store::open`].
    fn remove(&self, id: ObjectId) -> StoreFuture<'_, bool>;

    /// Reads a derivative that [`Store::put_derived`] kept. A damaged one counts as absent.
    ///
    /// # Errors
    /// As [`Store::open`].
    fn derived(&self, key: Key, derivative: Derivative) -> StoreFuture<'_, Option<Derived>>;

    /// Keeps a derivative. It need not be durable, and may vanish at any time: it can be computed again.
    ///
    /// # Errors
    /// `StorageFull`, `Unavailable` or `Internal`; the derivative is then not kept.
    fn put_derived(
        &self,
        key: Key,
        derivative: Derivative,
        derived: Derived,
    ) -> StoreFuture<'_, ()>;

    /// Unfinished uploads in parts.
    fn parts(&self) -> &dyn PartStore;

    /// State, recovery, expiry and verification.
    fn maintenance(&self) -> &dyn Maintenance;
}

/// The size of an upload, as far as it is known before its bytes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadSize {
    /// The client announced a body of this many bytes. The file is not larger.
    Announced(u64),
    /// The client announced nothing. The caller accepts at most this many bytes.
    AtMost(u64),
}

/// Receives the bytes of an upload or of a part.
pub trait Sink: Send {
    /// Appends bytes. Returns when they are queued, at most two batches of memory ahead of the storage.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` if the storage fails. Then the sink can only be dropped.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write`, the sink can only be dropped.
    fn write(&mut self, chunk: Bytes) -> StoreFuture<'_, ()>;
}

/// An object on its way in. Dropping it before the commit removes every trace of it.
pub trait Upload: Sink {
    /// Makes the object durable and visible under its key, all or nothing. Sets `meta.len` and `meta.crc` from the
    /// bytes written.
    ///
    /// # Errors
    /// As [`Sink::write`]; `AlreadyExists` if the key is taken. A failed fsync is not tried again, because the kernel
    /// may have dropped the pages.
    ///
    /// # Cancel safety
    /// A dropped commit either removes every trace or runs to its end.
    fn commit(self: Box<Self>, meta: Meta) -> StoreFuture<'static, Meta>;
}

/// The contents of a derivative, small enough to be in memory as a whole.
#[derive(Debug, Clone)]
pub struct Derived {
    /// The media type of `bytes`.
    pub content_type: String,
    /// The body.
    pub bytes: Bytes,
}

/// Runs a future to its end, even if the caller goes away.
pub(crate) async fn to_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    // Its caller waits for it; if the caller is dropped, the work ends by itself or with the runtime.
    #[allow(clippy::disallowed_methods)]
    let ended = tokio::spawn(work).await;
    ended.map_err(Error::internal)?
}

/// Runs blocking work off the reactor threads, to its end even if the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(Error::internal)?
}
