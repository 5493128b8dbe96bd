//! An open object: its metadata, and its payload as the engine has it.
//!
//! An engine with files on this machine returns [`Payload::Mapped`], which is sent without a copy. Every other engine
//! returns [`Payload::Stream`], whose ranges are read into memory.

use std::{
    fs::File,
    io::{self, Write},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::MemfdFlags;
use tokio::runtime::Handle;

use super::{
    BoxFuture,
    key::Key,
    mapped::{CHUNK_BYTES, MappedFile},
    meta::Meta,
    trailer,
};
use crate::{
    error::{Error, Result},
    time::Timestamp,
};

/// An open, immutable object.
pub struct Opened {
    /// The key that it was opened by.
    pub key: Key,
    /// Its metadata.
    pub meta: Meta,
    /// Its bytes.
    pub payload: Payload,
}

/// The bytes of an object, in the form that its engine has.
pub enum Payload {
    /// A file on this machine. Slices of its map are sent without a copy.
    Mapped(MappedFile),
    /// Ranges are read when they are needed, for example over the network.
    Stream(Arc<dyn ReadRange>),
}

/// Reads ranges of a payload. It stays readable while it is open, also if the object is removed.
pub trait ReadRange: Send + Sync {
    /// Reads the whole range, which lies inside the payload.
    ///
    /// # Errors
    /// If the bytes cannot be read. A download that has begun is then cut off.
    fn read_range(self: Arc<Self>, range: Range<u64>) -> BoxFuture<'static, io::Result<Bytes>>;

    /// Whether the object was removed after it was opened. Must not block.
    fn is_removed(&self) -> bool;
}

impl Opened {
    /// Reads the trailer of an object's file and maps its payload. Blocking.
    ///
    /// # Errors
    /// `Internal` if the disk fails or the trailer is damaged.
    pub(super) fn from_file(file: File, key: Key) -> Result<Self> {
        let open = || -> io::Result<_> {
            let file_len = file.metadata()?.len();
            let meta = trailer::read(&file, file_len)?;
            let mapped = MappedFile::new(file, meta.len)?;
            Ok((meta, mapped))
        };
        let (meta, mapped) =
            open().map_err(|error| Error::internal(format!("object {}: {error}", key.id)))?;
        Ok(Self {
            key,
            meta,
            payload: Payload::Mapped(mapped),
        })
    }

    /// An object whose payload is read in ranges.
    pub fn stream(key: Key, meta: Meta, stream: Arc<dyn ReadRange>) -> Self {
        Self {
            key,
            meta,
            payload: Payload::Stream(stream),
        }
    }

    /// Number of bytes of the payload.
    pub fn len(&self) -> u64 {
        self.meta.len
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.meta.len == 0
    }

    /// The mapped file, if the engine has one.
    pub fn mapped(&self) -> Option<&MappedFile> {
        match &self.payload {
            Payload::Mapped(mapped) => Some(mapped),
            Payload::Stream(_) => None,
        }
    }

    /// Records a read at `now`.
    pub fn touch(&self, now: Timestamp) {
        if let Payload::Mapped(mapped) = &self.payload {
            mapped.touch(now);
        }
    }

    /// Whether the object was removed after it was opened.
    pub fn is_removed(&self) -> bool {
        match &self.payload {
            Payload::Mapped(mapped) => mapped.is_removed(),
            Payload::Stream(stream) => stream.is_removed(),
        }
    }

    /// Reads a range of the payload. Blocking: call it on a blocking thread of the runtime.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    pub fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.payload {
            Payload::Mapped(mapped) => mapped.read_range(&range),
            Payload::Stream(stream) => Handle::current().block_on(stream.clone().read_range(range)),
        }
    }

    /// Fills `into` from offset `at`. Blocking, as [`Opened::read_range`].
    ///
    /// # Errors
    /// If the bytes cannot be read.
    pub fn read_exact_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        match &self.payload {
            Payload::Mapped(mapped) => mapped.read_exact_at(at, into),
            Payload::Stream(_) => {
                let bytes = self.read_range(at..at + into.len() as u64)?;
                if bytes.len() != into.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                into.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Returns an open file whose first [`Opened::len`] bytes are the payload, for another program. A stream is copied
    /// into an anonymous file in memory. Blocking, as [`Opened::read_range`].
    ///
    /// # Errors
    /// If the bytes cannot be read, or the process has no descriptors left.
    pub fn to_file(&self) -> io::Result<File> {
        if let Payload::Mapped(mapped) = &self.payload {
            return mapped.file().try_clone();
        }
        let mut file = File::from(rustix::fs::memfd_create("chatfiles", MemfdFlags::CLOEXEC)?);
        let mut at = 0;
        while at < self.len() {
            let end = self.len().min(at + CHUNK_BYTES);
            file.write_all(&self.read_range(at..end)?)?;
            at = end;
        }
        Ok(file)
    }
}
