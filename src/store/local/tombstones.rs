//! Tombstones keep an upload from reusing the name of a file that was taken down.
//!
//! ```text
//! objects/<class>/<day>/<xx>/<uuid> -> removed    a tombstone in the place of the file
//! tombstones/shared -> removed                    the other links are hard links to it, so they need no inode
//! tombstones/<class>.<day> -> removed             marks a day that has tombstones
//! tombstones/<class>.<day>.list                   ids of gathered tombstones, one per line
//! ```
//! The form of an upload ticket names its object. Our tickets are valid for 20 minutes, but a policy that a backend
//! signed itself with the tenant's key may be valid for much longer. So there are two stages. At first a tombstone
//! lies in the place of the file, where the rename of an upload fails; the file system settles all races. Some days
//! later the sweep moves the ids into a list, and forms are checked against the list. A list is removed with its day.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    names::{self, At},
    paths::{self, OBJECTS},
};
use crate::{
    durable,
    error::{Error, Result},
    store::{Class, Key, ObjectId},
    time::{Day, Timestamp},
};

pub(super) const TOMBSTONES: &str = "tombstones";
const SHARED: &str = "shared";
const LIST: &str = ".list";
const DRAFT: &str = ".draft-";
/// Where a tombstone points: nowhere.
const TARGET: &str = "removed";
/// Days after the end of its day until a tombstone is gathered: one for the ticket, and two because the sweep accepts a
/// clock that is up to two days wrong.
const DAYS_IN_PLACE: u32 = 3;

/// Makes the link that tombstones share. Done at start, while there are inodes.
pub(super) fn prepare(root: At<'_>, shared: At<'_>) -> io::Result<()> {
    root.make_dir()?;
    match shared.make_link_to(TARGET) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// The two paths of [`prepare`], below the root.
pub(super) fn shared() -> (PathBuf, PathBuf) {
    let directory = PathBuf::from(TOMBSTONES);
    let shared = directory.join(SHARED);
    (directory, shared)
}

/// Whether a tombstone has this name.
pub(super) fn is_at(name: At<'_>) -> bool {
    name.is_link_to(TARGET)
}

/// Replaces an object by a tombstone, durably and in one step. If the disk has no room for one more name, the object is
/// removed first. Blocking.
pub(super) fn put(root: &Path, key: Key) -> io::Result<()> {
    if let Err(error) = mark(root, key.class, key.day) {
        tracing::warn!(%key, %error, "a tombstone that no sweep will find, until its day is removed");
    }
    let path = paths::object_path(root, key);
    let draft = root
        .join(TOMBSTONES)
        .join(format!("{DRAFT}{}", Uuid::new_v4().simple()));
    let replaced = make(root, &draft)
        .and_then(|()| names::rename_over(At::path(&draft), At::path(&path)))
        .inspect_err(|_| drop(names::remove_if_there(&draft)));
    let made = replaced.or_else(|_| {
        names::remove_if_there(&path)?;
        make_in_place(root, &path)
    });
    durable::sync_parent(&path)?;
    made.map_err(|error| {
        let what = "the file is removed; as long as there is no room for its tombstone, an upload ticket that is \
                    still out could bring it back";
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

/// Makes a tombstone under a name that is free. An upload may take the name first; then its file is removed too.
fn make_in_place(root: &Path, path: &Path) -> io::Result<()> {
    loop {
        match make(root, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if is_at(At::path(path)) {
                    return Ok(());
                }
                names::remove_if_there(path)?;
            }
            result => return result,
        }
    }
}

/// Makes a hard link to the shared link. Makes a new symbolic link instead if there is none to share, or if it has
/// reached its maximum number of links (65,000 on ext4).
fn make(root: &Path, path: &Path) -> io::Result<()> {
    let shared = root.join(TOMBSTONES).join(SHARED);
    match names::link(At::path(&shared), At::path(path)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            At::path(path).make_link_to(TARGET)
        }
        result => result,
    }
}

/// Marks a day that has tombstones, so that the sweep finds them without reading every directory.
fn mark(root: &Path, class: Class, day: Day) -> io::Result<()> {
    let directory = root.join(TOMBSTONES);
    At::path(&directory).make_dir()?;
    match make(root, &directory.join(name_of(class, day))) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.and_then(|()| durable::sync_dir(&directory)),
    }
}

fn name_of(class: Class, day: Day) -> String {
    format!("{}.{day}", class.name())
}

fn parse(name: &str) -> Option<(Class, Day)> {
    let (class, day) = name.split_once('.')?;
    Some((Class::parse(class)?, Day::parse(day)?))
}

/// Whether a gathered tombstone has this name. Blocking.
pub(super) fn is_listed(root: &Path, key: Key) -> Result<bool> {
    let name = format!("{}{LIST}", name_of(key.class, key.day));
    let list = match fs::read_to_string(root.join(TOMBSTONES).join(name)) {
        Err(error) if names::is_absent(&error) => return Ok(false),
        list => list.map_err(Error::internal)?,
    };
    let id = key.id.to_string();
    Ok(list.lines().any(|line| line == id))
}

/// Moves the tombstones of days that ended at least three days before `now` into lists, and removes the lists of days
/// that no longer exist. Blocking.
///
/// # Errors
/// `Internal` where the disk refuses; what was not gathered then stays where it is.
pub(super) fn gather(root: &Path, now: Timestamp) -> Result<()> {
    gather_all(root, now).map_err(|error| Error::internal(format!("{TOMBSTONES}/: {error}")))
}

fn gather_all(root: &Path, now: Timestamp) -> io::Result<()> {
    let directory = root.join(TOMBSTONES);
    for entry in names::entries(&directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let list_of = name.strip_suffix(LIST);
        let Some((class, day)) = parse(list_of.unwrap_or(name)) else {
            if name.starts_with(DRAFT) {
                // Left by a killed process. If it is in use right now, its owner falls back to a second way.
                names::remove_if_there(&path)?;
            }
            continue;
        };
        let day_directory = paths::day_path(root, OBJECTS, class, day);
        if !day_directory.try_exists()? {
            names::remove_if_there(&path)?;
        } else if list_of.is_none() && day.end().plus_days(DAYS_IN_PLACE) <= now {
            let list = directory.join(format!("{name}{LIST}"));
            for spread in fs::read_dir(&day_directory)? {
                gather_spread(&spread?.path(), &list)?;
            }
            // Removed last, so that an interrupted sweep finds the day again.
            names::remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Writes and syncs the list before it removes the names: an upload that finds the name free finds it in the list.
fn gather_spread(spread: &Path, list: &Path) -> io::Result<()> {
    let (mut tombstones, mut ids) = (Vec::new(), String::new());
    for entry in names::entries(spread)? {
        let entry = entry?;
        // The type comes with the directory entry: regular files, which are most, cost no system call.
        if !entry.file_type()?.is_symlink() || !is_at(At::path(&entry.path())) {
            continue;
        }
        if let Some(id) = entry.file_name().to_str().and_then(ObjectId::parse) {
            // Starts with a line feed, in case a power cut left an incomplete last line.
            ids.push_str(&format!("\n{id}\n"));
            tombstones.push(entry.path());
        }
    }
    if tombstones.is_empty() {
        return Ok(());
    }
    let mut file = At::path(list).open_or_create()?;
    io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    file.write_all(ids.as_bytes())?;
    file.sync_all()?;
    durable::sync_parent(list)?;
    for path in tombstones {
        names::remove_if_there(&path)?;
    }
    Ok(())
}
