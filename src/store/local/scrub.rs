//! Verifies every object: reads every byte and compares checksums. A server may use the store meanwhile.

use std::{fs, io, path::Path};

use super::{
    names::{self, At},
    paths::{self, OBJECTS},
    root::Root,
    tombstones,
};
use crate::{
    error::{Error, Result},
    store::{Class, Damaged, Key, ObjectId, Opened, Verified},
    time::Day,
};

/// Verifies the store at `root`. Blocking.
///
/// # Errors
/// `Internal` if a directory cannot be read, or the store was unmounted meanwhile, which looks as if its files had
/// expired. A file that cannot be read is a damaged one.
pub(super) fn verify(root: &Path) -> Result<Verified> {
    let opened = Root::open(root).map_err(Error::internal)?;
    let mut verified = Verified::default();
    let unreadable = |path: &Path, error: std::io::Error| {
        Error::internal(format!("{}: {error}", path.display()))
    };
    for class in Class::ALL {
        for day in paths::days(root, class)? {
            let [objects, _] = day.paths;
            let spreads = match fs::read_dir(&objects) {
                Err(error) if names::is_absent(&error) => continue,
                spreads => spreads.map_err(|error| unreadable(&objects, error))?,
            };
            for spread in spreads {
                let spread = spread.map_err(|error| unreadable(&objects, error))?.path();
                let files = match fs::read_dir(&spread) {
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                        verified.damaged.push(Damaged {
                            name: below(root, &spread),
                            what: "a file where only directories belong".into(),
                        });
                        continue;
                    }
                    Err(error) if names::is_absent(&error) => continue,
                    files => files.map_err(|error| unreadable(&spread, error))?,
                };
                for file in files {
                    let path = file.map_err(|error| unreadable(&spread, error))?.path();
                    if tombstones::is_at(At::path(&path)) {
                        continue;
                    }
                    verified.objects += 1;
                    match verify_file(root, class, day.day, &path) {
                        Ok(()) => {}
                        Err(what) => verified.damaged.push(Damaged {
                            name: below(root, &path),
                            what,
                        }),
                    }
                }
            }
        }
    }
    opened.check().map_err(Error::internal)?;
    Ok(verified)
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

fn below(root: &Path, path: &Path) -> String {
    let tree = root.join(OBJECTS);
    let rest = path.strip_prefix(&tree).unwrap_or(path);
    format!("{OBJECTS}/{}", rest.display())
}
