//! An upload into the local store: batches written off the reactor threads, then the commit.

use std::{
    fs::File,
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use tokio::task::JoinHandle;

use super::{
    BoxFuture, Key, Meta, Upload, blocking,
    layout::{self, Layout},
    startup::Instance,
    storage_error,
};
use crate::{
    error::{Error, Result},
    metrics::Synced,
    store::trailer,
};

/// Bytes gathered before they go to a writing thread: 64 KiB costs a thread hop per 64 KiB, 1 MiB costs
/// memory for every slow client. One batch is gathered while one is written, so an upload holds two.
const BATCH_BYTES: usize = 128 * 1024;

/// Chunks of one batch: a client that sends single bytes makes chunks of single bytes.
const BATCH_CHUNKS_MAX: usize = 512;

/// An upload in progress. Dropping it removes its file.
pub(super) struct LocalUpload {
    batch: Vec<Bytes>,
    batch_bytes: usize,
    writer: WriterState,
    layout: Arc<Layout>,
    key: Key,
}

enum WriterState {
    Idle(Writer),
    /// Gives the written batch back, to be freed by the threads that made it: freed by the many writing
    /// threads, its memory stays with them. Measured with 200 uploads of 10 MB at once: a peak of 110 to
    /// 120 MB instead of 250 to 310, and a tenth less CPU.
    Busy(JoinHandle<io::Result<(Writer, Vec<Bytes>)>>),
    /// A write failed, or its future was dropped: only dropping is left.
    Failed,
}

/// The file being written, owned by one thread at a time.
struct Writer {
    file: File,
    temporary: Temporary,
    crc: crc32fast::Hasher,
    len: u64,
}

/// The name of an unfinished file; removed with this.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = layout::remove_if_there(&path)
        {
            // The start-up sweep takes it later.
            tracing::warn!(%error, path = %path.display(), "an unfinished upload could not be removed");
        }
    }
}

impl LocalUpload {
    /// Makes the temporary file and reserves the announced bytes. Blocking.
    pub(super) fn begin(
        layout: Arc<Layout>,
        instance: &Instance,
        key: Key,
        announced: Option<u64>,
    ) -> Result<Self> {
        layout.check_free(announced.unwrap_or(0))?;
        let path = instance.temporary(&key.id.to_string());
        let file = layout::create_new(&path).map_err(storage_error)?;
        let temporary = Temporary(Some(path));
        if let Some(bytes) = announced
            && bytes > 0
        {
            reserve(&file, bytes).map_err(storage_error)?;
        }
        let writer = Writer {
            file,
            temporary,
            crc: crc32fast::Hasher::new(),
            len: 0,
        };
        Ok(Self {
            batch: Vec::new(),
            batch_bytes: 0,
            writer: WriterState::Idle(writer),
            layout,
            key,
        })
    }

    /// Hands the gathered batch to a writing thread, after the one before it is written.
    async fn flush(&mut self) -> Result<()> {
        let mut writer = self.idle().await?;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.writer = WriterState::Busy(tokio::task::spawn_blocking(move || {
            writer.append(&batch)?;
            Ok((writer, batch))
        }));
        Ok(())
    }

    /// Waits for the write under way.
    async fn idle(&mut self) -> Result<Writer> {
        match std::mem::replace(&mut self.writer, WriterState::Failed) {
            WriterState::Idle(writer) => Ok(writer),
            WriterState::Busy(task) => {
                let (writer, written) = task
                    .await
                    .map_err(Error::internal)?
                    .map_err(storage_error)?;
                drop(written);
                Ok(writer)
            }
            WriterState::Failed => Err(Error::internal("an upload was used after it had failed")),
        }
    }
}

impl Upload for LocalUpload {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.batch_bytes += chunk.len();
            self.batch.push(chunk);
            if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_CHUNKS_MAX {
                self.flush().await?;
            }
            Ok(())
        })
    }

    fn commit(mut self: Box<Self>, meta: Meta) -> BoxFuture<'static, Result<Meta>> {
        Box::pin(async move {
            let writer = self.idle().await?;
            let (layout, key, batch) = (
                self.layout.clone(),
                self.key,
                std::mem::take(&mut self.batch),
            );
            blocking(move || writer.commit(&layout, key, &batch, meta)).await
        })
    }
}

impl Writer {
    fn append(&mut self, batch: &[Bytes]) -> io::Result<()> {
        write_all(&self.file, batch, self.len)?;
        for chunk in batch {
            self.crc.update(chunk);
            self.len += chunk.len() as u64;
        }
        Ok(())
    }

    /// The order matters, each step for a reason:
    /// 1. the rest of the payload and the trailer, so that a whole file ends in a valid footer;
    /// 2. `ftruncate` to the size written: frees what was reserved past it;
    /// 3. `fdatasync`: the bytes and the size are on the disk before the name says so;
    /// 4. directories above, made and synced; then the name, which never replaces another;
    /// 5. sync of the directory: only now would a power cut keep the name, and only now is it answered.
    fn commit(
        mut self,
        layout: &Layout,
        key: Key,
        batch: &[Bytes],
        mut meta: Meta,
    ) -> Result<Meta> {
        self.append(batch).map_err(storage_error)?;
        meta.len = self.len;
        meta.crc = self.crc.clone().finalize();
        let trailer = Bytes::from(trailer::encode(&meta)?);
        let file_len = self.len + trailer.len() as u64;
        let path = layout::object_path(layout.root(), key);
        let mut publish = || -> io::Result<()> {
            write_all(&self.file, std::slice::from_ref(&trailer), self.len)?;
            rustix::fs::ftruncate(&self.file, file_len)?;
            if layout.is_durable() {
                let sync = || rustix::fs::fdatasync(&self.file);
                layout.syncs.time(Synced::File, sync)?;
            }
            let temporary = self.temporary.0.as_deref().expect("taken only below, once");
            if let Err(error) = layout.publish(temporary, &path) {
                // The name may be there while its sync failed: an upload that is refused must not stay.
                if !layout::remove_if_there(temporary).unwrap_or(true) {
                    layout::remove_if_there(&path)?;
                }
                return Err(error);
            }
            self.temporary.0 = None;
            Ok(())
        };
        publish().map_err(storage_error)?;
        Ok(meta)
    }
}

/// Reserves blocks without changing the size: the file stays as long as what was written.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let reserve = || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes);
    // tmpfs and network file systems give up when a signal comes, such as the one that asks to stop.
    match rustix::io::retry_on_intr(reserve) {
        // Saves 20–30 % of the CPU of an upload where it works; an upload is right without it.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        result => Ok(result?),
    }
}

/// Writes all chunks from `offset` on, in as few calls as the kernel allows.
fn write_all(file: &File, chunks: &[Bytes], mut offset: u64) -> io::Result<()> {
    /// The kernel takes 1,024 (UIO_MAXIOV); batches seldom have more than 16.
    const SLICES_MAX: usize = 64;
    for group in chunks.chunks(SLICES_MAX) {
        let mut slices: [IoSlice<'_>; SLICES_MAX] = std::array::from_fn(|_| IoSlice::new(&[]));
        for (slice, chunk) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(chunk);
        }
        let mut rest = &mut slices[..group.len()];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(file, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
