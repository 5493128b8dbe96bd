//! Verifies every object: reads every byte and compares checksums. A server may use the store meanwhile.

use std::{io, path::Path, sync::Arc};

use super::{
    names::{self, At},
    paths::{self, OBJECTS},
    root::Root,
    tombstones, walk,
};
use crate::{
    error::{Error, Result},
    store::{Class, Key, ObjectId, Opened, Progress, Verified},
    time::Day,
};

/// Verifies the store at `root`. Blocking.
///
/// # Errors
/// `Internal` if a directory cannot be read, or the store was unmounted meanwhile, which looks as if its files had
/// expired. A file that cannot be read is a damaged one.
pub(super) fn verify(root: &Path, progress: Arc<Progress>) -> Result<Verified> {
    let opened = Root::open(root).map_err(Error::internal)?;
    for class in Class::ALL {
        for day in paths::days(root, class).map_err(Error::internal)? {
            let volume = walk::day(root, class, day, |_, _| Ok(())).map_err(Error::internal)?;
            progress.expect(volume);
        }
    }
    let mut scrub = Scrub {
        root,
        progress,
        verified: Verified::default(),
    };
    for class in Class::ALL {
        for day in paths::days(root, class).map_err(Error::internal)? {
            scrub.verify_day(class, day).map_err(Error::internal)?;
        }
    }
    opened.check().map_err(Error::internal)?;
    Ok(scrub.verified)
}

/// A verification under way.
struct Scrub<'a> {
    root: &'a Path,
    progress: Arc<Progress>,
    verified: Verified,
}

impl Scrub<'_> {
    fn verify_day(&mut self, class: Class, day: Day) -> io::Result<()> {
        for spread in names::entries(&paths::day_path(self.root, OBJECTS, class, day))? {
            let spread = spread?.path();
            if spread.metadata().is_ok_and(|found| !found.is_dir()) {
                self.is_damaged(&spread, "a file where only directories belong".into());
            }
            for file in names::entries(&spread)? {
                let path = file?.path();
                if tombstones::is_at(At::path(&path)) {
                    continue;
                }
                // Before it is read: it may expire meanwhile, which is no damage.
                let bytes = path.symlink_metadata().map_or(0, |found| found.len());
                self.verified.volume.add(bytes);
                if let Err(what) = verify_file(self.root, class, day, &path) {
                    self.is_damaged(&path, what);
                }
                self.progress.count(bytes);
            }
        }
        Ok(())
    }

    fn is_damaged(&mut self, path: &Path, what: String) {
        let name = path.strip_prefix(self.root).unwrap_or(path);
        let name = name.display().to_string();
        self.verified.damaged.insert(name, what);
    }
}

fn verify_file(root: &Path, class: Class, day: Day, path: &Path) -> Result<(), String> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let id = ObjectId::parse(name).ok_or("its name is not an id")?;
    let key = Key { class, day, id };
    if paths::object_path(root, key) != path {
        return Err("no look-up would find it in this directory".into());
    }
    match names::open_read(path) {
        Ok(file) => {
            let opened = Opened::from_file(file, key).map_err(|error| error.causes())?;
            let mapped = opened.mapped().expect("a local file is mapped");
            match mapped.crc().map_err(|error| error.to_string())? {
                crc if crc == opened.meta.crc => Ok(()),
                crc => Err(format!(
                    "the payload's checksum is {crc:08x} and should be {:08x}",
                    opened.meta.crc
                )),
            }
        }
        Err(error) if names::is_absent(&error) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
