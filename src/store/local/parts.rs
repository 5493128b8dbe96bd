//! Uploads in parts that are not complete yet.
//!
//! ```text
//! parts/<uuid>/upload                      two lines: the tenant's name and the owner's
//! parts/<uuid>/<number>-<bytes>-<crc>      one part each; a part sent again replaces the one before
//! ```
//! Parts survive a restart and expire after a day. They are not synced: their checksums stand in their
//! names, so that what a power cut tore is noticed at completion and asked for again.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{
    blocking,
    health::storage_error,
    instance::Instance,
    layout::{Layout, PARTS},
    names, on_disk,
    space::Reservation,
};
use crate::{
    error::{Error, Kind, Result},
    store::{ObjectId, Upload},
    time::{MS_PER_DAY, Timestamp},
};

/// Parts are numbered from 1 to this.
pub const PART_NUMBER_MAX: u32 = 10_000;
/// What clients are told to make a part at the least; the last one may be smaller.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// How long an upload in parts may stay unfinished.
const LIFETIME_MS: i64 = MS_PER_DAY;
/// Unfinished uploads at the most; over it new ones are refused.
const UPLOADS_MAX: usize = 10_000;
/// Bytes read at once when parts are joined.
const COPY_BYTES: usize = 64 * 1024;

/// The folder of unfinished uploads in parts. Cheap to clone.
#[derive(Clone)]
pub struct PartUploads {
    layout: Arc<Layout>,
}

/// One unfinished upload, known to belong to its caller.
pub struct PartUpload {
    directory: PathBuf,
    layout: Arc<Layout>,
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

impl PartUploads {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }

    /// Begins an upload in parts for `owner` of `tenant`.
    ///
    /// # Errors
    /// `StorageFull` below the floor, `Unavailable` when too many are unfinished.
    pub async fn begin(&self, id: ObjectId, tenant: String, owner: String) -> Result<()> {
        on_disk(&self.layout, move |layout| {
            let instance = layout.instance()?;
            let _reserved = layout.reserve(0)?;
            let parts = layout.root().join(PARTS);
            if fs::read_dir(&parts).map_err(Error::internal)?.count() >= UPLOADS_MAX {
                return Err(Kind::Unavailable(std::time::Duration::from_secs(60)).into());
            }
            // Made aside and moved in, so that no half-made one is ever seen.
            let temporary = instance.temporary("parts");
            let make = || {
                names::make_dir(&temporary)?;
                names::create_new(&temporary.join("upload"))?
                    .write_all(format!("{tenant}\n{owner}\n").as_bytes())?;
                fs::rename(&temporary, parts.join(id.to_string()))
            };
            make()
                .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
                .map_err(|error| layout.write_error(error))
        })
        .await
    }

    /// Finds an unfinished upload of `owner` of `tenant`.
    ///
    /// # Errors
    /// `ObjectNotFound` where there is none, it is another's, or it has expired at `now`.
    pub async fn find(
        &self,
        id: ObjectId,
        tenant: String,
        owner: String,
        now: Timestamp,
    ) -> Result<PartUpload> {
        on_disk(&self.layout, move |layout| {
            let directory = layout.root().join(PARTS).join(id.to_string());
            let expected = format!("{tenant}\n{owner}\n");
            match fs::read_to_string(directory.join("upload")) {
                Ok(owners) if owners == expected && !has_expired(id, now) => Ok(PartUpload {
                    directory,
                    layout: layout.clone(),
                }),
                Ok(_) => Err(Kind::ObjectNotFound.into()),
                Err(error) if names::is_absent(&error) => Err(Kind::ObjectNotFound.into()),
                Err(error) => Err(Error::internal(error)),
            }
        })
        .await
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
        let entry = entry.map_err(Error::internal)?;
        if entry
            .file_name()
            .to_str()
            .and_then(ObjectId::parse)
            .is_some_and(|id| has_expired(id, now))
        {
            expired.push(entry.path());
        }
    }
    Ok(expired)
}

fn has_expired(id: ObjectId, now: Timestamp) -> bool {
    now.ms().saturating_sub(id.created().ms()) > LIFETIME_MS
}

impl PartUpload {
    /// The parts that are there, by number.
    ///
    /// # Errors
    /// `ObjectNotFound` where the upload was aborted meanwhile.
    pub async fn list(&self) -> Result<Vec<StoredPart>> {
        let directory = self.directory.clone();
        on_disk(&self.layout, move |_| {
            list(&directory).map_err(absent_or_internal)
        })
        .await
    }

    /// Starts receiving a part of at most `bytes_max` bytes into memory-bounded writes; see [`PartWriter`].
    ///
    /// # Errors
    /// `StorageFull` where so many bytes, beside all that are on their way, could go below the floor.
    pub async fn begin_part(&self, bytes_max: u64) -> Result<PartWriter> {
        let directory = self.directory.clone();
        on_disk(&self.layout, move |layout| {
            let instance = layout.instance()?;
            let reservation = layout.reserve(bytes_max)?;
            let path = instance.temporary("part");
            let file = names::create_new(&path).map_err(|error| layout.write_error(error))?;
            Ok(PartWriter {
                layout: layout.clone(),
                _instance: instance,
                file: Some((file, reservation)),
                path,
                directory,
                bytes: 0,
                crc: crc32fast::Hasher::new(),
            })
        })
        .await
    }

    /// Joins parts 1, 2, 3, … into `upload`, checking each part's checksum.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no part, one is missing in between, or one is damaged (it is removed:
    /// sent again, the completion can be tried again).
    pub async fn join(
        &self,
        upload: &mut dyn Upload,
        mut first_bytes: impl FnMut(&[u8]),
    ) -> Result<()> {
        let parts = self.list().await?;
        for (part, expected) in parts.iter().zip(1..) {
            if part.number != expected {
                return Err(Error::invalid(format!("part {expected} is missing.")));
            }
        }
        if parts.is_empty() {
            return Err(Error::invalid("no part has been uploaded."));
        }
        for part in parts {
            let path = self.directory.join(part.file_name());
            let mut file = Some(File::open(&path).map_err(absent_or_internal)?);
            let mut crc = crc32fast::Hasher::new();
            loop {
                let mut reader = file.take().expect("put back below, every round");
                let (reader, chunk) = blocking(move || {
                    let mut buffer = BytesMut::zeroed(COPY_BYTES);
                    let read = reader.read(&mut buffer).map_err(Error::internal)?;
                    buffer.truncate(read);
                    Ok((reader, buffer.freeze()))
                })
                .await?;
                if chunk.is_empty() {
                    break;
                }
                file = Some(reader);
                crc.update(&chunk);
                first_bytes(&chunk);
                upload.write(chunk).await?;
            }
            if crc.finalize() != part.crc {
                let _ = blocking(move || fs::remove_file(path).map_err(Error::internal)).await;
                return Err(Error::invalid(format!(
                    "part {} is damaged: send it again.",
                    part.number
                )));
            }
        }
        Ok(())
    }

    /// Removes the upload with all its parts.
    ///
    /// # Errors
    /// `Internal` where the disk refuses.
    pub async fn remove(self) -> Result<()> {
        let layout = self.layout.clone();
        on_disk(&layout, move |layout| {
            layout.check_root()?;
            match fs::remove_dir_all(&self.directory) {
                Err(error) if !names::is_absent(&error) => Err(Error::internal(error)),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// A part on its way in. Dropping it removes its file.
pub struct PartWriter {
    layout: Arc<Layout>,
    /// Keeps the folder that the file is in.
    _instance: Arc<Instance>,
    file: Option<(File, Reservation)>,
    path: PathBuf,
    directory: PathBuf,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl PartWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// `StorageFull`, or `Internal` where the disk fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped `write` the part can only be dropped.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let (mut file, mut reservation) = self
            .file
            .take()
            .ok_or_else(|| Error::internal("a part was used after it had failed"))?;
        self.crc.update(&chunk);
        self.bytes += chunk.len() as u64;
        let file = on_disk(&self.layout, move |layout| {
            let bytes = chunk.len() as u64;
            layout.check_floor(&reservation, bytes)?;
            let written = file.write_all(&chunk);
            written.map_err(|error| layout.write_error(error))?;
            reservation.used(bytes);
            Ok((file, reservation))
        })
        .await?;
        self.file = Some(file);
        Ok(())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the part in its place as `number`, from 1 to [`PART_NUMBER_MAX`]; one of the same number is
    /// replaced. (The web SDK sends the number after the bytes.)
    ///
    /// # Errors
    /// `ObjectNotFound` where the upload was aborted meanwhile.
    pub async fn finish(self, number: u32) -> Result<StoredPart> {
        let part = StoredPart {
            number,
            bytes: self.bytes,
            crc: self.crc.clone().finalize(),
        };
        let layout = self.layout.clone();
        on_disk(&layout, move |_| {
            let before = list(&self.directory).map_err(absent_or_internal)?;
            fs::rename(&self.path, self.directory.join(part.file_name()))
                .map_err(absent_or_internal)?;
            for old in before
                .into_iter()
                .filter(|old| old.number == part.number && *old != part)
            {
                names::remove_if_there(&self.directory.join(old.file_name()))
                    .map_err(Error::internal)?;
            }
            Ok(part)
        })
        .await
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        // Gone already after `finish`; what stays is swept at the next start.
        let _ = names::remove_if_there(&self.path);
    }
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

fn list(directory: &Path) -> io::Result<Vec<StoredPart>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(directory)? {
        parts.extend(entry?.file_name().to_str().and_then(StoredPart::parse));
    }
    parts.sort_unstable();
    // Two at once may both have put a part of this number in its place: either is one that was sent.
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
