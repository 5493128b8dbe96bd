//! The trailer of an object's file: metadata and footer, as `docs/storage-format.md` describes them.
//!
//! ```text
//! 0                 len               len+m                    len+m+32
//! +-----------------+-----------------+------------------------+
//! | payload         | metadata fields | footer, 32 bytes       |
//! +-----------------+-----------------+------------------------+
//!
//! footer, little-endian:
//!  0  payload length  u64
//!  8  payload CRC     u32   CRC-32 (IEEE) of the payload
//! 12  metadata length u32   m, at most 8,192
//! 16  version         u16   1
//! 18  reserved        u16   0
//! 20  trailer CRC     u32   CRC-32 of the metadata and of the footer's first 20 bytes
//! 24  magic           8 B   "CHATFILE"
//! ```
//! The payload starts at offset 0, so that it can be sent from the file without a copy. The magic is written last: a
//! file that ends in a valid footer is complete.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::meta::{META_BYTES_MAX, Meta};
use crate::error::Error;

/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"CHATFILE";
const VERSION: u16 = 1;

/// Encodes metadata and footer, which follow the payload. `meta.len` and `meta.crc` must be set.
pub(super) fn encode(meta: &Meta) -> Result<Vec<u8>, Error> {
    let mut out = meta.encode()?;
    let fields_len =
        u32::try_from(out.len()).expect("encode() bounds the fields by META_BYTES_MAX");
    out.extend(meta.len.to_le_bytes());
    out.extend(meta.crc.to_le_bytes());
    out.extend(fields_len.to_le_bytes());
    out.extend(VERSION.to_le_bytes());
    out.extend(0u16.to_le_bytes());
    let crc = crc32fast::hash(&out);
    out.extend(crc.to_le_bytes());
    out.extend(MAGIC);
    Ok(out)
}

/// Reads the trailer of an object's file. Blocking.
pub(super) fn read(file: &File, file_len: u64) -> io::Result<Meta> {
    let tail_len = file_len.min((META_BYTES_MAX + FOOTER_BYTES) as u64);
    // Metadata usually has a few hundred bytes, so one short read is nearly always enough.
    for want in [tail_len.min(1024), tail_len] {
        let mut tail = vec![0; want as usize];
        file.read_exact_at(&mut tail, file_len - want)?;
        match decode(&tail, file_len) {
            Ok(meta) => return Ok(meta),
            Err(_) if want < tail_len => {}
            Err(what) => return Err(io::Error::new(io::ErrorKind::InvalidData, what)),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the file is empty",
    ))
}

/// Decodes the trailer from `tail`, the last bytes of a file of `file_len` bytes. The last
/// `META_BYTES_MAX + FOOTER_BYTES` bytes are always enough; fewer may be. The error says what is wrong.
fn decode(tail: &[u8], file_len: u64) -> Result<Meta, String> {
    let (before, footer) = tail
        .split_last_chunk::<FOOTER_BYTES>()
        .ok_or("shorter than a footer")?;
    if &footer[24..] != MAGIC {
        return Err("the magic is missing".into());
    }
    let u32_at = |at: usize| {
        u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]])
    };
    let version = u16::from_le_bytes([footer[16], footer[17]]);
    if version != VERSION {
        return Err(format!("version {version} is unknown to this program"));
    }
    let fields_len = u32_at(12) as usize;
    if fields_len > before.len() || fields_len > META_BYTES_MAX {
        return Err(format!("{fields_len} bytes of metadata cannot be"));
    }
    let fields = &before[before.len() - fields_len..];
    let mut crc = crc32fast::Hasher::new();
    crc.update(fields);
    crc.update(&footer[..20]);
    if crc.finalize() != u32_at(20) {
        return Err("the trailer's checksum is wrong".into());
    }
    let mut len = [0; 8];
    len.copy_from_slice(&footer[..8]);
    let len = u64::from_le_bytes(len);
    let trailer_len = (fields_len + FOOTER_BYTES) as u64;
    if len.checked_add(trailer_len) != Some(file_len) {
        return Err(format!(
            "{len} bytes of payload do not fit a file of {file_len}"
        ));
    }
    Meta::decode(fields, len, u32_at(8))
}

#[cfg(test)]
mod tests {
    use super::{super::meta::tests::sample, *};

    #[test]
    fn decodes_encoded_trailer() {
        let trailer = encode(&sample()).unwrap();
        let file_len = 5 + trailer.len() as u64;
        assert_eq!(decode(&trailer, file_len).unwrap(), sample());
    }

    #[test]
    fn detects_every_flipped_bit() {
        let trailer = encode(&sample()).unwrap();
        let file_len = 5 + trailer.len() as u64;
        for bit in 0..trailer.len() * 8 {
            let mut damaged = trailer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, file_len).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn refuses_wrong_file_length() {
        let trailer = encode(&sample()).unwrap();
        for file_len in [0, trailer.len() as u64, 6 + trailer.len() as u64, u64::MAX] {
            assert!(decode(&trailer, file_len).is_err(), "{file_len}");
        }
        for end in 0..FOOTER_BYTES {
            assert!(decode(&trailer[..end], end as u64).is_err());
        }
    }
}
