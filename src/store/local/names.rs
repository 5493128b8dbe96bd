//! The few operations on names of files and directories that durability depends on. It knows no layout.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};

/// How a finished file gets its name without ever replacing another. Probed at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RenameBy {
    /// `renameat2(RENAME_NOREPLACE)`.
    NoReplace,
    /// `link` and `unlink`, where the file system lacks the flag.
    Link,
}

/// Where a barred name points: nowhere.
const BARRED: &str = "removed";

/// Bars a name as long as its day is kept: nothing is renamed or linked over it, nothing opened through it.
pub(super) fn bar(path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(BARRED, path)
}

/// Whether a name is barred.
pub(super) fn is_bar(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new(BARRED))
}

/// A name in an open directory: found without walking the path to it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a Path,
}

impl<'a> At<'a> {
    /// An absolute path, walked as ever.
    pub(super) fn path(path: &'a Path) -> Self {
        Self {
            directory: rustix::fs::CWD,
            name: path,
        }
    }

    /// Makes a new file that only we may read.
    pub(super) fn create_new(self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let create =
            || rustix::fs::openat(self.directory, self.name, flags, Mode::RUSR | Mode::WUSR);
        Ok(rustix::io::retry_on_intr(create)?.into())
    }

    pub(super) fn remove_if_there(self) -> io::Result<bool> {
        match rustix::fs::unlinkat(self.directory, self.name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error.into()) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn rename_no_replace(by: RenameBy, from: At<'_>, to: &Path) -> io::Result<()> {
    let At { directory, name } = from;
    match by {
        RenameBy::NoReplace => {
            rustix::fs::renameat_with(
                directory,
                name,
                rustix::fs::CWD,
                to,
                RenameFlags::NOREPLACE,
            )?;
        }
        RenameBy::Link => {
            rustix::fs::linkat(directory, name, rustix::fs::CWD, to, AtFlags::empty())?;
            // Two names mean a commit that is half done: take the new one back.
            rustix::fs::unlinkat(directory, name, AtFlags::empty())
                .inspect_err(|_| drop(fs::remove_file(to)))?;
        }
    }
    Ok(())
}

/// Opens a committed file for reading, never through a symbolic link. A pipe that lies in its place is not
/// waited for; its trailer is then missing.
pub(super) fn open_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(path)
}

/// Makes a new file that only we may read.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    At::path(path).create_new()
}

/// Makes a directory that only we may enter; one that is there is fine.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
