//! The few operations on names of files and directories that durability depends on. It knows no layout.
//!
//! A signal may interrupt each of them: on FUSE, a call fails with EINTR whatever the handler's flags are, if the
//! program behind the file system lets requests be interrupted. Such a call is made again here. It may have been done
//! all the same, so the second time "there already" or "not there any more" can be our own doing.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags},
    io::{Errno, retry_on_intr},
};

/// How a finished file gets its name without ever replacing another. Probed at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RenameBy {
    /// `renameat2(RENAME_NOREPLACE)`.
    NoReplace,
    /// `link` and `unlink`, where the file system lacks the flag.
    Link,
}

/// A path below an open directory. What is found so is on the file system of that directory, whatever is mounted at
/// its path by now.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    directory: BorrowedFd<'a>,
    name: &'a Path,
}

impl<'a> At<'a> {
    /// `name` below `directory`; the directory itself where it is empty.
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

    /// Makes a new file that only we may read. Nobody else uses its name.
    pub(super) fn create_new(self) -> io::Result<File> {
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            match self.open(flags) {
                // What is there the second time was made the first time.
                Err(Errno::INTR) => flags = (flags - OFlags::EXCL) | OFlags::TRUNC,
                result => return Ok(result?.into()),
            }
        }
    }

    /// Opens a committed file for reading, never through a symbolic link. A pipe that lies in its place is not
    /// waited for; its trailer is then missing.
    pub(super) fn open_read(self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| self.open(flags))?.into())
    }

    /// Opens a directory.
    pub(super) fn open_dir(self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| self.open(flags))?.into())
    }

    /// Opens a small file that is locked and written over: made if it is not there, with mode 0600.
    pub(super) fn open_or_create(self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| self.open(flags))?.into())
    }

    fn open(self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.directory, self.name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Makes a directory that only we may enter; one that is there is fine.
    pub(super) fn make_dir(self) -> io::Result<()> {
        let make = || rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU);
        match retry_on_intr(make) {
            Err(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Removes a directory if it is empty; one that is not, or cannot be, stays.
    pub(super) fn remove_dir(self) {
        let _ = rustix::fs::unlinkat(self.directory, self.name, AtFlags::REMOVEDIR);
    }

    /// Syncs a directory: the names in it.
    pub(super) fn sync_dir(self) -> io::Result<()> {
        // Made again where a signal interrupts it.
        self.open_dir()?.sync_all()
    }

    /// Removes a file; `false` where there is none.
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

    /// Whether a file has this name, and not a directory or a symbolic link.
    pub(super) fn is_file(self) -> io::Result<bool> {
        let is_file = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode).is_file();
        Ok(self.stat()?.is_some_and(is_file))
    }

    /// Whether it is the name of an open file.
    pub(super) fn is_of(self, file: &File) -> io::Result<bool> {
        Ok(self.inode()? == Some(inode_of(file)?))
    }

    /// Device and inode of what has this name; `None` where nothing has it.
    fn inode(self) -> io::Result<Option<(u64, u64)>> {
        Ok(self.stat()?.map(|stat| (stat.st_dev, stat.st_ino)))
    }

    /// Makes a symbolic link that points to `target`.
    pub(super) fn make_link_to(self, target: &str) -> io::Result<()> {
        // Interrupted and done all the same, it is there the second time, as whoever calls this expects of others.
        let make = || rustix::fs::symlinkat(target, self.directory, self.name);
        Ok(retry_on_intr(make)?)
    }

    /// Whether something has this name.
    pub(super) fn exists(self) -> io::Result<bool> {
        Ok(self.stat()?.is_some())
    }

    /// Whether it is a symbolic link that points to `target`.
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

/// Gives an unfinished file its name; one that is there is never replaced. Nobody else uses the name `from`.
pub(super) fn rename_no_replace(by: RenameBy, from: At<'_>, to: At<'_>) -> io::Result<()> {
    match by {
        RenameBy::NoReplace => rename(from, to, RenameFlags::NOREPLACE),
        RenameBy::Link => {
            link(from, to)?;
            // Two names mean a commit that is half done: take the new one back.
            from.remove_if_there()
                .map(drop)
                .inspect_err(|_| drop(to.remove_if_there()))
        }
    }
}

/// Gives a file its name; one that is there is replaced. Nobody else uses the name `from`.
pub(super) fn rename_over(from: At<'_>, to: At<'_>) -> io::Result<()> {
    rename(from, to, RenameFlags::empty())
}

fn rename(from: At<'_>, to: At<'_>, flags: RenameFlags) -> io::Result<()> {
    let rename = || match flags {
        // renameat2 may be missing; without flags the older call does.
        RenameFlags::NOREPLACE => {
            rustix::fs::renameat_with(from.directory, from.name, to.directory, to.name, flags)
        }
        _ => rustix::fs::renameat(from.directory, from.name, to.directory, to.name),
    };
    loop {
        match rename() {
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

/// Replaces a small file whole or not at all, durably: `draft` becomes `to`.
pub(super) fn write_over(draft: At<'_>, to: At<'_>, text: &str) -> io::Result<()> {
    let write = || {
        let mut file = draft.create_new()?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        rename_over(draft, to)
    };
    write().inspect_err(|_| drop(draft.remove_if_there()))
}

/// As [`At::open_read`], of an absolute path.
pub(super) fn open_read(path: &Path) -> io::Result<File> {
    At::path(path).open_read()
}

/// As [`At::create_new`], of an absolute path.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    At::path(path).create_new()
}

/// As [`At::make_dir`], of an absolute path.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    At::path(path).make_dir()
}

/// As [`At::remove_if_there`], of an absolute path.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    At::path(path).remove_if_there()
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
