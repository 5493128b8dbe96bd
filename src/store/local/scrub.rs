//! Reads every byte of every object and compares checksums. Runs beside a server.

use std::{fs, io, path::Path};

use super::{
    layout::{self, OBJECTS},
    names::{self, At},
    root::Root,
    tombstones,
};
use crate::{
    error::{Error, Result},
    store::{Class, Key, ObjectId, Opened},
    time::Day,
};

/// An object that is not as it was committed.
#[derive(Debug)]
pub struct Damaged {
    /// Its path below the store's directory.
    pub path: String,
    /// What is wrong.
    pub what: String,
}

/// Verifies the store at `root`; returns how many objects were read, and the bad ones. Blocking.
///
/// # Errors
/// `Internal` where a directory cannot be read, or the store was unmounted meanwhile, which looks as if its files had
/// expired. A file that cannot be read is a bad one.
pub fn scrub(root: &Path) -> Result<(u64, Vec<Damaged>)> {
    let opened = Root::open(root).map_err(Error::internal)?;
    let (mut count, mut bad) = (0, Vec::new());
    let unreadable = |path: &Path, error: std::io::Error| {
        Error::internal(format!("{}: {error}", path.display()))
    };
    for class in Class::ALL {
        for day in super::days(root, class)? {
            let [objects, _] = day.paths;
            let spreads = match fs::read_dir(&objects) {
                Err(error) if names::is_absent(&error) => continue,
                spreads => spreads.map_err(|error| unreadable(&objects, error))?,
            };
            for spread in spreads {
                let spread = spread.map_err(|error| unreadable(&objects, error))?.path();
                let files = match fs::read_dir(&spread) {
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                        bad.push(Damaged {
                            path: below(root, &spread),
                            what: "it lies where only directories do".into(),
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
                    count += 1;
                    match verify(root, class, day.day, &path) {
                        // Removed or expired while we walked: no fault.
                        Ok(()) => {}
                        Err(what) => bad.push(Damaged {
                            path: below(root, &path),
                            what,
                        }),
                    }
                }
            }
        }
    }
    opened.check().map_err(Error::internal)?;
    Ok((count, bad))
}

fn verify(root: &Path, class: Class, day: Day, path: &Path) -> Result<(), String> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let id = ObjectId::parse(name).ok_or("its name is no id")?;
    let key = Key { class, day, id };
    if layout::object_path(root, key) != path {
        return Err("it lies where no look-up would find it".into());
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
