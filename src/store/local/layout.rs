//! Where everything lies: paths, directories, and how a finished file gets its place.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::io::retry_on_intr;

use super::{
    Config, Durability, Key,
    health::{Health, storage_error},
    instance::Instance,
    names,
    root::Root,
    space::{Reservation, Space},
    startup::Opened,
    tombstones,
};
use crate::{
    derivative::Derivative,
    error::{Error, Kind, Result},
    metrics::{Synced, Syncs},
    store::{Class, ObjectId},
    time::Day,
};

pub(super) const OBJECTS: &str = "objects";
pub(super) const DERIVED: &str = "derived";
pub(super) const TMP: &str = "tmp";
pub(super) const PARTS: &str = "parts";

/// Paths of one store, its open directory, and its state.
pub(super) struct Layout {
    root: PathBuf,
    config: Config,
    /// The directory as it was opened last.
    opened: ArcSwap<Opened>,
    pub(super) space: Space,
    pub(super) health: Health,
    pub(super) syncs: Arc<Syncs>,
}

/// Directories remembered as synced at the most.
const KNOWN_MAX: usize = 4096;
/// `Retry-After` while the store is gone. A new mount is found within this time.
const GONE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// A day of a class on disk.
#[derive(Debug, Clone)]
pub(super) struct DayDirectory {
    /// The day.
    pub(super) day: Day,
    /// Its directories, of objects and of derivatives, whether or not both are there.
    pub(super) paths: [PathBuf; 2],
}

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

    /// The directory as it was opened last.
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
        check(&self.opened.load().root, &self.health)
    }

    /// Checks that the path still leads to the directory in which an upload was begun.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check_opening(&self, instance: &Instance) -> Result<()> {
        check(&instance.root, &self.health)
    }

    /// Returns what a write needs.
    ///
    /// # Errors
    /// `Unavailable` while the store is gone, `StorageFull` while nothing can be written.
    pub(super) fn instance(&self) -> Result<Arc<Instance>> {
        let opened = self.opened.load();
        check(&opened.root, &self.health)?;
        match &opened.writing {
            Ok(instance) => Ok(instance.clone()),
            Err(why) => Err(Error::new(Kind::StorageFull).source(why.clone())),
        }
    }

    /// Checks that something may be written by path. A store that is only attached to is written without a lock.
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
    /// `StorageFull` where it, beside all that is reserved, could go below the floor.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation> {
        let free = || self.free_bytes().map_err(Error::internal);
        self.space.reserve(bytes, free)
    }

    /// Notices now and then that others have filled the disk, before `bytes` that are not preallocated are written.
    /// Blocking.
    ///
    /// # Errors
    /// `StorageFull` below the floor.
    pub(super) fn check_floor(&self, reservation: &Reservation, bytes: u64) -> Result<()> {
        let free = || self.free_bytes().map_err(Error::internal);
        reservation.check(bytes, free)
    }

    /// Bytes that a process without privileges may still write.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = retry_on_intr(|| rustix::fs::statvfs(&self.root))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Gives a finished file its name, `path` below the root: directories first, the name, then the directory's sync.
    /// An existing name is never replaced.
    pub(super) fn publish(
        &self,
        instance: &Instance,
        temporary: &str,
        path: &Path,
    ) -> io::Result<()> {
        let (from, to) = (instance.unfinished(temporary), instance.root.at(path));
        self.make_parents(instance, path)?;
        match names::rename_no_replace(instance.rename, from, to) {
            // Swept between the look-up and the rename, or removed by hand: make it again, once.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                instance.known().clear();
                self.make_parents(instance, path)?;
                names::rename_no_replace(instance.rename, from, to)?;
            }
            result => result?,
        }
        if self.is_durable() {
            self.sync_dir(instance, parent(path))?;
        }
        Ok(())
    }

    /// Gives a committed file a second name, durably; both are below the root. One that is there already is the same
    /// file, or a copy of it. `false` where the first name is not there.
    pub(super) fn link(&self, instance: &Instance, from: &Path, to: &Path) -> io::Result<bool> {
        self.make_parents(instance, to)?;
        let (source, target) = (instance.root.at(from), instance.root.at(to));
        let mut linked = names::link(source, target);
        if linked.as_ref().is_err_and(names::is_absent) {
            if !source.is_file()? {
                return Ok(false);
            }
            // The directory was swept or removed by hand: make it again, once.
            instance.known().clear();
            self.make_parents(instance, to)?;
            linked = names::link(source, target);
        }
        if linked.as_ref().is_err_and(must_copy) {
            linked = self.copy(instance, from, to);
        }
        let is_new = linked.is_ok();
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        }
        // The file may have been taken down in this very moment: what was linked is then its tombstone.
        if tombstones::is_at(target) {
            target.remove_if_there()?;
            return Ok(false);
        }
        // Also where it was there before: whoever made it may not have synced it yet. Where that fails, the name
        // must not be found there by the next one, whose sync might not fail again.
        if self.is_durable() {
            self.sync_dir(instance, parent(to)).inspect_err(|_| {
                if is_new {
                    drop(target.remove_if_there());
                }
            })?;
        }
        Ok(true)
    }

    fn copy(&self, instance: &Instance, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (instance.root.at(from), instance.root.at(to));
        let mut source = from.open_read()?;
        let Ok(_reserved) = self.reserve(source.metadata()?.len()) else {
            return Err(rustix::io::Errno::NOSPC.into());
        };
        let name = instance.temporary_name("copy");
        let temporary = instance.unfinished(&name);
        let mut copy = || {
            let mut target = temporary.create_new()?;
            io::copy(&mut source, &mut target)?;
            if self.is_durable() {
                self.syncs.time(Synced::File, || target.sync_data())?;
            }
            names::rename_no_replace(instance.rename, temporary, to)?;
            // Taken down meanwhile: whoever did that has not seen the new name.
            if !from.is_file()? {
                to.remove_if_there()?;
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(())
        };
        copy().inspect_err(|_| drop(temporary.remove_if_there()))
    }

    /// Makes and syncs the missing directories above `path`, from the top: a name is durable only when the
    /// directory above it is synced.
    fn make_parents(&self, instance: &Instance, path: &Path) -> io::Result<()> {
        let directory = parent(path);
        if instance.known().contains(directory) {
            return Ok(());
        }
        let mut at = PathBuf::new();
        for name in directory {
            let above = at.clone();
            at.push(name);
            instance.root.at(&at).make_dir()?;
            // Also where it was there before: another upload may have made it and not synced it yet. Where
            // that fails it must not be found there by the next upload, whose sync might not fail again.
            if self.is_durable() {
                self.sync_dir(instance, &above)
                    .inspect_err(|_| instance.root.at(&at).remove_dir())?;
            }
        }
        let mut known = instance.known();
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

fn check(root: &Root, health: &Health) -> Result<()> {
    root.check().map_err(|why| {
        health.root_is_gone(&why);
        Error::new(Kind::Unavailable(GONE_RETRY_AFTER)).source(why)
    })
}

/// A file has its most names already (65,000 on ext4), or the file system knows only one for each.
fn must_copy(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)
    )
}

/// The path as the process will still understand it after a change of directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::invalid(format!("store.path = \"{}\": {error}", path.display())))
}

pub(super) fn object_path(root: &Path, key: Key) -> PathBuf {
    let mut path = sharded(root, OBJECTS, key);
    path.push(key.id.to_string());
    path
}

/// Where an object lies below the root.
pub(super) fn object_name(key: Key) -> PathBuf {
    object_path(Path::new(""), key)
}

/// Where a derivative lies below the root.
pub(super) fn derived_name(key: Key, derivative: Derivative) -> PathBuf {
    let mut path = sharded(Path::new(""), DERIVED, key);
    path.push(format!("{}-{derivative}", key.id));
    path
}

fn sharded(root: &Path, tree: &str, key: Key) -> PathBuf {
    let mut path = root.join(tree);
    path.push(key.class.name());
    path.push(key.day.to_string());
    path.push(format!("{:02x}", key.id.spread()));
    path
}

/// The derivatives of an object that are on disk.
pub(super) fn derived_of(root: &Path, key: Key) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}-", key.id);
    let entries = match fs::read_dir(sharded(root, DERIVED, key)) {
        Err(error) if names::is_absent(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(super) fn days(root: &Path, class: Class) -> io::Result<Vec<DayDirectory>> {
    let mut days = HashSet::new();
    for tree in [OBJECTS, DERIVED] {
        let entries = match fs::read_dir(root.join(tree).join(class.name())) {
            Err(error) if names::is_absent(&error) => continue,
            entries => entries?,
        };
        for entry in entries {
            // What is not a day is not ours, and left alone.
            days.extend(entry?.file_name().to_str().and_then(Day::parse));
        }
    }
    let mut days: Vec<Day> = days.into_iter().collect();
    days.sort_unstable();
    let path = |tree: &str, day: Day| root.join(tree).join(class.name()).join(day.to_string());
    Ok(days
        .into_iter()
        .map(|day| DayDirectory {
            day,
            paths: [path(OBJECTS, day), path(DERIVED, day)],
        })
        .collect())
}

/// The directories that a day's objects are spread over. Blocking.
pub(super) fn spreads_of(day: &DayDirectory) -> io::Result<Vec<PathBuf>> {
    let [objects, _] = &day.paths;
    match fs::read_dir(objects) {
        Err(error) if names::is_absent(&error) => Ok(Vec::new()),
        spreads => spreads?.map(|spread| Ok(spread?.path())).collect(),
    }
}

/// The objects of one such directory, by the ids in their names; other files are not ours. Blocking.
pub(super) fn objects_in(spread: &Path, class: Class, day: Day) -> io::Result<Vec<Key>> {
    let files = match fs::read_dir(spread) {
        Err(error) if names::is_absent(&error) => return Ok(Vec::new()),
        files => files?,
    };
    let mut keys = Vec::new();
    for file in files {
        let id = file?.file_name().to_str().and_then(ObjectId::parse);
        keys.extend(id.map(|id| Key { class, day, id }));
    }
    Ok(keys)
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .expect("every path of the store lies below its root")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;

    /// What a file system does that has no more links to give, or none at all.
    #[test]
    fn where_there_are_no_links_the_second_name_is_a_whole_copy() {
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
