//! An upload into the local store, and the order of its commit.

use std::io;

use bytes::Bytes;
use rustix::io::retry_on_intr;

use super::{
    Key, Meta, Sink, StoreFuture, Upload, paths,
    unfinished::{UnfinishedFile, Writer, write_all},
};
use crate::{error::Result, metrics::Synced, store::trailer};

/// An upload in progress. Dropping it removes its file.
pub(super) struct LocalUpload {
    pub(super) file: UnfinishedFile,
    pub(super) key: Key,
}

impl Sink for LocalUpload {
    fn write(&mut self, chunk: Bytes) -> StoreFuture<'_, ()> {
        self.file.write(chunk)
    }
}

impl Upload for LocalUpload {
    fn commit(self: Box<Self>, meta: Meta) -> StoreFuture<'static, Meta> {
        let Self { file, key } = *self;
        Box::pin(file.finish(move |writer, batch| commit(writer, batch, key, meta)))
    }
}

/// Commits the file. The order of the steps matters:
/// 1. Write the rest of the payload and the trailer, so that a complete file ends in a valid footer.
/// 2. If blocks were preallocated, `ftruncate` to the size written, which frees the blocks after it.
/// 3. `fdatasync`, so that the bytes and the size are on the disk before the name is.
/// 4. Make and sync the directories above, then rename, without replacing another file.
/// 5. Sync the directory. Only now does the name survive a power cut, and only now is the upload acknowledged.
///
/// Before the rename, the path must still lead to the directory in which the upload began: a file in an unmounted
/// directory would be acknowledged and not be found.
fn commit(mut writer: Writer, batch: &[Bytes], key: Key, mut meta: Meta) -> Result<Meta> {
    let batch_at = writer.len;
    writer.count(batch);
    meta.len = writer.len;
    meta.crc = writer.crc.clone().finalize();
    let trailer = Bytes::from(trailer::encode(&meta)?);
    let layout = writer.layout.clone();
    let written = write_rest(&writer, batch, &trailer, batch_at);
    written.map_err(|error| layout.write_error(error))?;
    let instance = writer.temporary.instance.clone();
    layout.check(&instance.root)?;
    let path = paths::object_name(key);
    if let Err(error) = layout.publish(&instance, writer.temporary.at(), &path) {
        // The name may exist although its sync failed. A refused upload must not stay, but another upload's file of
        // this name must.
        let named = instance.root.at(&path);
        if named.is_of(&writer.file).unwrap_or(false) {
            let _ = named.remove_if_there();
        }
        return Err(layout.write_error(error));
    }
    writer.temporary.keep();
    layout.health.write_succeeded();
    Ok(meta)
}

fn write_rest(writer: &Writer, batch: &[Bytes], trailer: &Bytes, batch_at: u64) -> io::Result<()> {
    write_all(&writer.file, batch, Some(trailer), batch_at)?;
    if writer.is_preallocated {
        let file_len = writer.len + trailer.len() as u64;
        retry_on_intr(|| rustix::fs::ftruncate(&writer.file, file_len))?;
    }
    if writer.layout.is_durable() {
        // An interrupted call has synced nothing and reported no failed write (that would be EIO), so the repeated
        // call is not a second try of a failed sync.
        let sync = || retry_on_intr(|| rustix::fs::fdatasync(&writer.file));
        writer.layout.syncs.time(Synced::File, sync)?;
    }
    Ok(())
}
