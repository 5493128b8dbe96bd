//! A file on its way to the disk: batches are written on the threads of `writers.rs`. It is named when it is complete,
//! by `upload.rs` or `parts.rs`.

use std::{
    fs::File,
    io::{self, IoSlice},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    fs::FallocateFlags,
    io::{Errno, retry_on_intr},
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    Sink, StoreFuture, UploadSize, instance::Temporary, layout::Layout, space::Reservation,
    writers::Writers,
};
use crate::error::{Error, Result};

/// Bytes that are gathered before they go to a writing thread. Smaller batches cost more hand-overs, larger ones more
/// memory per slow client. One batch is gathered while another is written, so an upload holds two. Batches end at
/// multiples of this size, because ext4 makes the folios of its page cache as large as the alignment allows.
const BATCH_BYTES: usize = 128 * 1024;

/// The largest number of chunks in a batch. A client that sends single bytes makes chunks of single bytes.
const BATCH_CHUNKS_MAX: usize = 512;

/// A file that is being received. Dropping it removes the file.
pub(super) struct UnfinishedFile {
    batch: Vec<Bytes>,
    batch_bytes: usize,
    /// The offset of the batch in the file.
    offset: u64,
    state: State,
    writers: Writers,
}

enum State {
    Ready(Target),
    /// A batch is being written. It is returned, so that the threads that allocated it free it: memory that the many
    /// writing threads free stays in their arenas. Measured with 200 uploads of 10 MB at once: a peak of 110–120 MB
    /// instead of 250–310 MB, and a tenth less CPU.
    Busy(oneshot::Receiver<(Result<Writer>, Vec<Bytes>)>),
    /// A write failed or its future was dropped. The file can only be dropped.
    Failed,
}

/// The file that a writing thread writes to.
enum Target {
    /// No file yet. A file that may fit into one batch is made when the batch is written.
    New(NewFile),
    Made(Writer),
}

/// A file that was not made yet.
pub(super) struct NewFile {
    pub(super) layout: Arc<Layout>,
    pub(super) size: UploadSize,
}

/// The file being written, owned by one thread at a time.
pub(super) struct Writer {
    pub(super) layout: Arc<Layout>,
    pub(super) file: File,
    pub(super) temporary: Temporary,
    pub(super) crc: crc32fast::Hasher,
    /// Bytes written.
    pub(super) len: u64,
    /// Whether blocks were allocated for the announced bytes. The file may become smaller.
    pub(super) is_preallocated: bool,
    /// Space for the bytes that are not written yet.
    reservation: Reservation,
}

impl UnfinishedFile {
    /// Begins a file. Makes it at once if the announced bytes need more than one batch.
    ///
    /// Otherwise the file is made with the first batch, or at the end. That includes unannounced sizes: most chunked
    /// uploads are small, and one that fits into a batch need not reserve its largest possible size.
    pub(super) async fn begin(writers: Writers, new: NewFile) -> Result<Self> {
        match new.size {
            UploadSize::Announced(bytes) if bytes > BATCH_BYTES as u64 => {
                Ok(Self::make(writers, new).await?.0)
            }
            _ => Ok(Self::new(writers, Target::New(new))),
        }
    }

    /// Makes a file at once. Also returns the bytes above the free-space floor that are left.
    pub(super) async fn make(writers: Writers, new: NewFile) -> Result<(Self, u64)> {
        let made = writers.run(|| new.make()).await;
        let writer = made.map_err(Error::internal)??;
        let room = writer.reservation.room();
        Ok((Self::new(writers, Target::Made(writer)), room))
    }

    fn new(writers: Writers, target: Target) -> Self {
        Self {
            batch: Vec::new(),
            batch_bytes: 0,
            offset: 0,
            state: State::Ready(target),
            writers,
        }
    }

    /// Cuts a full batch so that it ends at a multiple of [`BATCH_BYTES`] in the file. Returns the rest.
    fn split_at_multiple(&mut self) -> Bytes {
        let end = self.offset + self.batch_bytes as u64;
        let over = (end % BATCH_BYTES as u64) as usize;
        match self.batch.last_mut() {
            Some(last) if over < last.len() => {
                self.batch_bytes -= over;
                last.split_off(last.len() - over)
            }
            _ => Bytes::new(),
        }
    }

    /// Passes the gathered batch to a writing thread, after the previous batch was written.
    async fn flush(&mut self) -> Result<()> {
        let target = self.ready().await?;
        let batch = mem::take(&mut self.batch);
        self.offset += self.batch_bytes as u64;
        self.batch_bytes = 0;
        self.state = State::Busy(self.writers.run(move || {
            let written = target.file().and_then(|mut writer| {
                writer.append(&batch)?;
                Ok(writer)
            });
            (written, batch)
        }));
        Ok(())
    }

    /// Ends the file: calls `finish` on a writing thread with the file and the rest of its bytes.
    pub(super) async fn finish<T: Send + 'static>(
        mut self,
        finish: impl FnOnce(Writer, &[Bytes]) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut target = self.ready().await?;
        if let Target::New(new) = &mut target {
            // All bytes of the file are in this batch.
            new.size = UploadSize::Announced(self.batch_bytes as u64);
        }
        let batch = mem::take(&mut self.batch);
        // The batch is returned, as from every write.
        let finished = self.writers.run(move || {
            let finished = target.file().and_then(|writer| finish(writer, &batch));
            (finished, batch)
        });
        finished.await.map_err(Error::internal)?.0
    }

    /// Waits until the current write has ended.
    async fn ready(&mut self) -> Result<Target> {
        match mem::replace(&mut self.state, State::Failed) {
            State::Ready(target) => Ok(target),
            State::Busy(task) => {
                let (writer, written) = task.await.map_err(Error::internal)?;
                drop(written);
                writer.map(Target::Made)
            }
            State::Failed => Err(Error::internal("a file was used after it had failed")),
        }
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        let state = mem::replace(&mut self.state, State::Failed);
        // Freeing megabytes may wait for the disk, and this thread serves other clients.
        if let (State::Ready(Target::Made(writer)), Ok(runtime)) = (state, Handle::try_current()) {
            drop(runtime.spawn_blocking(move || drop(writer)));
        }
    }
}

impl Target {
    /// Blocking.
    fn file(self) -> Result<Writer> {
        match self {
            Self::New(new) => new.make(),
            Self::Made(writer) => Ok(writer),
        }
    }
}

impl Sink for UnfinishedFile {
    fn write(&mut self, chunk: Bytes) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.batch_bytes += chunk.len();
            self.batch.push(chunk);
            if self.batch_bytes >= BATCH_BYTES {
                let next = self.split_at_multiple();
                self.flush().await?;
                self.batch_bytes = next.len();
                self.batch.extend((!next.is_empty()).then_some(next));
            } else if self.batch.len() >= BATCH_CHUNKS_MAX {
                self.flush().await?;
            }
            Ok(())
        })
    }
}

impl NewFile {
    /// Reserves the largest possible size of the file, makes the file, and preallocates the announced bytes, because
    /// few files are smaller than announced. Blocking.
    fn make(self) -> Result<Writer> {
        let Self { layout, size } = self;
        let instance = layout.instance()?;
        let (UploadSize::Announced(bytes) | UploadSize::AtMost(bytes)) = size;
        let mut reservation = layout.reserve(bytes)?;
        let failed = |error| layout.write_error(error);
        let (file, temporary) = instance.create("unfinished").map_err(failed)?;
        let preallocates =
            matches!(size, UploadSize::Announced(bytes) if bytes > BATCH_BYTES as u64);
        let is_preallocated = preallocates && preallocate(&file, bytes).map_err(failed)?;
        if is_preallocated {
            reservation.used(bytes);
        }
        Ok(Writer {
            layout,
            file,
            temporary,
            crc: crc32fast::Hasher::new(),
            len: 0,
            is_preallocated,
            reservation,
        })
    }
}

impl Writer {
    /// Writes a batch. Blocking.
    pub(super) fn append(&mut self, batch: &[Bytes]) -> Result<()> {
        let bytes = batch.iter().map(|chunk| chunk.len() as u64).sum();
        if !self.is_preallocated {
            self.layout.check_floor(&self.reservation, bytes)?;
        }
        let written = write_all(&self.file, batch, None, self.len);
        written.map_err(|error| self.layout.write_error(error))?;
        self.count(batch);
        if !self.is_preallocated {
            self.reservation.used(bytes);
        }
        Ok(())
    }

    /// Adds the bytes of a batch to the length and the checksum.
    pub(super) fn count(&mut self, batch: &[Bytes]) {
        for chunk in batch {
            self.crc.update(chunk);
            self.len += chunk.len() as u64;
        }
    }
}

/// Writes all chunks from `offset` on, and then the trailer, in as few calls as the kernel allows.
pub(super) fn write_all(
    file: &File,
    chunks: &[Bytes],
    trailer: Option<&Bytes>,
    mut offset: u64,
) -> io::Result<()> {
    /// The kernel accepts 1,024 (UIO_MAXIOV); most batches have at most 16.
    const SLICES_MAX: usize = 64;
    let mut chunks = chunks.iter().chain(trailer).peekable();
    while chunks.peek().is_some() {
        let mut slices: [IoSlice<'_>; SLICES_MAX] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks.by_ref()) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        let mut rest = &mut slices[..count];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match rustix::io::pwritev(file, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Allocates blocks without changing the size of the file. Returns `false` if the file system does not support that.
fn preallocate(file: &File, bytes: u64) -> io::Result<bool> {
    let allocate = || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes);
    // On tmpfs and network file systems, a signal interrupts the call, for example the one that stops the server.
    match retry_on_intr(allocate) {
        // Preallocation saves 20–30 % of the CPU of an upload, but is not required.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}
