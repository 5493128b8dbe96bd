//! A mapped file: the payload of an object that lies in a file of this machine.
//!
//! Bodies are slices of the map. The transport hands the kernel the file (`sendfile`) or the address (`writev`); if the
//! disk cannot deliver a page, the call fails with EIO or EFAULT. User space never reads the map itself, where the same
//! page would raise SIGBUS. Decoders and checksums read with `pread` ([`MappedFile::read_range`]).

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

use crate::time::{MS_PER_SECOND, Timestamp};

/// Bytes of one chunk of a body: the unit that is warmed and sent.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// A file that was not read for this long is warmed again, because its pages may have left the page cache.
const HOT_MS: i64 = 30 * MS_PER_SECOND;

/// A mapped payload: the first bytes of an open file that nobody changes.
pub struct MappedFile {
    file: File,
    /// `None` for an empty payload, which cannot be mapped.
    map: Option<Arc<Mmap>>,
    payload: Bytes,
    /// One bit per 64th of the payload, set once its pages were populated.
    warmed: AtomicU64,
    last_read_ms: AtomicI64,
}

struct MapOwner(Arc<Mmap>);

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MappedFile {
    /// Maps the first `len` bytes of `file`. Blocking.
    ///
    /// # Errors
    /// If the kernel refuses the map.
    pub(super) fn new(file: File, len: u64) -> io::Result<Self> {
        let map = match len {
            0 => None,
            _ => Some(Arc::new(map(&file, len)?)),
        };
        let payload = map
            .clone()
            .map_or_else(Bytes::new, |map| Bytes::from_owner(MapOwner(map)));
        Ok(Self {
            file,
            map,
            payload,
            warmed: AtomicU64::new(0),
            last_read_ms: AtomicI64::new(0),
        })
    }

    /// Number of bytes of the payload.
    pub fn len(&self) -> u64 {
        self.payload.len() as u64
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The offset of `slice` in the payload; `None` for other memory.
    pub fn offset_of(&self, slice: &[u8]) -> Option<u64> {
        let offset = slice
            .as_ptr()
            .addr()
            .checked_sub(self.payload.as_ptr().addr())?;
        let end = offset.checked_add(slice.len())?;
        (end <= self.payload.len()).then_some(offset as u64)
    }

    /// The open file. The payload is its first [`MappedFile::len`] bytes; other bytes may follow.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A part of the payload, not copied. The range must lie inside the payload.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        let index =
            |at: u64| usize::try_from(at.min(self.len())).expect("a map's length fits usize");
        self.payload.slice(index(range.start)..index(range.end))
    }

    /// Records a read at `now`. After a pause, the pages count as cold again.
    pub fn touch(&self, now: Timestamp) {
        let last = self.last_read_ms.load(Ordering::Relaxed);
        if now.ms().abs_diff(last) > HOT_MS.unsigned_abs() {
            self.warmed.store(0, Ordering::Relaxed);
        }
        // Written at most once per second: a shared cache line that every request writes would act as a lock.
        if now.ms().abs_diff(last) > MS_PER_SECOND.unsigned_abs() {
            self.last_read_ms.store(now.ms(), Ordering::Relaxed);
        }
    }

    /// Whether every page of the range was populated since the file became hot.
    pub fn is_warm(&self, range: &Range<u64>) -> bool {
        let mask = self.mask(range);
        self.warmed.load(Ordering::Relaxed) & mask == mask
    }

    /// Loads the range into the page cache and into the page table of this process. Blocking.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn warm(&self, range: Range<u64>) -> io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let (start, end) = self.units(&range);
        let (offset, len) = (start as usize, (end - start) as usize);
        match map.advise_range(Advice::PopulateRead, offset, len) {
            // EINVAL: Linux before 5.14. Reading loads the pages too, but copies them.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.read_through(start..end)?;
            }
            result => result?,
        }
        self.warmed.fetch_or(self.mask(&range), Ordering::Relaxed);
        Ok(())
    }

    /// Fills `into` from offset `at`, with `pread`. Blocking.
    ///
    /// # Errors
    /// If the disk fails, or the file is shorter than it was.
    pub fn read_exact_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    /// Reads a range of the payload, with `pread`. Blocking.
    ///
    /// # Errors
    /// As [`MappedFile::read_exact_at`].
    pub fn read_range(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let mut bytes = buffer(range)?;
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    /// Reads a range of the payload if the kernel has all of it in memory. Does not block.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read_cached(&self, range: &Range<u64>) -> io::Result<Option<Bytes>> {
        let mut bytes = buffer(range)?;
        let into = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::io::preadv2(&self.file, into, range.start, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == bytes.len() => Ok(Some(bytes.into())),
            // Only a part is in memory, or the file system does not support the flag, or a signal arrived.
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Computes the CRC-32 of the whole payload. Blocking.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn crc(&self) -> io::Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        let mut at = 0;
        while at < self.len() {
            let chunk = self.read_range(&(at..self.len().min(at + CHUNK_BYTES)))?;
            crc.update(&chunk);
            at += chunk.len() as u64;
        }
        Ok(crc.finalize())
    }

    /// Whether the file has lost its last name since it was opened.
    pub(super) fn is_removed(&self) -> bool {
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

    /// Bytes per bit of `warmed`: whole pages, at least one chunk.
    fn unit(&self) -> u64 {
        self.len()
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
                .min(self.len()),
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

#[allow(unsafe_code)]
fn map(file: &File, len: u64) -> io::Result<Mmap> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    // SAFETY: a map is sound as long as nobody changes the bytes under a `&[u8]` that Rust code reads.
    // 1. This program never writes to a committed object again, and its directories have mode 0700.
    // 2. Rust code does not read the slices; it only passes their addresses to the kernel. If another process writes
    //    or truncates the file all the same, `writev` fails, and nothing is undefined.
    unsafe { memmap2::MmapOptions::new().len(len).map(file) }
}

/// A zeroed buffer of the range's length.
fn buffer(range: &Range<u64>) -> io::Result<Vec<u8>> {
    let len = range.end.saturating_sub(range.start);
    Ok(vec![0; usize::try_from(len).map_err(io::Error::other)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sparse file, mapped.
    fn sparse(len: u64) -> MappedFile {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        MappedFile::new(file, len).unwrap()
    }

    #[test]
    fn range_is_warm_with_all_units() {
        for len in [1, 4096, CHUNK_BYTES, CHUNK_BYTES + 1, 10 << 20, 200 << 20] {
            let file = sparse(len);
            let unit = file.unit();
            assert!(len.div_ceil(unit) <= 64, "{len}");
            let mut at = 0;
            while at < len {
                let range = at..(at + CHUNK_BYTES).min(len);
                assert!(!file.is_warm(&range) || unit > CHUNK_BYTES, "{range:?}");
                file.warmed.fetch_or(file.mask(&range), Ordering::Relaxed);
                assert!(file.is_warm(&range));
                at += CHUNK_BYTES;
            }
            assert!(file.is_warm(&(0..len)));
        }
    }

    #[test]
    fn becomes_cold_without_reads() {
        let file = sparse(10);
        file.touch(Timestamp::from_ms(1_000_000));
        file.warmed.store(u64::MAX, Ordering::Relaxed);
        file.touch(Timestamp::from_ms(1_000_000 + HOT_MS));
        assert!(file.is_warm(&(0..10)));
        file.touch(Timestamp::from_ms(1_000_001 + HOT_MS + HOT_MS));
        assert!(!file.is_warm(&(0..10)));
    }
}
