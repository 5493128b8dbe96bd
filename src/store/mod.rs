//! Where objects live: keys, metadata, the file format, and the embedded local store.
//!
//! An object is never modified after its commit. This layer knows nothing of tenants' rights, retention or
//! HTTP; it does not decide who may open what (`files/`), nor when an object has expired (`retention/`).

mod key;
mod mapped;
mod meta;
mod payload;
mod trailer;

pub mod local;

use std::{future::Future, pin::Pin};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    time::Day,
};

pub use self::{
    key::{Class, Key, ObjectId},
    mapped::{CHUNK_BYTES, MappedFile},
    meta::{BoundingBox, Dialect, Meta, SECRET_HASH_BYTES},
    payload::{Opened, Payload, ReadRange},
    trailer::{FOOTER_BYTES, META_BYTES_MAX},
};

/// A boxed future: the store is the one open set behind a trait object (local now, buckets next).
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place that keeps objects. One contract suite (`tests/it/store.rs`) runs against every implementation.
pub trait Store: Send + Sync + 'static {
    /// Starts an upload to be committed under `key`.
    ///
    /// # Errors
    /// `StorageFull` where the upload, beside all others under way, could go below the free-space floor. A store
    /// may say so at a later call, but before it writes anything.
    fn begin(&self, key: Key, size: UploadSize) -> BoxFuture<'_, Result<Box<dyn Upload>>>;

    /// Opens a committed object; `None` where there is none.
    ///
    /// # Errors
    /// `Internal` where the disk fails or the file is damaged.
    fn open(&self, key: Key) -> BoxFuture<'_, Result<Option<Opened>>>;

    /// Whether no upload can be committed under this key: there is an object, or one that was there was taken down.
    ///
    /// # Errors
    /// As [`Store::open`].
    fn is_taken(&self, key: Key) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move { Ok(self.open(key).await?.is_some()) })
    }

    /// Whether an object of this key was taken down so long ago that a commit does not see it.
    ///
    /// # Errors
    /// `Internal` where the disk fails.
    fn is_taken_down(&self, _key: Key) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async { Ok(false) })
    }

    /// Makes a committed object found under a later day as well, durably, as long as that day is kept; where
    /// it is found there already, nothing is left to do. `false` where there is no object of this key.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` where the disk fails.
    fn keep_until(&self, key: Key, day: Day) -> BoxFuture<'_, Result<bool>>;

    /// Takes an object down under every key it has, with all its derivatives; `false` where there was none.
    fn remove(&self, id: ObjectId) -> BoxFuture<'_, Result<bool>>;

    /// Reads a derivative that [`Store::put_derived`] kept; damaged ones count as absent.
    fn derived(&self, key: Key, name: DerivedName) -> BoxFuture<'_, Result<Option<Derived>>>;

    /// Keeps a derivative. It may vanish at any time and is not made durable: it can be computed again.
    fn put_derived(
        &self,
        key: Key,
        name: DerivedName,
        derived: Derived,
    ) -> BoxFuture<'_, Result<()>>;
}

/// What is known of an upload's size before its bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadSize {
    /// The client announced a body of so many bytes, so the file has no more.
    Announced(u64),
    /// Nothing was announced; the caller takes no more than so many bytes.
    AtMost(u64),
}

/// An object on its way in. Dropping it before the commit removes every trace of it.
pub trait Upload: Send {
    /// Appends bytes; returns when they are queued, at most two batches of memory ahead of the disk.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` where the disk fails; the upload cannot go on after either.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write` the upload can only be dropped.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>>;

    /// Makes the object durable and visible under its key, all or nothing. `meta.len` and `meta.crc` are
    /// set here, from the bytes written.
    ///
    /// # Errors
    /// As [`Upload::write`]. A failed fsync is never tried again: the kernel may have dropped the pages.
    ///
    /// # Cancel safety
    /// All or nothing: a dropped commit either removes every trace or runs to its end by itself.
    fn commit(self: Box<Self>, meta: Meta) -> BoxFuture<'static, Result<Meta>>;
}

/// Which derivative of an object: part of its file name, so a closed set of short ASCII forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DerivedName {
    /// A thumbnail that fits the box.
    Thumbnail(BoundingBox),
    /// A video's first frame, as large as thumbnails are made from it.
    Frame,
    /// A voice as MP3.
    Mp3,
    /// A voice as AMR.
    Amr,
}

impl std::fmt::Display for DerivedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Thumbnail(fit) => write!(f, "t{}x{}", fit.width, fit.height),
            Self::Frame => f.write_str("frame"),
            Self::Mp3 => f.write_str("mp3"),
            Self::Amr => f.write_str("amr"),
        }
    }
}

/// A derivative: small enough to be held in memory whole.
#[derive(Debug, Clone)]
pub struct Derived {
    /// The media type of `bytes`.
    pub content_type: String,
    /// The body.
    pub bytes: Bytes,
}

/// Runs blocking work off the reactor threads, to its end even if the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(error)),
    }
}
