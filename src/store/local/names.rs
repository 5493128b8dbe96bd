//! The few operations on names of files and directories that durability depends on. It knows no layout.
//!
//! A signal may interrupt each of them: on FUSE, a call fails with EINTR whatever the handler's flags are, if the
//! program behind the file system lets requests be interrupted. Such a call is made again here. It may have been done
//! all the same, so the second time "there already" or "not there any more" can be our own doing.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::BorrowedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

pub(super) use crate::durable::sync_dir;

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
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat(self.directory, self.name, flags, Mode::RUSR | Mode::WUSR) {
                // New files get names that nobody else uses: one that is there the second time is ours.
                Err(Errno::INTR) => flags = (flags - OFlags::EXCL) | OFlags::TRUNC,
                result => return Ok(result?.into()),
            }
        }
    }

    pub(super) fn remove_if_there(self) -> io::Result<bool> {
        let mut was_interrupted = false;
        loop {
            match rustix::fs::unlinkat(self.directory, self.name, AtFlags::empty()) {
                Err(Errno::INTR) => was_interrupted = true,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(was_interrupted),
                result => return result.map(|()| true).map_err(io::Error::from),
            }
        }
    }

    /// Device and inode of what has this name; `None` where nothing has it.
    fn inode(self) -> io::Result<Option<(u64, u64)>> {
        let stat = || rustix::fs::statat(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW);
        match rustix::io::retry_on_intr(stat) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Gives an unfinished file its name; one that is there is never replaced. Nobody else uses the name `from`.
pub(super) fn rename_no_replace(by: RenameBy, from: At<'_>, to: &Path) -> io::Result<()> {
    let to = At::path(to);
    match by {
        RenameBy::NoReplace => rename_once(from, to),
        RenameBy::Link => {
            link(from, to)?;
            // Two names mean a commit that is half done: take the new one back.
            from.remove_if_there()
                .map(drop)
                .inspect_err(|_| drop(to.remove_if_there()))
        }
    }
}

fn rename_once(from: At<'_>, to: At<'_>) -> io::Result<()> {
    loop {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(from.directory, from.name, to.directory, to.name, flags) {
            // Only this call takes the old name away: where it is gone, the interrupted call was done.
            Err(Errno::INTR) if from.inode()?.is_none() => return Ok(()),
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Gives a file a second name; one that is there is never replaced.
pub(super) fn link(from: At<'_>, to: At<'_>) -> io::Result<()> {
    let mut was_interrupted = false;
    loop {
        let flags = AtFlags::empty();
        match rustix::fs::linkat(from.directory, from.name, to.directory, to.name, flags) {
            Err(Errno::INTR) => was_interrupted = true,
            Err(Errno::EXIST) if was_interrupted && from.inode()? == to.inode()? => return Ok(()),
            result => return result.map_err(io::Error::from),
        }
    }
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
    let make = || rustix::fs::mkdir(path, Mode::RWXU);
    match rustix::io::retry_on_intr(make) {
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    At::path(path).remove_if_there()
}
