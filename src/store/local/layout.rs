//! Paths and directories of the store, and how a finished file gets its name.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::io::retry_on_intr;

use super::{
    Config, Durability,
    health::{Health, storage_error},
    instance::Instance,
    names::{self, At},
    paths::parent,
    root::Root,
    space::{Reservation, Space},
    startup::Opened,
    tombstones,
};
use crate::{
    error::{Error, Kind, Result},
    metrics::{Synced, Syncs},
};

/// Paths of one store, its open directory, and its state.
pub(super) struct Layout {
    root: PathBuf,
    config: Config,
    /// The most recent opening of the directory.
    opened: ArcSwap<Opened>,
    pub(super) space: Space,
    pub(super) health: Health,
    pub(super) syncs: Arc<Syncs>,
}

/// The largest number of directories that are remembered as synced.
const KNOWN_MAX: usize = 4096;
/// `Retry-After` while the store is gone. A new mount is found within this time.
const GONE_RETRY_AFTER: Duration = Duration::from_secs(5);

impl Layout {
    pub(super) fn new(root: PathBuf, config: Config, opened: Opened) -> Self {
        Self {
            root,
            space: Space::new(config.free_space_min_bytes),
            config,
            health: Health::new(opened.writing.as_ref().err().cloned()),
            opened: ArcSwap::from_pointee(opened),
            syncs: Arc::default(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn durability(&self) -> Durability {
        self.config.durability
    }

    pub(super) fn is_durable(&self) -> bool {
        self.config.durability == Durability::Full
    }

    /// The most recent opening of the directory.
    pub(super) fn opened(&self) -> Arc<Opened> {
        self.opened.load_full()
    }

    /// Replaces the opening. Uploads that began in the previous one keep using it; their commit fails if the path no
    /// longer leads there.
    pub(super) fn set_opened(&self, opened: Opened) {
        self.opened.store(Arc::new(opened));
    }

    /// Checks that the store is where it was opened.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check_root(&self) -> Result<()> {
        self.check(&self.opened.load().root)
    }

    /// Checks that the path still leads to this directory, for example the one in which an upload was begun.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check(&self, root: &Root) -> Result<()> {
        root.check().map_err(|why| {
            self.health.root_is_gone(&why);
            Error::new(Kind::Unavailable(GONE_RETRY_AFTER)).source(why)
        })
    }

    /// Returns what a write needs.
    ///
    /// # Errors
    /// `Unavailable` while the store is gone, `StorageFull` while nothing can be written.
    pub(super) fn instance(&self) -> Result<Arc<Instance>> {
        let opened = self.opened.load();
        self.check(&opened.root)?;
        match &opened.writing {
            Ok(instance) => Ok(instance.clone()),
            Err(why) => Err(Error::new(Kind::StorageFull).source(why.clone())),
        }
    }

    /// Checks that a file may be written by path. A command that attached to the store writes without a lock.
    ///
    /// # Errors
    /// As [`Layout::instance`].
    pub(super) fn check_writable(&self) -> Result<()> {
        match self.opened.load().lock {
            Some(_) => self.instance().map(drop),
            None => self.check_root(),
        }
    }

    /// Converts the error of a failed write, and records it for readiness.
    pub(super) fn write_error(&self, error: io::Error) -> Error {
        if let Err(gone) = self.check_root() {
            return gone;
        }
        self.health.write_failed(&error);
        storage_error(error)
    }

    /// Returns `Unavailable` instead of "absent" or an error if the whole store is gone.
    pub(super) fn unless_gone<T>(
        &self,
        result: Result<T>,
        is_absent: impl FnOnce(&T) -> bool,
    ) -> Result<T> {
        match &result {
            Ok(found) if !is_absent(found) => result,
            _ => self.check_root().and(result),
        }
    }

    /// Reserves space for a file of at most `bytes`, above the free-space floor. Blocking.
    ///
    /// # Errors
    /// `StorageFull` if it, beside everything that is reserved, could go below the floor.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.space.reserve(bytes, || self.free_bytes())
    }

    /// Checks, once in a while, whether other programs have filled the disk, before `bytes` that are not preallocated
    /// are written. Blocking.
    ///
    /// # Errors
    /// `StorageFull` below the floor.
    pub(super) fn check_floor(&self, reservation: &Reservation, bytes: u64) -> Result<()> {
        reservation.check(bytes, || self.free_bytes())
    }

    /// Bytes that a process without privileges may still write.
    ///
    /// # Errors
    /// `Internal`.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let stat = retry_on_intr(|| rustix::fs::statvfs(&self.root)).map_err(Error::internal)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Gives a finished file its name, `path` below the root: makes the directories, renames, then syncs the directory.
    /// Never replaces an existing file.
    pub(super) fn publish(&self, instance: &Instance, from: At<'_>, path: &Path) -> io::Result<()> {
        let to = instance.root.at(path);
        let rename = || names::rename_no_replace(instance.rename, from, to);
        self.name_in_parents(instance, path, rename)?;
        if self.is_durable() {
            self.sync_dir(instance, parent(path))?;
        }
        Ok(())
    }

    /// Gives a committed file a second name, durably. Both names are below the root. If the second name exists, it is
    /// the same file or a copy of it. Returns `false` if the first name does not exist.
    pub(super) fn link(
        &self,
        instance: &Arc<Instance>,
        from: &Path,
        to: &Path,
    ) -> io::Result<bool> {
        let (source, target) = (instance.root.at(from), instance.root.at(to));
        let mut linked = self.name_in_parents(instance, to, || names::link(source, target));
        if linked.as_ref().is_err_and(must_copy) {
            linked = self.copy(instance, from, to);
        }
        let is_new = linked.is_ok();
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if names::is_absent(&error) => return Ok(false),
            result => result?,
        }
        // The file may have been taken down at the same moment. Then its tombstone was linked.
        if tombstones::is_at(target) {
            target.remove_if_there()?;
            return Ok(false);
        }
        // Also for an existing name, because the caller that made it may not have synced it yet. If the sync fails, the
        // name is removed: the next caller's sync might succeed although this name was lost.
        if self.is_durable() {
            self.sync_dir(instance, parent(to)).inspect_err(|_| {
                if is_new {
                    drop(target.remove_if_there());
                }
            })?;
        }
        Ok(true)
    }

    fn copy(&self, instance: &Arc<Instance>, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (instance.root.at(from), instance.root.at(to));
        let mut source = from.open_read()?;
        let Ok(_reserved) = self.reserve(source.metadata()?.len()) else {
            return Err(rustix::io::Errno::NOSPC.into());
        };
        let (mut copy, temporary) = instance.create("copy")?;
        io::copy(&mut source, &mut copy)?;
        if self.is_durable() {
            self.syncs.time(Synced::File, || copy.sync_data())?;
        }
        names::rename_no_replace(instance.rename, temporary.at(), to)?;
        temporary.keep();
        // The file was taken down meanwhile, and the removal has not seen the new name.
        if !from.is_file()? {
            to.remove_if_there()?;
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    }

    /// Makes the directories above `path`, then calls `name`. Does both once more if a directory is absent: it was
    /// swept after the look-up, or removed by hand.
    fn name_in_parents(
        &self,
        instance: &Instance,
        path: &Path,
        name: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_parents(instance, path)?;
        match name() {
            Err(error) if names::is_absent(&error) => {
                instance.known.lock().clear();
                self.make_parents(instance, path)?;
                name()
            }
            result => result,
        }
    }

    /// Makes and syncs the missing directories above `path`, from the top, because a name is durable only when the
    /// directory that contains it is synced.
    fn make_parents(&self, instance: &Instance, path: &Path) -> io::Result<()> {
        let directory = parent(path);
        if instance.known.lock().contains(directory) {
            return Ok(());
        }
        let mut at = PathBuf::new();
        for name in directory {
            let above = at.clone();
            at.push(name);
            instance.root.at(&at).make_dir()?;
            // Also for an existing directory, because another upload may have made it and not synced it yet. If the
            // sync fails, the directory is removed: the next upload's sync might succeed although this one was lost.
            if self.is_durable() {
                self.sync_dir(instance, &above)
                    .inspect_err(|_| instance.root.at(&at).remove_dir())?;
            }
        }
        let mut known = instance.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(directory.to_owned());
        Ok(())
    }

    fn sync_dir(&self, instance: &Instance, path: &Path) -> io::Result<()> {
        let directory = instance.root.at(path);
        self.syncs.time(Synced::Directory, || directory.sync_dir())
    }
}

/// Whether a hard link failed because the file has the largest number of names (65,000 on ext4), or because the file
/// system does not support hard links.
fn must_copy(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::local::{
        LocalStore,
        paths::{OBJECTS, TMP},
    };

    /// Without hard links, the second name is a copy.
    #[test]
    fn copies_without_hard_links() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            path: directory.path().to_owned(),
            free_space_min_bytes: 0,
            ..Config::default()
        };
        let store = LocalStore::open(&config, None).unwrap();
        let instance = store.layout.instance().unwrap();
        let name = |name: &str| Path::new(OBJECTS).join(name);
        let [from, to] = ["from", "to"].map(|file| directory.path().join(name(file)));
        fs::write(&from, [7; 300_000]).unwrap();
        let copy = |from, to| store.layout.copy(&instance, &name(from), &name(to));
        copy("from", "to").unwrap();
        assert!(fs::read(&to).unwrap() == [7; 300_000]);
        fs::write(&from, "changed").unwrap();
        assert_eq!(
            fs::metadata(&to).unwrap().len(),
            300_000,
            "a file of its own"
        );
        // One that is there stays, and nothing is left of the attempt.
        let again = copy("from", "to");
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::metadata(&to).unwrap().len(), 300_000);
        let gone = copy("gone", "x");
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
        let tmp = fs::read_dir(directory.path().join(TMP)).unwrap();
        for instance in tmp {
            assert_eq!(fs::read_dir(instance.unwrap().path()).unwrap().count(), 0);
        }
    }
}
