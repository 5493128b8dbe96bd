//! Reads and writes small private files: atomically, with mode 0600. Refuses files that others can read.
//!
//! Does not know the contents.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::{fault, random};
use crate::{
    durable,
    error::{Error, Result},
    secret::Secret,
};

/// Maximum size of a file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What happens if the file exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    /// It is kept, without an error.
    New,
    /// It is replaced.
    Replace,
}

/// Identifies a version of a file without reading it. The inode is needed because a rename within one clock tick of the
/// file system may not change time and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Stamp {
    /// The file, or its directory, does not exist. No file has the inode 0.
    pub(in crate::auth) const ABSENT: Self = Self {
        inode: 0,
        bytes: 0,
        modified_ns: 0,
    };

    pub(in crate::auth) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// Creates `dir` and all missing directories above it, with mode 0700, and syncs them.
pub(super) fn create_dir(dir: &Path) -> Result<()> {
    let above = dir.parent().unwrap_or(dir);
    durable::make_dirs(above)
        .and_then(|()| durable::make_dirs(dir))
        .map_err(|error| refused(dir, &error))
}

/// Opens a lock file, with mode 0600.
pub(super) fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| fault(path, error))
}

/// Writes `text` and a line feed to `dir/name`, and syncs it.
///
/// The order: write and sync the data under a temporary name, then rename or link it, then sync the directories. So there
/// is never a partial file under `name`.
pub(super) fn publish(dir: &Path, name: &str, text: &str, how: Publish) -> Result<()> {
    let path = dir.join(name);
    let draft = dir.join(format!(".{name}.{}", random(9)?.expose()));
    let written = write(&draft, text).and_then(|()| match how {
        Publish::Replace => fs::rename(&draft, &path),
        // A link and not a rename, so that the second of two concurrent processes finds the file of the first.
        Publish::New => match fs::hard_link(&draft, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        },
    });
    let written = written.and_then(|()| sync(dir));
    // After a rename the draft is gone already. It is removed after the sync because of `settle`. A draft that a crash
    // leaves behind is private and never read.
    let _ = fs::remove_file(&draft);
    written.map_err(|error| refused(&path, &error))
}

/// Syncs the directories if the writer of a file may not have synced them yet, because a secret must not be used before
/// it survives a power failure.
///
/// The draft is a second name of the file, which the writer removes after its sync. So a file with two names may not be
/// synced.
pub(super) fn settle(dir: &Path, path: &Path, metadata: &fs::Metadata) -> Result<()> {
    match metadata.nlink() {
        0 | 1 => Ok(()),
        _ => sync(dir).map_err(|error| fault(path, error)),
    }
}

/// Syncs the names in `dir`, and the name of `dir`.
fn sync(dir: &Path) -> io::Result<()> {
    durable::sync_dir(dir)?;
    durable::sync_parent(dir)
}

/// The error for a file or a directory that is missing and cannot be created.
fn refused(path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            ": it is missing and cannot be created, because the file system is read-only; restore it from a backup, or \
             mount the file system for writing"
        }
        _ => "",
    };
    fault(path, format!("{error}{hint}"))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        file.write_all(b"\n")?;
    }
    file.sync_all()
}

/// Reads a file of at most 64 KiB that only its owner can read and write.
pub(super) fn read_private(path: &Path) -> Result<(Secret, fs::Metadata)> {
    let file = File::open(path).map_err(|error| fault(path, error))?;
    // Checks the open file and not the path, so that the checked file is the one that is read.
    let metadata = file.metadata().map_err(|error| fault(path, error))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(fault(
            path,
            format!(
                "the mode {mode:04o} gives access to others; run: chmod 600 {}",
                path.display()
            ),
        ));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(fault(path, "the file is larger than 64 KiB"));
    }
    // Allocated at full size, because a growing buffer leaves copies in memory that are not zeroed.
    let mut text = String::with_capacity(FILE_BYTES_MAX as usize + 1);
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    let text = Secret::new(text);
    read.map_err(|error| fault(path, error))?;
    Ok((text, metadata))
}
