//! Paths in the store's directory: where objects and derivatives are, and what a directory contains.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::names;
use crate::{
    derivative::Derivative,
    error::{Error, Result},
    store::{Class, Key},
    time::Day,
};

pub(super) const OBJECTS: &str = "objects";
pub(super) const DERIVED: &str = "derived";
pub(super) const TMP: &str = "tmp";
pub(super) const PARTS: &str = "parts";

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

/// The directory of a day in one of the trees [`OBJECTS`] and [`DERIVED`].
pub(super) fn day_path(root: &Path, tree: &str, class: Class, day: Day) -> PathBuf {
    let mut path = root.join(tree);
    path.push(class.name());
    path.push(day.to_string());
    path
}

fn sharded(root: &Path, tree: &str, key: Key) -> PathBuf {
    let mut path = day_path(root, tree, key.class, key.day);
    path.push(format!("{:02x}", key.id.spread()));
    path
}

/// The paths of the stored derivatives of an object. Blocking.
pub(super) fn derived_of(root: &Path, key: Key) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}-", key.id);
    let mut found = Vec::new();
    for entry in names::entries(&sharded(root, DERIVED, key))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The days of a class that have objects or derivatives. Blocking.
pub(super) fn days(root: &Path, class: Class) -> io::Result<BTreeSet<Day>> {
    let mut days = BTreeSet::new();
    for tree in [OBJECTS, DERIVED] {
        for entry in names::entries(&root.join(tree).join(class.name()))? {
            // Names that are not days are ignored.
            days.extend(entry?.file_name().to_str().and_then(Day::parse));
        }
    }
    Ok(days)
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .expect("every path of the store lies below its root")
}
