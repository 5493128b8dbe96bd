//! Stores derivatives on disk. A lost or damaged derivative is made again, so nothing is synced.
//!
//! A derivative's file has a header of its own. All integers are little-endian:
//!
//! ```text
//! 0  magic          8 B   "CHATDRV1"
//! 8  CRC            u32   CRC-32 (IEEE) of everything after it
//! 12 type length    u8    n
//! 13 content type   n B
//!    body           the rest of the file
//! ```
//! A file of another format, such as an older version's, counts as absent and is replaced.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{Derived, Key, layout::Layout, names, paths};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"CHATDRV1";
const CRC_BYTES: usize = 4;

/// Reads a derivative. A damaged one, or one in another format, counts as absent. Blocking.
pub(super) fn read_derived(path: &Path) -> Option<Derived> {
    let mut file = names::open_read(path).ok()?;
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).ok()?;
    decode(Bytes::from(contents))
}

/// Writes a derivative to `path`, which is below the root. Nothing is synced: a torn file fails its checksum. Blocking.
pub(super) fn write_derived(
    layout: &Layout,
    path: &Path,
    key: Key,
    derived: &Derived,
) -> Result<()> {
    let header = header(derived)?;
    // While the store cannot be written, derivatives are sent and not stored; the cause is reported elsewhere.
    let Ok(instance) = layout.instance() else {
        return Ok(());
    };
    // Held until the bytes are written, so that many concurrent writes stay above the free-space floor together.
    let _reserved = layout.reserve((header.len() + derived.bytes.len()) as u64)?;
    let target = instance.root.at(path);
    let write = || -> io::Result<()> {
        let mut at = PathBuf::new();
        for name in paths::parent(path) {
            at.push(name);
            instance.root.at(&at).make_dir()?;
        }
        let (mut file, temporary) = instance.create("derived")?;
        file.write_all(&header)?;
        file.write_all(&derived.bytes)?;
        names::rename_over(temporary.at(), target)?;
        temporary.keep();
        // The object may have been removed meanwhile: see `remove_object`.
        if !instance.root.at(&paths::object_name(key)).is_file()? {
            target.remove_if_there()?;
        }
        Ok(())
    };
    write().map_err(|error| layout.write_error(error))
}

/// Everything before the body.
fn header(derived: &Derived) -> Result<Vec<u8>> {
    let content_type = derived.content_type.as_bytes();
    let type_length = u8::try_from(content_type.len()).map_err(Error::internal)?;
    let mut checked = vec![type_length];
    checked.extend(content_type);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&checked);
    crc.update(&derived.bytes);
    let mut header = MAGIC.to_vec();
    header.extend(crc.finalize().to_le_bytes());
    header.extend(checked);
    Ok(header)
}

fn decode(contents: Bytes) -> Option<Derived> {
    let rest = contents.strip_prefix(&MAGIC)?;
    let (crc, checked) = rest.split_first_chunk::<CRC_BYTES>()?;
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (type_length, rest) = checked.split_first()?;
    let (content_type, body) = rest.split_at_checked(usize::from(*type_length))?;
    Some(Derived {
        content_type: std::str::from_utf8(content_type).ok()?.to_owned(),
        bytes: contents.slice_ref(body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{meta, trailer};

    fn contents(content_type: &str, body: &'static [u8]) -> Vec<u8> {
        let derived = Derived {
            content_type: content_type.to_owned(),
            bytes: Bytes::from_static(body),
        };
        let mut contents = header(&derived).unwrap();
        contents.extend(body);
        contents
    }

    #[test]
    fn reads_what_was_written() {
        for (content_type, body) in [
            ("image/jpeg", &b"body"[..]),
            ("audio/mpeg", b""),
            ("", b"x"),
        ] {
            let read = decode(contents(content_type, body).into()).unwrap();
            assert_eq!((&*read.content_type, &*read.bytes), (content_type, body));
        }
    }

    #[test]
    fn damaged_files_count_as_absent() {
        let whole = contents("image/jpeg", b"body");
        for len in 0..whole.len() {
            assert!(
                decode(Bytes::copy_from_slice(&whole[..len])).is_none(),
                "{len}"
            );
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(decode(damaged.into()).is_none(), "{at}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(decode(longer.into()).is_none());
    }

    #[test]
    fn older_format_counts_as_absent() {
        let body = b"\xff\xd8\xff body";
        let older = [&body[..], &trailer::encode(&meta::tests::sample()).unwrap()].concat();
        assert!(decode(older.into()).is_none());
    }
}
