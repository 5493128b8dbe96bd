//! Paths in the store's directory: where objects and derivatives are, and what a directory contains.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::names;
use crate::{
    derivative::Derivative,
    error::{Error, Result},
    store::{Class, Key, ObjectId},
    time::Day,
};

pub(super) const OBJECTS: &str = "objects";
pub(super) const DERIVED: &str = "derived";
pub(super) const TMP: &str = "tmp";
pub(super) const PARTS: &str = "parts";

/// A day of a class on disk.
#[derive(Debug, Clone)]
pub(super) struct DayDirectory {
    /// The day.
    pub(super) day: Day,
    /// Its directories of objects and of derivatives. One of them may not exist.
    pub(super) paths: [PathBuf; 2],
}

/// Makes a path absolute, so that it does not depend on the current directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Error::invalid(format!("store.path = \"{}\": {error}", path.display())))
}

pub(super) fn object_path(root: &Path, key: Key) -> PathBuf {
    let mut path = sharded(root, OBJECTS, key);
    path.push(key.id.to_string());
    path
}

/// The path of an object below the root.
pub(super) fn object_name(key: Key) -> PathBuf {
    object_path(Path::new(""), key)
}

/// The path of a derivative below the root.
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

/// The paths of the stored derivatives of an object.
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

/// The days of a class that have objects or derivatives, oldest first. Blocking.
pub(super) fn days(root: &Path, class: Class) -> Result<Vec<DayDirectory>> {
    list_days(root, class).map_err(|error| Error::internal(format!("{}: {error}", root.display())))
}

fn list_days(root: &Path, class: Class) -> io::Result<Vec<DayDirectory>> {
    let mut days = HashSet::new();
    for tree in [OBJECTS, DERIVED] {
        let entries = match fs::read_dir(root.join(tree).join(class.name())) {
            Err(error) if names::is_absent(&error) => continue,
            entries => entries?,
        };
        for entry in entries {
            // Names that are not days are ignored.
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

/// The directories that the objects of a day are spread over. Blocking.
pub(super) fn spreads_of(day: &DayDirectory) -> io::Result<Vec<PathBuf>> {
    let [objects, _] = &day.paths;
    match fs::read_dir(objects) {
        Err(error) if names::is_absent(&error) => Ok(Vec::new()),
        spreads => spreads?.map(|spread| Ok(spread?.path())).collect(),
    }
}

/// The keys of the objects in one such directory. Files whose names are not ids are ignored. Blocking.
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
