//! An open object: its file, its map, its metadata.
//!
//! Bodies are slices of the map; the transport hands the kernel the file (`sendfile`) or the address
//! (`writev`): a page that the disk cannot give then fails the call with EIO or EFAULT. User space itself
//! never reads the map, where the same page would be a SIGBUS; what it must read (decoders, checksums) goes
//! through [`Object::read`] and its like.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use memmap2::{Advice, Mmap};
use rustix::io::{Errno, ReadWriteFlags};

use super::{
    key::Key,
    meta::Meta,
    trailer::{self, FOOTER_BYTES, META_BYTES_MAX},
};
use crate::{
    error::{Error, Result},
    time::{MS_PER_SECOND, Timestamp},
};

/// Bytes of one body chunk: what is warmed, lent and written in one go.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// An object unread for longer is warmed again: its pages may have left the page cache.
const HOT_MS: i64 = 30 * MS_PER_SECOND;

/// An open, immutable object.
pub struct Object {
    /// Where it is.
    pub key: Key,
    /// What is known of it.
    pub meta: Meta,
    file: File,
    /// `None` for an empty payload, which cannot be mapped.
    map: Option<Arc<Mmap>>,
    payload: Bytes,
    /// One bit per 64th of the payload: set once its pages were populated.
    warmed: AtomicU64,
    last_read_ms: AtomicI64,
}

struct MapOwner(Arc<Mmap>);

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Object {
    /// Reads the trailer of `file` and maps its payload. Blocking.
    ///
    /// # Errors
    /// `Internal` where the disk fails or the trailer is damaged.
    pub fn from_file(file: File, key: Key) -> Result<Self> {
        let damaged = |what: String| Error::internal(format!("object {}: {what}", key.id));
        let file_len = file
            .metadata()
            .map_err(|error| damaged(error.to_string()))?
            .len();
        let meta = read_trailer(&file, file_len).map_err(|error| damaged(error.to_string()))?;
        let map = if meta.len == 0 {
            None
        } else {
            Some(Arc::new(
                map(&file, meta.len).map_err(|error| damaged(error.to_string()))?,
            ))
        };
        let payload = map
            .clone()
            .map_or_else(Bytes::new, |map| Bytes::from_owner(MapOwner(map)));
        Ok(Self {
            key,
            meta,
            file,
            map,
            payload,
            warmed: AtomicU64::new(0),
            last_read_ms: AtomicI64::new(0),
        })
    }

    /// Bytes of the payload.
    pub fn len(&self) -> u64 {
        self.meta.len
    }

    /// Whether the payload has no byte.
    pub fn is_empty(&self) -> bool {
        self.meta.len == 0
    }

    /// Where in the payload `slice` lies; `None` for other memory.
    pub fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let offset = slice
            .as_ptr()
            .addr()
            .checked_sub(self.payload.as_ptr().addr())?;
        let end = offset.checked_add(slice.len())?;
        (end <= self.payload.len()).then_some(offset as u64)
    }

    /// The open file: `len()` bytes from offset 0, then the trailer. For the kernel, or a program that reads the
    /// payload by itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Part of the payload by address, not copied. The range must lie inside the payload.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        let index =
            |at: u64| usize::try_from(at.min(self.meta.len)).expect("a map's length fits usize");
        self.payload.slice(index(range.start)..index(range.end))
    }

    /// Notes a read at `now`; after a pause the pages count as cold again.
    pub fn touch(&self, now: Timestamp) {
        let last = self.last_read_ms.load(Ordering::Relaxed);
        if now.ms().abs_diff(last) > HOT_MS.unsigned_abs() {
            self.warmed.store(0, Ordering::Relaxed);
        }
        // Written once a second at the most: a shared cache line written by every request is a lock.
        if now.ms().abs_diff(last) > MS_PER_SECOND.unsigned_abs() {
            self.last_read_ms.store(now.ms(), Ordering::Relaxed);
        }
    }

    /// Whether every page of the range was populated since the object became hot.
    pub fn is_warm(&self, range: &Range<u64>) -> bool {
        let mask = self.mask(range);
        self.warmed.load(Ordering::Relaxed) & mask == mask
    }

    /// Brings the range into the page cache and this process's page table. Blocking: the disk may be slow.
    ///
    /// # Errors
    /// Where the disk cannot give the pages.
    pub fn warm(&self, range: Range<u64>) -> io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let (start, end) = self.units(&range);
        let (offset, len) = (start as usize, (end - start) as usize);
        match map.advise_range(Advice::PopulateRead, offset, len) {
            // EINVAL: Linux before 5.14. Reading brings the pages in as well, at the price of a copy.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.read_through(start..end)?;
            }
            result => result?,
        }
        self.warmed.fetch_or(self.mask(&range), Ordering::Relaxed);
        Ok(())
    }

    /// The whole payload, by `pread`. Blocking.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.meta.len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// A range of the payload, by `pread`. Blocking.
    ///
    /// # Errors
    /// Where the disk fails, or the file is shorter than it was.
    pub fn read_range(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let mut bytes = buffer(range)?;
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    /// The same, if the kernel has all of it in memory. Does not block.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn read_cached(&self, range: &Range<u64>) -> io::Result<Option<Bytes>> {
        let mut bytes = buffer(range)?;
        let into = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::io::preadv2(&self.file, into, range.start, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == bytes.len() => Ok(Some(bytes.into())),
            // Some of it is there, or nothing, or the file system cannot say, or a signal came.
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the whole payload and compares its checksum. Blocking.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn verify(&self) -> Result<(), String> {
        let mut crc = crc32fast::Hasher::new();
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let mut at = 0;
        while at < self.meta.len {
            let want = usize::try_from((self.meta.len - at).min(CHUNK_BYTES))
                .expect("bounded by CHUNK_BYTES");
            self.file
                .read_exact_at(&mut buffer[..want], at)
                .map_err(|error| error.to_string())?;
            crc.update(&buffer[..want]);
            at += want as u64;
        }
        match crc.finalize() {
            crc if crc == self.meta.crc => Ok(()),
            crc => Err(format!(
                "the payload's checksum is {crc:08x} and should be {:08x}",
                self.meta.crc
            )),
        }
    }

    /// Whether the file has been removed since it was opened.
    pub fn is_removed(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|metadata| metadata.nlink() == 0)
    }

    fn read_through(&self, range: Range<u64>) -> io::Result<()> {
        let mut scratch = [0; 16 * 1024];
        let mut at = range.start;
        while at < range.end {
            let want = (range.end - at).min(scratch.len() as u64) as usize;
            self.file.read_exact_at(&mut scratch[..want], at)?;
            at += want as u64;
        }
        Ok(())
    }

    /// Bytes that one bit of `warmed` stands for: whole pages, at least one chunk.
    fn unit(&self) -> u64 {
        self.meta
            .len
            .div_ceil(64)
            .next_multiple_of(4096)
            .max(CHUNK_BYTES)
    }

    fn units(&self, range: &Range<u64>) -> (u64, u64) {
        let unit = self.unit();
        (
            range.start / unit * unit,
            range
                .end
                .div_ceil(unit)
                .saturating_mul(unit)
                .min(self.meta.len),
        )
    }

    fn mask(&self, range: &Range<u64>) -> u64 {
        let unit = self.unit();
        let (first, last) = (
            range.start / unit,
            range.end.saturating_sub(1).max(range.start) / unit,
        );
        let width = (last - first + 1).min(64);
        (u64::MAX >> (64 - width)) << first.min(63)
    }
}

/// Reads a committed file's trailer. Blocking.
pub(super) fn read_trailer(file: &File, file_len: u64) -> io::Result<Meta> {
    let tail_len = file_len.min((META_BYTES_MAX + FOOTER_BYTES) as u64);
    // Metadata is a few hundred bytes: one short read serves nearly always.
    for want in [tail_len.min(1024), tail_len] {
        let mut tail = vec![0; want as usize];
        file.read_exact_at(&mut tail, file_len - want)?;
        match trailer::decode(&tail, file_len) {
            Ok(meta) => return Ok(meta),
            Err(_) if want < tail_len => {}
            Err(what) => return Err(io::Error::new(io::ErrorKind::InvalidData, what)),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "an empty file"))
}

#[allow(unsafe_code)]
fn map(file: &File, len: u64) -> io::Result<Mmap> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    // SAFETY: a map is sound while nobody changes the bytes under a `&[u8]` that Rust code reads.
    // 1. Committed objects are never written again by this program, and live in directories of mode 0700.
    // 2. The slices are not read by Rust code at all, only passed to the kernel by address, so that even a
    //    foreign writer or a truncation ends in an error of `writev`, not in undefined behaviour.
    unsafe { memmap2::MmapOptions::new().len(len).map(file) }
}

/// For a range's bytes.
fn buffer(range: &Range<u64>) -> io::Result<Vec<u8>> {
    let len = range.end.saturating_sub(range.start);
    Ok(vec![0; usize::try_from(len).map_err(io::Error::other)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(len: u64) -> Object {
        let meta = Meta {
            len,
            ..super::super::meta::tests::sample()
        };
        Object {
            key: Key::of(
                super::super::Class::Chatfile,
                super::super::ObjectId::new(Timestamp::from_ms(1), &[1; 10]),
            ),
            meta,
            file: File::open("/dev/null").unwrap(),
            map: None,
            payload: Bytes::new(),
            warmed: AtomicU64::new(0),
            last_read_ms: AtomicI64::new(0),
        }
    }

    #[test]
    fn a_range_is_warm_when_all_its_units_are() {
        for len in [1, 4096, CHUNK_BYTES, CHUNK_BYTES + 1, 10 << 20, 200 << 20] {
            let object = bare(len);
            let unit = object.unit();
            assert!(len.div_ceil(unit) <= 64, "{len}");
            let mut at = 0;
            while at < len {
                let range = at..(at + CHUNK_BYTES).min(len);
                assert!(!object.is_warm(&range) || unit > CHUNK_BYTES, "{range:?}");
                object
                    .warmed
                    .fetch_or(object.mask(&range), Ordering::Relaxed);
                assert!(object.is_warm(&range));
                at += CHUNK_BYTES;
            }
            assert!(object.is_warm(&(0..len)));
        }
    }

    #[test]
    fn what_is_not_read_for_a_while_is_cold_again() {
        let object = bare(10);
        object.touch(Timestamp::from_ms(1_000_000));
        object.warmed.store(u64::MAX, Ordering::Relaxed);
        object.touch(Timestamp::from_ms(1_000_000 + HOT_MS));
        assert!(object.is_warm(&(0..10)));
        object.touch(Timestamp::from_ms(1_000_001 + HOT_MS + HOT_MS));
        assert!(!object.is_warm(&(0..10)));
    }
}
