//! The operations on names of files and directories that durability depends on. It knows nothing about the layout.
//!
//! A signal may interrupt each operation: on FUSE, a call can fail with EINTR whatever the flags of the signal handler
//! are, if the program behind the file system supports interruption. The call is then repeated here. The interrupted
//! call may have succeeded all the same, so the repeated call can fail with "exists" or "not found" because of the
//! first one.

use std::{
    fs::{self, DirEntry, File},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags},
    io::{Errno, retry_on_intr},
};

/// How a finished file gets its name without replacing another file. Tried at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RenameBy {
    /// `renameat2(RENAME_NOREPLACE)`.
    NoReplace,
    /// `link` and `unlink`, where the file system lacks the flag.
    Link,
}

/// A path below an open directory. It stays on the file system of that directory, whatever is mounted at its path now.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    directory: BorrowedFd<'a>,
    name: &'a Path,
}

impl<'a> At<'a> {
    /// `name` below `directory`; the directory itself if the name is empty.
    pub(super) fn new(directory: &'a impl AsFd, name: &'a Path) -> Self {
        let name = if name.as_os_str().is_empty() {
            Path::new(".")
        } else {
            name
        };
        Self {
            directory: directory.as_fd(),
            name,
        }
    }

    /// An absolute path.
    pub(super) fn path(path: &'a Path) -> Self {
        Self {
            directory: rustix::fs::CWD,
            name: path,
        }
    }

    /// Creates a file with mode 0600. No other process uses its name.
    pub(super) fn create_new(self) -> io::Result<File> {
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            match self.open(flags) {
                // If the file exists at the second call, the first one has created it.
                Err(Errno::INTR) => flags = (flags - OFlags::EXCL) | OFlags::TRUNC,
                result => return Ok(result?.into()),
            }
        }
    }

    /// Opens a committed file for reading, never through a symbolic link. Does not block on a pipe in its place; the
    /// trailer is missing then.
    pub(super) fn open_read(self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| self.open(flags))?.into())
    }

    /// Opens a directory.
    pub(super) fn open_dir(self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| self.open(flags))?.into())
    }

    /// Opens a small file that is locked and overwritten. Creates it with mode 0600 if it does not exist.
    pub(super) fn open_or_create(self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| self.open(flags))?.into())
    }

    fn open(self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.directory, self.name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Creates a directory with mode 0700 if it does not exist.
    pub(super) fn make_dir(self) -> io::Result<()> {
        let make = || rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU);
        match retry_on_intr(make) {
            Err(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Removes a directory if it is empty. Ignores errors.
    pub(super) fn remove_dir(self) {
        let _ = rustix::fs::unlinkat(self.directory, self.name, AtFlags::REMOVEDIR);
    }

    /// Syncs a directory, that is the names in it.
    pub(super) fn sync_dir(self) -> io::Result<()> {
        // `sync_all` repeats the call after a signal.
        self.open_dir()?.sync_all()
    }

    /// Removes a file. Returns `false` if there is none.
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

    /// Whether this is the name of a regular file.
    pub(super) fn is_file(self) -> io::Result<bool> {
        let is_file = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode).is_file();
        Ok(self.stat()?.is_some_and(is_file))
    }

    /// Whether this is a name of an open file.
    pub(super) fn is_of(self, file: &File) -> io::Result<bool> {
        Ok(self.inode()? == Some(inode_of(file)?))
    }

    /// Device and inode of the file of this name; `None` if there is none.
    fn inode(self) -> io::Result<Option<(u64, u64)>> {
        Ok(self.stat()?.map(|stat| (stat.st_dev, stat.st_ino)))
    }

    /// Creates a symbolic link to `target`.
    pub(super) fn make_link_to(self, target: &str) -> io::Result<()> {
        // A repeated call can fail with "exists", which callers handle anyway.
        let make = || rustix::fs::symlinkat(target, self.directory, self.name);
        Ok(retry_on_intr(make)?)
    }

    /// Whether the name exists.
    pub(super) fn exists(self) -> io::Result<bool> {
        Ok(self.stat()?.is_some())
    }

    /// Whether this is a symbolic link to `target`.
    pub(super) fn is_link_to(self, target: &str) -> bool {
        retry_on_intr(|| rustix::fs::readlinkat(self.directory, self.name, Vec::new()))
            .is_ok_and(|found| found.as_bytes() == target.as_bytes())
    }

    fn stat(self) -> io::Result<Option<rustix::fs::Stat>> {
        let stat = || rustix::fs::statat(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW);
        match retry_on_intr(stat) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Device and inode of an open file.
pub(super) fn inode_of(file: &File) -> io::Result<(u64, u64)> {
    let stat = retry_on_intr(|| rustix::fs::fstat(file))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Gives an unfinished file its name. Never replaces an existing one. No other process uses the name `from`.
pub(super) fn rename_no_replace(by: RenameBy, from: At<'_>, to: At<'_>) -> io::Result<()> {
    match by {
        RenameBy::NoReplace => rename(from, to, RenameFlags::NOREPLACE),
        RenameBy::Link => {
            link(from, to)?;
            // Two names mean a half-done commit, so the new name is removed again.
            from.remove_if_there()
                .map(drop)
                .inspect_err(|_| drop(to.remove_if_there()))
        }
    }
}

/// Gives a file its name. Replaces an existing one. No other process uses the name `from`.
pub(super) fn rename_over(from: At<'_>, to: At<'_>) -> io::Result<()> {
    rename(from, to, RenameFlags::empty())
}

fn rename(from: At<'_>, to: At<'_>, flags: RenameFlags) -> io::Result<()> {
    let rename = || match flags {
        // renameat2 may be missing; renameat is enough without flags.
        RenameFlags::NOREPLACE => {
            rustix::fs::renameat_with(from.directory, from.name, to.directory, to.name, flags)
        }
        _ => rustix::fs::renameat(from.directory, from.name, to.directory, to.name),
    };
    loop {
        match rename() {
            // Only this call removes the old name. If it is gone, the interrupted call has succeeded.
            Err(Errno::INTR) if from.inode()?.is_none() => return Ok(()),
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Gives a file a second name. Never replaces an existing one.
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

/// Replaces a small file durably and in one step, by way of the file `draft`.
pub(super) fn write_over(draft: At<'_>, to: At<'_>, text: &str) -> io::Result<()> {
    let write = || {
        let mut file = draft.create_new()?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        rename_over(draft, to)
    };
    write().inspect_err(|_| drop(draft.remove_if_there()))
}

/// [`At::open_read`] for an absolute path.
pub(super) fn open_read(path: &Path) -> io::Result<File> {
    At::path(path).open_read()
}

/// [`At::remove_if_there`] for an absolute path.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    At::path(path).remove_if_there()
}

/// The entries of a directory; none if it does not exist. Errors name the directory. Blocking.
pub(super) fn entries(
    directory: &Path,
) -> io::Result<impl Iterator<Item = io::Result<DirEntry>> + use<>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if is_absent(&error) => None,
        Err(error) => {
            return Err(at(directory, &error));
        }
        Ok(entries) => Some(entries),
    };
    Ok(entries.into_iter().flatten())
}

/// The error with its path, for the operator.
pub(super) fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
