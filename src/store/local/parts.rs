//! Unfinished uploads in parts, on the disk.
//!
//! ```text
//! parts/<uuid>/upload                      two lines: the tenant's name and the user's
//! parts/<uuid>/<number>-<bytes>-<crc>      one part each; a part sent again replaces the one before
//! parts/<uuid>.<object>.<instance>/        the same while it is being completed into <object> by a server
//! ```
//! Parts survive a restart and expire after a day. They are not synced: their checksums stand in their names, so
//! that what a power cut tore is noticed at completion and asked for again.
//!
//! Renaming the directory claims an upload for its completion, also against another process on this store: a
//! second claim finds nothing to rename. The new name says what to do after a crash: where `<object>` is stored,
//! the completion had succeeded; else the upload is given back. A directory that is not needed any more is renamed
//! into `tmp/` before it is removed, so that nobody ever finds half of it.
//!
//! Who may have how many of them, and how large, is not decided here (`files/parts.rs`). Everything blocks but what is `async`.

mod claimed;
mod reader;
mod writer;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{
    claimed::ClaimedParts,
    reader::PartsReader,
    writer::{PartWriter, WrittenPart},
};
use super::{
    health::storage_error,
    instance::is_running,
    layout::{Layout, PARTS},
    names, open_object,
};
use crate::{
    error::{Error, Kind, Result},
    store::{Key, Meta, ObjectId},
    time::{MS_PER_DAY, Timestamp},
};

/// Parts are numbered from 1 to this.
pub const PART_NUMBER_MAX: u32 = 10_000;
/// What clients are told to make a part at the least; the last one may be smaller.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// How long an upload in parts may stay unfinished.
const LIFETIME_MS: i64 = MS_PER_DAY;
/// The file that says whose an upload is.
const OWNER: &str = "upload";

/// The folder of unfinished uploads in parts. Cheap to clone.
#[derive(Clone)]
pub struct PartFolder {
    layout: Arc<Layout>,
}

/// An unfinished upload as it lies on the disk.
#[derive(Debug)]
pub struct FoundUpload {
    /// The tenant's name.
    pub tenant: String,
    /// The user; empty for the application itself.
    pub user: String,
    /// Its parts, by number.
    pub parts: Vec<StoredPart>,
}

/// What lies in the folder.
#[derive(Default)]
pub struct FolderContents {
    /// Uploads that can go on.
    pub open: Vec<ObjectId>,
    /// Uploads that a server was completing which is gone.
    pub orphaned: Vec<ClaimedParts>,
}

/// A part that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPart {
    /// From 1 to [`PART_NUMBER_MAX`].
    pub number: u32,
    /// Its size in bytes.
    pub bytes: u64,
    crc: u32,
}

impl PartFolder {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    /// Whether an upload of this id has outlived its day.
    pub fn has_expired(id: ObjectId, now: Timestamp) -> bool {
        is_older(id, now, LIFETIME_MS)
    }

    /// Makes an upload of `user` of `tenant`, without any part.
    ///
    /// # Errors
    /// `StorageFull` below the floor.
    pub fn create(&self, id: ObjectId, tenant: &str, user: &str) -> Result<()> {
        let instance = self.layout.instance()?;
        let _reserved = self.layout.reserve(0)?;
        // Made aside and moved in, so that no half-made one is ever seen.
        let temporary = instance.temporary("parts");
        let make = || {
            names::make_dir(&temporary)?;
            names::create_new(&temporary.join(OWNER))?
                .write_all(format!("{tenant}\n{user}\n").as_bytes())?;
            fs::rename(&temporary, self.path(id))
        };
        make()
            .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
            .map_err(|error| self.layout.write_error(error))
    }

    /// Reads an upload; `None` where there is none.
    ///
    /// # Errors
    /// `Internal` where the disk fails.
    pub fn read(&self, id: ObjectId) -> Result<Option<FoundUpload>> {
        let found = read(&self.path(id));
        self.layout.unless_gone(found, Option::is_none)
    }

    /// Whether there is such an upload.
    ///
    /// # Errors
    /// `Internal` where the disk fails.
    pub fn exists(&self, id: ObjectId) -> Result<bool> {
        let exists = self.path(id).try_exists().map_err(Error::internal);
        self.layout.unless_gone(exists, |exists| !exists)
    }

    /// The parts of an upload, by number.
    ///
    /// # Errors
    /// `ObjectNotFound` where there is no such upload.
    pub fn list(&self, id: ObjectId) -> Result<Vec<StoredPart>> {
        let parts = list(&self.path(id)).map_err(absent_or_internal);
        self.layout.unless_gone(parts, |_| false)
    }

    /// Makes the file of a part of at most `bytes_max` bytes, whose space is reserved first. `admit` is told how
    /// many bytes above the free-space floor are left then, and may refuse.
    ///
    /// # Errors
    /// `StorageFull` where so many bytes, beside all that are on their way, could go below the floor; those of
    /// `admit`.
    pub fn create_part(
        &self,
        bytes_max: u64,
        admit: impl FnOnce(u64) -> Result<()>,
    ) -> Result<PartWriter> {
        let instance = self.layout.instance()?;
        let reservation = self.layout.reserve(bytes_max)?;
        admit(reservation.room())?;
        PartWriter::create(self.layout.clone(), instance, reservation)
    }

    /// Puts a written part in its place as `number`, from 1 to [`PART_NUMBER_MAX`]. Returns it, and those of the
    /// same number that it replaced. The caller lets nobody else change the upload meanwhile.
    ///
    /// # Errors
    /// `TooLarge` where the parts together would have more than `bytes_max`, `ObjectNotFound` where the upload is
    /// gone.
    pub fn put(
        &self,
        id: ObjectId,
        written: WrittenPart,
        number: u32,
        bytes_max: u64,
    ) -> Result<(StoredPart, Vec<StoredPart>)> {
        let part = StoredPart {
            number,
            bytes: written.bytes(),
            crc: written.crc(),
        };
        let directory = self.path(id);
        let stored = list_all(&directory).map_err(absent_or_internal);
        let stored = self.layout.unless_gone(stored, |_| false)?;
        // Its file is in a directory that may have been unmounted since.
        self.layout.check_opening(written.instance())?;
        let (mut replaced, others): (Vec<_>, Vec<_>) =
            stored.into_iter().partition(|old| old.number == number);
        let others_bytes: u64 = others.iter().map(|part| part.bytes).sum();
        if others_bytes.saturating_add(part.bytes) > bytes_max {
            return Err(Kind::TooLarge.into());
        }
        written
            .rename(&directory.join(part.file_name()))
            .map_err(|error| self.absent_or_write_error(error))?;
        for old in replaced.iter().filter(|old| **old != part) {
            names::remove_if_there(&directory.join(old.file_name())).map_err(Error::internal)?;
        }
        replaced.sort_unstable();
        Ok((part, replaced))
    }

    /// Takes an upload for its completion into an object. Nobody else finds it from here on.
    ///
    /// # Errors
    /// `ObjectNotFound` where there is none, or somebody else was first.
    pub fn claim(&self, id: ObjectId, object: ObjectId) -> Result<ClaimedParts> {
        let instance = self.layout.instance()?;
        let claimed = ClaimedParts::new(&self.layout.root().join(PARTS), id, object, instance);
        fs::rename(self.path(id), claimed.path())
            .map_err(|error| self.absent_or_write_error(error))?;
        Ok(claimed)
    }

    /// Gives an upload back whose completion failed.
    ///
    /// # Errors
    /// `ObjectNotFound` where it is gone, `Internal` where the disk refuses; the next start tries again.
    pub fn give_back(&self, claimed: &ClaimedParts) -> Result<()> {
        fs::rename(claimed.path(), self.path(claimed.id()))
            .map_err(|error| self.absent_or_write_error(error))
    }

    /// Removes an upload with all its parts.
    ///
    /// # Errors
    /// `Internal` where the disk refuses.
    pub fn discard(&self, id: ObjectId) -> Result<()> {
        self.discard_directory(&self.path(id))
    }

    /// Removes the parts of an upload that was completed.
    ///
    /// # Errors
    /// `Internal` where the disk refuses; the next start tries again.
    pub fn discard_claimed(&self, claimed: &ClaimedParts) -> Result<()> {
        self.discard_directory(claimed.path())
    }

    fn discard_directory(&self, path: &Path) -> Result<()> {
        let temporary = self.layout.instance()?.temporary("discarded");
        let discard = || {
            fs::rename(path, &temporary)?;
            fs::remove_dir_all(&temporary)
        };
        match discard() {
            Err(error) if !names::is_absent(&error) => Err(self.layout.write_error(error)),
            // Not there, or all of the store is not.
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

    /// Reads the names in the folder.
    ///
    /// # Errors
    /// `Internal` where the disk fails, `Unavailable` where the store is gone.
    pub fn contents(&self) -> Result<FolderContents> {
        // An empty directory may be a mount point.
        self.layout.unless_gone(self.names(), |_| true)
    }

    fn names(&self) -> Result<FolderContents> {
        let mut contents = FolderContents::default();
        for entry in fs::read_dir(self.layout.root().join(PARTS)).map_err(Error::internal)? {
            let path = entry.map_err(Error::internal)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(id) = ObjectId::parse(name) {
                contents.open.push(id);
            } else if let Some((claimed, instance)) = ClaimedParts::parse(&path, name)
                && !is_running(self.layout.root(), instance)
            {
                contents.orphaned.push(claimed);
            }
        }
        Ok(contents)
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.layout.root().join(PARTS).join(id.to_string())
    }

    /// What is stored of the object that orphaned parts were being joined into, and whose they were; `None` where
    /// that completion did not succeed.
    ///
    /// # Errors
    /// `Internal` where the disk fails.
    pub fn completed(&self, claimed: &ClaimedParts) -> Result<Option<(FoundUpload, Key, Meta)>> {
        let key = claimed.key();
        match open_object(self.layout.root(), key)? {
            Some(object) => {
                let found = read(claimed.path())?;
                Ok(found.map(|found| (found, key, object.meta.clone())))
            }
            None => Ok(None),
        }
    }
}

/// Removes the unfinished uploads in parts that have expired at `now`; returns how many. Blocking.
///
/// # Errors
/// `Internal` where the directory cannot be read.
pub fn sweep_parts(root: &Path, now: Timestamp) -> Result<u64> {
    let expired = expired_parts(root, now)?;
    for path in &expired {
        match fs::remove_dir_all(path) {
            // Completed or aborted in this very moment.
            Err(error) if !names::is_absent(&error) => return Err(Error::internal(error)),
            _ => {}
        }
    }
    Ok(expired.len() as u64)
}

/// What [`sweep_parts`] would remove. Blocking.
///
/// # Errors
/// `Internal` where the directory cannot be read.
pub fn expired_parts(root: &Path, now: Timestamp) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root.join(PARTS)) {
        Err(error) if names::is_absent(&error) => return Ok(Vec::new()),
        entries => entries.map_err(Error::internal)?,
    };
    let mut expired = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::internal)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let is_expired = match ObjectId::parse(name) {
            Some(id) => PartFolder::has_expired(id, now),
            // One that is being completed just now began its completion in time: it has another day.
            None => ClaimedParts::parse(&path, name)
                .is_some_and(|(claimed, _)| is_older(claimed.id(), now, 2 * LIFETIME_MS)),
        };
        if is_expired {
            expired.push(path);
        }
    }
    Ok(expired)
}

fn is_older(id: ObjectId, now: Timestamp, ms: i64) -> bool {
    now.ms().saturating_sub(id.created().ms()) > ms
}

impl StoredPart {
    fn file_name(&self) -> String {
        format!("{:05}-{}-{:08x}", self.number, self.bytes, self.crc)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('-');
        let part = Self {
            number: fields.next()?.parse().ok()?,
            bytes: fields.next()?.parse().ok()?,
            crc: u32::from_str_radix(fields.next()?, 16).ok()?,
        };
        fields.next().is_none().then_some(part)
    }
}

fn read(directory: &Path) -> Result<Option<FoundUpload>> {
    let owner = match fs::read_to_string(directory.join(OWNER)) {
        Err(error) if names::is_absent(&error) => return Ok(None),
        owner => owner.map_err(Error::internal)?,
    };
    // Torn by a power cut, it is nobody's, and expires.
    let mut lines = owner.lines();
    let (Some(tenant), Some(user)) = (lines.next(), lines.next()) else {
        return Ok(None);
    };
    let parts = match list(directory) {
        Err(error) if names::is_absent(&error) => return Ok(None),
        parts => parts.map_err(Error::internal)?,
    };
    Ok(Some(FoundUpload {
        tenant: tenant.to_owned(),
        user: user.to_owned(),
        parts,
    }))
}

fn list_all(directory: &Path) -> io::Result<Vec<StoredPart>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(directory)? {
        parts.extend(entry?.file_name().to_str().and_then(StoredPart::parse));
    }
    Ok(parts)
}

fn list(directory: &Path) -> io::Result<Vec<StoredPart>> {
    let mut parts = list_all(directory)?;
    parts.sort_unstable();
    // After a crash between the two steps of a replacement there are two of a number: either was sent.
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
