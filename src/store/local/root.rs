//! The store's directory, open, and whether its path still leads to it.
//!
//! After an unmount, or after another mount on the same path, files seem to be absent. So the store checks the
//! directory's identity whenever a file is not found, and before it gives an upload its name. Uploads are written
//! through the open directory and not through its path, so that nothing is ever written into an empty mount point.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatxFlags},
    io::{Errno, retry_on_intr},
};

use super::names::At;

/// The file that identifies a store. A copy of a store has the same one.
pub(super) const STORE_ID: &str = "store-id";
/// Bytes of it.
const ID_BYTES_MAX: u64 = 64;

/// The store's directory, open.
pub(super) struct Root {
    path: PathBuf,
    directory: File,
    identity: Identity,
}

/// Identifies a directory and the mount through which it is reached. Device and inode are not enough: a second mount of
/// the same directory, for example a read-only one, has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    /// 0 before Linux 5.8.
    mount: u64,
}

impl Identity {
    fn of(directory: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> io::Result<Self> {
        let mask = StatxFlags::INO | StatxFlags::MNT_ID;
        match retry_on_intr(|| rustix::fs::statx(directory, path, flags, mask)) {
            Ok(found) => Ok(Self {
                device: (found.stx_dev_major, found.stx_dev_minor),
                inode: found.stx_ino,
                mount: found.stx_mnt_id,
            }),
            // Not known to the kernel, or to a sandbox that is older than it.
            Err(Errno::NOSYS | Errno::PERM) => {
                let found = retry_on_intr(|| rustix::fs::statat(directory, path, flags))?;
                Ok(Self {
                    device: (
                        rustix::fs::major(found.st_dev),
                        rustix::fs::minor(found.st_dev),
                    ),
                    inode: found.st_ino,
                    mount: 0,
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Root {
    /// Opens the directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let directory = At::path(path).open_dir()?;
        let identity = Identity::of(directory.as_fd(), Path::new(""), AtFlags::EMPTY_PATH)?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            identity,
        })
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path below it; the directory itself where it is empty.
    pub(super) fn at<'a>(&'a self, name: &'a Path) -> At<'a> {
        At::new(&self.directory, name)
    }

    /// The open directory.
    pub(super) fn directory(&self) -> &File {
        &self.directory
    }

    /// Checks that its path still leads to it.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn check(&self) -> Result<(), String> {
        match Identity::of(CWD, &self.path, AtFlags::empty()) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) => Err("another directory is in the place of the store's".into()),
            Err(error) => Err(format!("the store's directory cannot be reached: {error}")),
        }
    }

    /// Whether it is the same directory as another one, maybe through another mount.
    pub(super) fn is_same_directory(&self, other: &Self) -> bool {
        (self.identity.device, self.identity.inode) == (other.identity.device, other.identity.inode)
    }

    /// Whether it is the same directory through the same mount.
    pub(super) fn is_same_mount(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// The id in its file; `None` where there is none.
    pub(super) fn read_id(&self) -> io::Result<Option<String>> {
        let file = match self.at(Path::new(STORE_ID)).open_read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut text = String::new();
        file.take(ID_BYTES_MAX).read_to_string(&mut text)?;
        let id = text.trim();
        match id.is_empty() {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{STORE_ID} is empty; remove it to have a new one made"),
            )),
            false => Ok(Some(id.to_owned())),
        }
    }
}
