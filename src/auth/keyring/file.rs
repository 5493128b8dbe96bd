//! Small private files: made whole or not at all, with mode 0600, and refused when others can read them.
//!
//! Knows nothing of what is in them.

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

/// Bytes of one such file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Whether a file of that name may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    /// One that is there stays, and that is no error.
    New,
    /// One that is there is replaced.
    Replace,
}

/// Tells one version of a file from another without reading it. The inode is part of it: a rename within
/// the clock tick of the file system may leave time and size as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Stamp {
    /// There is no file, or its directory is gone with the store. No file has the inode 0.
    pub(super) const ABSENT: Self = Self {
        inode: 0,
        bytes: 0,
        modified_ns: 0,
    };

    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// Makes `dir` and the store's directory above it, mode 0700, where they are not there, and what is missing above
/// them; all of it durably.
pub(super) fn create_dir(dir: &Path) -> Result<()> {
    let above = dir.parent().unwrap_or(dir);
    durable::make_dirs(above)
        .and_then(|()| durable::make_dirs(dir))
        .map_err(|error| refused(dir, &error))
}

/// Opens a file to lock, mode 0600.
pub(super) fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| fault(path, error))
}

/// Puts `text` and a line feed into `dir/name`, durably. The order: data to the disk under a name of its
/// own, then the name, then the directories; so at no moment is there a part of a file under `name`.
pub(super) fn publish(dir: &Path, name: &str, text: &str, how: Publish) -> Result<()> {
    let path = dir.join(name);
    let draft = dir.join(format!(".{name}.{}", random(9)?.expose()));
    let written = write(&draft, text).and_then(|()| match how {
        Publish::Replace => fs::rename(&draft, &path),
        // A link, not a rename: of two processes at once the second finds the first one's file.
        Publish::New => match fs::hard_link(&draft, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        },
    });
    let written = written.and_then(|()| sync(dir));
    // Gone already after a rename. Only now: see `settle`. What a crash leaves here is private and never read.
    let _ = fs::remove_file(&draft);
    written.map_err(|error| refused(&path, &error))
}

/// What was read from a file must not be used before a power cut would keep it. Whoever makes a file syncs its
/// directories before it removes the draft, which is a second name of the same file: as long as there are two names,
/// another process may not have synced it yet.
pub(super) fn settle(dir: &Path, path: &Path, metadata: &fs::Metadata) -> Result<()> {
    match metadata.nlink() {
        0 | 1 => Ok(()),
        _ => sync(dir).map_err(|error| fault(path, error)),
    }
}

/// The names in `dir`, and its own.
fn sync(dir: &Path) -> io::Result<()> {
    durable::sync_dir(dir)?;
    durable::sync_parent(dir)
}

/// What to say of a file or a directory that is missing and cannot be made.
fn refused(path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            ": it is missing, and cannot be made on a read-only file system; restore it from a backup, or mount the \
             file system for writing"
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

/// Reads a file of at most 64 KiB that nobody but its owner can read or write.
pub(super) fn read_private(path: &Path) -> Result<(Secret, fs::Metadata)> {
    let file = File::open(path).map_err(|error| fault(path, error))?;
    // Of the open file, not of the path: what is checked is what is read.
    let metadata = file.metadata().map_err(|error| fault(path, error))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(fault(
            path,
            format!(
                "mode {mode:04o} lets others in; run: chmod 600 {}",
                path.display()
            ),
        ));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(fault(path, "larger than 64 KiB"));
    }
    // Room for all of it at once: a buffer that grows leaves copies behind that nothing wipes.
    let mut text = String::with_capacity(FILE_BYTES_MAX as usize + 1);
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    let text = Secret::new(text);
    read.map_err(|error| fault(path, error))?;
    Ok((text, metadata))
}
