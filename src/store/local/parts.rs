//! Unfinished uploads in parts, on the disk.
//!
//! ```text
//! parts/<uuid>/upload                      two lines: the tenant's name and the user's
//! parts/<uuid>/<number>-<bytes>-<crc>      one part each; a part sent again replaces the one before
//! parts/<uuid>.<object>.<instance>/        the same while it is being completed into <object> by a server
//! ```
//! Parts survive a restart and expire after a day. They are not synced: their checksums are in their names, so a part
//! that a power cut tore is noticed at completion, and the client is asked to send it again.
//!
//! Renaming the directory claims an upload for its completion, also against another process on this store: a second
//! claim finds nothing to rename. The new name says what to do after a crash: if `<object>` is stored, the completion
//! had succeeded; otherwise the upload is given back. A directory that is no longer needed is renamed into `tmp/`
//! before it is removed, so that nobody finds half of it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};

use super::{
    blocking,
    health::storage_error,
    instance::{Instance, is_running},
    layout::Layout,
    names::{self, At},
    paths::PARTS,
    unfinished::{NewFile, UnfinishedFile, Writer},
    writers::Writers,
};
use crate::{
    error::{Error, Kind, Result},
    store::{
        ClaimedParts, ClaimedUpload, ExpireMode, Key, ObjectId, PartStore, PartWriter, PartsOwner,
        PutPart, Sink, StoreFuture, StoredPart, UnfinishedUpload, UnfinishedUploads, UploadSize,
        key::Class,
        parts::{PARTS_LIFETIME_MS, parts_have_expired},
    },
    time::Timestamp,
};

/// The file that says whose an upload is.
const OWNER: &str = "upload";
/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// The folder of unfinished uploads in parts. Cheap to clone.
#[derive(Clone)]
pub(super) struct PartFolder {
    pub(super) layout: Arc<Layout>,
    pub(super) writers: Writers,
}

impl PartStore for PartFolder {
    fn begin(&self, id: ObjectId, owner: PartsOwner) -> StoreFuture<'_, ()> {
        self.run(move |folder| folder.create(id, &owner))
    }

    fn find(&self, id: ObjectId) -> StoreFuture<'_, Option<UnfinishedUpload>> {
        self.run(move |folder| {
            let found = read(&folder.path(id));
            folder.layout.unless_gone(found, Option::is_none)
        })
    }

    fn begin_part(&self, bytes_max: u64) -> StoreFuture<'_, Box<dyn PartWriter>> {
        let new = NewFile {
            layout: self.layout.clone(),
            size: UploadSize::AtMost(bytes_max),
        };
        Box::pin(async move {
            // Made at once, because the space is reserved before the first byte is read.
            let (file, free_bytes) = UnfinishedFile::make(self.writers.clone(), new).await?;
            let folder = self.clone();
            Ok(Box::new(LocalPart {
                folder,
                file,
                free_bytes,
            }) as Box<dyn PartWriter>)
        })
    }

    fn claim(&self, id: ObjectId, key: Key) -> StoreFuture<'_, ClaimedUpload> {
        self.run(move |folder| {
            let instance = folder.layout.instance()?;
            let name = format!("{id}.{}.{}", key.id, instance.name());
            let path = folder.layout.root().join(PARTS).join(name);
            fs::rename(folder.path(id), &path)
                .map_err(|error| folder.absent_or_write_error(error))?;
            let claimed = folder.claimed(id, key, path.clone(), Some(instance));
            // If this fails too, the next start gives the upload back.
            claimed.inspect_err(|_| drop(fs::rename(&path, folder.path(id))))
        })
    }

    fn abort(&self, id: ObjectId) -> StoreFuture<'_, ()> {
        self.run(move |folder| folder.discard(&folder.path(id)))
    }

    fn list(&self) -> StoreFuture<'_, UnfinishedUploads> {
        // An empty directory may be a mount point.
        self.run(|folder| folder.layout.unless_gone(folder.names(), |_| true))
    }

    fn expire(&self, now: Timestamp, mode: ExpireMode) -> StoreFuture<'_, u64> {
        self.run(move |folder| {
            let expired = expired(folder.layout.root(), now)?;
            for path in expired.iter().filter(|_| mode == ExpireMode::Remove) {
                match fs::remove_dir_all(path) {
                    // Completed or aborted at the same moment.
                    Err(error) if !names::is_absent(&error) => return Err(Error::internal(error)),
                    _ => {}
                }
            }
            Ok(expired.len() as u64)
        })
    }
}

impl PartFolder {
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T> + Send + 'static,
    ) -> StoreFuture<'static, T> {
        let folder = self.clone();
        Box::pin(blocking(move || work(folder)))
    }

    fn claimed(
        &self,
        id: ObjectId,
        key: Key,
        path: PathBuf,
        instance: Option<Arc<Instance>>,
    ) -> Result<ClaimedUpload> {
        let found = read(&path)?;
        let parts = Claimed {
            folder: self.clone(),
            id,
            path,
            _instance: instance,
        };
        Ok(ClaimedUpload::new(id, key, found, Box::new(parts)))
    }

    fn create(&self, id: ObjectId, owner: &PartsOwner) -> Result<()> {
        let instance = self.layout.instance()?;
        let _reserved = self.layout.reserve(0)?;
        // Made aside and moved in, so that nobody sees a half-made one.
        let temporary = instance.temporary("parts");
        let make = || {
            At::path(&temporary).make_dir()?;
            let PartsOwner { tenant, user } = owner;
            At::path(&temporary.join(OWNER))
                .create_new()?
                .write_all(format!("{tenant}\n{user}\n").as_bytes())?;
            fs::rename(&temporary, self.path(id))
        };
        make()
            .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
            .map_err(|error| self.layout.write_error(error))
    }

    /// Stores a part that was received. Blocking.
    fn put(
        &self,
        id: ObjectId,
        number: u32,
        received: Writer,
        upload_bytes_max: u64,
    ) -> Result<PutPart> {
        let directory = self.path(id);
        let stored = list_all(&directory).map_err(absent_or_internal);
        let stored = self.layout.unless_gone(stored, |_| false)?;
        let Writer { temporary, .. } = received;
        // The file is in a directory that may have been unmounted since.
        self.layout.check(&temporary.instance.root)?;
        let part = StoredPart {
            number,
            bytes: received.len,
            crc: received.crc.finalize(),
        };
        let mut upload = UnfinishedUpload {
            owner: PartsOwner::default(),
            parts: stored,
        };
        let put = upload.put(part, upload_bytes_max)?;
        names::rename_over(temporary.at(), At::path(&directory.join(file_name(part))))
            .map_err(|error| self.absent_or_write_error(error))?;
        temporary.keep();
        for old in put.replaced.iter().filter(|old| **old != part) {
            names::remove_if_there(&directory.join(file_name(*old))).map_err(Error::internal)?;
        }
        Ok(put)
    }

    fn discard(&self, path: &Path) -> Result<()> {
        let temporary = self.layout.instance()?.temporary("discarded");
        let discard = || {
            fs::rename(path, &temporary)?;
            fs::remove_dir_all(&temporary)
        };
        match discard() {
            Err(error) if !names::is_absent(&error) => Err(self.layout.write_error(error)),
            // The upload is absent, or the whole store is.
            Err(_) => self.layout.check_root(),
            Ok(()) => Ok(()),
        }
    }

    fn absent_or_write_error(&self, error: io::Error) -> Error {
        match names::is_absent(&error) {
            true => match self.layout.check_root() {
                Ok(()) => Kind::ObjectNotFound.into(),
                Err(gone) => gone,
            },
            false => self.layout.write_error(error),
        }
    }

    fn names(&self) -> Result<UnfinishedUploads> {
        let mut found = UnfinishedUploads::default();
        for entry in fs::read_dir(self.layout.root().join(PARTS)).map_err(Error::internal)? {
            let path = entry.map_err(Error::internal)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            if let Some(id) = ObjectId::parse(name) {
                found.open.push(id);
            } else if let Some((id, key, instance)) = parse_claimed(name)
                && !is_running(self.layout.root(), instance)
            {
                found.orphaned.push(self.claimed(id, key, path, None)?);
            }
        }
        Ok(found)
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.layout.root().join(PARTS).join(id.to_string())
    }
}

/// A part that is being received. Dropping it removes its file.
struct LocalPart {
    folder: PartFolder,
    file: UnfinishedFile,
    free_bytes: u64,
}

impl Sink for LocalPart {
    fn write(&mut self, chunk: Bytes) -> StoreFuture<'_, ()> {
        self.file.write(chunk)
    }
}

impl PartWriter for LocalPart {
    fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    fn put(
        self: Box<Self>,
        id: ObjectId,
        number: u32,
        upload_bytes_max: u64,
    ) -> StoreFuture<'static, PutPart> {
        let Self { folder, file, .. } = *self;
        Box::pin(file.finish(move |mut received, batch| {
            received.append(batch)?;
            folder.put(id, number, received, upload_bytes_max)
        }))
    }
}

/// An upload that is being completed. The name of its directory says by whom, and into which object.
struct Claimed {
    folder: PartFolder,
    id: ObjectId,
    path: PathBuf,
    /// Keeps the claim of this process alive; `None` for an orphaned claim.
    _instance: Option<Arc<Instance>>,
}

impl ClaimedParts for Claimed {
    fn read(&self, part: StoredPart) -> BoxStream<'static, Result<Bytes>> {
        let path = self.path.join(file_name(part));
        let read = move |file: Option<File>| {
            let path = path.clone();
            blocking(move || {
                let file = match file {
                    Some(file) => file,
                    None => File::open(path).map_err(absent_or_internal)?,
                };
                let chunk = read_chunk(&file).map_err(Error::internal)?;
                Ok((!chunk.is_empty()).then_some((chunk, Some(file))))
            })
        };
        Box::pin(stream::try_unfold(None, read))
    }

    fn remove(&self, part: StoredPart) -> StoreFuture<'_, ()> {
        let path = self.path.join(file_name(part));
        Box::pin(blocking(move || {
            names::remove_if_there(&path).map_err(Error::internal)?;
            Ok(())
        }))
    }

    fn give_back(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(blocking(move || {
            let folder = &self.folder;
            fs::rename(&self.path, folder.path(self.id))
                .map_err(|error| folder.absent_or_write_error(error))
        }))
    }

    fn discard(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(blocking(move || self.folder.discard(&self.path)))
    }
}

/// Reads the next bytes; empty at the end.
fn read_chunk(mut file: &File) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(READ_BYTES);
    loop {
        match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                buffer.truncate(read?);
                return Ok(buffer.freeze());
            }
        }
    }
}

/// The directories of uploads that have expired.
fn expired(root: &Path, now: Timestamp) -> Result<Vec<PathBuf>> {
    let mut expired = Vec::new();
    for entry in names::entries(&root.join(PARTS)).map_err(Error::internal)? {
        let path = entry.map_err(Error::internal)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let is_expired = match ObjectId::parse(name) {
            Some(id) => parts_have_expired(id, now),
            // Its completion began in time, so it has one more day.
            None => parse_claimed(name).is_some_and(|(id, ..)| {
                now.ms().saturating_sub(id.created().ms()) > 2 * PARTS_LIFETIME_MS
            }),
        };
        if is_expired {
            expired.push(path);
        }
    }
    Ok(expired)
}

/// Splits the directory name of a claimed upload into the upload, the object, and the name of the server.
fn parse_claimed(name: &str) -> Option<(ObjectId, Key, &str)> {
    let mut fields = name.split('.');
    let id = ObjectId::parse(fields.next()?)?;
    let object = ObjectId::parse(fields.next()?)?;
    let instance = fields
        .next()
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    fields
        .next()
        .is_none()
        .then_some((id, Key::of(Class::Chatfile, object), instance))
}

fn file_name(part: StoredPart) -> String {
    format!("{:05}-{}-{:08x}", part.number, part.bytes, part.crc)
}

fn parse_part(name: &str) -> Option<StoredPart> {
    let mut fields = name.split('-');
    let part = StoredPart {
        number: fields.next()?.parse().ok()?,
        bytes: fields.next()?.parse().ok()?,
        crc: u32::from_str_radix(fields.next()?, 16).ok()?,
    };
    fields.next().is_none().then_some(part)
}

fn read(directory: &Path) -> Result<Option<UnfinishedUpload>> {
    let owner = match fs::read_to_string(directory.join(OWNER)) {
        Err(error) if names::is_absent(&error) => return Ok(None),
        owner => owner.map_err(Error::internal)?,
    };
    // Torn by a power cut, it belongs to nobody and expires.
    let mut lines = owner.lines();
    let (Some(tenant), Some(user)) = (lines.next(), lines.next()) else {
        return Ok(None);
    };
    let parts = match list(directory) {
        Err(error) if names::is_absent(&error) => return Ok(None),
        parts => parts.map_err(Error::internal)?,
    };
    Ok(Some(UnfinishedUpload {
        owner: PartsOwner {
            tenant: tenant.to_owned(),
            user: user.to_owned(),
        },
        parts,
    }))
}

fn list_all(directory: &Path) -> io::Result<Vec<StoredPart>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(directory)? {
        parts.extend(entry?.file_name().to_str().and_then(parse_part));
    }
    Ok(parts)
}

fn list(directory: &Path) -> io::Result<Vec<StoredPart>> {
    let mut parts = list_all(directory)?;
    parts.sort_unstable();
    // After a crash between the two steps of a replacement, two parts have the same number. Both were sent.
    parts.dedup_by_key(|part| part.number);
    Ok(parts)
}

fn absent_or_internal(error: io::Error) -> Error {
    if names::is_absent(&error) {
        Kind::ObjectNotFound.into()
    } else {
        storage_error(error)
    }
}
