//! Removes objects: one that is taken down, under all its names, and those that have expired.

use std::{fs, io, path::Path};

use super::{
    health,
    names::{self, At},
    paths::{self, DERIVED, OBJECTS},
    tombstones, walk,
};
use crate::{
    durable,
    error::{Error, Result},
    store::{Class, Cutoffs, ExpireMode, Expired, Key, ObjectId, Progress, Volume, trailer},
    time::{Day, Timestamp},
};

/// The file with the time of the last sweep.
const LAST_SWEEP: &str = "last-sweep";

/// Removes what has ended of a class, whether or not a server uses the store: whole days if all of their objects have
/// ended, single files otherwise. Blocking.
///
/// # Errors
/// If the disk fails.
pub(super) fn expire(
    root: &Path,
    class: Class,
    cutoffs: &Cutoffs,
    mode: ExpireMode,
    progress: &Progress,
) -> io::Result<Expired> {
    let mut expired = Expired::default();
    for day in paths::days(root, class)? {
        if cutoffs.all_have_ended(day) {
            expired.volume += match mode {
                ExpireMode::Remove => remove_day(root, class, day, progress)?,
                ExpireMode::Report => walk::day(root, class, day, |_, _| Ok(()))?,
            };
            expired.days.insert(day);
        } else if cutoffs.any_has_ended(day) {
            let single = expire_single(root, (class, day), cutoffs, mode, progress)?;
            expired.objects += single.objects;
            expired.volume += single;
        }
    }
    Ok(expired)
}

/// Removes the objects that have ended from a day in which others have not. A damaged object is skipped.
fn expire_single(
    root: &Path,
    (class, day): (Class, Day),
    cutoffs: &Cutoffs,
    mode: ExpireMode,
    progress: &Progress,
) -> io::Result<Volume> {
    let mut removed = Volume::default();
    for spread in names::entries(&paths::day_path(root, OBJECTS, class, day))? {
        for file in names::entries(&spread?.path())? {
            // Files whose names are not ids are ignored.
            let name = file?.file_name();
            let Some(id) = name.to_str().and_then(ObjectId::parse) else {
                continue;
            };
            let key = Key { class, day, id };
            let meta = names::open_read(&paths::object_path(root, key)).and_then(|file| {
                let file_len = file.metadata()?.len();
                Ok((trailer::read(&file, file_len)?, file_len))
            });
            if let Ok((meta, bytes)) = meta
                && cutoffs.has_ended(&meta.tenant, day)
            {
                if mode == ExpireMode::Remove {
                    remove_object(root, key)?;
                    progress.count(bytes);
                }
                removed.add(bytes);
            }
        }
    }
    Ok(removed)
}

/// Removes a day with all its objects and derivatives.
fn remove_day(root: &Path, class: Class, day: Day, progress: &Progress) -> io::Result<Volume> {
    let removed = walk::day(root, class, day, |path, bytes| {
        names::remove_if_there(path).map_err(|error| names::at(path, &error))?;
        progress.count(bytes);
        Ok(())
    })?;
    for tree in [OBJECTS, DERIVED] {
        let path = paths::day_path(root, tree, class, day);
        match fs::remove_dir_all(&path) {
            Err(error) if !names::is_absent(&error) => return Err(names::at(&path, &error)),
            _ => {}
        }
    }
    Ok(removed)
}

/// Removes an object and its derivatives under one key. Blocking.
///
/// # Errors
/// If the disk fails.
pub(super) fn remove_object(root: &Path, key: Key) -> io::Result<bool> {
    remove_by(root, key, |path| {
        names::remove_if_there(path)?;
        durable::sync_parent(path)
    })
}

/// Removes an object under every key it has, with all its derivatives. The name that it was uploaded under gets a
/// tombstone, so that an upload ticket for it that is still valid cannot bring it back. Blocking.
///
/// # Errors
/// If the disk fails.
pub(super) fn remove_everywhere(root: &Path, id: ObjectId) -> io::Result<bool> {
    let mut was_there = false;
    // Repeated until a whole walk finds none, because the object may be forwarded into a new day meanwhile.
    loop {
        let mut found = false;
        for class in Class::ALL {
            for day in paths::days(root, class)? {
                let key = Key { class, day, id };
                // Also if the object is gone: an earlier removal may have been interrupted before its derivatives.
                found |= match key == Key::of(class, id) {
                    true => remove_by(root, key, |_| tombstones::put(root, key))?,
                    false => remove_object(root, key)?,
                };
            }
        }
        if !found {
            return Ok(was_there);
        }
        was_there = true;
    }
}

fn remove_by(
    root: &Path,
    key: Key,
    remove: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    // Derivatives first: if this is interrupted, the object is still there and can be removed again. And once more
    // after the object: a derivative that is being made meanwhile checks for its object after it was written.
    remove_derived(root, key)?;
    let path = paths::object_path(root, key);
    let was_there = !tombstones::is_at(At::path(&path)) && At::path(&path).exists()?;
    if was_there {
        remove(&path).map_err(|error| names::at(&path, &error))?;
    }
    remove_derived(root, key)?;
    Ok(was_there)
}

fn remove_derived(root: &Path, key: Key) -> io::Result<()> {
    for path in paths::derived_of(root, key)? {
        names::remove_if_there(&path)?;
    }
    Ok(())
}

/// Reads the time of the last sweep; `None` before the first sweep. Blocking.
///
/// # Errors
/// `Internal` if the file cannot be read or does not contain a number.
pub(super) fn last_sweep(root: &Path) -> Result<Option<Timestamp>> {
    let path = root.join(LAST_SWEEP);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(ms) => Ok(Some(Timestamp::from_ms(ms))),
            Err(_) => Err(Error::internal(format!(
                "{}: not a number of milliseconds",
                path.display()
            ))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal(error)),
    }
}

/// Gathers old tombstones, then replaces the time of the last sweep in one step. Blocking.
///
/// # Errors
/// As a write may fail.
pub(super) fn record_sweep(root: &Path, now: Timestamp) -> Result<()> {
    tombstones::gather(root, now)?;
    let path = root.join(LAST_SWEEP);
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || {
        // An earlier process of the same id may have left one.
        At::path(&draft).remove_if_there()?;
        names::write_over(
            At::path(&draft),
            At::path(&path),
            &format!("{}\n", now.ms()),
        )?;
        durable::sync_parent(&path)
    };
    write().map_err(health::storage_error)
}
