//! A part on its way to the disk: gathered into batches, written off the reactor threads, then named.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    store::local::{
        instance::Instance,
        layout::Layout,
        names, on_disk,
        space::Reservation,
        upload::{BATCH_BYTES, BATCH_CHUNKS_MAX, write_all},
    },
};

/// A part that is being received. Dropping it removes its file.
pub struct PartWriter {
    layout: Arc<Layout>,
    temporary: Temporary,
    /// Taken while a batch is being written.
    open: Option<OpenPart>,
    batch: Vec<Bytes>,
    batch_bytes: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
}

struct OpenPart {
    file: File,
    reservation: Reservation,
    /// Bytes in the file.
    len: u64,
}

/// A part whose bytes are all in its file, which has no name yet. Dropping it removes the file.
pub struct WrittenPart {
    temporary: Temporary,
    bytes: u64,
    crc: u32,
}

/// An unfinished file, removed with this.
struct Temporary {
    path: Option<PathBuf>,
    /// Keeps the folder that it is in.
    instance: Arc<Instance>,
}

impl PartWriter {
    /// Makes the file. Blocking.
    pub(super) fn create(
        layout: Arc<Layout>,
        instance: Arc<Instance>,
        reservation: Reservation,
    ) -> Result<Self> {
        let path = instance.temporary("part");
        let file = names::create_new(&path).map_err(|error| layout.write_error(error))?;
        let open = OpenPart {
            file,
            reservation,
            len: 0,
        };
        Ok(Self {
            layout,
            temporary: Temporary {
                path: Some(path),
                instance,
            },
            open: Some(open),
            batch: Vec::new(),
            batch_bytes: 0,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
        })
    }

    /// Appends bytes; returns when they are gathered, or all before them are written.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` where the disk fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write` the part can only be dropped.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.crc.update(&chunk);
        self.bytes += chunk.len() as u64;
        self.batch_bytes += chunk.len() as u64;
        self.batch.push(chunk);
        if self.batch_bytes >= BATCH_BYTES as u64 || self.batch.len() >= BATCH_CHUNKS_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let open = self.open.take();
        let mut open =
            open.ok_or_else(|| Error::internal("a part was used after it had failed"))?;
        let (batch, bytes) = (std::mem::take(&mut self.batch), self.batch_bytes);
        self.batch_bytes = 0;
        // The batch comes back, to be freed by the thread that made it (see `upload.rs`).
        let (open, _batch) = on_disk(&self.layout, move |layout| {
            layout.check_floor(&open.reservation, bytes)?;
            let written = write_all(&open.file, &batch, None, open.len);
            written.map_err(|error| layout.write_error(error))?;
            open.len += bytes;
            open.reservation.used(bytes);
            Ok((open, batch))
        })
        .await?;
        self.open = Some(open);
        Ok(())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes what is gathered.
    ///
    /// # Errors
    /// As [`PartWriter::write`].
    pub async fn finish(mut self) -> Result<WrittenPart> {
        self.flush().await?;
        Ok(WrittenPart {
            temporary: self.temporary,
            bytes: self.bytes,
            crc: self.crc.finalize(),
        })
    }
}

impl WrittenPart {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn instance(&self) -> &Instance {
        &self.temporary.instance
    }

    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    /// Gives the file its name. Blocking.
    pub(super) fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.temporary.path {
            fs::rename(path, to)?;
        }
        self.temporary.path = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        // What stays is swept at the next start.
        let remove = move || drop(names::remove_if_there(&path));
        match tokio::runtime::Handle::try_current() {
            // Freeing megabytes may wait for the disk, and this thread serves others.
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
