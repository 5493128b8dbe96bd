//! Derivatives on the disk: whatever is lost of them is made again.

use std::{fs, io, path::Path};

use bytes::Bytes;

use super::{
    BoundingBox, Derived, Dialect, Instance, Key, Meta, Object,
    layout::{self, Layout},
    names, storage_error,
};
use crate::{error::Result, store::trailer};

/// A derivative that is damaged, or written by another version, counts as absent and is made again.
pub(super) fn read_derived(path: &Path, key: Key) -> Option<Derived> {
    let object = names::open_read(path)
        .ok()
        .and_then(|file| Object::from_file(file, key).ok())?;
    let bytes = object.read().ok()?;
    (crc32fast::hash(&bytes) == object.meta.crc).then(|| Derived {
        content_type: object.meta.content_type,
        bytes: Bytes::from(bytes),
    })
}

/// Same file format as an object's, but nothing is synced: a torn one fails its checksum and is made again.
pub(super) fn write_derived(
    layout: &Layout,
    instance: &Instance,
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
    let write = || -> io::Result<()> {
        let temporary = instance.temporary("derived");
        fs::create_dir_all(layout::parent(path))?;
        let kept = fs::write(&temporary, &contents).and_then(|()| fs::rename(&temporary, path));
        kept.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        // The object may have been taken down meanwhile: see `remove_object`.
        if !layout::object_path(layout.root(), key).exists() {
            names::remove_if_there(path)?;
        }
        Ok(())
    };
    // Held until the bytes are written, so that many of these at once stay above the floor together.
    let _reserved = layout.reserve(contents.len() as u64)?;
    write().map_err(storage_error)
}
