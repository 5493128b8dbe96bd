//! Takes a file down: the object under all its names, and its derivatives.

use std::path::Path;

use super::{names, names::At, paths, paths::DayDirectory, tombstones};
use crate::{
    durable,
    error::{Error, Result},
    store::{Class, Key, ObjectId},
};

/// Removes an object and its derivatives under one key. Blocking.
///
/// # Errors
/// `Internal` if the disk fails.
pub(super) fn remove_object(root: &Path, key: Key) -> Result<bool> {
    remove_by(root, key, |path| {
        names::remove_if_there(path)?;
        durable::sync_parent(path)
    })
}

/// Removes an object under every key it has, with all its derivatives. The name that it was uploaded under gets a
/// tombstone, so that an upload ticket for it that is still valid cannot bring it back. Blocking.
///
/// # Errors
/// `Internal` if the disk fails.
pub(super) fn remove_everywhere(root: &Path, id: ObjectId) -> Result<bool> {
    let mut was_there = false;
    // Repeated until a whole walk finds none, because the object may be forwarded into a new day meanwhile.
    loop {
        let mut found = false;
        for class in Class::ALL {
            for DayDirectory { day, .. } in paths::days(root, class)? {
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
    remove: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<bool> {
    // Derivatives first: if this is interrupted, the object is still there and can be removed again. And once more
    // after the object: a derivative that is being made meanwhile checks for its object after it was written.
    remove_derived(root, key)?;
    let path = paths::object_path(root, key);
    let was_there =
        !tombstones::is_at(At::path(&path)) && At::path(&path).exists().map_err(Error::internal)?;
    if was_there {
        remove(&path).map_err(Error::internal)?;
    }
    remove_derived(root, key)?;
    Ok(was_there)
}

fn remove_derived(root: &Path, key: Key) -> Result<()> {
    for path in paths::derived_of(root, key).map_err(Error::internal)? {
        names::remove_if_there(&path).map_err(Error::internal)?;
    }
    Ok(())
}
