//! Removes expired objects: whole days if all of their objects have ended, single files otherwise.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    health,
    names::{self, At},
    paths::{self, DayDirectory},
    removal, tombstones,
};
use crate::{
    durable,
    error::{Error, Result},
    store::{Class, Cutoffs, ExpireMode, Expired, trailer},
    time::Timestamp,
};

/// The file with the time of the last sweep.
const LAST_SWEEP: &str = "last-sweep";

/// Removes what has ended of a class, whether or not a server uses the store. Blocking.
///
/// # Errors
/// `Internal` if the disk fails.
pub(super) fn expire(
    root: &Path,
    class: Class,
    cutoffs: &Cutoffs,
    mode: ExpireMode,
) -> Result<Expired> {
    let mut expired = Expired::default();
    for day in paths::days(root, class)? {
        if cutoffs.all_have_ended(day.day) {
            if mode == ExpireMode::Remove {
                remove_day(&day)?;
            }
            expired.days.insert(day.day);
        } else if cutoffs.any_has_ended(day.day) {
            expired.objects += expire_single(root, class, &day, cutoffs, mode)?;
        }
    }
    Ok(expired)
}

/// Removes the objects that have ended from a day in which others have not. A damaged object is skipped. The names of
/// one of the day's 256 directories are held in memory at a time.
fn expire_single(
    root: &Path,
    class: Class,
    day: &DayDirectory,
    cutoffs: &Cutoffs,
    mode: ExpireMode,
) -> Result<u64> {
    let mut objects = 0;
    for spread in paths::spreads_of(day).map_err(Error::internal)? {
        for key in paths::objects_in(&spread, class, day.day).map_err(Error::internal)? {
            let meta = names::open_read(&paths::object_path(root, key)).and_then(|file| {
                let file_len = file.metadata()?.len();
                trailer::read(&file, file_len)
            });
            if meta.is_ok_and(|meta| cutoffs.has_ended(&meta.tenant, day.day)) {
                if mode == ExpireMode::Remove {
                    removal::remove_object(root, key)?;
                }
                objects += 1;
            }
        }
    }
    Ok(objects)
}

/// Removes a day with all its objects and derivatives.
fn remove_day(day: &DayDirectory) -> Result<()> {
    for path in &day.paths {
        match fs::remove_dir_all(path) {
            Err(error) if !names::is_absent(&error) => {
                return Err(Error::internal(format!("{}: {error}", path.display())));
            }
            _ => {}
        }
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
    let path: PathBuf = root.join(LAST_SWEEP);
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
