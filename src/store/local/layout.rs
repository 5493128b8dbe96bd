//! Where everything lies: paths, directories, and how a finished file gets its place.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    Config, DerivedName, Durability, Key,
    names::{self, At, RenameBy},
    space::{Reservation, Space},
    startup::Instance,
};
use crate::{
    error::{Error, Result},
    metrics::{Synced, Syncs},
    store::{Class, ObjectId},
    time::Day,
};

pub(super) const OBJECTS: &str = "objects";
pub(super) const DERIVED: &str = "derived";
pub(super) const TMP: &str = "tmp";
pub(super) const PARTS: &str = "parts";

/// The directory tree of one store.
pub(super) struct Layout {
    root: PathBuf,
    config: Config,
    rename: RenameBy,
    /// Day and spread directories known to be there and synced, so that only the first upload into one pays
    /// for it. A std Mutex: held for a look-up. At most 257 entries per class and day in use, cleared when
    /// over [`KNOWN_MAX`].
    known: Mutex<HashSet<PathBuf>>,
    pub(super) space: Space,
    pub(super) syncs: Arc<Syncs>,
}

/// Directories remembered as synced at the most.
const KNOWN_MAX: usize = 4096;

/// A day of a class on disk.
#[derive(Debug, Clone)]
pub struct DayDirectory {
    /// The day.
    pub day: Day,
    /// Its directories, of objects and of derivatives, whether or not both are there.
    pub paths: [PathBuf; 2],
}

impl Layout {
    pub(super) fn new(root: PathBuf, config: Config, rename: RenameBy) -> Self {
        Self {
            root,
            space: Space::new(config.free_space_min_bytes),
            config,
            rename,
            known: Mutex::default(),
            syncs: Arc::default(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn is_durable(&self) -> bool {
        self.config.durability == Durability::Full
    }

    pub(super) fn derived_path(&self, key: Key, name: DerivedName) -> PathBuf {
        let mut path = sharded(&self.root, DERIVED, key);
        path.push(format!("{}-{name}", key.id));
        path
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
        let stat = rustix::io::retry_on_intr(|| rustix::fs::statvfs(&self.root))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Gives a finished file its name: directories first, the name, then the directory's sync. An existing
    /// name is never replaced.
    pub(super) fn publish(&self, temporary: At<'_>, path: &Path) -> io::Result<()> {
        self.make_parents(path)?;
        match names::rename_no_replace(self.rename, temporary, path) {
            // Swept between the look-up and the rename, or removed by hand: make it again, once.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget_known();
                self.make_parents(path)?;
                names::rename_no_replace(self.rename, temporary, path)?;
            }
            result => result?,
        }
        if self.is_durable() {
            self.sync_dir(parent(path))?;
        }
        Ok(())
    }

    /// Gives a committed file a second name, durably. One that is there already is the same file, or a copy of
    /// it. `false` where the first name is not there.
    pub(super) fn link(&self, instance: &Instance, from: &Path, to: &Path) -> io::Result<bool> {
        self.make_parents(to)?;
        let link = || names::link(At::path(from), At::path(to));
        let mut linked = link();
        if linked.as_ref().is_err_and(names::is_absent) {
            if !from.try_exists()? {
                return Ok(false);
            }
            // The directory was swept or removed by hand: make it again, once.
            self.forget_known();
            self.make_parents(to)?;
            linked = link();
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
        // The name that was linked may have been barred in this very moment, and a bar is no object.
        if names::is_bar(to) {
            names::remove_if_there(to)?;
            return Ok(false);
        }
        // Also where it was there before: whoever made it may not have synced it yet. Where that fails, the name
        // must not be found there by the next one, whose sync might not fail again.
        if self.is_durable() {
            self.sync_dir(parent(to)).inspect_err(|_| {
                if is_new {
                    drop(names::remove_if_there(to));
                }
            })?;
        }
        Ok(true)
    }

    fn copy(&self, instance: &Instance, from: &Path, to: &Path) -> io::Result<()> {
        let mut source = names::open_read(from)?;
        let Ok(_reserved) = self.reserve(source.metadata()?.len()) else {
            return Err(rustix::io::Errno::NOSPC.into());
        };
        let temporary = instance.temporary("copy");
        let mut copy = || {
            let mut target = names::create_new(&temporary)?;
            io::copy(&mut source, &mut target)?;
            if self.is_durable() {
                self.syncs.time(Synced::File, || target.sync_data())?;
            }
            names::rename_no_replace(self.rename, At::path(&temporary), to)?;
            // Taken down meanwhile: whoever did that has not seen the new name.
            if !from.try_exists()? {
                names::remove_if_there(to)?;
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(())
        };
        copy().inspect_err(|_| drop(names::remove_if_there(&temporary)))
    }

    /// Makes and syncs the missing directories above `path`, from the top: a name is durable only when the
    /// directory above it is synced.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        let directory = parent(path);
        if self.known().contains(directory) {
            return Ok(());
        }
        let below_root = directory
            .strip_prefix(&self.root)
            .map_err(io::Error::other)?;
        let mut at = self.root.clone();
        for name in below_root {
            let above = at.clone();
            at.push(name);
            names::make_dir(&at)?;
            // Also where it was there before: another upload may have made it and not synced it yet. Where
            // that fails it must not be found there by the next upload, whose sync might not fail again.
            if self.is_durable() {
                self.sync_dir(&above)
                    .inspect_err(|_| drop(fs::remove_dir(&at)))?;
            }
        }
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(directory.to_owned());
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.syncs.time(Synced::Directory, || names::sync_dir(path))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn forget_known(&self) {
        self.known().clear();
    }
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
        let store = LocalStore::open(&config).unwrap();
        let path = |name: &str| directory.path().join(OBJECTS).join(name);
        let (from, to) = (path("from"), path("to"));
        fs::write(&from, [7; 300_000]).unwrap();
        store.layout.copy(&store.instance, &from, &to).unwrap();
        assert!(fs::read(&to).unwrap() == [7; 300_000]);
        fs::write(&from, "changed").unwrap();
        assert_eq!(
            fs::metadata(&to).unwrap().len(),
            300_000,
            "a file of its own"
        );
        // One that is there stays, and nothing is left of the attempt.
        let again = store.layout.copy(&store.instance, &from, &to);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::metadata(&to).unwrap().len(), 300_000);
        let gone = store
            .layout
            .copy(&store.instance, &path("gone"), &path("x"));
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
        let tmp = fs::read_dir(directory.path().join(TMP)).unwrap();
        for instance in tmp {
            assert_eq!(fs::read_dir(instance.unwrap().path()).unwrap().count(), 0);
        }
    }
}
