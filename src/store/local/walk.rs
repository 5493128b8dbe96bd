//! Walks the objects of a day, and adds up their number and bytes.

use std::{io, path::Path};

use super::{
    names,
    paths::{self, OBJECTS},
};
use crate::{
    store::{Class, Volume},
    time::Day,
};

/// Calls `visit` with the path and the bytes of each object of a day, and returns their sum. Skips tombstones, and objects
/// that another process removes meanwhile. A forwarded object counts in each of its days. Blocking.
///
/// # Errors
/// Those of `visit`, and of a directory that cannot be read.
pub(super) fn day(
    root: &Path,
    class: Class,
    day: Day,
    mut visit: impl FnMut(&Path, u64) -> io::Result<()>,
) -> io::Result<Volume> {
    let mut volume = Volume::default();
    for spread in names::entries(&paths::day_path(root, OBJECTS, class, day))? {
        for file in names::entries(&spread?.path())? {
            let file = file?;
            // Not followed: a tombstone is a symbolic link.
            let metadata = match file.metadata() {
                Err(error) if names::is_absent(&error) => continue,
                metadata => metadata?,
            };
            if metadata.is_file() {
                visit(&file.path(), metadata.len())?;
                volume.add(metadata.len());
            }
        }
    }
    Ok(volume)
}
