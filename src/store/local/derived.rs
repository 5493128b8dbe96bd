//! Derivatives on the disk: whatever is lost of them is made again.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{BoundingBox, Derived, Dialect, Key, Meta, Opened, layout::Layout, names, paths};
use crate::{error::Result, store::trailer};

/// A derivative that is damaged, or written by another version, counts as absent and is made again.
pub(super) fn read_derived(path: &Path, key: Key) -> Option<Derived> {
    let opened = names::open_read(path)
        .ok()
        .and_then(|file| Opened::from_file(file, key).ok())?;
    let bytes = opened.read_range(0..opened.len()).ok()?;
    (crc32fast::hash(&bytes) == opened.meta.crc).then(|| Derived {
        content_type: opened.meta.content_type,
        bytes,
    })
}

/// Same file format as an object's, but nothing is synced: a torn one fails its checksum and is made again. `path` is
/// below the root.
pub(super) fn write_derived(
    layout: &Layout,
    path: &Path,
    key: Key,
    derived: Derived,
) -> Result<()> {
    let meta = Meta {
        len: derived.bytes.len() as u64,
        crc: crc32fast::hash(&derived.bytes),
        created: key.id.created(),
        tenant: String::new(),
        dialect: Dialect::Easemob,
        owner: String::new(),
        content_type: derived.content_type,
        sniffed_type: None,
        inline: true,
        file_name: None,
        secret_hash: None,
        thumbnail: BoundingBox {
            width: 1,
            height: 1,
        },
        recipient: None,
    };
    let mut contents = derived.bytes.to_vec();
    contents.extend(trailer::encode(&meta)?);
    // While nothing can be written, what is made is served and not kept; the trouble is noted elsewhere.
    let Ok(instance) = layout.instance() else {
        return Ok(());
    };
    // Held until the bytes are written, so that many of these at once stay above the floor together.
    let _reserved = layout.reserve(contents.len() as u64)?;
    let name = instance.temporary_name("derived");
    let (temporary, target) = (instance.unfinished(&name), instance.root.at(path));
    let write = || -> io::Result<()> {
        let mut at = PathBuf::new();
        for name in paths::parent(path) {
            at.push(name);
            instance.root.at(&at).make_dir()?;
        }
        let kept = temporary
            .create_new()
            .and_then(|mut file| file.write_all(&contents))
            .and_then(|()| names::rename_over(temporary, target));
        kept.inspect_err(|_| drop(temporary.remove_if_there()))?;
        // The object may have been taken down meanwhile: see `remove_object`.
        if !instance.root.at(&paths::object_name(key)).is_file()? {
            target.remove_if_there()?;
        }
        Ok(())
    };
    write().map_err(|error| layout.write_error(error))
}
