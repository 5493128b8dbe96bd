//! The folder for unfinished files of one server, and what the server knows about the file system.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use uuid::Uuid;

use super::{
    Durability,
    names::{self, At, RenameBy},
    paths::{OBJECTS, TMP},
    root::Root,
};

/// Prefix of the names of trial uploads in `objects/`.
pub(super) const TRIAL: &str = ".probe-";

/// The folder for unfinished uploads of one server, with its lock.
pub(super) struct Instance {
    pub(super) root: Arc<Root>,
    directory: PathBuf,
    sequence: AtomicU64,
    /// The folder, locked so that other servers do not sweep it.
    folder: File,
    pub(super) rename: RenameBy,
    /// Directories that exist and were synced, so that only the first upload into each pays for that. Locked for one
    /// look-up. At most 257 entries per class and day in use; cleared if there are too many.
    pub(super) known: Mutex<HashSet<PathBuf>>,
}

impl Instance {
    /// Creates a folder in `tmp/`, which must exist.
    pub(super) fn new(root: Arc<Root>) -> io::Result<Self> {
        let name = Path::new(TMP).join(Uuid::new_v4().simple().to_string());
        root.at(&name).make_dir()?;
        let folder = root.at(&name).open_dir()?;
        let instance = Self {
            directory: root.path().join(&name),
            root,
            sequence: AtomicU64::new(0),
            folder,
            rename: RenameBy::NoReplace,
            known: Mutex::default(),
        };
        rustix::fs::flock(&instance.folder, FlockOperation::NonBlockingLockExclusive)?;
        Ok(instance)
    }

    /// The name of the folder in `tmp/`.
    pub(super) fn name(&self) -> std::path::Display<'_> {
        Path::new(self.directory.file_name().unwrap_or_default()).display()
    }

    /// A unique path for an unfinished file.
    pub(super) fn temporary(&self, stem: &str) -> PathBuf {
        self.directory.join(self.temporary_name(stem))
    }

    /// A unique name for an unfinished file, to be used with [`Instance::unfinished`].
    pub(super) fn temporary_name(&self, stem: impl fmt::Display) -> String {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        format!("{stem}-{sequence}")
    }

    /// Creates an unfinished file in the folder.
    pub(super) fn create(self: &Arc<Self>, stem: &str) -> io::Result<(File, Temporary)> {
        let name = self.temporary_name(stem);
        let file = self.unfinished(&name).create_new()?;
        let temporary = Temporary {
            instance: self.clone(),
            name,
            is_kept: false,
        };
        Ok((file, temporary))
    }

    /// An unfinished file in the folder.
    pub(super) fn unfinished<'a>(&'a self, name: &'a str) -> At<'a> {
        At::new(&self.folder, Path::new(name))
    }

    /// Does everything that an upload does, and checks that the rename does not replace an existing file.
    pub(super) fn try_upload(&self, durability: Durability) -> io::Result<()> {
        let objects = Path::new(OBJECTS);
        let target = objects.join(format!(
            "{TRIAL}{}",
            self.temporary_name(Uuid::new_v4().simple())
        ));
        let target = self.root.at(&target);
        let trial = || -> io::Result<()> {
            for must_be_refused in [false, true] {
                let name = self.temporary_name("probe");
                let temporary = self.unfinished(&name);
                let file = temporary.create_new()?;
                let named = write_probe(&file).and_then(|()| {
                    if durability == Durability::Full {
                        file.sync_data()?;
                    }
                    names::rename_no_replace(self.rename, temporary, target)
                });
                match (named, must_be_refused) {
                    (Ok(()), false) => {}
                    (Err(error), true) if error.kind() == io::ErrorKind::AlreadyExists => {
                        temporary.remove_if_there()?;
                    }
                    (Ok(()), true) => return Err(io::Error::from(io::ErrorKind::Unsupported)),
                    (Err(error), _) => {
                        let _ = temporary.remove_if_there();
                        return Err(error);
                    }
                }
            }
            if durability == Durability::Full {
                self.root.at(objects).sync_dir()?;
            }
            Ok(())
        };
        let result = trial();
        target.remove_if_there()?;
        result
    }
}

/// Writes a few bytes with the system call that uploads use, so that a trial fails where an upload would.
fn write_probe(file: &File) -> io::Result<()> {
    const PROBE: &[u8] = b"probe";
    let write = || rustix::io::pwritev(file, &[IoSlice::new(PROBE)], 0);
    match rustix::io::retry_on_intr(write)? == PROBE.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// The name of an unfinished file. Dropping it removes the file.
pub(super) struct Temporary {
    pub(super) instance: Arc<Instance>,
    name: String,
    is_kept: bool,
}

impl Temporary {
    pub(super) fn at(&self) -> At<'_> {
        self.instance.unfinished(&self.name)
    }

    /// Keeps the file, which has another name now.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = self.at().remove_if_there()
        {
            // The next start sweeps it.
            tracing::warn!(%error, name = self.name, "an unfinished file could not be removed");
        }
    }
}

/// Whether the server with this folder in `tmp/` still runs on the store at `root`. Blocking.
pub(super) fn is_running(root: &Path, name: &str) -> bool {
    File::open(root.join(TMP).join(name)).is_ok_and(|folder| {
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err()
    })
}

impl Drop for Instance {
    fn drop(&mut self) {
        // If this fails, the next start sweeps the folder.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
